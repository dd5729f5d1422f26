"""A worker's decisions, with a scripted fetcher in place of the network."""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.lease import locked
from pipeline.core.ledger import VideoState, read_ledger
from pipeline.core.records import Outcome
from pipeline.download.downloader import Downloader, DownloadJob, Request, clear_scratch, settled, stopped
from pipeline.download.failures import FAILURE_CLASSES
from pipeline.download.fetcher import Fetched, FetchError
from pipeline.download.media import media_path
from pipeline.download.settings import FetchSettings


class Script:
    """A fetcher that fails as told, then delivers."""

    def __init__(self, *failures: str) -> None:
        self.failures = list(failures)
        self.calls = 0

    def fetch(self, video_id: str, folder: Path) -> Fetched:
        self.calls += 1
        assert list(folder.iterdir()) == []
        path = folder / "media.mkv"
        path.write_text(video_id)
        if self.failures:
            raise FetchError(FAILURE_CLASSES[self.failures.pop(0)], "as told")
        return Fetched(path, {"bytes": 11})

    def close(self) -> None:
        pass


@pytest.fixture
def job(tmp_path: Path) -> DownloadJob:
    return DownloadJob(tmp_path, FetchSettings(retry_wait_s=0), attempts=3, run="this")


@pytest.fixture
def downloader(job: DownloadJob) -> Iterator[Downloader]:
    with Downloader(job) as downloader:
        yield downloader


def scripted(downloader: Downloader, *failures: str) -> Script:
    script = Script(*failures)
    downloader._fetcher = script  # type: ignore[assignment]
    return script


def test_a_video_is_placed_and_recorded_and_not_fetched_twice(downloader: Downloader, tmp_path: Path) -> None:
    script = scripted(downloader, "transient")
    assert downloader.download(Request("abcdefghijk")).outcome == "done"
    assert media_path(tmp_path, "abcdefghijk", ".mkv").read_text() == "abcdefghijk"
    assert [(line.outcome, line.attempt) for line in read_ledger(tmp_path / "ledger")] == [("failed", 1), ("done", 2)]
    assert downloader.download(Request("abcdefghijk")).outcome == "skipped"
    assert script.calls == 2


def test_failures_of_earlier_runs_count(downloader: Downloader) -> None:
    script = scripted(downloader, "timeout", "timeout")
    assert downloader.download(Request("abcdefghijk", attempt=6, failures=2)).attempt == 6
    assert script.calls == 1


def test_what_is_gone_is_not_tried_again(downloader: Downloader) -> None:
    script = scripted(downloader, "private")
    assert downloader.download(Request("abcdefghijk")).reason == "private"
    assert script.calls == 1


def test_a_session_fault_stops_every_worker_of_the_run(downloader: Downloader, job: DownloadJob) -> None:
    scripted(downloader, "bot-check")
    assert downloader.download(Request("abcdefghijk")).outcome == "waiting"
    assert stopped(job) == "bot-check"
    with Downloader(job) as other:
        script = scripted(other)
        assert other.download(Request("ABCDEFGHIJK")).outcome == "waiting"
        assert script.calls == 0
    with Downloader(DownloadJob(job.media, job.fetch, 3, run="next")) as later:
        scripted(later)
        assert later.download(Request("abcdefghijk")).outcome == "done"


def test_a_row_of_refusals_is_the_tools_fault(downloader: Downloader, job: DownloadJob) -> None:
    scripted(downloader, *["forbidden"] * 5)
    assert downloader.download(Request("abcdefghijk")).reason == "forbidden"
    assert downloader.download(Request("ABCDEFGHIJK")).outcome == "waiting"
    assert stopped(job) == "tool"


def test_refusals_with_a_success_between_are_the_videos_own(downloader: Downloader, job: DownloadJob) -> None:
    for video_id in ("abcdefghijk", "ABCDEFGHIJK", "-----------"):
        scripted(downloader, "forbidden", "forbidden")
        assert downloader.download(Request(video_id)).outcome == "done"
    assert stopped(job) == ""


def test_a_hostile_id_is_refused_before_any_path(downloader: Downloader, tmp_path: Path) -> None:
    scripted(downloader)
    with pytest.raises(ValueError, match="is not a video id"):
        downloader.download(Request("../../../et"))
    assert list(tmp_path.iterdir()) == []


def test_scratch_of_dead_runs_is_deleted_and_of_live_ones_kept(job: DownloadJob) -> None:
    scratch = job.scratch.parent
    for name in ("this", "dead", "live"):
        (scratch / name / "attempt").mkdir(parents=True)
    long_ago = time.time() - 2 * job.fetch.kill_after_s - 3600
    os.utime(scratch / "dead", (long_ago, long_ago))
    clear_scratch(job)
    assert [path.name for path in scratch.iterdir()] == ["live"]


@pytest.mark.parametrize(
    ("outcome", "reason", "failures", "age_h", "left_alone"),
    [
        ("done", "", 0, 0, False),
        ("waiting", "bot-check", 0, 0, False),
        ("failed", "private", 1, 1e5, True),
        ("failed", "transient", 2, 0, False),
        ("failed", "transient", 3, 0, True),
        ("failed", "live", 9, 23, True),
        ("failed", "live", 9, 25, False),
        ("failed", "age", 1, 0, False),
        ("failed", "of-a-later-version", 1, 0, False),
    ],
)
def test_who_is_asked_for_again(outcome: str, reason: str, failures: int, age_h: float, left_alone: bool) -> None:
    latest = Outcome("abcdefghijk", "download", outcome, reason, time=time.time() - 3600 * age_h)
    assert settled(VideoState(latest, failures), attempts=3, recheck_h=24, ask_again=("age",)) == left_alone


def test_a_new_video_is_asked_for() -> None:
    assert not settled(None, attempts=3, recheck_h=24, ask_again=())


def test_a_file_that_another_process_has_placed_meanwhile_stays(downloader: Downloader, tmp_path: Path) -> None:
    target = media_path(tmp_path, "abcdefghijk", ".mkv")

    class Other(Script):
        def fetch(self, video_id: str, folder: Path) -> Fetched:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text("theirs")
            return super().fetch(video_id, folder)

    downloader._fetcher = Other()  # type: ignore[assignment]
    assert downloader.download(Request("abcdefghijk")).outcome == "done"
    assert target.read_text() == "theirs"


def test_a_job_whose_lock_is_anothers_takes_up_no_video(job: DownloadJob, tmp_path: Path) -> None:
    with locked(tmp_path / "lock.json", "downloading") as lease:
        for token, outcome in (("another", "waiting"), (lease.token, "done")):
            run = replace(job, lock=lease.path, token=token, run=token)
            with Downloader(run) as downloader:
                script = scripted(downloader)
                assert downloader.download(Request("abcdefghijk")).outcome == outcome
                assert script.calls == (outcome == "done")
