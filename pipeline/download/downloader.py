"""One worker's part of the download: an id to a checked file in the media folder, with a ledger line per attempt."""

import os
import shutil
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core import signals
from pipeline.core.files import Closeable, fsync_folder, touch
from pipeline.core.lease import read_lease
from pipeline.core.ledger import LedgerWriter, VideoState
from pipeline.core.records import EXTRACTED, NO_FEATURES, STAGE, Outcome
from pipeline.core.video_ids import is_video_id
from pipeline.download.budget import SCRATCH, MediaBudget
from pipeline.download.failures import FAILURE_CLASSES, UNKNOWN, FailureClass
from pipeline.download.fetcher import Fetched, Fetcher, FetchError
from pipeline.download.media import fetched_path, media_path
from pipeline.download.settings import FetchSettings

SIGNAL = "signal"
"""Why a run was told to stop, when a signal asked for it."""

_LONGEST_WAIT_S = 60.0
_TOO_MANY_FORBIDDEN = 5


@dataclass(frozen=True)
class DownloadJob:
    """What a worker needs beside the ids; plain values, so that any runner can ship it."""

    media: Path
    """The folder to fill; every worker must see it."""
    fetch: FetchSettings
    attempts: int
    """How often a video is tried in all."""
    run: str
    """Names this run: its workers share a scratch folder, and with it the order to stop."""
    budget: float = 0.0
    """Bytes that the media may take in all; 0: no bound."""
    lock: Path | None = None
    """The lease under which the driver runs the job, if any, and its token."""
    token: str = ""

    @property
    def scratch(self) -> Path:
        """Unfinished files of this run, on the same disk as the finished ones."""
        return self.media / SCRATCH / self.run


@dataclass(frozen=True)
class Request:
    """A video to be fetched, with its past."""

    video_id: str
    attempt: int = 1
    """Number of the next attempt in the ledger."""
    failures: int = 0
    """Attempts that failed already."""


class Downloader(Closeable):
    """Owns a fetching process and a ledger file. Use as a context manager, or call `close`."""

    def __init__(self, job: DownloadJob) -> None:
        self.job = job
        self._fetcher = Fetcher(job.fetch)
        self._ledger = LedgerWriter(job.media / "ledger", STAGE)
        self._budget = MediaBudget(job.media, job.budget)
        self._forbidden = 0

    def download(self, request: Request) -> Outcome:
        """Fetch one video, unless it is there or the run was told to stop; tries again what may pass.

        The outcome is `done`, `skipped` (it is there), `failed`, or `waiting` (the run stops; not the video's fault).
        """
        if not is_video_id(request.video_id):
            raise ValueError(f"{request.video_id[:80]!a} is not a video id")
        attempt, failures, wait = request.attempt, request.failures, self.job.fetch.retry_wait_s
        while True:
            if fetched_path(self.job.media, request.video_id):
                return Outcome(request.video_id, STAGE, "skipped", attempt=attempt)
            if not stopped(self.job) and not self._is_ours():
                stop(self.job, SIGNAL)
            if not stopped(self.job) and not self._budget.wait_for_room(self._wait):
                stop(self.job, stopped(self.job) or "media-budget")
            if stopped(self.job):
                return Outcome(request.video_id, STAGE, "waiting", attempt=attempt)
            outcome = self._attempt(request.video_id, attempt)
            failures += outcome.outcome == "failed"
            repeatable = outcome.outcome == "failed" and FAILURE_CLASSES[outcome.reason].action == "retry"
            if not repeatable or failures >= self.job.attempts:
                return outcome
            attempt += 1
            signals.wait(min(wait, _LONGEST_WAIT_S))
            wait *= 2

    def _is_ours(self) -> bool:
        """Whether the folder is this job's still: its driver may have been stopped for longer than a lease lasts."""
        lease = read_lease(self.job.lock) if self.job.lock is not None else None
        return self.job.lock is None or (lease is not None and lease[0].token == self.job.token)

    def _wait(self, seconds: float) -> bool:
        return signals.wait(seconds) or bool(stopped(self.job))

    def _attempt(self, video_id: str, attempt: int) -> Outcome:
        folder = self.job.scratch / uuid.uuid4().hex
        reason, message, detail = "", "", {}
        started = time.monotonic()
        try:
            folder.mkdir(parents=True)
            fetched = self._fetcher.fetch(video_id, folder)
            place(fetched, self.job.media, video_id)
            state, detail = "done", fetched.detail
            self._forbidden = 0
        except FetchError as error:
            failure, message = self._escalate(error.failure), str(error)
            state, reason = ("waiting" if failure.action == "stop" else "failed"), failure.name
        except OSError as error:
            failure, message = FAILURE_CLASSES["no-room"], f"{self.job.media}: {error.strerror}"
            state, reason = "waiting", failure.name
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        detail = {**detail, "seconds": round(time.monotonic() - started, 3)}
        outcome = Outcome(video_id, STAGE, state, reason, message, attempt, time.time(), detail)
        self._ledger.append(outcome)
        if state == "waiting":
            stop(self.job, reason)
        return outcome

    def _escalate(self, failure: FailureClass) -> FailureClass:
        # One refusal may be the video's; a row of them says that the site refuses this yt-dlp.
        self._forbidden = self._forbidden + 1 if failure.name == "forbidden" else 0
        return FAILURE_CLASSES["tool"] if self._forbidden >= _TOO_MANY_FORBIDDEN else failure

    def close(self) -> None:
        """End the fetching process and close the ledger."""
        self._fetcher.close()
        self._ledger.close()


