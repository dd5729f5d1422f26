"""What long work shows: progress while it runs; counts, reasons and rate when it ends, kept as JSON."""

import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from pipeline.core.files import Closeable, write_json
from pipeline.core.formatting import duration
from pipeline.core.secrets import masked
from pipeline.core.terminal import one_line, raw_stream


@dataclass
class RunSummary:
    """Counts of one stage's run. `unit` names what is counted (`video`, `clip`, ...)."""

    stage: str
    unit: str = "video"
    done: int = 0
    skipped: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    """Reason -> how many."""
    waiting: int = 0
    """Not tried, to be tried by a later run."""
    detail: dict[str, Any] = field(default_factory=dict)
    """Further figures and paths, JSON values."""
    notes: list[str] = field(default_factory=list)
    """Announcements a reader must not miss (random weights, a slower path, data left out)."""
    complete: bool = True
    """Whether the work asked for is there: decides the exit status."""
    stopped: bool = False
    """A signal asked to stop: what is done is saved; rerun the same command to resume. The exit status is then 75."""
    seconds: float = 0.0
    started: float = field(default_factory=time.monotonic, repr=False)

    def finish(self) -> "RunSummary":
        """Stop the clock."""
        self.seconds = time.monotonic() - self.started
        return self

    def as_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "started"}
        values |= {"failed": dict(sorted(self.failed.items())), "seconds": round(self.seconds, 3)}
        return values | {"notes": [masked(note) for note in self.notes]}

    def lines(self) -> list[str]:
        """The summary for people."""
        others = {"skipped (already there)": self.skipped, "failed": self.failed.total(), "waiting": self.waiting}
        counts = "".join(f", {number} {what}" for what, number in others.items() if number)
        # Of a moment's work a rate says nothing.
        rate = f", {self.done / self.seconds:.2f} {self.unit}s/s" if self.done and self.seconds >= 1 else ""
        plural = "" if self.done == 1 else "s"
        head = f"{self.stage}: {self.done} {self.unit}{plural} done{counts} in {self.seconds:.1f} s{rate}"
        reasons = [f"  failed, {one_line(reason)}: {count}" for reason, count in sorted(self.failed.items())]
        stopped = ["  stopped by a signal: progress is saved; rerun the same command to resume"] if self.stopped else []
        return [head, *reasons, *(f"  note: {one_line(note)}" for note in self.notes), *stopped]

    def publish(self, path: Path | None = None, stream: TextIO | None = None) -> None:
        """Print the summary and, with `path`, write it there as JSON."""
        try:
            # First, since nobody may be there any more to print it for.
            if path is not None:
                write_json(path, self.as_json())
        finally:
            print("\n".join(self.lines()), file=stream or sys.stdout, flush=True)


PLAIN_EVERY_S = 30.0
POLL_EVERY_S = 1.0


class Progress(Closeable):
    """Counts up to `total`, from what an earlier run has `begun`; use as a context manager."""

    def __init__(self, label: str, total: int, unit: str, begun: int = 0) -> None:
        self.label, self.total, self.unit, self.count, self._begun = label, total, unit, begun, begun
        self._started = self._printed = time.monotonic()
        terminal = raw_stream(sys.stderr)
        bar: dict[str, Any] = {"total": total, "initial": begun, "desc": label, "unit": unit}
        self._bar = tqdm(file=terminal, disable=not terminal.isatty(), leave=False, **bar)

    def close(self) -> None:
        """Take the bar off the terminal."""
        self._bar.close()

    def to(self, count: int, note: str = "") -> None:
        """Show that `count` units are done, with `note` beside."""
        self._bar.update(count - self.count)
        if note:
            self._bar.set_postfix_str(note)
        self.count = count
        now = time.monotonic()
        if self._bar.disable and now - self._printed >= PLAIN_EVERY_S:
            self._printed = now
            rate = (count - self._begun) / (now - self._started)
            left = f", {duration((self.total - count) / rate)} left" if rate > 0 and self.total > count else ""
            shown = f"{rate:.2f}" if rate >= 0.1 else f"{rate:.2g}"
            line = f"{self.label}: {count}/{self.total} {self.unit}s, {shown}/s{left}"
            print(f"{line}; {note}" if note else line, file=sys.stderr, flush=True)


@contextmanager
def ledger_progress(folder: Path, stage: str, total: int, label: str) -> Iterator[None]:
    """Show how many of `total` videos got a new line in the ledger, whoever writes it, while the block runs."""
    # What is there already isn't read.
    read = {path: path.stat().st_size for path in folder.glob(f"{stage}-*.jsonl")}
    stop = threading.Event()

    def new_lines() -> int:
        lines = 0
        for path in folder.glob(f"{stage}-*.jsonl"):
            with open(path, "rb") as file:
                file.seek(read.get(path, 0))
                new = file.read()
            read[path] = read.get(path, 0) + len(new)
            lines += new.count(b"\n")
        return lines

    with Progress(label, total, "video") as progress:

        def watch() -> None:
            lines = 0
            while not stop.wait(POLL_EVERY_S):
                lines += new_lines()
                progress.to(min(total, lines))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()
