"""A ledger of millions of lines in little memory: where each video stands, and when what was done.

`pipeline.core.ledger.latest_states` keeps every line's text; who only counts, and looks again every few seconds, uses
this.
"""

import os
import re
import time
from array import array
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.core.ledger import decode_line, is_whole, known_time
from pipeline.core.records import Outcome

VideoNumbers = dict[bytes, int]
"""Video id -> its number, counted from 0 in the order of registration; shared by all that count the same videos."""

NEVER = 0
"""Kind of a video of which the ledger says nothing."""

_MOST_ATTEMPTS = 2**31 - 1
_BYTES = re.compile(rb'"bytes":(\d{1,15})')


class Line(NamedTuple):
    """What is counted of a ledger line."""

    attempt: int
    outcome: bytes
    reason: bytes
    stage: bytes
    time: float
    video_id: bytes


def split_line(line: bytes) -> Line | None:
    """The fields of a whole ledger line, those that `decode_line` gives; None if the line is not whole."""
    if not is_whole(line):
        return None
    # Fields are sorted by name, and a quote within a text has a backslash before it: what follows the last
    # `","outcome":"` are the remaining fields, cut at their quotes.
    rest = line[line.rfind(b'","outcome":"') + 13 : -2]
    tail = rest.split(b'"')
    if len(tail) == 15 and b"\\" not in rest and tail[12] == b"video_id":
        try:
            attempt = int(line[11 : line.index(b",")])
            return Line(attempt, tail[0], tail[4], tail[8], float(tail[11][1:-1]), tail[14])
        except ValueError:
            pass
    return _spelt_otherwise(line)


def _spelt_otherwise(line: bytes) -> Line | None:
    """A line that is whole, but not spelt as this program spells it."""
    outcome = decode_line(line)
    if outcome is None:
        return None
    try:
        texts = (outcome.outcome.encode(), outcome.reason.encode(), outcome.stage.encode(), outcome.video_id.encode())
        return Line(int(outcome.attempt), *texts[:3], float(outcome.time), texts[3])
    except (AttributeError, TypeError, ValueError, OverflowError):
        return None


class LedgerScan:
    """Where each video stands in one stage; `update` reads what has come since the last time.

    A ledger that was written anew (by `mcn forget`) is read again from its beginning.
    """

    def __init__(self, folder: Path, stage: str, numbers: VideoNumbers) -> None:
        self._folder, self._stage, self._numbers = folder, stage, numbers
        self._stage_bytes = stage.encode()
        self._now = 0.0
        self.kinds: list[tuple[str, str]] = []
        """(outcome, reason) by kind; that of NEVER is empty."""
        self._clear()

    def _clear(self) -> None:
        self._files: dict[Path, tuple[int, int]] = {}
        """File -> its inode, and the bytes of it that are read."""
        self._torn_tails: set[Path] = set()
        self.torn: Counter[str] = Counter()
        """File name -> lines in its midst that aren't whole."""
        self.kinds[:] = [("", "")]
        self._kind_of = {(b"", b""): NEVER}
        self._kind = array("I")
        self._attempt = array("i")
        self._time = array("d")
        self._failures = array("I")
        self._bytes = array("q")
        self._done_times = array("d")
        self._last: tuple[float, bytes] = (-1.0, b"")
        self.lines = 0
        """Whole lines read."""

    def update(self) -> None:
        """Read the lines that are new. A file that vanishes or can't be read meanwhile counts as without lines."""
        paths = sorted(self._folder.glob(f"{self._stage}-*.jsonl"))
        if not self._only_grown(paths):
            self._clear()
        self._now = time.time()
        for path in paths:
            try:
                with open(path, "rb") as file:
                    self._read(path, file)
            except OSError:
                continue

    def _only_grown(self, paths: list[Path]) -> bool:
        if not self._files.keys() <= set(paths):
            return False
        try:
            now = [path.stat() for path in self._files]
        except OSError:
            return False
        known = self._files.values()
        return all(s.st_ino == inode and s.st_size >= read for s, (inode, read) in zip(now, known, strict=True))

    def _read(self, path: Path, file: BinaryIO) -> None:
        inode, read = self._files.get(path, (os.fstat(file.fileno()).st_ino, 0))
        self._torn_tails.discard(path)
        file.seek(read)
        for line in file:
            text = line.rstrip(b"\n")
            fields = split_line(text) if text else None
            if fields is None and not line.endswith(b"\n"):
                # Being written, or torn by a kill: the next look tells.
                self._torn_tails.add(path)
                break
            read += len(line)
            self._files[path] = inode, read
            if fields is not None:
                self._count(fields, text)
            elif text:
                self.torn[path.name] += 1

    def _count(self, line: Line, text: bytes) -> None:
        attempt, outcome, reason, stage, written, video_id = line
        if stage != self._stage_bytes:
            return
        self.lines += 1
        number = self._numbers.setdefault(video_id, len(self._numbers))
        if number >= len(self._kind):
            self._grow(number + 1)
        kind = self._kind_of.get((outcome, reason))
        if kind is None:
            kind = self._kind_of[outcome, reason] = len(self.kinds)
            self.kinds.append((outcome.decode("utf-8", "replace"), reason.decode("utf-8", "replace")))
        attempt = max(-1, min(attempt, _MOST_ATTEMPTS))
        written = known_time(written, self._now)
        done = outcome == b"done"
        before = self._kind[number]
        if before == NEVER or (attempt, done, written) > (
            self._attempt[number],
            self.kinds[before][0] == "done",
            self._time[number],
        ):
            self._kind[number], self._attempt[number], self._time[number] = kind, attempt, written
        if done:
            if stated := _BYTES.search(text):
                self._bytes[number] = int(stated[1])
            if not reason:
                self._done_times.append(written)
            return
        self._failures[number] += outcome == b"failed"
        if written > self._last[0]:
            self._last = written, text

    def _grow(self, least: int) -> None:
        # Room for as many again, so that a million videos are not a million enlargements.
        more = max(least, 2 * len(self._kind)) - len(self._kind)
        for column in (self._kind, self._attempt, self._time, self._failures, self._bytes):
            column.frombytes(bytes(more * column.itemsize))

    def kind(self) -> NDArray[np.uint32]:
        """By number: where each registered video stands, an index into `kinds`."""
        return self._column(self._kind, np.uint32)

    def time(self) -> NDArray[np.float64]:
        """By number: when each video came to stand there, in seconds since 1970; 0 where it never did."""
        return self._column(self._time, np.float64)

    def failures(self) -> NDArray[np.uint32]:
        """By number: attempts that failed."""
        return self._column(self._failures, np.uint32)

    def bytes(self) -> NDArray[np.int64]:
        """By number: size that a `done` line states, 0 where none does."""
        return self._column(self._bytes, np.int64)

    def done_times(self) -> NDArray[np.float64]:
        """When videos were done, in no order, 0 where that isn't known; lines `done` with a reason are left out."""
        return np.array(self._done_times, np.float64)

    def last_error(self) -> Outcome | None:
        """The latest line, by its own clock, that is not `done`."""
        return decode_line(self._last[1]) if self._last[1] else None

    def torn_lines(self) -> int:
        """Lines that are not whole; one that is being written just now is among them."""
        return self.torn.total() + len(self._torn_tails)

    def _column(self, column: "array[int] | array[float]", dtype: type[np.generic]) -> NDArray[Any]:
        count = len(self._numbers)
        values = np.array(column[:count], dtype)
        return np.concatenate([values, np.zeros(count - len(values), dtype)]) if len(values) < count else values
