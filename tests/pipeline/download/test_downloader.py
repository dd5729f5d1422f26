"""A worker's decisions, with a scripted fetcher in place of the network."""

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import pytest

from pipeline.core import signals
from pipeline.core.lease import locked
from pipeline.core.ledger import LedgerWriter, VideoState, latest_states, read_ledger
from pipeline.core.records import Outcome
from pipeline.download.downloader import (
    Downloader,
    DownloadJob,
    Request,
    clear_scratch,
    in_turn,
    place,
    settle,
    settled,
    stopped,
)
from pipeline.download.failures import FAILURE_CLASSES, SITE_WIDE
from pipeline.download.fetcher import Fetched, FetchError
from pipeline.download.media import media_path
from pipeline.download.settings import FetchSettings


class Script:
    """A fetcher that fails as told, then delivers."""

    def __init__(self, *failures: str, message: str = "as told") -> None:
        self.failures, self.message = list(failures), message
        self.calls = 0

    def fetch(self, video_id: str, folder: Path) -> Fetched:
        self.calls += 1
        assert list(folder.iterdir()) == []
        path = folder / "media.mkv"
        path.write_text(video_id)
        if self.failures:
            raise FetchError(FAILURE_CLASSES[self.failures.pop(0)], self.message)
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


def scripted(downloader: Downloader, *failures: str, **words: str) -> Script:
    script = Script(*failures, **words)
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


def ids(count: int) -> list[str]:
    return [f"video{n:06d}" for n in range(count)]


def fail(job: DownloadJob, videos: Iterable[str], reason: str, workers: int = 1, last: str = "", **words: str) -> int:
    """Have workers, one after the other, fetch videos that all fail alike; how many fetches were tried."""
    with ExitStack() as stack:
        downloaders = [stack.enter_context(Downloader(job)) for _ in range(workers)]
        scripts = [scripted(downloader, *[reason] * 999, **words) for downloader in downloaders]
        for downloader, video_id in zip(cycle(downloaders), videos):
            downloader.download(Request(video_id, last=last))
        return sum(script.calls for script in scripts)


def stands(job: DownloadJob) -> Counter[str]:
    """Where the videos stand in the ledger: outcome and reason -> how many; none may have failed and be waiting."""
    states = latest_states(job.media / "ledger", "download").values()
    assert all(state.failures == 0 for state in states if state.latest.outcome == "waiting")
    return Counter(f"{state.latest.outcome} {state.latest.reason}".strip() for state in states)


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize(
    ("reason", "videos", "tries"),
    [("unknown", 3, 7), ("forbidden", 3, 7), ("no-format", 3, 7), ("transient", 3, 7), ("unavailable", 4, 10)]
    + [("removed", 8, 8), ("private", 5, 5), ("live", 3, 3)],
)
def test_a_row_of_like_failures_ends_the_run_and_is_charged_to_no_video(
    job: DownloadJob, workers: int, reason: str, videos: int, tries: int
) -> None:
    assert fail(job, ids(20), reason, workers) == tries
    assert stopped(job) == SITE_WIDE
    assert list(read_ledger(job.media / "ledger")) == []
    row = settle(job)
    assert row.startswith(f"{videos} videos failed alike as {reason} ('as told')")
    assert stands(job) == {"waiting site-wide": videos}
    assert not settled(latest_states(job.media / "ledger", "download")[ids(1)[0]], 3, 24, ())
    # The same command asks again, and all attempts are there for it.
    again = replace(job, run="again")
    assert fail(again, ids(20), reason, workers) == tries and settle(again)
    clear_scratch(job)
    assert list(job.scratch.parent.glob("this")) == []


def test_few_videos_that_are_gone_are_gone(job: DownloadJob) -> None:
    assert fail(job, ids(7), "removed") == 7
    assert settle(job) == "" and stopped(job) == ""
    assert stands(job) == {"failed removed": 7}


def test_what_is_gone_in_other_words_is_not_alike(job: DownloadJob) -> None:
    with Downloader(job) as downloader:
        for video_id, word in zip(ids(16), cycle(("uploader", "user"))):
            scripted(downloader, "removed", message=f"removed by the {word} on day {len(word)}")
            downloader.download(Request(video_id))
            if stopped(job):
                break
    # Eight alike in a row would be too many; eight of sixteen may be by chance.
    assert stopped(job) == "" and settle(job) == "" and stands(job) == {"failed removed": 16}


