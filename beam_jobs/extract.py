"""`mcn extract` as a Beam job: one element is a shard plan's name; no features travel through Beam."""

import logging
import os
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
from pipeline.config import as_plain
from pipeline.dataset_folder import settle
from pipeline.errors import InputError
from pipeline.extract_settings import ExtractSettings, identity
from pipeline.extraction import STAGE, ShardWorker, closed_videos
from pipeline.ledger import latest_states
from pipeline.media_folder import find_media
from pipeline.plans import cut_into_shards, plan_names, read_plan, write_plans
from pipeline.progress import ledger_progress
from pipeline.records import Caption
from pipeline.report import StageReport
from pipeline.video_list import read_video_list
from pipeline.words import freeze_words

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


def _media_and_ids(settings: ExtractSettings) -> tuple[dict[str, Path], list[str], list[str]]:
    """Media by id, ids asked for that have media, ids asked for that have none."""
    if not settings.media.exists():
        raise InputError(f"{settings.media}: no such folder; --media wants the folder of downloaded videos")
    found = find_media(settings.media).paths
    if settings.ids is None:
        if not found:
            raise InputError(f"{settings.media}: holds no video file named by an id; see `mcn download`")
        return found, list(found), []
    asked = [record.video_id for record in read_video_list(settings.ids)]
    return found, [i for i in asked if i in found], [i for i in asked if i not in found]


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
    found, present, absent = _media_and_ids(settings)
    captions: Mapping[str, Sequence[Caption]] = {}
    notes = _announcements(settings)
    if settings.captions is not None:
        caption_file = read_captions(settings.captions, set(present))
        captions = caption_file.captions
        notes += [f"captions left out, {reason}: {n}" for reason, n in sorted(caption_file.left_out.items())]
    try:
        device = resolve_device(settings.device)
        precision = resolve_precision(settings.precision, device)
        specs = dict.fromkeys(settings.streams, "IMAGENET1K") | {"davenet": settings.davenet_weights}
        specs |= {"resnet152": settings.weights} if "resnet152" in specs else {}
        files = {name: materialise(name, spec, settings.out / "weights") for name, spec in specs.items()}
        digests = {name: load_weights(name, path).digest for name, path in files.items()}
    except (WeightsError, ValueError) as error:
        raise InputError(str(error)) from None
    made = identity(settings, digests, precision)
    existing = settings.out / "dataset.json"
    description: dict[str, Any] = {"identity": made}
    if existing.exists():
        description = settle(settings.out, description)
    else:
        digest, announcement = freeze_words(settings.out / "words.kv", captions, settings.word_vectors, settings.split)
        notes += [announcement] if announcement else []
        description |= {"words": digest, "settings": as_plain(settings), "announcements": notes}
        description = settle(settings.out, description)
    plans = settings.out / "plans"
    planned = {video_id for name in plan_names(plans) for video_id in read_plan(plans, name).plan.video_ids}
    seconds = {video_id: 1.0 for video_id in present if video_id not in planned}
    for video_id, state in latest_states(settings.media / "ledger", "download").items():
        if video_id in seconds:
            seconds[video_id] = float(state.latest.detail.get("duration") or 1.0)
    shard_seconds = settings.shard_size * 2**20 / settings.bytes_per_second()
    write_plans(plans, cut_into_shards(seconds, shard_seconds), captions)
    return {name: str(path.resolve()) for name, path in files.items()}, description, notes, {"media": absent}


def run(settings: ExtractSettings, beam_arguments: Sequence[str] = ()) -> StageReport:
    """Extract everything in the plans that isn't in a closed shard yet. Videos that fail are counted, not fatal."""
    workers = settings.workers or os.cpu_count() or 1
    options = beam_options(beam_arguments, local_workers=workers)
    report = StageReport(STAGE)
    weight_files, description, report.notes, missing = prepare(settings)
    plans = settings.out / "plans"
    names = plan_names(plans)
    open_names = [name for name in names if not (settings.out / "shards" / f"{name}.h5").exists()]
    before = closed_videos(settings.out)
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
    _count(report, settings, names, before)
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
    report.complete = all((settings.out / "shards" / f"{name}.h5").exists() for name in names) and bool(
        closed_videos(settings.out)
    )
    report.finish().publish(settings.out / "extract.json")
    return report


def _count(report: StageReport, settings: ExtractSettings, names: list[str], before: set[str]) -> None:
    closed = closed_videos(settings.out)
    report.skipped, report.done = len(before), len(closed - before)
    states = latest_states(settings.out / "ledger", STAGE)
    reasons: Counter[str] = Counter()
    for name in names:
        for video_id in read_plan(settings.out / "plans", name).plan.video_ids:
            if video_id not in closed and video_id in states:
                reasons[states[video_id].latest.reason] += 1
    report.failed.update(reasons)
