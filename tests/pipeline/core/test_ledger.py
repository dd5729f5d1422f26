"""The ledger keeps every whole line, whatever happened to the process that wrote the last one."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import InputError
from pipeline.core.ledger import LedgerWriter, decode_line, latest_states, read_ledger
from pipeline.core.records import Outcome


def outcome(video_id: str = "abcdefghijk", state: str = "done", attempt: int = 1, time: float = 0.0) -> Outcome:
    reason = "" if state == "done" else "private"
    return Outcome(video_id, "download", state, reason, "words", attempt, time, {"bytes": 7})


DAY = 86400.0


def write(folder: Path, *outcomes: Outcome) -> Path:
    with LedgerWriter(folder, "download") as ledger:
        for each in outcomes:
            ledger.append(each)
    return ledger.path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    written = [outcome("-bcdefghijk"), outcome(state="failed", attempt=2, time=1234.5678)]
    write(tmp_path / "ledger", *written)
    assert list(read_ledger(tmp_path / "ledger", "download")) == written
    assert list(read_ledger(tmp_path / "ledger")) == written
    assert list(read_ledger(tmp_path / "ledger", "extract")) == []
    assert list(read_ledger(tmp_path / "nowhere")) == []


def test_a_ledger_without_lines_leaves_no_file(tmp_path: Path) -> None:
    with LedgerWriter(tmp_path / "ledger", "download"):
        pass
    assert not (tmp_path / "ledger").exists()


def test_a_line_can_be_read_with_json_alone(tmp_path: Path) -> None:
    path = write(tmp_path, outcome(state="failed"))
    (line,) = path.read_text().splitlines()
    fields = json.loads(line)
    assert fields["video_id"] == "abcdefghijk" and fields["outcome"] == "failed" and fields["reason"] == "private"
    assert path.name.startswith("download-") and f"-{os.getpid()}-" in path.name


def test_cutting_the_file_anywhere_loses_the_torn_line_alone(tmp_path: Path) -> None:
    written = [outcome(f"abcdefghij{n}", time=float(n)) for n in range(3)]
    path = write(tmp_path, *written)
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        torn: Counter[str] = Counter()
        # A line that lacks nothing but its newline is whole.
        lines = sum(cut >= end - 1 for end in ends)
        assert list(read_ledger(tmp_path, torn=torn)) == written[:lines]
        is_torn = cut not in (0, *ends) and cut + 1 not in ends
        assert torn == (Counter({path.name: 1}) if is_torn else Counter())


def test_no_altered_byte_goes_unseen(tmp_path: Path) -> None:
    path = write(tmp_path, outcome(time=5.25))
    line = path.read_bytes().rstrip(b"\n")
    generator = random.Random(0)
    for position in range(len(line)):
        altered = bytearray(line)
        altered[position] ^= 1 << generator.randrange(7)
        assert decode_line(bytes(altered)) in (None, decode_line(line))
        if altered[position : position + 1].isalnum() and line[position : position + 1].isalnum():
            assert decode_line(bytes(altered)) is None


@pytest.mark.parametrize(
    "line", [b"[1]", b"3", b"null", b"{}", b'{"crc32": 5}', b"[" * 100_000, b"\xff\xfe", b'{"a": NaN}']
)
def test_hostile_lines_are_dropped(line: bytes) -> None:
    assert decode_line(line) is None


def test_messages_stay_on_one_line_and_short(tmp_path: Path) -> None:
    long = Outcome("abcdefghijk", "download", "failed", "unknown", "two\nlines\r " + "x" * 10_000)
    write(tmp_path, long)
    (read,) = read_ledger(tmp_path)
    assert read.message.startswith("two lines xxx") and len(read.message) <= 500


def test_the_latest_state_is_that_of_the_highest_attempt_whatever_the_clocks(tmp_path: Path) -> None:
    write(tmp_path, outcome(state="failed", attempt=1, time=9e9), outcome(state="failed", attempt=2, time=8e9))
    write(tmp_path, outcome(state="done", attempt=3, time=5.0))
    state = latest_states(tmp_path, "download")["abcdefghijk"]
    assert state.latest.outcome == "done" and state.failures == 2


@given(st.permutations(range(4)))
@settings(max_examples=24, deadline=None)
def test_the_order_of_files_does_not_matter(order: list[int]) -> None:
    lines = [
        outcome(state="failed", attempt=1),
        outcome(state="done", attempt=2, time=1.0),
        outcome(state="failed", attempt=2, time=2.0),
        outcome("-----------", state="waiting", attempt=1),
    ]
    with tempfile.TemporaryDirectory() as folder:
        for index in order:
            write(Path(folder), lines[index])
        states = latest_states(Path(folder), "download")
    # Two hosts made attempt 2 at once: the file is there, whatever the other says.
    assert states["abcdefghijk"].latest.outcome == "done" and states["abcdefghijk"].failures == 2
    assert states["-----------"].latest.outcome == "waiting" and states["-----------"].failures == 0


def test_threads_share_a_writer(tmp_path: Path) -> None:
    with LedgerWriter(tmp_path, "download") as ledger:

        def work(name: str) -> None:
            for attempt in range(20):
                ledger.append(outcome(name, attempt=attempt))

        threads = [threading.Thread(target=work, args=(f"abcdefghij{n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    torn: Counter[str] = Counter()
    assert len(list(read_ledger(tmp_path, torn=torn))) == 80 and not torn


def test_what_append_returned_from_survives_a_kill(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from pipeline.core.ledger import LedgerWriter; "
        "from pipeline.core.records import Outcome\n"
        "ledger = LedgerWriter(Path(sys.argv[1]), 'download')\n"
        "for n in range(100_000):\n"
        "    ledger.append(Outcome('abcdefghijk', 'download', 'failed', attempt=n))\n"
        "    print(n, flush=True)\n"
    )
    root = str(Path(__file__).resolve().parents[3])
    command, environment = [sys.executable, "-c", program, str(tmp_path)], {**os.environ, "PYTHONPATH": root}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 20:
                process.send_signal(signal.SIGKILL)
                break
        said = [20, *(int(line) for line in process.stdout if line.endswith("\n"))]
    read = [each.attempt for each in read_ledger(tmp_path)]
    assert read == list(range(len(read))) and len(read) > said[-1]


def test_a_full_disk_is_one_line_for_the_user(tmp_path: Path) -> None:
    (tmp_path / "ledger").write_text("a file where the folder should be")
    with LedgerWriter(tmp_path / "ledger", "download") as ledger, pytest.raises(InputError, match="can't be written"):
        ledger.append(outcome())


def test_an_outcome_of_another_stage_is_refused(tmp_path: Path) -> None:
    with LedgerWriter(tmp_path, "extract") as ledger, pytest.raises(ValueError, match="extract"):
        ledger.append(outcome())


def test_what_the_system_writes_in_pieces_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_all = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write_all(descriptor, data[:7]))
    written = [outcome(), outcome(state="failed", attempt=2)]
    write(tmp_path, *written)
    assert list(read_ledger(tmp_path)) == written


def test_a_line_is_on_the_disk_when_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: dict[str, int] = {}
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        fsync(descriptor)
        flushed[os.readlink(f"/proc/self/fd/{descriptor}")] = os.fstat(descriptor).st_size

    monkeypatch.setattr(os, "fsync", watched)
    with LedgerWriter(tmp_path / "ledger", "download") as ledger:
        for attempt in (1, 2):
            ledger.append(outcome(attempt=attempt))
            assert flushed[str(ledger.path)] == ledger.path.stat().st_size
        assert str(tmp_path / "ledger") in flushed


def test_a_line_of_a_clock_that_is_ahead_does_not_outlast_later_ones(tmp_path: Path) -> None:
    now = time.time()
    wrong = write(tmp_path, outcome(state="failed", time=now + 400 * DAY))
    misdated: Counter[str] = Counter()
    alone = latest_states(tmp_path, "download", misdated=misdated)["abcdefghijk"]
    # It counts, at a time that isn't known.
    assert (alone.latest.outcome, alone.latest.time, alone.failures) == ("failed", 0.0, 1)
    assert misdated == {wrong.name: 1}
    # Another machine made the same attempt, at a time that can be.
    write(tmp_path, outcome(state="waiting", time=now - 5))
    both = latest_states(tmp_path, "download")["abcdefghijk"]
    assert (both.latest.outcome, both.latest.time, both.failures) == ("waiting", now - 5, 1)


@pytest.mark.parametrize(("ahead", "known"), [(-400 * DAY, True), (DAY - 60, True), (DAY + 60, False), (1e12, False)])
def test_clocks_may_differ_by_a_day(tmp_path: Path, ahead: float, known: bool) -> None:
    written = time.time() + ahead
    misdated: Counter[str] = Counter()
    write(tmp_path, outcome(time=written))
    (state,) = latest_states(tmp_path, "download", misdated=misdated).values()
    assert (state.latest.time, misdated.total()) == ((written, 0) if known else (0.0, 1))
