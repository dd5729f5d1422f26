"""What a stage says at its end and on its way."""

import calendar
import io
import json
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from pipeline.core import provenance as circumstances
from pipeline.core import reporting
from pipeline.core.ledger import LedgerWriter
from pipeline.core.provenance import provenance
from pipeline.core.records import Outcome
from pipeline.core.reporting import Progress, RunSummary, ledger_progress


def test_the_summary_counts_everything_once() -> None:
    report = RunSummary("extract", done=30, skipped=4, failed=Counter(undecodable=2, timeout=1), waiting=5)
    report.notes.append("random weights")
    report.seconds = 60.0
    assert report.lines() == [
        "extract: 30 videos done, 4 skipped (already there), 3 failed, 5 waiting in 60.0 s, 0.50 videos/s",
        "  failed, timeout: 1",
        "  failed, undecodable: 2",
        "  note: random weights",
    ]


def test_nothing_done_has_no_rate_and_nothing_waiting_is_not_mentioned() -> None:
    report = RunSummary("train", unit="epoch")
    report.seconds = 1.0
    assert report.lines() == ["train: 0 epochs done in 1.0 s"]


def test_of_a_moment_there_is_no_rate_and_one_is_singular() -> None:
    report = RunSummary("freeze", done=1, seconds=0.99)
    assert report.lines() == ["freeze: 1 video done in 1.0 s"]
    report.done, report.seconds, report.skipped = 2, 1.0, 3
    assert report.lines() == ["freeze: 2 videos done, 3 skipped (already there) in 1.0 s, 2.00 videos/s"]


def test_the_summary_is_kept_where_nobody_reads_what_is_printed(tmp_path: Path) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        RunSummary("train", done=2).publish(tmp_path / "train.json", Gone())
    assert json.loads((tmp_path / "train.json").read_text())["done"] == 2


def test_finishing_stops_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    report = RunSummary("train")
    monkeypatch.setattr(time, "monotonic", lambda: report.started + 12.5)
    assert report.finish().seconds == 12.5


def test_the_summary_is_printed_and_written_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = RunSummary("train", done=2, failed=Counter(b=1, a=2), detail={"loss": 1.5}, complete=False)
    stream = io.StringIO()
    report.publish(tmp_path / "deep" / "train.json", stream)
    assert stream.getvalue().splitlines() == report.lines() and capsys.readouterr().out == ""
    written = json.loads((tmp_path / "deep" / "train.json").read_text())
    assert written == report.as_json() and written["complete"] is False and written["failed"] == {"a": 2, "b": 1}
    report.publish()
    assert capsys.readouterr().out.splitlines() == report.lines()


def test_away_from_a_terminal_progress_is_a_plain_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(reporting.time, "monotonic", lambda: now[0])
    with Progress("train", 50, "epoch") as shown:
        for epoch in range(1, 51):
            now[0] += 2.0
            shown.to(epoch, "loss 3.5")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "train: 15/50 epochs, 0.50/s, 70 s left; loss 3.5" and len(lines) == 3


def test_the_time_left_is_by_the_rate_of_this_run_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(reporting.time, "monotonic", lambda: now[0])
    with Progress("train", 1000, "step", begun=900) as shown:
        now[0] += 40.0
        shown.to(902)
        now[0] += 40.0
        shown.to(1000)
    # 2 steps in 40 s, 98 to go.
    assert capsys.readouterr().err.splitlines() == [
        "train: 902/1000 steps, 0.05/s, 33 min left",
        "train: 1000/1000 steps, 1.25/s",
    ]


def test_on_a_terminal_progress_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("clips", 3, "clip") as shown:
        shown.to(2)
    assert "clips" in terminal.getvalue() and "/3" in terminal.getvalue()


def test_progress_follows_the_ledger_whoever_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    reached = threading.Event()

    def to(self: Progress, count: int, note: str = "") -> None:
        counts.append(count)
        if count == 2:
            reached.set()

    monkeypatch.setattr(Progress, "to", to)
    monkeypatch.setattr(reporting, "POLL_EVERY_S", 0.001)
    with LedgerWriter(tmp_path, "extract") as before:
        before.append(Outcome("old", "extract", "done"))
    with ledger_progress(tmp_path, "extract", 2, "extract"), LedgerWriter(tmp_path, "extract") as writer:
        for video_id in ("a", "b", "c"):
            writer.append(Outcome(video_id, "extract", "failed"))
        assert reached.wait(10)
    assert max(counts) == 2 and counts == sorted(counts)


def test_the_circumstance_is_plain_json_and_names_the_libraries() -> None:
    found = provenance("cpu")
    assert json.loads(json.dumps(found)) == found and found["device"] == "cpu"
    import h5py
    import torch

    libraries = found["libraries"]
    assert libraries["h5py"] == h5py.__version__ and libraries["torch"] == torch.__version__.split("+")[0]
    assert libraries["python"] == ".".join(map(str, sys.version_info[:3])) and found["processor"]
    assert abs(time.time() - calendar.timegm(time.strptime(found["time"], "%Y-%m-%dT%H:%M:%SZ"))) < 60


def test_a_library_that_is_not_installed_and_an_unknown_processor_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circumstances, "LIBRARIES", ("torch", "no-such-library"))
    assert set(circumstances.library_versions.__wrapped__()) == {"python", "torch"}
    monkeypatch.setattr(circumstances.os.path, "exists", lambda path: False)
    monkeypatch.setattr(circumstances.platform, "processor", lambda: "")
    monkeypatch.setattr(circumstances.platform, "machine", lambda: "riscv64")
    assert circumstances.processor.__wrapped__() == "riscv64"
