"""The lean reading of a ledger says what the plain one says, at any moment of its growth."""

import random
import tempfile
import time
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.ledger import LedgerWriter, decode_line, latest_states
from pipeline.core.ledger_scan import NEVER, LedgerScan, VideoNumbers, split_line
from pipeline.core.records import Outcome

TEXTS = st.text(max_size=40) | st.sampled_from(['"', '\\","outcome":"done', '","outcome":"', "\\", "{}", "\x1b[2J"])


def line_of(outcome: Outcome, folder: Path) -> bytes:
    with LedgerWriter(folder, outcome.stage) as ledger:
        ledger.append(outcome)
    line = ledger.path.read_bytes().removesuffix(b"\n")
    ledger.path.unlink()
    return line


@given(
    video_id=TEXTS.filter(bool),
    outcome=st.sampled_from(["done", "failed", "waiting"]),
    reason=TEXTS,
    message=TEXTS,
    attempt=st.integers(1, 10**12),
    time=st.floats(0, 1e10),
    detail=st.dictionaries(TEXTS, TEXTS | st.integers()),
)
@settings(max_examples=150, deadline=None)
def test_a_line_is_cut_as_json_reads_it(**fields: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        line = line_of(Outcome(stage="download", **fields), Path(folder))
    plain, cut = decode_line(line), split_line(line)
    assert plain is not None and cut is not None
    assert (cut.attempt, cut.time, cut.stage.decode()) == (plain.attempt, plain.time, plain.stage)
    assert (cut.outcome.decode(), cut.reason.decode(), cut.video_id.decode()) == (
        plain.outcome,
        plain.reason,
        plain.video_id,
    )


def test_lines_that_are_not_whole_are_none(tmp_path: Path) -> None:
    line = line_of(Outcome("abcdefghijk", "download", "failed", "private", "words", 2, 5.5, {"bytes": 7}), tmp_path)
    assert all(split_line(line[:cut]) is None for cut in range(len(line)))
    assert all(split_line(hostile) is None for hostile in (b"", b"[1]", b"\xff", b'{"crc32":"00000000","a":1}'))


def written(folder: Path, count: int, seed: int) -> None:
    """Some thousand attempts at a few hundred videos by several writers, two of whom make the same attempt."""
    chance = random.Random(seed)
    writers = [LedgerWriter(folder, "download") for _ in range(3)]
    reasons = {"done": ["", "", "extracted"], "failed": ["private", "transient"], "waiting": ["network"]}
    for _ in range(count):
        outcome = chance.choice(list(reasons))
        reason = chance.choice(reasons[outcome])
        detail = {"bytes": chance.randrange(1, 10**9)} if outcome == "done" else {}
        video_id = f"video{chance.randrange(count // 5):06d}"
        time = chance.uniform(1e9, 1.7e9)
        attempt = chance.randrange(1, 6)
        chance.choice(writers).append(Outcome(video_id, "download", outcome, reason, "m", attempt, time, detail))
    for writer in writers:
        writer.close()


def agrees(scan: LedgerScan, numbers: VideoNumbers, folder: Path) -> None:
    states = latest_states(folder, "download")
    kinds, times, failures = scan.kind(), scan.time(), scan.failures()
    assert {i.decode() for i, number in numbers.items() if kinds[number] != NEVER} == states.keys()
    for video_id, state in states.items():
        number = numbers[video_id.encode()]
        assert scan.kinds[kinds[number]] == (state.latest.outcome, state.latest.reason)
        assert (times[number], failures[number]) == (state.latest.time, state.failures)


def test_standings_are_the_plain_readers(tmp_path: Path) -> None:
    written(tmp_path, 600, 1)
    numbers: VideoNumbers = {b"-listed-id-": 0}
    scan = LedgerScan(tmp_path, "download", numbers)
    scan.update()
    agrees(scan, numbers, tmp_path)
    assert scan.lines == 600 and scan.kind()[0] == NEVER and scan.torn_lines() == 0


def test_a_ledger_that_grows_is_read_on_wherever_it_was_cut(tmp_path: Path) -> None:
    written(tmp_path / "whole", 90, 2)
    growing = tmp_path / "growing"
    growing.mkdir()
    numbers: VideoNumbers = {}
    scan = LedgerScan(growing, "download", numbers)
    contents = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    chance = random.Random(3)
    sizes = dict.fromkeys(contents, 0)
    while any(sizes[name] < len(content) for name, content in contents.items()):
        name = chance.choice(list(contents))
        sizes[name] += chance.randrange(1, 700)
        (growing / name).touch()
        with open(growing / name, "r+b") as file:
            file.seek(0, 2)
            file.write(contents[name][file.tell() : sizes[name]])
        scan.update()
        agrees(scan, numbers, growing)
    assert scan.lines == 90 and scan.torn_lines() == 0


def test_a_ledger_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    written(tmp_path, 200, 4)
    numbers: VideoNumbers = {}
    scan = LedgerScan(tmp_path, "download", numbers)
    scan.update()
    path = next(tmp_path.iterdir())
    kept = path.read_bytes().splitlines(keepends=True)[:5]
    other = tmp_path / "aside"
    other.write_bytes(b"".join(kept))
    other.rename(path)
    scan.update()
    agrees(scan, numbers, tmp_path)
    path.unlink()
    scan.update()
    agrees(scan, numbers, tmp_path)


def test_another_file_under_a_known_name_is_read_anew_however_long(tmp_path: Path) -> None:
    """As `mcn forget` writes one without some lines, to which others have been added before the next look."""
    folder = tmp_path / "ledger"
    with LedgerWriter(folder, "download") as ledger:
        for attempt in range(4):
            ledger.append(Outcome("a-first-one", "download", "failed", "private", "m", attempt))
    numbers: VideoNumbers = {}
    scan = LedgerScan(folder, "download", numbers)
    scan.update()
    with LedgerWriter(tmp_path / "aside", "download") as longer:
        for attempt in range(9):
            longer.append(Outcome("a-later-one", "download", "done", "", "m", attempt))
    assert longer.path.stat().st_size > ledger.path.stat().st_size
    longer.path.rename(ledger.path)
    scan.update()
    agrees(scan, numbers, folder)
    assert scan.lines == 9


def test_a_file_that_was_cut_in_place_is_read_anew(tmp_path: Path) -> None:
    """As a copy is played back over it."""
    written(tmp_path, 60, 6)
    numbers: VideoNumbers = {}
    scan = LedgerScan(tmp_path, "download", numbers)
    scan.update()
    path = next(tmp_path.iterdir())
    inode = path.stat().st_ino
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    assert path.stat().st_ino == inode
    scan.update()
    agrees(scan, numbers, tmp_path)


def test_torn_lines_are_counted_and_passed_over(tmp_path: Path) -> None:
    written(tmp_path, 60, 5)
    for path in tmp_path.iterdir():
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(lines[0] + b'{"attempt":1,"crc\n' + b"".join(lines[1:-1]) + lines[-1][:-9])
    numbers: VideoNumbers = {}
    scan = LedgerScan(tmp_path, "download", numbers)
    scan.update()
    agrees(scan, numbers, tmp_path)
    assert scan.torn_lines() == 2 * len(list(tmp_path.iterdir()))


def test_the_last_error_is_the_latest_line_that_is_not_done(tmp_path: Path) -> None:
    with LedgerWriter(tmp_path, "download") as ledger:
        ledger.append(Outcome("aaaaaaaaaaa", "download", "failed", "private", "older", 1, 50.0))
        ledger.append(Outcome("bbbbbbbbbbb", "download", "waiting", "network", "newest", 1, 70.0))
        ledger.append(Outcome("ccccccccccc", "download", "failed", "removed", "oldest", 1, 10.0))
        ledger.append(Outcome("ddddddddddd", "download", "done", "", "no error", 1, 90.0))
    scan = LedgerScan(tmp_path, "download", {})
    assert scan.last_error() is None
    scan.update()
    last = scan.last_error()
    assert last is not None and (last.video_id, last.message) == ("bbbbbbbbbbb", "newest")


def test_a_line_of_a_clock_that_is_ahead_has_no_known_time(tmp_path: Path) -> None:
    now = time.time()
    with LedgerWriter(tmp_path, "download") as ledger:
        for video_id, written in (("aaaaaaaaaaa", now + 400 * 86400), ("bbbbbbbbbbb", now - 5)):
            ledger.append(Outcome(video_id, "download", "failed", "live", "words", 1, written))
    numbers: VideoNumbers = {}
    scan = LedgerScan(tmp_path, "download", numbers)
    scan.update()
    agrees(scan, numbers, tmp_path)
    assert scan.time().tolist() == [0.0, now - 5]
    last = scan.last_error()
    assert last is not None and last.video_id == "bbbbbbbbbbb"
