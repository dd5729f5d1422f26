"""The download job, whole, against the sample's site: its log of requests is the truth of what was asked for."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import psutil
import pytest

from beam_jobs.download import run
from pipeline.cli import main
from pipeline.core.errors import InputError
from pipeline.core.files import sha256_of_file
from pipeline.core.ledger import LedgerWriter, latest_states, read_ledger
from pipeline.core.records import Outcome
from pipeline.core.reporting import RunSummary
from pipeline.core.signals import SIGNALS
from pipeline.download.media import find_media, media_path
from pipeline.download.settings import DownloadSettings
from pipeline.sample.site import SampleSite

REPOSITORY = Path(__file__).resolve().parents[2]
LIVING = ["-bcdefghijk", "_bcdefghijk", "abcdefghijk", "ABCDEFGHIJK", "a-b-c-d-e-f"]
DEAD = {
    "privateprv1": ("private", "Private video. Sign in if you've been granted access to this video"),
    "removedrem1": ("removed", "Video unavailable. This video has been removed by the uploader"),
    "terminated1": ("terminated", "YouTube account associated with this video has been terminated."),
    "ageageagea1": ("age", "Sign in to confirm your age. This video may be inappropriate for some users."),
    "geogeogeog1": ("geo", "The uploader has not made this video available in your country"),
    "membersmem1": ("members", "Join this channel to get access to members-only content like this video"),
    "livelivele1": ("live", "Premieres in 4 days"),
}
BOT = "Sign in to confirm you’re not a bot. This helps protect our community."


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a video of its own bytes for each living id."""
    folder = tmp_path_factory.mktemp("videos")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", "testsrc2=size=96x64:rate=30:d=2"]
    command += ["-c:v", "libx264", "-preset", "ultrafast", "-threads", "1", "-movflags", "faststart"]
    subprocess.run([*command, str(folder / "made.mp4")], check=True)
    for number, video_id in enumerate(LIVING):
        path = folder / f"{video_id}.mp4"
        shutil.copyfile(folder / "made.mp4", path)
        # A `free` box at the end: other bytes, the same video.
        with open(path, "ab") as file:
            file.write((16).to_bytes(4, "big") + b"free" + number.to_bytes(8, "big"))
    (folder / "made.mp4").unlink()
    return folder


@pytest.fixture
def sample(videos: Path, tmp_path: Path) -> Path:
    """A sample folder: living and dead ids, and the list of all."""
    folder = tmp_path / "sample"
    folder.mkdir()
    shutil.copytree(videos, folder / "media")
    write_lists(folder, DEAD)
    return folder


def write_lists(folder: Path, dead: dict[str, tuple[str, str]]) -> None:
    rows = [f'{video_id},{name},"{message}"\n' for video_id, (name, message) in dead.items()]
    (folder / "dead.csv").write_text("video_id,class,message\n" + "".join(rows), encoding="utf-8")
    (folder / "list.csv").write_text("".join(f"{line}\n" for line in ["video_id", *LIVING, *dead]))


@pytest.fixture
def site(sample: Path) -> Iterator[SampleSite]:
    with SampleSite(sample) as site:
        yield site


def download(site: SampleSite, folder: Path, arguments: Sequence[str] = (), **settings: Any) -> RunSummary:
    values: dict[str, Any] = {"workers": 1, "retries": 2, "retry_wait_s": 0.01, **settings}
    ids, out = folder / "sample" / "list.csv", folder / "out"
    return run(DownloadSettings(ids=ids, out=out, site="sample", site_url=site.url, **values), arguments)


def lines_of(folder: Path, video_id: str) -> list[Outcome]:
    lines = [line for line in read_ledger(folder / "out" / "ledger") if line.video_id == video_id]
    return sorted(lines, key=lambda line: line.attempt)


def assert_whole(folder: Path, video_ids: Sequence[str]) -> None:
    """The media folder holds these videos, byte for byte, and nothing unfinished."""
    found = find_media(folder / "out").paths
    assert sorted(found) == sorted(video_ids)
    for video_id, path in found.items():
        assert path == media_path(folder / "out", video_id)
        assert path.read_bytes() == (folder / "sample" / "media" / f"{video_id}.mp4").read_bytes()
    assert list((folder / "out" / ".part").iterdir()) == []


