"""Leases: who works on a plan, or writes to a folder. Made for shared folders, without flock.

A lease is a file made exclusively (link), holding host, boot, process and a count that its holder raises every few
seconds. A holder on the same boot of the same host whose process is gone has lost it at once; any other when the count
has stood still for `EXPIRES_S` seconds of the observer's own clock, since clocks of hosts differ.

A holder that was itself stopped for so long finds that out from the file before each write: see `Lease.held`.
"""

import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.core import signals
from pipeline.core.errors import InputError, ToolError
from pipeline.core.files import AlreadyThereError, fenced, write_text

BEATS_EVERY_S = 10.0
EXPIRES_S = 90.0


class LeaseLostError(ToolError):
    """This process no longer holds its lease: it was stopped for too long, and another one has taken it over."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a lease."""

    host: str
    boot: str
    """Boot id and process namespace: where both are equal, process numbers mean the same."""
    pid: int
    started: str
    """The process's start, in the kernel's ticks: a number used again is another process."""
    token: str
    """Of this one lease."""

    def __str__(self) -> str:
        return f"{self.host}, process {self.pid}"


def _boot() -> str:
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _started(pid: int) -> str:
    """When process `pid` of this boot started; "" when there is none (or the system doesn't tell)."""
    with suppress(OSError, IndexError):
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        state, *fields = text.rpartition(")")[2].split()
        return "" if state in "ZX" else fields[18]
    return ""


def this_process() -> Holder:
    """A holder for a new lease of this process."""
    return Holder(socket.gethostname(), _boot(), os.getpid(), _started(os.getpid()), uuid.uuid4().hex)


def has_ended(holder: Holder) -> bool:
    """Whether the holder's process is known to have ended: it ran on this boot of this host, and isn't there."""
    boot = _boot()
    return (
        bool(boot)
        and (holder.host, holder.boot) == (socket.gethostname(), boot)
        and (_started(holder.pid) != holder.started)
    )


def read_lease(path: Path) -> tuple[Holder, int] | None:
    """Holder and count of a lease; None if there is none, or none that can be read."""
    try:
        content = json.loads(path.read_bytes())
        beat = content.pop("beat")
        return Holder(**content), int(beat)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def at_work_here(path: Path) -> bool:
    """Whether a live process of this boot of this host holds the lease there."""
    lease, here = read_lease(path), this_process()
    return lease is not None and (lease[0].host, lease[0].boot) == (here.host, here.boot) and not has_ended(lease[0])


class LeaseWatch:
    """Tells which leases are dead, by what this process has seen of them so far."""

    def __init__(self, expires_s: float | None = None, polls_every_s: float = 1.0) -> None:
        self._expires_s = EXPIRES_S if expires_s is None else expires_s
        self.polls_every_s = polls_every_s
        self._seen: dict[Path, tuple[object, float]] = {}

    def is_dead(self, path: Path, now: float | None = None) -> bool:
        """Whether the lease there, if any, may be taken over. `now`: seconds of a steady clock."""
        now = time.monotonic() if now is None else now
        current = read_lease(path)
        if current is not None and has_ended(current[0]):
            return True
        seen, since = self._seen.get(path, (None, now))
        if path not in self._seen or seen != current:
            self._seen[path] = (current, now)
            return False
        return now - since >= self._expires_s


