"""The ledger: one checksummed JSON line per attempt at a video, one file per writer.

Safe on shared folders: no file has two writers, none is locked, none is rewritten. A line that a kill or a power cut
tore is dropped by the reader. Lines are ordered by `Outcome.attempt`, which each writer takes as one more than the
highest it has read: the clocks of several hosts may differ. What they say counts between equal attempts alone, and not
where it can't be true (`known_time`).
"""

import dataclasses
import json
import os
import socket
import sys
import threading
import time
import uuid
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.errors import InputError
from pipeline.core.files import Closeable, fsync_folder
from pipeline.core.records import Outcome

_CHECKSUM = "crc32"
_SUM_BEGINS = b'"crc32":"'
_LONGEST_MESSAGE = 500
_FARTHEST_AHEAD_S = 86400.0
"""How far clocks of several hosts may differ, wrong time zones among them."""


class LedgerWriter(Closeable):
    """Appends outcomes to a file of its own, `<stage>-<host>-<pid>-<random>.jsonl`, made with the first line.

    A line is on the disk when `append` returns. May be shared by threads, not by processes.
    """

    def __init__(self, folder: Path, stage: str) -> None:
        host = "".join(c if c.isalnum() else "_" for c in socket.gethostname())
        self.path = folder / f"{stage}-{host}-{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
        self._stage = stage
        self._descriptor: int | None = None
        self._lock = threading.Lock()

    def append(self, outcome: Outcome) -> None:
        """Write one line and flush it to the disk. Raises InputError when the folder can't be written to or is full."""
        if outcome.stage != self._stage:
            raise ValueError(f"this ledger is of stage {self._stage!r}, the outcome of {outcome.stage!r}")
        line = _encode(outcome)
        with self._lock:
            try:
                descriptor = self._open()
                while line:
                    line = line[os.write(descriptor, line) :]
                os.fsync(descriptor)
            except OSError as error:
                raise InputError(f"{self.path}: can't be written: {error.strerror}; free its disk or folder") from error

    def _open(self) -> int:
        if self._descriptor is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o666)
            fsync_folder(self.path.parent)
        return self._descriptor

    def close(self) -> None:
        """Close the file; a ledger without lines leaves none."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def read_ledger(
    folder: Path, stage: str | None = None, torn: Counter[str] | None = None, wanted: Collection[str] | None = None
) -> Iterator[Outcome]:
    """Every whole line of every file in `folder` (of one stage, of `wanted` videos, if given), files by name.

    Lines that are cut short, altered or not of this form are dropped and counted in `torn` by file name. A folder that
    is not there has no lines. `wanted` should be a set: lines of other videos are passed over before they are parsed.
    """
    return (outcome for _, outcome in _named_lines(folder, stage, torn, wanted))


def _named_lines(
    folder: Path, stage: str | None, torn: Counter[str] | None, wanted: Collection[str] | None
) -> Iterator[tuple[str, Outcome]]:
    """`read_ledger`'s lines, each with the name of its file."""
    wanted_bytes = None if wanted is None else {video_id.encode() for video_id in wanted}
    for path in sorted(folder.glob(f"{stage or '*'}-*.jsonl")):
        for line in _lines(path):
            if wanted_bytes is not None and _video_id(line) not in wanted_bytes:
                continue
            outcome = decode_line(line)
            if outcome is None:
                if line and torn is not None:
                    torn[path.name] += 1
            elif stage is None or outcome.stage == stage:
                yield path.name, outcome


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a file without their line feeds; the last may be torn."""
    try:
        with open(path, "rb") as file:
            for line in file:
                yield line.removesuffix(b"\n")
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}") from None


def _video_id(line: bytes) -> bytes:
    """The id in a line: its last field, since fields are sorted by name."""
    return line[line.rfind(b'"video_id":"') + 12 : -2]


def known_time(seconds: float, now: float) -> float:
    """A line's time, or 0.0, which stands for unknown, where it is before 1970 or more than a day ahead of `now`."""
    return seconds if 0 <= seconds <= now + _FARTHEST_AHEAD_S else 0.0


@dataclass(slots=True)
class VideoState:
    """Where a video stands in one stage."""

    latest: Outcome
    """Its time is 0.0 where the writer's clock was wrong; see `known_time`."""
    failures: int = 0
    """Attempts so far that ended as `failed`."""


def latest_states(
    folder: Path,
    stage: str,
    torn: Counter[str] | None = None,
    wanted: Collection[str] | None = None,
    misdated: Counter[str] | None = None,
) -> dict[str, VideoState]:
    """The latest outcome of each video (of `wanted`, if given) in `stage`: that of the highest attempt.

    Two hosts may make the same attempt at once; then `done` counts before anything else, and after that the later time.
    Lines of a time that can't be true are the oldest of their attempt, and counted in `misdated` by file name.
    """
    states: dict[str, VideoState] = {}
    now = time.time()
    for name, outcome in _named_lines(folder, stage, torn, wanted):
        if outcome.time != (known := known_time(outcome.time, now)):
            outcome = dataclasses.replace(outcome, time=known)
            if misdated is not None:
                misdated[name] += 1
        state = states.get(outcome.video_id)
        if state is None:
            state = states[outcome.video_id] = VideoState(outcome)
        elif _order(outcome) > _order(state.latest):
            state.latest = outcome
        state.failures += outcome.outcome == "failed"
    return states


def _order(outcome: Outcome) -> tuple[int, bool, float]:
    return outcome.attempt, outcome.outcome == "done", outcome.time


def _encode(outcome: Outcome) -> bytes:
    message = " ".join(outcome.message.split())[:_LONGEST_MESSAGE]
    fields = dataclasses.asdict(dataclasses.replace(outcome, message=message))
    return _json({**fields, _CHECKSUM: f"{zlib.crc32(_json(fields)):08x}"}) + b"\n"


def is_whole(line: bytes) -> bool:
    """Whether a ledger line has the sum of what it says; one that a crash tore has not."""
    # The sum stands between `attempt` and `detail`: cut out of the bytes, what is left is what was summed.
    at = line.find(_SUM_BEGINS)
    after = at + len(_SUM_BEGINS) + 10
    if at < 0 or line[after - 2 : after] != b'",':
        return False
    return line[at + len(_SUM_BEGINS) : after - 2] == b"%08x" % zlib.crc32(line[after:], zlib.crc32(line[:at]))


def decode_line(line: bytes) -> Outcome | None:
    """The outcome that a ledger line holds, or None if the line is not whole."""
    if not is_whole(line):
        return None
    try:
        # Of bytes, json would guess the encoding.
        fields = json.loads(line.decode())
        del fields[_CHECKSUM]
        # Words that are the same in most lines are kept once.
        fields["stage"], fields["outcome"], fields["reason"] = map(
            sys.intern, (fields["stage"], fields["outcome"], fields["reason"])
        )
        outcome = Outcome(**fields)
        return outcome if _is_sound(outcome) else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _is_sound(outcome: Outcome) -> bool:
    """Whether every field is of its type."""
    return (
        isinstance(outcome.video_id, str)
        and isinstance(outcome.message, str)
        and type(outcome.attempt) is int
        and type(outcome.time) in (int, float)
        and isinstance(outcome.detail, dict)
    )


def _json(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
