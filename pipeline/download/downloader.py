"""One worker's part of the download: an id to a checked file in the media folder, with a ledger line per attempt.

What fails is held back from the ledger until the worker's next success shows that the site answers, or until the run
ends: then it is charged to its video. A row of like failures that is too long to be chance (`failures.chance_of_row`)
ends the run as `site-wide` instead, and is charged to none. What is held lies in the run's scratch folder, where all
workers count it together; a kill forgets it, and these videos are asked for again.
"""

import os
import random
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.core import signals
from pipeline.core.files import Closeable, fsync_folder, touch, write_text
from pipeline.core.lease import read_lease
from pipeline.core.ledger import LedgerWriter, VideoState, read_ledger
from pipeline.core.records import EXTRACTED, NO_FEATURES, STAGE, Outcome
from pipeline.core.video_ids import is_video_id
from pipeline.download.budget import SCRATCH, MediaBudget
from pipeline.download.failures import (
    FAILURE_CLASSES,
    LEAST_CHANCE,
    SITE_WIDE,
    UNKNOWN,
    chance_of_row,
    likeness,
    usual_share,
)
from pipeline.download.fetcher import Fetched, Fetcher, FetchError
from pipeline.download.media import fetched_path, media_path
from pipeline.download.settings import FetchSettings

SIGNAL = "signal"
"""Why a run was told to stop, when a signal asked for it."""

_LONGEST_WAIT_S = 60.0
_PERHAPS_ONE_VIDEOS = ("login", "tool")
"""Faults of the session whose words the site may also have for a single video."""


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
    past: Mapping[str, int] = field(default_factory=dict)
    """What became of videos before this run: `done` or failure class -> how many."""
    least_chance: float = LEAST_CHANCE
    """Probability below which a row of like failures ends the run; 0: never."""

    @property
    def scratch(self) -> Path:
        """Unfinished files of this run, on the same disk as the finished ones."""
        return self.media / SCRATCH / self.run

    @property
    def held(self) -> Path:
        """Ledgers of what failed since the last success of each worker."""
        return self.scratch / "held"

    @property
    def site_wide(self) -> Path:
        """The order to stop for a row of like failures; says what they have in common."""
        return self.scratch / f"stop-{SITE_WIDE}"

    def successful_workers(self) -> int:
        """How many workers of this run have fetched a video."""
        return sum(1 for _ in self.scratch.glob("success-*"))


@dataclass(frozen=True)
class Request:
    """A video to be fetched, with its past."""

    video_id: str
    attempt: int = 1
    """Number of the next attempt in the ledger."""
    failures: int = 0
    """Attempts that failed already."""
    last: str = ""
    """The latest one's reason."""
    outlived: bool = False
    """Whether another video was fetched after it."""

    @classmethod
    def after(cls, video_id: str, state: VideoState | None, success: float) -> "Request":
        """The next attempt at a video that stands there in the ledger; `success`: when any was last fetched."""
        if state is None:
            return cls(video_id)
        latest = state.latest
        return cls(video_id, latest.attempt + 1, state.failures, latest.reason, latest.time < success)


