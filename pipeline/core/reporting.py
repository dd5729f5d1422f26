"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

PLAIN_EVERY_S = 30.0
POLL_EVERY_S = 1.0


class Progress:
    """Counts up to `total`; use as a context manager."""

    def __init__(self, label: str, total: int, unit: str) -> None:
        self.label, self.total, self.unit, self.count = label, total, unit, 0
        self._started = self._spoken = time.monotonic()
        self._bar = tqdm(total=total, desc=label, unit=unit, disable=not sys.stderr.isatty(), leave=False)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def to(self, count: int, note: str = "") -> None:
        """Say that `count` units are done; `note` is shown beside."""
        self._bar.update(count - self.count)
        if note:
            self._bar.set_postfix_str(note)
        self.count = count
        now = time.monotonic()
        if self._bar.disable and now - self._spoken >= PLAIN_EVERY_S:
            self._spoken = now
            rate = count / (now - self._started)
            print(
                f"{self.label}: {count}/{self.total} {self.unit}s, {rate:.2f}/s {note}".rstrip(),
                file=sys.stderr,
                flush=True,
            )


class _NewLines:
    """Counts the lines that a ledger grows by; what is there already isn't read."""

    def __init__(self, folder: Path, stage: str) -> None:
        self._folder, self._stage = folder, stage
        self._read = {path: path.stat().st_size for path in folder.glob(f"{stage}-*.jsonl")}
        self._lines = 0

    def count(self) -> int:
        for path in self._folder.glob(f"{self._stage}-*.jsonl"):
            with open(path, "rb") as file:
                file.seek(self._read.get(path, 0))
                new = file.read()
            self._read[path] = self._read.get(path, 0) + len(new)
            self._lines += new.count(b"\n")
        return self._lines


@contextmanager
def ledger_progress(folder: Path, stage: str, total: int, label: str) -> Iterator[None]:
    """Show how many of `total` videos got a new line in the ledger, whoever writes it, while the block runs."""
    lines = _NewLines(folder, stage)
    stop = threading.Event()
    with Progress(label, total, "video") as progress:

        def watch() -> None:
            while not stop.wait(POLL_EVERY_S):
                progress.to(min(total, lines.count()))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()