def test_a_list_is_downloaded_once(site: SampleSite, tmp_path: Path) -> None:
    site.faults = {f"/media/{LIVING[0]}.mp4": deque(["503", "503"]), f"/media/{LIVING[1]}.mp4": deque(["short"])}
    report = download(site, tmp_path)
    assert (report.done, report.skipped, report.waiting, report.complete) == (len(LIVING), 0, 0, True)
    assert report.failed == Counter(name for name, _ in DEAD.values())
    assert_whole(tmp_path, LIVING)
    # yt-dlp itself tried again after the 503s; a file cut short by the host cost an attempt.
    assert [line.outcome for line in lines_of(tmp_path, LIVING[0])] == ["done"]
    assert [line.reason or line.outcome for line in lines_of(tmp_path, LIVING[1])] == ["truncated", "done"]
    for video_id, (name, message) in DEAD.items():
        (line,) = lines_of(tmp_path, video_id)
        assert (line.outcome, line.reason) == ("failed", name) and message in line.message
    (line,) = lines_of(tmp_path, LIVING[2])
    path = tmp_path / "sample" / "media" / f"{LIVING[2]}.mp4"
    assert (line.detail["sha256"], line.detail["bytes"]) == (sha256_of_file(path), path.stat().st_size)
    assert line.detail["duration"] == pytest.approx(2, abs=0.05)
    written = json.loads((tmp_path / "out" / "download.json").read_text())
    assert written["done"] == len(LIVING) and written["failed"] == dict(report.failed)

    site.requests.clear()
    again = download(site, tmp_path)
    assert site.requests == []
    assert (again.done, again.skipped, again.complete) == (0, len(LIVING), True)
    assert again.failed == report.failed

    # A lost file is fetched again; of the dead, only what is asked for by name.
    media_path(tmp_path / "out", LIVING[3]).unlink()
    third = download(site, tmp_path, ask_again=("age",))
    assert sorted(site.requests) == sorted(
        [f"GET /api/{LIVING[3]}", f"GET /media/{LIVING[3]}.mp4", "GET /api/ageageagea1"]
    )
    assert (third.done, third.skipped) == (1, len(LIVING) - 1)
    assert_whole(tmp_path, LIVING)


def test_what_may_pass_is_tried_a_limited_number_of_times_in_all(site: SampleSite, tmp_path: Path) -> None:
    path = f"/media/{LIVING[0]}.mp4"
    site.faults = {path: deque(["short"] * 9)}
    report = download(site, tmp_path, attempts=2)
    assert report.failed["truncated"] == 1 and report.complete
    assert [line.attempt for line in lines_of(tmp_path, LIVING[0])] == [1, 2]
    site.requests.clear()
    assert download(site, tmp_path, attempts=2).failed["truncated"] == 1
    assert site.requests == []
    site.faults = {}
    assert download(site, tmp_path, attempts=3).done == 1
    assert [line.attempt for line in lines_of(tmp_path, LIVING[0])] == [1, 2, 3]
    assert_whole(tmp_path, LIVING)


@pytest.mark.parametrize(("fault", "reason"), [("bot", "bot-check"), ("429", "rate-limited")])
def test_the_sessions_faults_stop_all_and_are_charged_to_no_video(
    site: SampleSite, sample: Path, tmp_path: Path, fault: str, reason: str
) -> None:
    if fault == "bot":
        site.dead = {video_id: {"class": "bot-check", "message": BOT} for video_id in [*LIVING, *DEAD]}
    else:
        site.faults = {f"/api/{video_id}": deque(["429"]) for video_id in [*LIVING, *DEAD]}
    report = download(site, tmp_path)
    # One worker: the first video met the fault, no other was asked for.
    assert len(site.requests) == 1
    assert (report.done, report.waiting, report.failed.total()) == (0, len(LIVING) + len(DEAD), 0)
    assert not report.complete
    (note,) = report.notes
    assert reason in note and "run again" in note and "\n" not in note
    (state,) = latest_states(tmp_path / "out" / "ledger", "download").values()
    assert (state.latest.outcome, state.latest.reason, state.failures) == ("waiting", reason, 0)

    with SampleSite(sample) as fresh:
        assert download(fresh, tmp_path).complete
    assert_whole(tmp_path, LIVING)


class _Log(list[str]):
    """A log of requests that tells when the file of one of `awaited` is asked for."""

    def __init__(self, awaited: Sequence[str], answers: threading.Event | None = None) -> None:
        """`answers`: the requests that are awaited are answered once it is set."""
        super().__init__()
        self.awaited, self.came, self._answers = awaited, threading.Event(), answers

    def append(self, line: str) -> None:
        super().append(line)
        if line.removeprefix("GET ") in self.awaited:
            self.came.set()
            if self._answers is not None:
                self._answers.wait(600)


