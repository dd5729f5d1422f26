"""What `mcn verify` computes anew: what --repair has removed as bad, and stored videos to compare, row by row."""

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.child import Child, ChildError
from pipeline.core.errors import InputError
from pipeline.core.files import check_fences, remove, write_text
from pipeline.core.lease import locked
from pipeline.core.provenance import rounding_changes
from pipeline.dataset import shard_plans
from pipeline.dataset.caption_store import open_captions
from pipeline.dataset.folder import half_forgotten, is_forgotten, kept_out, read_description
from pipeline.dataset.freeze import reasons_of
from pipeline.dataset.shard_plans import shard_path
from pipeline.dataset.shard_reader import FeatureFile, digests_of
from pipeline.dataset.shard_writer import Origin, write_part
from pipeline.download.media import MediaFinder
from pipeline.extraction.features import Extracted, FeatureExtractor
from pipeline.extraction.prepare import prepare_weights
from pipeline.extraction.settings import ExtractSettings, settings_of
from pipeline.extraction.worker import ShardWorker
from pipeline.tools.verify.findings import (
    TOLERANCES,
    Comparison,
    Findings,
    check_shards,
    compare_video,
    cosine_text,
)

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
    without: dict[str, list[str]] = {}
    for name in names:
        _sound_videos(dataset, name, save=True)
        contents = _contents(dataset, name, settings, parts=_parts(dataset, name))
        if contents.receipt_changes:
            shard_plans.write_receipt(dataset, name, contents.plan, contents.left_out)
        without[name] = contents.without_media
    return without


@dataclass
class _Contents:
    """What a bad shard will be made of."""

    plan: str
    """Digest of its plan."""
    kept: list[str]
    """Videos that have a part."""
    from_media: list[str]
    without_media: list[str]
    """Videos with neither: where there are any, the shard is left as it is."""
    left_out: dict[str, str]
    receipt_changes: bool


def _contents(dataset: Path, name: str, settings: ExtractSettings, parts: Collection[str]) -> _Contents:
    """`parts`: ids of the videos that have a sound part, or will have one."""
    plan = shard_plans.read_plan(dataset / "plans", name)
    gone = kept_out(dataset)
    receipt = shard_plans.read_receipt(dataset, name)
    left_out = dict(receipt.left_out) if receipt is not None and receipt.plan == plan.digest else None
    if left_out is None:
        # The receipt is lost too: what the ledger calls failed was left out. It says so to the worker.
        reasons = reasons_of(dataset / "ledger", "extract")
        left_out = {video_id: reasons[video_id] for video_id in plan.video_ids if video_id in reasons}
    left_out |= {video_id: "forgotten" for video_id in plan.video_ids if is_forgotten(video_id, gone)}
    changes = receipt is None or left_out != receipt.left_out or receipt.plan != plan.digest
    expected = [video_id for video_id in plan.video_ids if video_id not in left_out]
    lacking = [video_id for video_id in expected if video_id not in parts]
    finder = MediaFinder(settings.media) if lacking and settings.media.exists() else None
    without = [video_id for video_id in lacking if finder is None or finder.find(video_id) is None]
    return _Contents(
        plan.digest,
        [video_id for video_id in expected if video_id in parts],
        [video_id for video_id in lacking if video_id not in without],
        without,
        left_out,
        changes,
    )


def _parts(dataset: Path, name: str) -> set[str]:
    return {path.stem for path in (dataset / "parts" / name).glob("*.h5")}


def _sound_videos(dataset: Path, name: str, save: bool) -> list[str]:
    """See `sound_videos`, by a process of its own: HDF5 may crash on such a file. What is saved until then stays."""
    if not shard_plans.shard_path(dataset, name).exists():
        return []
    try:
        with Child("pipeline.tools.verify.repair:sound_videos") as child:
            sound: list[str] = child.call(dataset, name, save, limit_s=3600)
            return sound
    except (ChildError, InputError) as error:
        if isinstance(error, ChildError) and error.reason == "start":
            raise InputError(f"{dataset}: the process that saves sound videos {error}; rerun") from None
        return []


