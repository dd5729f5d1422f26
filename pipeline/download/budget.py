"""A bound on the disk that media take, without a deadlock between a full disk and a shard that isn't full yet.

`mcn download --media-budget` takes up no video while the media weigh more, and waits as long as an `mcn extract
--follow --delete-media` is at work to free room; that one plans what is there, full shard or not, as soon as the
download waits or has ended, and says so when nothing of what fills the budget is its to delete. Both are told of each
other by leases in the media folder.

Files without features are nobody's to delete: moved aside (`move_aside`), they take room beyond the
budget, a tenth of it at most; what they weigh above that counts.
"""

import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.core.errors import InputError
from pipeline.core.files import fsync_folder, weight_of, write_text
from pipeline.core.formatting import size
from pipeline.core.lease import LeaseWatch, locked

SCRATCH = ".part"
"""Folder in the media folder of what isn't media: unfinished files, locks, marks."""

FULL = "full"
"""Mark in that folder while a download waits for room; holds its budget in bytes."""

ASIDE_FOLDER = ".undecodable"
"""In the media folder; hidden, so that no look for media finds what is in it."""
_ASIDE_SHARE = 0.1
"""Share of the budget that files moved aside may take beyond it."""
_MEASURE_EVERY_S = 10.0
_REPORT_EVERY_S = 300.0


def download_lock(media: Path, part: str) -> Path:
    """The lock of the download of one part: `1/1` for the whole."""
    return media / SCRATCH / f"download-{part.replace('/', '-of-')}.json"


def counted_weight(media: Path, budget: float) -> float:
    """Bytes in the folder that count towards a budget of that many bytes."""
    return weight_of(media) - min(weight_aside(media)[1], _ASIDE_SHARE * budget)


@contextmanager
def freeing(media: Path) -> Iterator[None]:
    """Tell downloads, while the block runs, that room will be made."""
    with locked(media / SCRATCH / f"freeing-{uuid.uuid4().hex[:8]}.json", f"freeing {media}"):
        yield


class DownloadWatch:
    """Sees whether a download is at work and able to go on."""

    def __init__(self, media: Path) -> None:
        self._media, self._folder = media, media / SCRATCH
        self._watch = LeaseWatch()
        self._last_weight = -1.0

    def goes_on(self) -> bool:
        """Whether a live download has room for more videos."""
        if self.asks_for_room():
            return False
        return any(not self._watch.is_dead(path) for path in self._folder.glob("download-*.json"))

    def asks_for_room(self) -> bool:
        """Whether a download waits for room."""
        return (self._folder / FULL).exists()

    def is_stuck(self) -> bool:
        """Whether a download waits for room, and the media weigh what they did at the last call, its budget or more.

        Once alone it may be about to see what room was made, or to finish a video.
        """
        try:
            budget = float((self._folder / FULL).read_text(encoding="ascii"))
        except (OSError, ValueError):
            self._last_weight = -1.0
            return False
        before, self._last_weight = self._last_weight, counted_weight(self._media, budget)
        return before == self._last_weight >= budget


class MediaBudget:
    """How much the media in a folder may weigh, in bytes; 0: no bound."""

    def __init__(self, media: Path, budget: float) -> None:
        self._media, self._budget = media, budget
        self._watch = LeaseWatch()
        self._measured = -_MEASURE_EVERY_S
        self._full = False

    def has_room(self) -> bool:
        """Whether one more video may be fetched; measured anew every ten seconds."""
        if not self._budget:
            return True
        now = time.monotonic()
        if self._full or now - self._measured >= _MEASURE_EVERY_S:
            self._measured = now
            self._full = counted_weight(self._media, self._budget) >= self._budget
        return not self._full

    def wait_for_room(self, wait: Callable[[float], bool]) -> bool:
        """Wait while the budget is used up and somebody frees it; returns whether there is room now.

        `wait(seconds)` returns True to give up.
        """
        reported = 0.0
        mark = self._media / SCRATCH / FULL
        try:
            while not self.has_room():
                if all(self._watch.is_dead(path) for path in mark.parent.glob("freeing-*.json")):
                    return False
                # A disk that is full to the last byte costs the mark, not the wait.
                with suppress(OSError, InputError):
                    write_text(mark, str(self._budget))
                if time.monotonic() - reported > _REPORT_EVERY_S:
                    reported = time.monotonic()
                    print(
                        "download: the media budget is used up: waiting for the extraction to free it", file=sys.stderr
                    )
                if wait(1.0):
                    return False
            return True
        finally:
            mark.unlink(missing_ok=True)


def files_aside(media: Path) -> Iterator[Path]:
    """The files that were moved aside, of all videos."""
    folder = media / ASIDE_FOLDER
    return (path for path in sorted(folder.iterdir()) if not path.is_dir()) if folder.is_dir() else iter(())


def aside_of(media: Path, video_id: str) -> list[Path]:
    """The files of one video that were moved aside."""
    return [path for path in files_aside(media) if path.name.partition(".")[0] == video_id]


def weight_aside(media: Path) -> tuple[int, int]:
    """Number and bytes of the files that were moved aside."""
    return sum(1 for _ in files_aside(media)), weight_of(media / ASIDE_FOLDER)


def remark_aside(media: Path) -> list[str]:
    """What a summary says of the files that were moved aside: a line, or none."""
    number, weight = weight_aside(media)
    if not number:
        return []
    return [
        f"{number} media files that gave no features lie in {media / ASIDE_FOLDER}, {size(weight)}: delete them to "
        "make room, or move them back and extract with --ask-again"
    ]


def move_aside(media: Path, path: Path) -> Path:
    """Rename a media file into the folder; returns where it is then. One of that name that is there already stays."""
    folder = media / ASIDE_FOLDER
    if not folder.is_dir():
        folder.mkdir(exist_ok=True)
        fsync_folder(media)
    target, number = folder / path.name, 1
    while target.exists():
        number += 1
        target = folder / f"{path.stem}.{number}{path.suffix}"
    os.rename(path, target)
    fsync_folder(folder)
    fsync_folder(path.parent)
    return target
