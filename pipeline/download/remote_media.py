"""Media in a store: fetched to a cache one by one, as they are decoded; how long they are, by their first bytes."""

import struct
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from pipeline.core import signals
from pipeline.core.cache import FileCache, NoRoomError
from pipeline.core.remote import TRIES, MissingError, Store, StoreAwayError, address_of
from pipeline.download.media import MediaFinder, find_media, stated_seconds

_GIVEN_UP = 3
"""Videos in a row that the network has kept back, after which no further one is asked for."""
_POLL_S = 1.0
_HEAD = 1 << 18
_TAIL = 1 << 20
_LARGEST_INDEX = 1 << 26
_AT_ONCE = 8


class MediaFetcher(MediaFinder):
    """Finds one video's file at a time in a store, and fetches it to a cache, where it stays until it is released.

    The store is listed once, when the first video is asked for.
    """

    def __init__(self, media: Path, cache: Path, budget_gib: float) -> None:
        address = address_of(media)
        assert address is not None
        self._media, self._store, self._cache = media, Store(address), FileCache(cache, budget_gib)
        self._paths: Mapping[str, Path] | None = None
        self._keys: dict[str, str] = {}
        self._kept_back = 0

    def begin(self) -> None:
        """Ask again for what the network has kept back; nothing of an earlier plan is in work any more."""
        self._kept_back = 0
        self.close()

    def find(self, video_id: str) -> Path | None:
        """The video's file; None where the store has none, or the network keeps it back, which is told on stderr.

        NoRoomError where this process's own files leave no room for it; StoppedError; InputError where the store's
        rights or the cache don't allow it.
        """
        if self._paths is None:
            self._paths = find_media(self._media).paths
        place = self._paths.get(video_id)
        if place is None or self._kept_back >= _GIVEN_UP:
            return None
        name = "" if place == self._media else place.relative_to(self._media).as_posix()
        try:
            path = self._fetched(video_id, name)
        except MissingError:
            return None
        except StoreAwayError as error:
            self._kept_back += 1
            print(f"mcn: {video_id} waits: {error}", file=sys.stderr, flush=True)
            return None
        self._kept_back = 0
        return path

    def _fetched(self, video_id: str, name: str) -> Path:
        stored = self._store.stored(name)
        if stored is None:
            raise MissingError(f"{self._store.address}/{name}: gone since the store was listed")
        key = "\0".join((self._store.address, name, stored.version, str(stored.size)))
        tries = TRIES if not self._kept_back else 1
        while True:
            try:
                path = self._cache.get(
                    key,
                    Path(name or self._store.address).name,
                    stored.size,
                    lambda aside: self._store.fetch(name, aside, stored, tries),
                )
            except NoRoomError:
                # What others hold they will let go of; what this process holds waits for its next video.
                if self._cache.is_used:
                    raise
                if signals.wait(_POLL_S):
                    raise signals.StoppedError(f"{self._media}: stopped while it waited for room") from None
            else:
                self._keys[video_id] = key
                return path

    def release(self, video_id: str) -> None:
        """Let the cache delete the video's file when it needs the room."""
        if video_id in self._keys:
            self._cache.release(self._keys.pop(video_id))

    def close(self) -> None:
        """Let go of all files."""
        self._keys.clear()
        self._cache.close()


def stated_durations(media: Path, paths: Mapping[str, Path]) -> dict[str, float]:
    """`stated_seconds` of each video: id -> seconds. Of one in a store only the bytes are fetched that say it."""
    address = address_of(media)
    if address is None or not paths:
        return {video_id: stated_seconds(path) for video_id, path in paths.items()}
    store = Store(address)
    with tempfile.TemporaryDirectory(prefix="mcn-heads-") as scratch, ThreadPoolExecutor(_AT_ONCE) as pool:

        def head(item: tuple[str, Path]) -> tuple[str, Path]:
            video_id, place = item
            to = Path(scratch, place.name)
            write_head(store, "" if place == media else place.relative_to(media).as_posix(), to)
            return video_id, to

        seconds = {}
        items = list(paths.items())
        # In groups: a million heads aren't fetched ahead of the process that reads them.
        for begin in range(0, len(items), 4 * _AT_ONCE):
            for video_id, to in pool.map(head, items[begin : begin + 4 * _AT_ONCE]):
                seconds[video_id] = stated_seconds(to)
                to.unlink()
    return seconds


def write_head(store: Store, name: str, to: Path) -> None:
    """Write of a video what says how long it is, at its place in a file of its size, whose other bytes are a hole.

    That is the begin and the index of an MP4, of other containers the begin and the end.
    """
    stored = store.stored(name)
    size = stored.size if stored is not None else 0
    with open(to, "wb") as file:
        file.truncate(size)
        head = store.read(name, 0, min(size, _HEAD)) if size else b""
        file.write(head)
        for begin, end in _further(store, name, head, size):
            file.seek(begin)
            file.write(store.read(name, begin, end))


def _further(store: Store, name: str, head: bytes, size: int) -> Iterator[tuple[int, int]]:
    """The spans [begin, end) of bytes behind the head that are wanted."""
    if size <= len(head):
        return
    if head[4:8] not in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"):
        yield max(len(head), size - _TAIL), size
        return
    at = 0
    while at + 8 <= size:
        begin = head[at : at + 16] if at + 16 <= len(head) else store.read(name, at, min(at + 16, size))
        length, kind = struct.unpack(">I4s", begin[:8])
        if length == 1 and len(begin) == 16:
            length = struct.unpack(">Q", begin[8:])[0]
        if kind == b"moov" and at + length > len(head):
            yield at, min(size, at + min(length, _LARGEST_INDEX))
        if kind == b"moov" or length < 8:  # 0: to the end
            return
        at += length


@contextmanager
def downloads_ledger(media: Path) -> Iterator[Path]:
    """The folder of the ledger of what was downloaded to `media`, there or not; of a store's a copy."""
    address = address_of(media)
    if address is None:
        yield media / "ledger"
        return
    with tempfile.TemporaryDirectory(prefix="mcn-ledger-") as scratch:
        store = Store(f"{address}/ledger")
        try:
            for name, stored in store.listing().items():
                if name and "/" not in name:
                    store.fetch(name, Path(scratch, name), stored)
        except MissingError:
            pass
        yield Path(scratch)