def preview(dataset: Path, findings: Findings, media: Path | None) -> list[str]:
    """A line for each thing that `repair` would do; only reads, and takes no lock."""
    closed = {*shard_plans.closed_names(dataset), *shard_plans.receipt_names(dataset)}
    lines = [f"would remove {part} (bad part, {part.stat().st_size:,} bytes)" for part in findings.bad_parts]
    lines += [f"would rewrite {shard_plans.receipt_path(dataset, name)} (receipt)" for name in findings.bad_receipts]
    names = sorted(closed.intersection(findings.bad_shards))
    lacking: list[str] = []
    for name in names:
        settings = settings_of(dataset, media)
        shard = shard_plans.shard_path(dataset, name)
        bad = {part.stem for part in findings.bad_parts if part.parent.name == name}
        parts = (_parts(dataset, name) - bad).union(_sound_videos(dataset, name, save=False))
        contents = _contents(dataset, name, settings, parts)
        size = f"{shard.stat().st_size:,} bytes" if shard.exists() else "gone"
        saved = f"{len(contents.kept)} videos kept"
        if contents.without_media:
            lacking += contents.without_media
            ids = ", ".join(contents.without_media)
            lines.append(f"would leave {shard} ({size}): no media of {ids}; {saved} as parts")
        else:
            lines.append(f"would replace {shard} ({size}): {saved}, {len(contents.from_media)} computed from media")
        if contents.receipt_changes or not contents.without_media:
            lines.append(f"would rewrite {shard_plans.receipt_path(dataset, name)} (receipt)")
    if lacking:
        lines.append(f"would write {dataset / WITHOUT_MEDIA} ({len(lacking)} ids)")
    return lines


def sound_videos(dataset: Path, name: str, save: bool) -> list[str]:
    """The videos of a damaged shard whose own digests match and that have no part yet; with `save` they get one."""
    identity = read_description(dataset)["identity"]
    gone = kept_out(dataset)
    planned = {i for i in shard_plans.read_plan(dataset / "plans", name).video_ids if not is_forgotten(i, gone)}
    sound = []
    with FeatureFile(shard_plans.shard_path(dataset, name), damaged=True) as file:
        provenance = file.provenance if file.is_sealed() else {}
        for index, video_id in enumerate(file.video_ids):
            part = dataset / "parts" / name / f"{video_id}.h5"
            if video_id not in planned or part.exists():
                continue
            try:
                video = file.video(index)
                if digests_of(video) == file.stored_digests(index) and set(video.video) == set(identity["streams"]):
                    if save:
                        write_part(part, video, Origin(name, identity, provenance), replace=False)
                    sound.append(video_id)
            except (InputError, OSError, KeyError, ValueError, TypeError, IndexError, RuntimeError):
                continue
    return sound


def compare(dataset: Path, chosen: Sequence[tuple[str, str]], media: Path | None) -> tuple[list[str], list[str]]:
    """Compute the `chosen` (shard, video id) anew; returns problems and notes, a line each."""
    settings = settings_of(dataset, media)
    identity = read_description(dataset)["identity"]
    captions, finder = open_captions(dataset, identity["captions"], settings.captions), MediaFinder(settings.media)
    paths = {video_id: finder.find(video_id) for _, video_id in chosen}
    videos = [(video_id, path) for video_id, path in paths.items() if path is not None]
    if not videos:
        raise InputError(f"{settings.media}: holds none of the {len(chosen)} videos to compare; give --media")
    shard_of = {video_id: name for name, video_id in chosen}
    precisions = {name: stream["precision"] for name, stream in identity["streams"].items()}
    precisions |= {"davenet": identity["audio"]["precision"], "logmel": "fp32"}
    problems: list[str] = []
    by_changes: dict[str, list[Comparison]] = {}
    with FeatureExtractor(settings, identity, prepare_weights(settings)) as extractor:
        for video_id, result in extractor.extract(videos, captions.of if captions else lambda _: ()):
            if not isinstance(result, Extracted):
                problems.append(f"video {video_id}: stored, but can't be computed anew: {result}")
                continue
            with FeatureFile(shard_path(dataset, shard_of[video_id])) as file:
                stored = file.video(file.video_ids.index(video_id))
                changes = rounding_changes(file.provenance, extractor.provenance)
            comparison = compare_video(stored, result.features, precisions, exact=not changes)
            problems += [f"video {video_id}: computed anew it differs in {what}" for what in comparison.differences]
            by_changes.setdefault(", ".join(changes), []).append(comparison)
    notes = [_note(changes, compared, precisions) for changes, compared in by_changes.items()]
    if len(videos) < len(chosen):
        notes.append(f"{len(chosen) - len(videos)} videos chosen for comparison have no media")
    return problems, notes


def _note(changes: str, compared: Sequence[Comparison], precisions: Mapping[str, str]) -> str:
    """How near the videos came that differ in `changes` from what would be made here, and by which rule."""
    equal = sum(each.equal for each in compared)
    note = f"{len(compared)} videos were computed anew: {equal} are equal to the bit"
    if equal < len(compared):
        note += f", values are off by up to {max(each.difference for each in compared):.2g} of their row's largest"
        cosine = min(each.cosine for each in compared)
        note += f", least centred cosine of rows beyond rounding {cosine_text(cosine)}" if cosine < 1 else ""
    if not changes:
        return f"{note}; same host, processor, device and libraries: compared exactly"
    rules = (f"{name}: {TOLERANCES[name]}" for name in sorted(set(precisions.values())))
    return f"{note}; made elsewhere ({changes}): {'; '.join(rules)}"
