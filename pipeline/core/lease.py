"""Leases: who works on a plan, or writes to a folder. Made for shared folders, without flock.

A lease is a file made exclusively (link), holding host, boot, process and a count that its holder raises every few
seconds. A holder on the same boot of the same host whose process is gone has lost it at once; any other when the count
has stood still for `EXPIRES_S` seconds of the observer's own clock, since clocks of hosts differ.
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
from pipeline.core.errors import InputError
from pipeline.core.files import AlreadyThereError, write_json

BEATS_EVERY_S = 10.0
EXPIRES_S = 90.0


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


class LeaseWatch:
    """Tells which leases are dead, by what this process has seen of them so far."""

    def __init__(self, expires_s: float = EXPIRES_S, polls_every_s: float = 1.0) -> None:
        self._expires_s, self.polls_every_s = expires_s, polls_every_s
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
    """One lease; `acquire`, then `release`, or both by `with lease.held():`."""

    def __init__(self, path: Path, beats_every_s: float = BEATS_EVERY_S) -> None:
        self.path = path
        self._every = beats_every_s
        self._holder: Holder | None = None
        self._stop = threading.Event()
        self._beating: threading.Thread | None = None
        self.lost = False
        """Another process has taken the lease over: what it covers is that one's now."""

    def acquire(self, watch: LeaseWatch) -> bool:
        """Take the lease unless a live process has it; a dead one's is taken over, with a line that says so."""
        holder = this_process()
        if self._make(holder):
            return True
        if not watch.is_dead(self.path):
            return False
        before = read_lease(self.path)
        # Renaming has one winner; what was renamed must be the lease that was found dead, not a new one in its place.
        aside = self.path.with_name(f".{self.path.name}.{holder.token[:8]}.dead")
        try:
            os.rename(self.path, aside)
        except FileNotFoundError:
            return self._make(holder)
        after = read_lease(aside)
        if (before and before[0].token) != (after and after[0].token):
            with suppress(FileExistsError):
                os.link(aside, self.path)
            aside.unlink(missing_ok=True)
            return False
        aside.unlink(missing_ok=True)
        if not self._make(holder):
            return False
        name = before[0] if before else "a process that left no name"
        print(f"mcn: {self.path.stem}: taken over from {name}, which has ended", file=sys.stderr, flush=True)
        return True

    def _make(self, holder: Holder) -> bool:
        try:
            write_json(self.path, asdict(holder) | {"beat": 0}, exclusive=True)
        except AlreadyThereError:
            return False
        self._holder, self.lost = holder, False
        self._stop.clear()
        self._beating = threading.Thread(target=self._beat, daemon=True, name=f"lease {self.path.stem}")
        self._beating.start()
        return True

    def _beat(self) -> None:
        beat = 0
        while not self._stop.wait(self._every):
            assert self._holder is not None
            current = read_lease(self.path)
            if current is None or current[0].token != self._holder.token:
                self.lost = True
                return
            beat += 1
            # A full or slow disk costs a beat, not the work: the lease stands until it expires.
            with suppress(OSError, InputError):
                write_json(self.path, asdict(self._holder) | {"beat": beat})

    def release(self) -> None:
        """Give the lease back; one that was lost is left to its new holder."""
        if self._holder is None:
            return
        self._stop.set()
        if self._beating is not None:
            self._beating.join()
        current = read_lease(self.path)
        if current is not None and current[0].token == self._holder.token:
            self.path.unlink(missing_ok=True)
        self._holder = None


@contextmanager
def locked(path: Path, what: str, watch: LeaseWatch | None = None, patient: bool = False) -> Iterator[Lease]:
    """Hold the lease at `path` while the block runs. InputError naming host and process when another one has it.

    `what` says what it is for, e.g. "training in runs/model". Whether a process of another host is alive takes up to
    EXPIRES_S to tell: that is waited for. With `patient` a live one's end is waited for too.
    """
    lease, watch = Lease(path), watch or LeaseWatch()
    first = read_lease(path)
    announced = False
    while not lease.acquire(watch):
        current = read_lease(path)
        if current is None:
            continue
        here = (current[0].host, current[0].boot) == (socket.gethostname(), _boot())
        alive = here or (first is not None and first != current)
        if (alive and not patient) or signals.asked_to_stop():
            raise InputError(f"{what}: already at work: {current[0]} (its lock: {path}); wait for it or end it")
        first = current
        if not announced:
            print(f"mcn: {what}: waiting for {current[0]}, which has the lock", file=sys.stderr, flush=True)
            announced = True
        signals.wait(watch.polls_every_s)
    try:
        yield lease
    finally:
        lease.release()