def test_a_killed_job_leaves_nothing_torn_and_is_completed_by_the_next(site: SampleSite, tmp_path: Path) -> None:
    write_lists(tmp_path / "sample", {})
    hanging = [f"/media/{video_id}.mp4" for video_id in LIVING[2:]]
    site.faults = {path: deque(["hang"]) for path in hanging}
    site.requests = log = _Log(hanging)
    program = (
        "import sys; from pathlib import Path; from beam_jobs.download import DownloadSettings, run\n"
        "ids, out = map(Path, sys.argv[1:3])\n"
        "run(DownloadSettings(ids=ids, out=out, site='sample', site_url=sys.argv[3], workers=1))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "sample" / "list.csv"), str(tmp_path / "out"), site.url]
    job = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, start_new_session=True)
    try:
        assert log.came.wait(600)
        children = psutil.Process(job.pid).children(recursive=True)
        assert children
    finally:
        job.send_signal(signal.SIGKILL)
        job.wait()
    # The fetching child dies with its parent, though a transfer hangs in it.
    assert psutil.wait_procs(children, timeout=600)[1] == []
    for path in find_media(tmp_path / "out").paths.values():
        assert path.read_bytes() == (tmp_path / "sample" / "media" / path.name).read_bytes()
    (left,) = (path for path in (tmp_path / "out" / ".part").iterdir() if path.is_dir())
    os.utime(left, (0, 0))

    site.faults, site.requests = {}, []
    report = download(site, tmp_path)
    assert report.complete and report.done + report.skipped == len(LIVING)
    assert sum("/media/" in line for line in site.requests) == report.done
    assert_whole(tmp_path, LIVING)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_signal_finishes_the_videos_in_hand_and_exits_75(
    site: SampleSite, tmp_path: Path, workers: int, number: signal.Signals
) -> None:
    write_lists(tmp_path / "sample", {})
    answers = threading.Event()
    site.requests = log = _Log([f"/media/{video_id}.mp4" for video_id in LIVING], answers)
    flags = ["--ids", str(tmp_path / "sample" / "list.csv"), "--out", str(tmp_path / "out"), "--site", "sample"]
    flags += ["--site-url", site.url, "--workers", str(workers)]
    job = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "download", *flags],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert log.came.wait(600)
    os.killpg(job.pid, number)
    answers.set()
    printed, _ = job.communicate()
    assert job.returncode == 75 and "stopped by a signal" in printed, printed
    there = find_media(tmp_path / "out").paths
    assert 0 < len(there) < len(LIVING)
    assert_whole(tmp_path, sorted(there))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_workers_error_is_told_without_beams_words(
    site: SampleSite,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    workers: int,
) -> None:
    def full(ledger: LedgerWriter, outcome: Outcome) -> None:
        raise InputError("the ledger: can't be written: No space left on device")

    monkeypatch.setattr(LedgerWriter, "append", full)
    with pytest.raises(InputError) as told:
        download(site, tmp_path, workers=workers)
    assert str(told.value) == "the ledger: can't be written: No space left on device"
    # A slow machine has time to show progress.
    progress = f"download: 0/{len(LIVING) + len(DEAD)} videos"
    assert [line for line in capfd.readouterr().err.splitlines() if not line.startswith(progress)] == []


