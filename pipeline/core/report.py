"""What a stage says when it ends: counts, reasons, rate; printed once and kept as JSON beside the output."""

import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from pipeline.core.files import write_json


@dataclass
class StageReport:
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
    """A signal asked to stop: what is done is saved, the same command goes on. The exit status is then 75."""
    seconds: float = 0.0
    started: float = field(default_factory=time.monotonic, repr=False)

    def finish(self) -> "StageReport":
        """Stop the clock."""
        self.seconds = time.monotonic() - self.started
        return self

    def as_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "stage": self.stage,
            "unit": self.unit,
            "done": self.done,
            "skipped": self.skipped,
            "failed": dict(sorted(self.failed.items())),
            "waiting": self.waiting,
            "seconds": round(self.seconds, 3),
            "complete": self.complete,
            "stopped": self.stopped,
            "detail": self.detail,
            "notes": self.notes,
        }

    def lines(self) -> list[str]:
        """The summary for people."""
        rate = f", {self.done / self.seconds:.2f} {self.unit}s/s" if self.done and self.seconds > 0 else ""
        waiting = f", {self.waiting} waiting" if self.waiting else ""
        head = (
            f"{self.stage}: {self.done} {self.unit}s done, {self.skipped} skipped (already there), "
            f"{self.failed.total()} failed{waiting} in {self.seconds:.1f} s{rate}"
        )
        reasons = [f"  failed, {reason}: {count}" for reason, count in sorted(self.failed.items())]
        stopped = ["  stopped by a signal: all of this is saved, the same command goes on"] if self.stopped else []
        return [head, *reasons, *(f"  note: {note}" for note in self.notes), *stopped]

    def publish(self, path: Path | None = None, stream: TextIO | None = None) -> None:
        """Print the summary and, with `path`, write it there as JSON."""
        print("\n".join(self.lines()), file=stream or sys.stdout, flush=True)
        if path is not None:
            write_json(path, self.as_json())