class Downloader(Closeable):
    """Owns a fetching process and a ledger file. Use as a context manager, or call `close`."""

    def __init__(self, job: DownloadJob) -> None:
        self.job = job
        self._fetcher = Fetcher(job.fetch)
        self._ledger = LedgerWriter(job.media / "ledger", STAGE)
        self._budget = MediaBudget(job.media, job.budget)
        self._past = Counter(job.past)
        self._judged = 0
        self._success = job.scratch / f"success-{uuid.uuid4().hex}"
        self._hold()

    def _hold(self) -> None:
        self._held: list[Outcome] = []
        self._held_ledger = LedgerWriter(self.job.held, STAGE)

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
            outcome = self._attempt(request, attempt)
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

    def _attempt(self, request: Request, attempt: int) -> Outcome:
        video_id, folder = request.video_id, self.job.scratch / uuid.uuid4().hex
        reason, message, detail = "", "", {}
        started = time.monotonic()
        try:
            folder.mkdir(parents=True)
            fetched = self._fetcher.fetch(video_id, folder)
            place(fetched, self.job.media, video_id)
            state, detail = "done", fetched.detail
        except FetchError as error:
            reason, message = error.failure.name, str(error)
            state = "waiting" if error.failure.action == "stop" and not self._is_its_own(request, reason) else "failed"
        except OSError as error:
            reason, message = "no-room", f"{self.job.media}: {error.strerror}"
            state = "waiting"
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        detail = {**detail, "seconds": round(time.monotonic() - started, 3)}
        outcome = Outcome(video_id, STAGE, state, reason, message, attempt, time.time(), detail)
        self._record(outcome, request.last)
        return outcome

    def _is_its_own(self, request: Request, reason: str) -> bool:
        """Whether a session's fault is the video's own: an earlier run met it too, and others could be fetched."""
        if reason not in _PERHAPS_ONE_VIDEOS or request.last != reason:
            return False
        return request.outlived or self.job.successful_workers() > 0 or not self.job.least_chance

    def _record(self, outcome: Outcome, last: str) -> None:
        # A video that failed so before says nothing new of the site.
        if outcome.outcome == "failed" and outcome.reason != last:
            self._held.append(outcome)
            self._held_ledger.append(outcome)
            self._judge(outcome)
            return
        if outcome.outcome == "done":
            # Of a run that is already ended a success that was under way says nothing.
            if not self.job.site_wide.exists():
                self._charge()
            self._past["done"] += 1
            self._judged += 1
            touch(self._success)
        self._ledger.append(outcome)
        if outcome.outcome == "waiting":
            stop(self.job, outcome.reason)

    def _charge(self) -> None:
        """Write what was held back: the site answers, and these failures are their videos' own."""
        held = self._held
        # In this order a kill loses lines, which costs a request each; in the other some would be there twice.
        self._held_ledger.close()
        self._held_ledger.path.unlink(missing_ok=True)
        self._hold()
        for outcome in held:
            self._ledger.append(outcome)
        kinds = {(outcome.video_id, outcome.reason) for outcome in held}
        self._past.update(reason for _, reason in kinds)
        self._judged += len({video_id for video_id, _ in kinds})

    def _judge(self, outcome: Outcome) -> None:
        """Stop the run if so many videos of all workers that failed as this one are too many for chance."""
        held = list(read_ledger(self.job.held, STAGE))
        # A long run has many rows: the bound falls with their number, so that chance ends no healthy one.
        if _chance(outcome, held, self.job, self._past) < self.job.least_chance / (1 + self._judged):
            write_text(self.job.site_wide, _likeness(outcome))

    def close(self) -> None:
        """End the fetching process and close the ledgers; what is held back is left to `settle`."""
        self._fetcher.close()
        self._ledger.close()
        self._held_ledger.close()


def _likeness(outcome: Outcome) -> str:
    return likeness(outcome.reason, outcome.message, outcome.video_id)


def _chance(outcome: Outcome, held: Iterable[Outcome], job: DownloadJob, past: Mapping[str, int]) -> float:
    failed = {each.video_id for each in held}
    alike = {each.video_id for each in held if _likeness(each) == _likeness(outcome)}
    share = usual_share(outcome.reason, past)
    return chance_of_row(len(alike), len(failed), max(1, job.successful_workers()), share)


def settle(job: DownloadJob) -> str:
    """Write what the workers held back, once they have ended: as `failed`, or `waiting` if it is in the row of like
    failures that has ended the run, or would have. Returns what the row was, for people; "" if there was none."""
    held = list(read_ledger(job.held, STAGE))
    # The last to fail has seen all others, but on a folder shared by several machines perhaps too late.
    if not job.site_wide.exists() and not job.successful_workers():
        for outcome in held:
            if _chance(outcome, held, job, job.past) < job.least_chance:
                write_text(job.site_wide, _likeness(outcome))
                break
    row = job.site_wide.read_text(encoding="utf-8") if job.site_wide.exists() else None
    alike = [outcome for outcome in held if _likeness(outcome) == row]
    with LedgerWriter(job.media / "ledger", STAGE) as ledger:
        for outcome in held:
            if outcome in alike:
                detail = {**outcome.detail, "failure": outcome.reason}
                outcome = replace(outcome, outcome="waiting", reason=SITE_WIDE, detail=detail)
            ledger.append(outcome)
    shutil.rmtree(job.held, ignore_errors=True)
    if not alike:
        return ""
    videos = len({outcome.video_id for outcome in alike})
    return f"{videos} videos failed alike as {alike[-1].reason} ({alike[-1].message[:200]!r})"


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


def in_turn(video_ids: Iterable[str], states: Mapping[str, VideoState]) -> list[str]:
    """The order in which to ask for videos: by chance, and what stopped a run last.

    In a list the videos of a channel that is gone may stand together, and their row would not be one of chance.
    """

    def turn(video_id: str) -> tuple[bool, float]:
        state = states.get(video_id)
        return state is not None and state.latest.reason in _PERHAPS_ONE_VIDEOS, random.random()

    return sorted(video_ids, key=turn)


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
