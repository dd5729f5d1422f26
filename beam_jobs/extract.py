"""`mcn extract` as a Beam job: one element is a shard plan's name; no features travel through Beam."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.metrics.metric import Metrics
from apache_beam.pvalue import PCollection

from beam_jobs.options import LOCAL_RUNNER, beam_options, quiet_local_workers, workers_input_errors
from extractors.errors import WeightsError
from extractors.precision import resolve_device, resolve_precision
from extractors.weights import load_weights, materialise
from pipeline.captions import read_captions
from pipeline.circumstance import usable_cores
from pipeline.config import as_plain
from pipeline.dataset_folder import read_description, settle
from pipeline.errors import InputError
from pipeline.extract_settings import ExtractSettings, identity
from pipeline.extraction import STAGE, ShardWorker, closed_videos
from pipeline.ledger import latest_states
from pipeline.media_check import stated_seconds
from pipeline.media_folder import find_media
from pipeline.plans import cut_into_shards, plan_names, read_plan, write_plans
from pipeline.progress import ledger_progress
from pipeline.records import Caption
from pipeline.report import StageReport
from pipeline.video_list import read_video_list
from pipeline.words import check_given, freeze_words

__all__ = ["ExtractSettings", "ExtractShards", "run"]


class _ExtractShard(beam.DoFn):
    def __init__(self, settings: ExtractSettings, weight_files: dict[str, str]) -> None:
        self.settings, self.weight_files = settings, weight_files

    def setup(self) -> None:
        self.worker = ShardWorker(self.settings, {name: Path(path) for name, path in self.weight_files.items()})
        self.media = find_media(self.settings.media).paths

    def process(self, plan_name: str) -> Iterator[tuple[str, dict[str, int]]]:
        counts = self.worker.extract(plan_name, self.media)
        for outcome, number in counts.items():
            Metrics.counter("ExtractShards", outcome).inc(number)
        yield plan_name, dict(counts)

    def teardown(self) -> None:
        if hasattr(self, "worker"):
            self.worker.__exit__(None, None, None)


@dataclass
class ExtractShards(beam.PTransform[Any, Any]):
    """Plan names in; (plan name, {outcome: videos}) out. Shards appear in `settings.out`, which every worker must see.

    `weight_files`: network -> path of a file that `extractors.weights.load_weights` reads.
    """

    settings: ExtractSettings
    weight_files: dict[str, str]

    def expand(self, plan_names: PCollection[str]) -> PCollection[tuple[str, dict[str, int]]]:
        return (
            plan_names
            | "spread over workers" >> beam.Reshuffle()
            | "extract shard" >> beam.ParDo(_ExtractShard(self.settings, self.weight_files))
        )


def _media_and_ids(settings: ExtractSettings) -> tuple[dict[str, Path], list[str], list[str], list[str]]:
    """Media by id, ids asked for that have media, ids asked for that have none, and remarks on odd files."""
    if not settings.media.exists():
        raise InputError(f"{settings.media}: no such folder; --media wants the folder of downloaded videos")
    folder = find_media(settings.media)
    notes = []
    if folder.misnamed:
        notes.append(
            f"{len(folder.misnamed)} media files are left out, their names can't be ids (letters, digits, - and _), "
            f"e.g. {folder.misnamed[0].name}"
        )
    if folder.duplicates:
        twice = next(iter(folder.duplicates))
        notes.append(f"{len(folder.duplicates)} videos are there twice, e.g. {twice}: the first is used")
    if settings.ids is None:
        if not folder.paths:
            raise InputError(f"{settings.media}: holds no video file named by an id; see `mcn download`")
        return folder.paths, list(folder.paths), [], notes
    asked = [record.video_id for record in read_video_list(settings.ids)]
    present = [video_id for video_id in asked if video_id in folder.paths]
    return folder.paths, present, [video_id for video_id in asked if video_id not in folder.paths], notes


def _announcements(settings: ExtractSettings) -> list[str]:
    notes = []
    if settings.weights.startswith("random:") and "resnet152" in settings.streams:
        notes.append(f"ResNet152 has random weights ({settings.weights}): its rows prove plumbing alone")
    if settings.davenet_weights.startswith("random:"):
        notes.append(
            f"DaveNet has random weights ({settings.davenet_weights}): its rows prove plumbing alone; "
            "give --davenet-weights FILE, or train it on the stored log-mel"
        )
    return notes


def prepare(settings: ExtractSettings) -> tuple[dict[str, str], dict[str, Any], list[str], dict[str, list[str]]]:
    """Everything before the job: weights, Identity, words, plans.

    Returns weight files, dataset.json, announcements, and ids by what is missing: `media` (listed, no file).
    """
    found, present, absent, notes = _media_and_ids(settings)
    captions: Mapping[str, Sequence[Caption]] = {}
    notes += _announcements(settings)
    if settings.captions is not None:
        caption_file = read_captions(settings.captions, set(present))
        captions = caption_file.captions
        notes += [f"captions left out, {reason}: {n}" for reason, n in sorted(caption_file.left_out.items())]
    try:
        device = resolve_device(settings.device)
        # `auto` is measured, and resolved once: a busy minute later must not turn away the same command.
        made = (settings.out / "dataset.json").exists()
        there = read_description(settings.out)["identity"]["streams"] if made else {}
        frozen = next((stream["precision"] for stream in there.values()), "")
        wanted = frozen if frozen and settings.precision == "auto" else settings.precision
        precision = resolve_precision(wanted, device)
        specs = dict.fromkeys(settings.streams, "IMAGENET1K") | {"davenet": settings.davenet_weights}
        specs |= {"resnet152": settings.weights} if "resnet152" in specs else {}
        files = {name: materialise(name, spec, settings.out / "weights") for name, spec in specs.items()}
        digests = {name: load_weights(name, path).digest for name, path in files.items()}
    except (WeightsError, ValueError) as error:
        raise InputError(str(error)) from None
    wanted_identity = identity(settings, digests, precision)
    existing = settings.out / "dataset.json"
    description: dict[str, Any] = {"identity": wanted_identity}
    if existing.exists():
        description = settle(settings.out, description)
        if settings.word_vectors is not None:
            check_given(settings.word_vectors, description["words"], settings.out)
    else:
        digest, announcement = freeze_words(settings.out / "words.kv", captions, settings.word_vectors, settings.split)
        notes += [announcement] if announcement else []
        description |= {"words": digest, "settings": as_plain(settings), "announcements": notes}
        description = settle(settings.out, description)
    plans = settings.out / "plans"
    planned = {video_id for name in plan_names(plans) for video_id in read_plan(plans, name).plan.video_ids}
    downloaded = latest_states(settings.media / "ledger", "download")
    seconds = {
        video_id: downloaded[video_id].latest.detail.get("duration", 0.0) if video_id in downloaded else 0.0
        for video_id in present
        if video_id not in planned
    }
    seconds = {video_id: length or stated_seconds(found[video_id]) for video_id, length in seconds.items()}
    shard_seconds = settings.shard_size * 2**20 / settings.bytes_per_second()
    write_plans(plans, cut_into_shards(seconds, shard_seconds), captions)
    return {name: str(path.resolve()) for name, path in files.items()}, description, notes, {"media": absent}


def run(settings: ExtractSettings, beam_arguments: Sequence[str] = ()) -> StageReport:
    """Extract everything in the plans that isn't in a closed shard yet. Videos that fail are counted, not fatal."""
    settings = dataclasses.replace(settings, out=settings.out.resolve(), media=settings.media.resolve())
    workers = settings.workers or usable_cores()
    options = beam_options(beam_arguments, local_workers=workers)
    report = StageReport(STAGE)
    weight_files, description, report.notes, missing = prepare(settings)
    plans = settings.out / "plans"
    names = plan_names(plans)
    open_names = [name for name in names if not (settings.out / "shards" / f"{name}.h5").exists()]
    before = closed_videos(settings.out, description["identity"])
    total = sum(len(read_plan(plans, name).plan.video_ids) for name in open_names)
    if open_names:
        logging.getLogger("apache_beam").setLevel(logging.ERROR)
        with (
            ledger_progress(settings.out / "ledger", STAGE, total, "extract"),
            quiet_local_workers(),
            workers_input_errors(),
            beam.Pipeline(options=options) as pipeline,
        ):
            _ = pipeline | beam.Create(open_names) | ExtractShards(settings, weight_files)
    after = closed_videos(settings.out, description["identity"])
    _count(report, settings, names, before, after)
    report.failed.update({"no media file": len(missing["media"])} if missing["media"] else {})
    report.detail |= {
        "dataset": str(settings.out),
        "shards": len(names),
        "settings": as_plain(settings),
        "identity": description["identity"],
        "runner": "local"
        if options.get_all_options()["runner"] == LOCAL_RUNNER
        else options.get_all_options()["runner"],
    }
    report.complete = all((settings.out / "shards" / f"{name}.h5").exists() for name in names) and bool(after)
    report.finish().publish(settings.out / "extract.json")
    return report


def _count(
    report: StageReport, settings: ExtractSettings, names: list[str], before: set[str], closed: set[str]
) -> None:
    report.skipped, report.done = len(before), len(closed - before)
    states = latest_states(settings.out / "ledger", STAGE)
    reasons: Counter[str] = Counter()
    lacks: Counter[str] = Counter()
    noted = 0
    for name in names:
        for video_id in read_plan(settings.out / "plans", name).plan.video_ids:
            if video_id not in states:
                continue
            latest = states[video_id].latest
            if video_id not in closed:
                reasons[latest.reason] += 1
            elif latest.outcome == "done":
                lacks["sound"] += not latest.detail.get("sound", True)
                lacks["captions"] += not latest.detail.get("captions", True)
                noted += bool(latest.message)
    report.failed.update(reasons)
    report.detail |= {"without sound": lacks["sound"], "without captions": lacks["captions"], "with remarks": noted}
    report.notes += [f"{count} videos have no {what}: masked, not invented" for what, count in lacks.items() if count]
    if noted:
        report.notes.append(f"{noted} videos have a remark of the decoder: see {settings.out / 'ledger'}")