def test_two_workers_and_a_site_of_its_own(sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_lists(sample, {})
    settings = DownloadSettings(ids=sample / "list.csv", out=tmp_path / "out", site="sample", sample=sample, workers=2)
    report = run(settings, ["--runner=DirectRunner"])
    assert report.complete and report.done == len(LIVING)
    assert_whole(tmp_path, LIVING)
    assert f"download: {len(LIVING)} videos done" in capsys.readouterr().out
    writers = {path.name for path in (tmp_path / "out" / "ledger").iterdir()}
    assert len(writers) == 2


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"workers": 0}, "at least 1"),
        ({"max_sleep_interval": 5.0}, "at least `sleep_interval`"),
        ({"site_url": "http://127.0.0.1:1"}, "go with `site` sample"),
        ({"site": "sample"}, "needs one of `sample`"),
        ({"ask_again": ("agee",)}, "did you mean 'age'"),
        ({"time_limit_s": 0.0}, "above 0"),
        ({"retry_wait_s": -1.0}, "can't be negative"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DownloadSettings(ids=Path("list.csv"), out=Path("out"), **values)


def test_bad_input_is_one_line(sample: Path, tmp_path: Path) -> None:
    def refused(**values: Any) -> str:
        settings = {"ids": sample / "list.csv", "out": tmp_path / "out", "site": "sample", "sample": sample, **values}
        with pytest.raises(InputError) as caught:
            run(DownloadSettings(**settings))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    (tmp_path / "bad.csv").write_text("video_id\nabcdefghijk\n../../../etc\n")
    (tmp_path / "file").touch()
    assert "bad.csv line 3" in refused(ids=tmp_path / "bad.csv")
    assert "can't be written" in refused(out=tmp_path / "file")
    assert "cookie file" in refused(cookies=tmp_path / "none.txt")
    (tmp_path / "cookies.json").write_text('[{"name": "A"}]')
    assert "cookies.json" in refused(cookies=tmp_path / "cookies.json")
    assert "mcn sample" in refused(sample=tmp_path)


def command(site: SampleSite, folder: Path, *flags: str) -> int:
    """The exit status of `mcn download` of the whole list."""
    ids, out = str(folder / "sample" / "list.csv"), str(folder / "out")
    quick = ["--retries", "0", "--retry-wait-s", "0.01", "--site", "sample", "--site-url", site.url]
    return main(["download", "--ids", ids, "--out", out, *quick, *flags])


@pytest.mark.parametrize(
    ("message", "workers"), [("Etwas ist schiefgelaufen.", 1), ("Video unavailable. This content isn’t available.", 4)]
)
def test_a_failure_of_the_whole_site_uses_up_no_video(
    site: SampleSite, tmp_path: Path, capsys: pytest.CaptureFixture[str], message: str, workers: int
) -> None:
    write_lists(tmp_path / "sample", {})
    site.dead = {video_id: {"class": "x", "message": message} for video_id in LIVING}
    assert command(site, tmp_path, "--workers", str(workers), "--attempts", "2") == 1
    told = [line for line in capsys.readouterr().out.splitlines() if "site-wide" in line]
    assert len(told) == 1 and message in told[0] and "run again" in told[0]
    report = json.loads((tmp_path / "out" / "download.json").read_text())
    assert (report["done"], report["failed"], report["waiting"]) == (0, {}, len(LIVING))
    assert all(state.failures == 0 for state in latest_states(tmp_path / "out" / "ledger", "download").values())

    site.dead = {}
    assert command(site, tmp_path, "--workers", str(workers), "--attempts", "2") == 0
    assert_whole(tmp_path, LIVING)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--format", "best["], "--format"),
        (["--format-sort", "res=360"], "--format-sort"),
        (["--proxy", "sock5://x"], "proxy"),
        (["--proxy", "http://user:pa/ss@127.0.0.1:1"], "proxy"),
        (["--cookies", "cookies.json"], "--cookies"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_the_first_id(
    site: SampleSite,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    named: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cookies.json").write_text('[{"name": "A", "value": "secret"}]')
    assert command(site, tmp_path, *flags) == 2
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1 and "secret" not in error and "pa/ss" not in error
    assert site.requests == [] and not list((tmp_path / "out").glob("ledger/*"))


def test_the_users_cookie_file_outlives_all_workers(site: SampleSite, tmp_path: Path) -> None:
    cookies = tmp_path / "cookies.txt"
    lines = [f".site{n}.example\tTRUE\t/\tTRUE\t2147483647\tname{n}\t{'v' * 300}\n" for n in range(300)]
    cookies.write_text("# Netscape HTTP Cookie File\n" + "".join(lines) + "# LOGIN\n")
    before = cookies.read_bytes()
    assert command(site, tmp_path, "--workers", "2", "--cookies", str(cookies)) == 0
    assert cookies.read_bytes() == before
    assert_whole(tmp_path, LIVING)


def test_a_premiere_dated_by_a_wrong_clock_is_asked_for_again_and_told(site: SampleSite, tmp_path: Path) -> None:
    write_lists(tmp_path / "sample", {})
    with LedgerWriter(tmp_path / "out" / "ledger", "download") as ledger:
        for video_id, days in ((LIVING[0], 400), (LIVING[1], 0)):
            written = time.time() + days * 86400
            ledger.append(Outcome(video_id, "download", "failed", "live", "Premieres in 4 days", 1, written))
    report = download(site, tmp_path)
    assert report.done == len(LIVING) - 1 and report.failed == {"live": 1}
    (note,) = report.notes
    assert ledger.path.name in note and note.startswith("1 ledger line")
