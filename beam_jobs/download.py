"""`mcn download` as a Beam job: one element is a video id; the files go to a folder that every worker sees."""

import logging
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from typing import Any

import apache_beam as beam
from apache_beam.metrics.metric import Metrics
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.pvalue import PCollection

from beam_jobs.options import beam_options, runner_name
from beam_jobs.worker_errors import ReportingDoFn, running
from pipeline.core import signals
from pipeline.core.config import as_plain
from pipeline.core.errors import InputError
from pipeline.core.lease import Lease, locked
from pipeline.core.ledger import latest_states
from pipeline.core.lists import left_out_note
from pipeline.core.records import EXTRACTED, NO_FEATURES, STAGE, Outcome
from pipeline.core.reporting import RunSummary, ledger_progress
from pipeline.core.video_ids import find_part, is_video_id, read_video_ids
from pipeline.dataset.folder import forgotten, is_forgotten
from pipeline.dataset.shard_plans import hash_order
from pipeline.download.budget import download_lock, remark_aside
from pipeline.download.downloader import (
    SIGNAL,
    Downloader,
    DownloadJob,
    Request,
    clear_scratch,
    in_turn,
    settle,
    settled,
    stopped,
    summary_of,
)
from pipeline.download.failures import FAILURE_CLASSES, SITE_WIDE
from pipeline.download.fetcher import check
from pipeline.download.media import find_media
from pipeline.download.settings import DownloadSettings, FetchSettings

__all__ = ["DownloadSettings", "DownloadVideos", "run"]


class _Download(ReportingDoFn):
    def __init__(self, job: DownloadJob, counted: bool) -> None:
        super().__init__(counted)
        self.job = job

    def open(self) -> Downloader:
        return Downloader(self.job)

    def work(self, downloader: Downloader, request: Request) -> Iterator[Outcome]:
        outcome = downloader.download(request)
        counter = Metrics.counter
        counter("DownloadVideos", outcome.reason or outcome.outcome).inc()
        counter("DownloadVideos", "bytes").inc(outcome.detail.get("bytes", 0))
        counter("DownloadVideos", "milliseconds").inc(round(1000 * outcome.detail.get("seconds", 0)))
        yield outcome


@dataclass
class DownloadVideos(beam.PTransform[Any, Any]):
    """Requests in, an Outcome for each out; the files appear in `job.media`, a ledger line for each attempt beside.

    `counted`: see `ReportingDoFn`.
    """

    job: DownloadJob
    counted: bool = False

    def expand(self, requests: PCollection[Request]) -> PCollection[Outcome]:
        download = beam.ParDo(_Download(self.job, self.counted))
        return requests | "spread over workers" >> beam.Reshuffle() | "download" >> download


def run(settings: DownloadSettings, beam_arguments: Sequence[str] = ()) -> RunSummary:
    """Download every listed video that is not there and not known to be gone. Dead videos are counted, not fatal.

    Complete when no video is left waiting and at least one is there.
    """
    # The work is done by a child process for each worker, so that threads are enough here.
    options = beam_options(beam_arguments, "multi_threading", settings.workers)
    part = find_part(settings.part)
    gone = forgotten(settings.out)
    passed_over = Counter[str]()
    video_ids = [i for i in read_video_ids(settings.ids, passed_over) if part.owns(int(hash_order(i)[:8], 16))]
    kept_out = {video_id for video_id in video_ids if is_forgotten(video_id, gone)}
    video_ids = [video_id for video_id in video_ids if video_id not in kept_out]
    _check_files(settings)
    report = RunSummary(STAGE, notes=left_out_note(settings.ids, passed_over))
    if kept_out:
        report.notes.append(f"{len(kept_out)} videos were forgotten and stay out")
    with locked(download_lock(settings.out, str(part)), f"downloading to {settings.out}") as lease:
        _download(settings, report, video_ids, options, lease)
        report.detail |= {
            "media": str(settings.out),
            "part": str(part),
            "settings": as_plain(settings),
            "runner": runner_name(options),
        }
        report.finish().publish(settings.out / "download.json")
    return report