class Lease:
    """One lease; `acquire`, then `release`. What it covers is done `with lease.held():`."""

    def __init__(self, path: Path, beats_every_s: float | None = None) -> None:
        self.path = path
        self._every = BEATS_EVERY_S if beats_every_s is None else beats_every_s
        self._holder: Holder | None = None
        self._stop = threading.Event()
        self._beating: threading.Thread | None = None
        self._file = threading.Lock()
        """Held while the file is read, or written in place."""

    @property
    def token(self) -> str:
        """Of this lease, while it is held: what its file must say."""
        return self._holder.token if self._holder is not None else ""

    def acquire(self, watch: LeaseWatch) -> bool:
        """Take the lease unless a live process has it; a dead one's is taken over, with a line that says so."""
        holder = this_process()
        if self._make(holder):
            return True
        # Read first: what comes in its place once that is judged is another's, and not meant.
        before = read_lease(self.path)
        if not watch.is_dead(self.path):
            return False
        if not self._take_away(before[0].token if before else None):
            return False
        if not self._make(holder):
            return False
        name = before[0] if before else "a process that left no name"
        print(f"mcn: {self.path.stem}: taken over from {name}, which has ended", file=sys.stderr, flush=True)
        return True

    def _take_away(self, token: str | None) -> bool:
        """Remove the lease at `path` if it is of this token (None: one that can't be read); whether none is there now.

        Renaming has one winner; what was renamed must be the lease that was meant, not a new one in its place.
        """
        aside = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex[:8]}.dead")
        try:
            os.rename(self.path, aside)
        except FileNotFoundError:
            return True
        found = read_lease(aside)
        meant = (found[0].token if found else None) == token
        if not meant:
            with suppress(FileExistsError):
                os.link(aside, self.path)
        aside.unlink(missing_ok=True)
        return meant

    def _make(self, holder: Holder) -> bool:
        try:
            write_text(self.path, _content(holder, 0), exclusive=True)
        except AlreadyThereError:
            return False
        self._holder = holder
        self._stop.clear()
        self._beating = threading.Thread(target=self._beat, daemon=True, name=f"lease {self.path.stem}")
        self._beating.start()
        return True

    def _beat(self) -> None:
        beat = 0
        while not self._stop.wait(self._every):
            beat += 1
            # A full or slow disk costs a beat, not the work: the lease stands until it expires.
            with suppress(OSError):
                self._write_beat(beat)

    def _write_beat(self, beat: int) -> None:
        """Raise the count in place: renamed over another's, a file would take the lease back from it."""
        assert self._holder is not None
        with self._file, open(self.path, "r+b", buffering=0) as file:
            if _token_in(file.read()) == self._holder.token:
                os.pwrite(file.fileno(), _content(self._holder, beat).encode(), 0)

    def is_mine(self) -> bool:
        """Whether this process holds the lease still, by what its file says now."""
        with self._file:
            current = read_lease(self.path)
        return self._holder is not None and current is not None and current[0].token == self._holder.token

    def check(self) -> None:
        """Raise LeaseLostError, with the new holder's name, unless this process holds the lease still."""
        if not self.is_mine():
            current = read_lease(self.path)
            by = f"{current[0]} has taken it over" if current is not None else "another process has taken it over"
            raise LeaseLostError(
                f"{self.path}: this process was stopped for longer than its lease lasts, and {by}: nothing more is "
                "written or deleted here; rerun to resume"
            )

    @contextmanager
    def held(self) -> Iterator["Lease"]:
        """Do in the block what the lease covers: files are written and deleted, by way of `core.files`, as long as it
        is this process's. LeaseLostError when it was lost; in the end it is given back."""
        try:
            with fenced(self.check):
                yield self
        except LeaseLostError:
            raise
        except Exception:
            # What failed because another process is at work there is no error of its own.
            self.check()
            raise
        finally:
            self.release()

    def release(self) -> None:
        """Give the lease back; one that was lost is left to its new holder."""
        if self._holder is None:
            return
        self._stop.set()
        if self._beating is not None:
            self._beating.join()
        if self.is_mine():
            self._take_away(self._holder.token)
        self._holder = None


def _content(holder: Holder, beat: int) -> str:
    """A lease's file, of the same length whatever the count."""
    text = json.dumps({"beat": 0} | asdict(holder), indent=2)
    return text.replace('"beat": 0', f'"beat": {beat:12d}', 1) + "\n"


def _token_in(content: bytes) -> str | None:
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(content)["token"])
    return None


@contextmanager
def locked(path: Path, what: str, watch: LeaseWatch | None = None, patient: bool = False) -> Iterator[Lease]:
    """Hold the lease at `path` while the block runs. InputError naming host and process when another one has it.

    `what` says what it is for, e.g. "training in runs/model". Whether a process of another host is alive takes up to
    EXPIRES_S to tell: that is waited for. With `patient` a live one's end is waited for too. StoppedError when a signal
    ends the wait, LeaseLostError as `Lease.held` raises it.
    """
    lease, watch = Lease(path), watch or LeaseWatch()
    first = read_lease(path)
    announced = False
    while not lease.acquire(watch):
        current = read_lease(path)
        if current is None and not path.exists():
            continue
        name = current[0] if current is not None else "a process that left no name"
        here = current is not None and (current[0].host, current[0].boot) == (socket.gethostname(), _boot())
        alive = here or (first is not None and first != current)
        if signals.asked_to_stop():
            raise signals.StoppedError(f"{what}: stopped by a signal while it waited for {name}; rerun to resume")
        if alive and not patient:
            raise InputError(f"{what}: already at work: {name} (its lock: {path}); wait for it or end it")
        first = current
        if not announced:
            print(f"mcn: {what}: waiting for {name}, which has the lock", file=sys.stderr, flush=True)
            announced = True
        signals.wait(watch.polls_every_s)
    with lease.held():
        yield lease
