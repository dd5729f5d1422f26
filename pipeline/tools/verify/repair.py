"""`mcn verify --repair`: removes what is bad, keeps what is sound, computes the rest anew."""

import csv
import io
from pathlib import Path

from pipeline.core.child import Child, ChildError
from pipeline.core.errors import InputError
from pipeline.core.files import check_fences, remove, write_text
from pipeline.core.lease import locked
from pipeline.dataset import shard_plans
from pipeline.dataset.folder import half_forgotten, is_forgotten, kept_out, read_description
from pipeline.dataset.freeze import reasons_of
from pipeline.dataset.shard_reader import FeatureFile, digests_of
from pipeline.dataset.shard_writer import Origin, write_part
from pipeline.download.media import MediaFinder
from pipeline.extraction.prepare import prepare_weights
from pipeline.extraction.settings import ExtractSettings, settings_of
from pipeline.extraction.worker import ShardWorker
from pipeline.tools.verify.findings import Findings, check_shards

WITHOUT_MEDIA = "repair-ids.csv"


def repair(dataset: Path, findings: Findings, media: Path | None) -> list[str]:
    """Mend parts, receipts and shards; returns notes for the summary. After an interruption, rerun to resume.

    A shard is removed only when all its videos lie in sound parts or have media. Forgotten videos are not computed
    again. Another repair or extraction that is planning is waited for, and what is bad then is checked again.
    """
    with locked(dataset / "leases" / "planning.json", f"repairing {dataset}", patient=True):
        closed = {*shard_plans.closed_names(dataset), *shard_plans.receipt_names(dataset)}
        suspected = closed.intersection([*findings.bad_shards, *findings.bad_receipts])
        planned = suspected.intersection(shard_plans.plan_names(dataset / "plans"))
        for name in sorted(suspected - planned):
            raise InputError(
                f"{shard_plans.shard_path(dataset, name)}: its plan {dataset / 'plans' / name}.json is gone; restore "
                "it from a copy, or remove the shard and its receipt"
            )
        notes = _repair(dataset, check_shards(dataset, sorted(planned), findings.bad_parts), media)
        if half_forgotten(dataset):
            notes.append(f"a `mcn forget` was interrupted; finish it: mcn forget --dataset {dataset}")
    return notes


def _repair(dataset: Path, findings: Findings, media: Path | None) -> list[str]:
    notes = []
    for part in findings.bad_parts:
        remove(part)
    if findings.bad_parts:
        notes.append(f"{len(findings.bad_parts)} bad parts are removed; `mcn extract` computes them anew")
    for name in findings.bad_receipts:
        shard_plans.make_receipt(dataset, name, reasons_of(dataset / "ledger", "extract"))
    if not findings.bad_shards:
        return notes
    settings = settings_of(dataset, media)
    without = _without_media(dataset, sorted(findings.bad_shards), settings)
    ready = [name for name in sorted(findings.bad_shards) if not without[name]]
    lacking = sorted(video_id for ids in without.values() for video_id in ids)
    if lacking:
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([["video_id"], *([video_id] for video_id in lacking)])
        write_text(dataset / WITHOUT_MEDIA, table.getvalue())
        notes.append(
            f"{len(lacking)} videos have no media in {settings.media}, so that their shards are left as they are: get "
            f"them by `mcn download --ids {dataset / WITHOUT_MEDIA} --ask-again extracted`, then repair again"
        )
    if not ready:
        return notes
    counts = {"done": 0, "skipped": 0}
    with ShardWorker(settings, prepare_weights(settings)) as worker:
        for name in ready:
            shard = shard_plans.shard_path(dataset, name)
            bad = shard.with_name(f".{shard.name}.bad")
            if shard.exists():
                check_fences()
                shard.replace(bad)
            outcomes = worker.extract(name)
            if not shard.exists():
                raise InputError(f"{shard}: couldn't be closed ({dict(outcomes)}); the damaged one is kept as {bad}")
            counts = {outcome: counts[outcome] + outcomes[outcome] for outcome in counts}
            remove(bad)
    notes.append(
        f"{len(ready)} shards were made anew: {counts['skipped']} videos kept, {counts['done']} computed from media"
    )
    return notes


def _without_media(dataset: Path, names: list[str], settings: ExtractSettings) -> dict[str, list[str]]:
    """Save each shard's sound videos as parts; shard -> ids that have then neither a part nor media."""
    finder = MediaFinder(settings.media) if settings.media.exists() else None
    without: dict[str, list[str]] = {}
    reasons, gone = reasons_of(dataset / "ledger", "extract"), kept_out(dataset)
    for name in names:
        plan = shard_plans.read_plan(dataset / "plans", name)
        if shard_plans.shard_path(dataset, name).exists():
            # HDF5 may crash on such a file. What is saved until then stays saved.
            try:
                with Child("pipeline.tools.verify.repair:save_sound_videos") as child:
                    child.call(dataset, name, limit_s=3600)
            except (ChildError, InputError) as error:
                if isinstance(error, ChildError) and error.reason == "start":
                    raise InputError(f"{dataset}: the process that saves sound videos {error}; rerun") from None
        receipt = shard_plans.read_receipt(dataset, name)
        left_out = dict(receipt.left_out) if receipt is not None and receipt.plan == plan.digest else None
        if left_out is None:
            # The receipt is lost too: what the ledger calls failed was left out. It says so to the worker.
            left_out = {video_id: reasons[video_id] for video_id in plan.video_ids if video_id in reasons}
        hidden = {video_id: "forgotten" for video_id in plan.video_ids if is_forgotten(video_id, gone)}
        if receipt is None or left_out | hidden != receipt.left_out or receipt.plan != plan.digest:
            left_out |= hidden
            shard_plans.write_receipt(dataset, name, plan.digest, left_out)
        expected = [video_id for video_id in plan.video_ids if video_id not in left_out]
        lacking = [i for i in expected if not (dataset / "parts" / name / f"{i}.h5").exists()]
        without[name] = [i for i in lacking if finder is None or finder.find(i) is None]
    return without


def save_sound_videos(dataset: Path, name: str) -> int:
    """Write a part of every video of a damaged shard whose own digests match; returns how many."""
    identity = read_description(dataset)["identity"]
    gone = kept_out(dataset)
    planned = {i for i in shard_plans.read_plan(dataset / "plans", name).video_ids if not is_forgotten(i, gone)}
    saved = 0
    with FeatureFile(shard_plans.shard_path(dataset, name)) as file:
        provenance = file.provenance if file.is_sealed() else {}
        for index, video_id in enumerate(file.video_ids):
            part = dataset / "parts" / name / f"{video_id}.h5"
            if video_id not in planned or part.exists():
                continue
            try:
                video = file.video(index)
                if digests_of(video) == file.stored_digests(index) and set(video.video) == set(identity["streams"]):
                    write_part(part, video, Origin(name, identity, provenance), replace=False)
                    saved += 1
            except (OSError, KeyError, ValueError, TypeError, IndexError, RuntimeError):
                continue
    return saved