def _download(
    settings: DownloadSettings, report: RunSummary, video_ids: list[str], options: PipelineOptions, lease: Lease
) -> None:
    ledger = settings.out / "ledger"
    present = set(find_media(settings.out).paths)
    states = latest_states(ledger, STAGE)
    asked = [
        i
        for i in in_turn(video_ids, states)
        if i not in present and not settled(states.get(i), settings.attempts, settings.recheck_h, settings.ask_again)
    ]
    fetched = (state.latest.time for state in states.values() if state.latest.outcome == "done")
    success = max(fetched, default=0.0)
    requests = [Request.after(i, states.get(i), success) for i in asked]
    reason = row = ""
    if requests:
        logging.getLogger("apache_beam").setLevel(logging.ERROR)
        with ExitStack() as stack:
            workers = max(settings.workers, options.view_as(DirectOptions).direct_num_workers)
            url = settings.site_url or _serve(settings, stack)
            fetching = _fetching(settings, url, workers)
            report.notes += check(fetching)
            budget = settings.media_budget * 2**30
            job = DownloadJob(
                settings.out.resolve(),
                fetching,
                settings.attempts,
                run=uuid.uuid4().hex,
                budget=budget,
                lock=lease.path.resolve(),
                token=lease.token,
                past=Counter(
                    state.latest.reason if state.latest.outcome == "failed" else "done"
                    for state in states.values()
                    if state.latest.outcome in ("done", "failed")
                ),
                least_chance=settings.least_chance,
            )
            stack.callback(clear_scratch, job)
            stack.enter_context(signals.stop_file(job.scratch / f"stop-{SIGNAL}"))
            stack.enter_context(ledger_progress(ledger, STAGE, len(requests), STAGE))
            try:
                with running(options) as (pipeline, counted):
                    _ = pipeline | "ids" >> beam.Create(requests) | DownloadVideos(job, counted)
            finally:
                row = settle(job)
            reason = stopped(job)
    _count(report, settings, video_ids, present)
    report.notes += remark_aside(settings.out)
    report.stopped = reason == SIGNAL
    if row:
        report.notes.append(f"stopped: {SITE_WIDE}: {row}: {FAILURE_CLASSES[SITE_WIDE].advice}")
    elif reason and not report.stopped:
        report.notes.append(f"stopped: {reason}: {FAILURE_CLASSES[reason].advice}")


def _check_files(settings: DownloadSettings) -> None:
    if settings.cookies is not None and not settings.cookies.is_file():
        raise InputError(f"{settings.cookies}: no such file; --cookies expects a cookie file in Netscape format")
    try:
        (settings.out / "ledger").mkdir(parents=True, exist_ok=True)
        (settings.out / ".part").mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"{settings.out}: can't be written: {error.strerror}; choose another --out") from None


def _serve(settings: DownloadSettings, stack: ExitStack) -> str:
    if settings.sample is None:
        return FetchSettings.site_url
    from pipeline.sample.site import SampleSite  # real downloads do without the sample's code

    return stack.enter_context(SampleSite(settings.sample)).url


def _fetching(settings: DownloadSettings, url: str, workers: int) -> FetchSettings:
    pace = workers if settings.site == "youtube" else 0
    own = {field.name: getattr(settings, field.name) for field in fields(FetchSettings)}
    own |= {name: own[name] * pace for name in ("sleep_requests", "sleep_interval", "max_sleep_interval")}
    cookies = settings.cookies.resolve() if settings.cookies else None
    return FetchSettings(**own | {"site_url": url, "cookies": cookies, "proxy": settings.proxy or None})


def _count(report: RunSummary, settings: DownloadSettings, video_ids: list[str], before: set[str]) -> None:
    """Where each listed video stands now, by the media folder and the ledger."""
    present = {name for name in find_media(settings.out).paths if is_video_id(name)}
    misdated: Counter[str] = Counter()
    states = latest_states(settings.out / "ledger", STAGE, misdated=misdated)
    if misdated:
        report.notes.append(
            f"{misdated.total()} ledger lines, of {', '.join(sorted(misdated)[:3])}, have a time that can't be true, "
            "which is passed over: set the clock of the machine that wrote them"
        )
    for video_id in video_ids:
        state = states.get(video_id)
        processed = state is not None and state.latest.reason in (EXTRACTED, NO_FEATURES)
        if video_id in before or (processed and video_id not in present):
            report.skipped += 1
        elif video_id in present:
            report.done += 1
        elif state is not None and state.latest.outcome == "failed":
            report.failed[state.latest.reason] += 1
        else:
            report.waiting += 1
    report.complete = report.waiting == 0 and report.done + report.skipped > 0
    report.detail |= summary_of({i: states[i] for i in video_ids if i in states})