def place(fetched: Fetched, media: Path, video_id: str) -> None:
    """Flush a whole file to the disk and give it the name under which it belongs, unless another has that."""
    target = media_path(media, video_id, fetched.path.suffix.lower())
    if not target.parent.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        fsync_folder(media)
    with open(fetched.path, "rb+") as file:
        os.fsync(file.fileno())
    # A link replaces nothing: another process, which took this one for dead, may have fetched the same.
    with suppress(FileExistsError):
        os.link(fetched.path, target)
    fsync_folder(target.parent)


def settled(state: VideoState | None, attempts: int, recheck_h: float, ask_again: tuple[str, ...]) -> bool:
    """Whether a video that is not there is left alone: its media were deleted once its features were stored or moved
    aside for having none, it is gone for good, was tried often enough, or it is too early to ask again."""
    if state is None or state.latest.reason in ask_again:
        return False
    if state.latest.outcome != "failed":
        return state.latest.reason in (EXTRACTED, NO_FEATURES)
    action = FAILURE_CLASSES.get(state.latest.reason, UNKNOWN).action
    if action == "later":
        return time.time() - state.latest.time < recheck_h * 3600
    return action == "permanent" or (action == "retry" and state.failures >= attempts)


def stop(job: DownloadJob, reason: str) -> None:
    """Tell every worker of this run to take up no further video."""
    job.scratch.mkdir(parents=True, exist_ok=True)
    touch(job.scratch / f"stop-{reason}")


def stopped(job: DownloadJob) -> str:
    """Name of the failure class for which this run was told to stop, or `signal`; empty if it was not."""
    return next((path.name.removeprefix("stop-") for path in sorted(job.scratch.glob("stop-*"))), "")


def clear_scratch(job: DownloadJob) -> None:
    """Delete this run's unfinished files, and those of dead runs: older than any attempt can last."""
    shutil.rmtree(job.scratch, ignore_errors=True)
    probe = job.media / SCRATCH / f"now-{job.run}"
    try:
        # The age is by the clock of the folder's own host.
        touch(probe)
        now = probe.stat().st_mtime
        for folder in probe.parent.iterdir():
            if folder.is_dir() and now - folder.stat().st_mtime > max(3600.0, 2 * job.fetch.kill_after_s):
                shutil.rmtree(folder, ignore_errors=True)
    except FileNotFoundError:  # another run cleans up too
        pass
    finally:
        probe.unlink(missing_ok=True)


def summary_of(states: dict[str, VideoState]) -> dict[str, Any]:
    """Bytes and seconds of video in the given states."""
    done = [state.latest.detail for state in states.values() if state.latest.outcome == "done"]
    return {
        "bytes": sum(detail.get("bytes", 0) for detail in done),
        "video_seconds": round(sum(detail.get("duration", 0.0) for detail in done), 3),
    }