def test_a_success_shows_that_the_site_answers(job: DownloadJob, tmp_path: Path) -> None:
    with Downloader(job) as downloader:
        for number, video_id in enumerate(ids(9)):
            scripted(downloader, *[] if number % 3 == 2 else ["forbidden"] * 3)
            assert downloader.download(Request(video_id)).outcome == ("done" if number % 3 == 2 else "failed")
            lines = [line.attempt for line in read_ledger(tmp_path / "ledger") if line.outcome == "failed"]
            assert lines == [1, 2, 3] * 2 * ((number + 1) // 3)
    assert stopped(job) == "" and settle(job) == ""
    assert stands(job) == {"done": 3, "failed forbidden": 6}
    assert Counter(line.outcome for line in read_ledger(tmp_path / "ledger")) == {"done": 3, "failed": 18}


def test_other_failures_in_between_do_not_hide_a_row_and_stay_their_videos_own(job: DownloadJob) -> None:
    reasons = ["unknown", "private", "unknown", "geo", "unknown", "unknown", "unknown"]
    with Downloader(replace(job, attempts=1)) as downloader:
        for video_id, reason in zip(ids(7), reasons, strict=True):
            scripted(downloader, reason)
            downloader.download(Request(video_id))
    # comb(5, 3) * 1e-6 is below 1e-4.
    assert settle(job).startswith("3 videos")
    assert stands(job) == {"waiting site-wide": 3, "failed private": 1, "failed geo": 1}


def test_videos_that_failed_so_before_say_nothing_of_the_site(job: DownloadJob) -> None:
    assert fail(job, ids(20), "removed", last="removed") == 20
    assert stopped(job) == "" and settle(job) == "" and stands(job) == {"failed removed": 20}


def test_a_folder_whose_videos_are_mostly_gone_goes_on(job: DownloadJob) -> None:
    past = replace(job, past={"removed": 900, "done": 100})
    assert fail(past, ids(40), "removed") == 40 and settle(past) == ""
    assert fail(past, ids(40), "unknown") == 7
    assert settle(past).startswith("3 videos")


def test_the_longer_a_run_the_longer_a_row_may_be(job: DownloadJob) -> None:
    usual = replace(job, past={"removed": 3000, "done": 7000}, attempts=1)
    with Downloader(usual) as downloader:
        script = scripted(downloader)
        for video_id in ids(200):
            downloader.download(Request(video_id))
        script.failures = ["removed"] * 99
        for video_id in ids(299)[200:]:
            downloader.download(Request(video_id))
    # 0.2955 ** 12 is the first below 1e-4 / 201, the share having fallen by 200 that are there.
    assert script.calls == 200 + 12


def test_the_rows_rule_can_be_switched_off(job: DownloadJob) -> None:
    never = replace(job, least_chance=0.0)
    assert fail(never, ids(8), "unknown") == 24
    assert settle(never) == "" and stands(job) == {"failed unknown": 8}


def test_rows_that_no_worker_saw_whole_are_judged_in_the_end(job: DownloadJob) -> None:
    # On a folder of several machines each may see the others' lines too late.
    for video_id in ids(8):
        with LedgerWriter(job.held, "download") as ledger:
            ledger.append(Outcome(video_id, "download", "failed", "removed", "gone"))
    assert settle(job).startswith("8 videos")
    assert stopped(job) == SITE_WIDE and stands(job) == {"waiting site-wide": 8}


def test_what_other_workers_meet_while_a_run_ends_is_not_charged_either(job: DownloadJob) -> None:
    with Downloader(job) as late:
        script = scripted(late)

        def fetch(video_id: str, folder: Path) -> Fetched:
            fail(job, ids(3), "unknown")
            raise FetchError(FAILURE_CLASSES["unknown"], "as told")

        script.fetch = fetch  # type: ignore[method-assign]
        late.download(Request("abcdefghijk"))
    assert settle(job).startswith("4 videos") and stands(job) == {"waiting site-wide": 4}


def test_a_success_that_was_under_way_when_the_run_ended_charges_nothing(job: DownloadJob) -> None:
    with Downloader(replace(job, attempts=1)) as late:
        scripted(late, "unknown")
        late.download(Request("abcdefghijk"))
        script = scripted(late)

        def fetch(video_id: str, folder: Path) -> Fetched:
            fail(job, ids(3), "unknown")
            return Script.fetch(script, video_id, folder)

        script.fetch = fetch  # type: ignore[method-assign]
        assert late.download(Request("ABCDEFGHIJK")).outcome == "done"
    assert settle(job).startswith("3 videos") and stands(job) == {"waiting site-wide": 3, "done": 1}


@pytest.mark.parametrize(("reason", "own"), [("tool", True), ("login", True), ("bot-check", False)])
def test_a_video_that_stops_run_after_run_is_charged_once_others_are_fetched(
    job: DownloadJob, reason: str, own: bool
) -> None:
    with Downloader(job) as downloader:
        scripted(downloader, reason)
        downloader.download(Request("abcdefghijk", last=reason))
        assert stopped(job) == reason  # nothing was fetched yet: it may be the session's
    for run, last, outcome in (("2", "", "waiting"), ("3", reason, "failed" if own else "waiting")):
        with Downloader(replace(job, run=run)) as downloader:
            script = scripted(downloader)
            downloader.download(Request(f"lives-on--{run}"))
            script.failures = [reason]
            assert downloader.download(Request("abcdefghijk", last=last)).outcome == outcome
            assert stopped(downloader.job) == ("" if outcome == "failed" else reason)


def test_a_fault_before_the_last_success_was_the_videos_own(job: DownloadJob) -> None:
    latest = Outcome("abcdefghijk", "download", "waiting", "tool", "words", 4, time=1000.0)
    for number, (success, state) in enumerate(((999.0, "waiting"), (1001.0, "failed"))):
        request = Request.after("abcdefghijk", VideoState(latest, 2), success)
        assert (request.attempt, request.failures) == (5, 2)
        with Downloader(replace(job, run=str(number))) as downloader:
            scripted(downloader, "tool")
            assert downloader.download(request).outcome == state
    assert Request.after("abcdefghijk", None, 5.0) == Request("abcdefghijk")
    # It is asked for again all the same: another yt-dlp may fetch it.
    assert not settled(latest_states(job.media / "ledger", "download")["abcdefghijk"], 1, 24, ())


def test_videos_that_stopped_a_run_are_asked_for_last_and_others_in_no_order() -> None:
    stopping = {ids(40)[7]: "tool", ids(40)[9]: "login", ids(40)[30]: "site-wide"}
    states = {i: VideoState(Outcome(i, "download", "waiting", reason)) for i, reason in stopping.items()}
    orders = [in_turn(ids(40), states) for _ in range(2)]
    assert all(sorted(order) == ids(40) and set(order[-2:]) == {ids(40)[7], ids(40)[9]} for order in orders)
    assert orders[0] != orders[1] and ids(40)[:38] not in [order[:38] for order in orders]


def test_waits_between_tries_are_doubled_up_to_a_minute(job: DownloadJob, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(signals, "wait", waits.append)
    with Downloader(replace(job, fetch=FetchSettings(retry_wait_s=9), attempts=6)) as downloader:
        scripted(downloader, *["timeout"] * 9)
        downloader.download(Request("abcdefghijk"))
    assert waits == [9, 18, 36, 60, 60]


def test_a_file_gets_its_name_once_it_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    link, fsync = os.link, os.fsync

    def watched_fsync(descriptor: int) -> None:
        done.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def watched_link(source: Path, target: Path) -> None:
        done.append(f"link {target.name}")
        link(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "link", watched_link)
    (tmp_path / "fetched.MP4").write_text("whole")
    place(Fetched(tmp_path / "fetched.MP4", {}), tmp_path / "media", "abcdefghijk")
    target = media_path(tmp_path / "media", "abcdefghijk")
    assert target.read_text() == "whole"
    folders = [f"fsync {target.parent.name}"]
    assert done == ["fsync media", "fsync fetched.MP4", "link abcdefghijk.mp4", *folders]


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
        ("done", "extracted", 0, 0, True),
        ("done", "no-features", 0, 0, False),
        ("waiting", "site-wide", 9, 0, False),
    ],
)
def test_who_is_asked_for_again(outcome: str, reason: str, failures: int, age_h: float, left_alone: bool) -> None:
    latest = Outcome("abcdefghijk", "download", outcome, reason, time=time.time() - 3600 * age_h)
    assert (
        settled(VideoState(latest, failures), attempts=3, recheck_h=24, ask_again=("age", "no-features")) == left_alone
    )
    if reason == "extracted":
        assert not settled(VideoState(latest, failures), 3, 24, ask_again=("extracted",))


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
