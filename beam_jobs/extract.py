"""`mcn extract` as a Beam job: one element is a shard plan's name; no features travel through Beam."""

import logging
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apache_beam as beam
from apache_beam.metrics.metric import Metrics
from apache_beam.pvalue import PCollection

from beam_jobs.options import LOCAL_RUNNER, beam_options, check_beam_arguments, runner_name
from beam_jobs.time_shares import SpentCounters, spent_of, time_line, time_shares
from beam_jobs.worker_errors import ReportingDoFn, running
from extractors.weight_specs import mapped_weights
from pipeline.core.errors import InputError
from pipeline.core.files import touch
from pipeline.core.remote import address_of
from pipeline.core.reporting import RunSummary, ledger_progress
from pipeline.extraction.cleanup import list_removals
from pipeline.extraction.driver import ExtractionRounds
from pipeline.extraction.settings import ExtractSettings
from pipeline.extraction.upload import extract_to_store

if TYPE_CHECKING:
    from pipeline.extraction.worker import ShardWorker

_PLACES = ("out", "media", "captions", "ids", "split", "word_vectors")

__all__ = ["ExtractSettings", "ExtractShards", "run"]


class _ExtractShard(ReportingDoFn):
    def __init__(self, settings: ExtractSettings, weight_files: dict[str, Path], stop: str, counted: bool) -> None:
        super().__init__(counted)
        self.settings, self.weight_files, self.stop = settings, weight_files, stop
        self._spent = SpentCounters()

    def open(self) -> "ShardWorker":
        # Here, so that the process that only drives the job loads no PyTorch.
        from pipeline.extraction.worker import ShardWorker

        return ShardWorker(self.settings, self.weight_files, Path(self.stop) if self.stop else None)

    def work(self, worker: "ShardWorker", plan_name: str) -> Iterator[tuple[str, dict[str, int]]]:
        counts = worker.extract(plan_name)
        for outcome, number in counts.items():
            Metrics.counter("ExtractShards", outcome).inc(number)
        self._spent.count(worker.spent())
        yield plan_name, dict(counts)

    def failed(self) -> None:
        if self.stop:
            with suppress(OSError):  # the disk may be full
                touch(Path(self.stop))


@dataclass
class ExtractShards(beam.PTransform[Any, Any]):
    """Plan names in; (plan name, {outcome: videos}) out. Shards appear in `settings.out`, which every worker must see.

    `weight_files`: network -> path of a file that `extractors.weights.load_weights` reads. `stop`: path of a file whose
    coming asks the workers to finish the video in hand. `counted`: see `ReportingDoFn`.
    """

    settings: ExtractSettings
    weight_files: dict[str, Path]
    stop: str = ""
    counted: bool = False

    def expand(self, plan_names: PCollection[str]) -> PCollection[tuple[str, dict[str, int]]]:
        return (
            plan_names
            | "spread over workers" >> beam.Reshuffle()
            | "extract shard" >> beam.ParDo(_ExtractShard(self.settings, self.weight_files, self.stop, self.counted))
        )


def _absolute(weights: str) -> str:
    return str(Path(weights).resolve()) if Path(weights).is_file() else weights


def run(settings: ExtractSettings, beam_arguments: Sequence[str] = ()) -> RunSummary:
    """Extract everything in the plans that isn't in a closed shard yet. Videos that fail are counted, not fatal.

    Complete when no plan is left open and what was tried gave features of one video at least. With `dry_run` only the
    media that would go are listed.
    """
    if address_of(settings.out):
        if check_beam_arguments(beam_arguments) != LOCAL_RUNNER:
            raise InputError(f"{address_of(settings.out)}: a cluster's workers need a folder that all see as --out")
        return extract_to_store(settings, lambda local: _extract(local, beam_arguments))
    return _extract(settings, beam_arguments)


def _extract(settings: ExtractSettings, beam_arguments: Sequence[str]) -> RunSummary:
    # Workers, and later commands, are started elsewhere.
    paths = {name: getattr(settings, name) for name in (*_PLACES, "cache")}
    absolute: dict[str, Any] = {
        name: path.resolve() for name, path in paths.items() if path is not None and not address_of(path)
    }
    absolute["weights"] = mapped_weights(settings.weights, _absolute)
    absolute["davenet_weights"] = _absolute(settings.davenet_weights)
    settings = replace(settings, **absolute)
    if settings.dry_run:
        return list_removals(settings)
    options = beam_options(beam_arguments, local_workers=settings.local_workers())
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    rounds = ExtractionRounds(settings, uuid.uuid4().hex)
    spent: list[tuple[Counter[str], float]] = []
    with rounds.stop_file() as stop:
        for names, videos in rounds:
            began = time.monotonic()
            with ledger_progress(settings.out / "ledger", "extract", videos, "extract"):
                with running(options) as (pipeline, counted):
                    _ = pipeline | beam.Create(names) | ExtractShards(settings, rounds.weight_files, str(stop), counted)
            if counted:
                spent.append((spent_of(pipeline.result), time.monotonic() - began))
    report = rounds.report()
    if shares := time_shares(spent):
        report.detail["time"] = shares
        report.notes.append(time_line(shares))
    report.detail["runner"] = runner_name(options)
    report.finish().publish(settings.out / "extract.json")
    return report
