"""The download side of `mcn status`: which ids are alive, gone or waiting, by the media folder's ledger and files."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.core.ledger_scan import LedgerScan, VideoNumbers
from pipeline.core.records import EXTRACTED, NO_FEATURES, STAGE
from pipeline.core.video_ids import each_video_id, is_media_name
from pipeline.dataset.folder import forgotten
from pipeline.download.budget import weight_aside
from pipeline.download.failures import FAILURE_CLASSES, UNKNOWN
from pipeline.download.media import MEDIA_SUFFIXES
from pipeline.tools.rates import Rate, hours_left, recent_rate

NOT_ASKED = "not asked for"
"""Reason of waiting of a listed id of which the ledger says nothing."""

_TAKEN = (EXTRACTED, NO_FEATURES)
_WALK_EVERY_S = 60.0
_UNCOUNTED, _ALIVE, _GONE, _GIVEN_UP, _WAITING = range(5)


@dataclass(frozen=True)
class Downloads:
    """Where the ids of a download stand."""

    folder: str
    listed: int | None
    """Ids of the list; None without one: then the ids that the ledger knows are counted."""
    alive: int
    gone: dict[str, int]
    """Failure class -> ids never to be asked for again."""
    given_up: dict[str, int]
    """Failure class -> ids that were tried as often as allowed."""
    waiting: dict[str, int]
    """What they wait for: a failure class, or NOT_ASKED -> ids."""
    forgotten: int
    """Listed ids that `mcn forget` keeps out."""
    unlisted: int
    """Videos of the folder that are not on the list, and in none of the counts above."""
    files: int
    """Media files."""
    deleted: int
    """Alive, their media deleted once their features were stored."""
    aside: int
    """Media files in `.undecodable`, moved there for having given no features."""
    aside_bytes: int
    lost: int
    """Downloaded, but without a file now: the next `mcn download` fetches them again."""
    bytes: int
    """Of the media files: as the ledger states them, measured where it doesn't."""
    settled: Rate | None
    """How fast ids are found alive or given up."""
    fetched: Rate | None
    """How fast videos are downloaded."""
    hours_left: float | None
    torn_lines: int


class DownloadScan:
    """Looks at a media folder, again and again; what the ledger said before is not read twice."""

    def __init__(self, media: Path, numbers: VideoNumbers, ids: Path | None, attempts: int) -> None:
        """InputError for a list that can't be read. The listed ids must be the first that `numbers` gets."""
        self.media, self._numbers, self._attempts = media, numbers, attempts
        self.listed: int | None = None
        if ids is not None:
            for video_id in each_video_id(ids):
                numbers.setdefault(video_id.encode(), len(numbers))
            self.listed = len(numbers)
        self.ledger = LedgerScan(media / "ledger", STAGE, numbers)
        self._walked = -_WALK_EVERY_S
        self._there: NDArray[np.int64] = np.zeros(0, np.int64)
        self._lost: NDArray[np.int64] = np.zeros(0, np.int64)
        self._unstated = 0

    def update(self, now: float) -> None:
        """Read what is new. `now`: seconds since 1970."""
        self.ledger.update()
        # A walk over a million files is dear where the folder is a remote one.
        if now - self._walked >= _WALK_EVERY_S:
            self._walked = now
            self._walk()

    def _walk(self) -> None:
        # The ledger was read before: a file lies in its place before its line is written.
        stated, (done, taken) = self.ledger.bytes().tolist(), self._done()
        on_disk: list[int] = []
        self._unstated = 0
        for parent, name, stem in _media_files(self.media):
            number = self._numbers.get(stem.encode())
            if number is None:
                if not is_media_name(stem):
                    continue
                number = self._numbers[stem.encode()] = len(self._numbers)
            on_disk.append(number)
            if number >= len(stated) or not stated[number]:
                with suppress(OSError):
                    self._unstated += os.stat(os.path.join(parent, name)).st_size
        self._there = np.unique(np.array(on_disk, np.int64))
        self._lost = np.setdiff1d(np.flatnonzero(done & ~taken), self._there)

    def _done(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """By number: whether the latest line says that it was downloaded; that its media were taken away after that."""
        kinds = self.ledger.kind()
        done = np.array([outcome == "done" for outcome, _ in self.ledger.kinds])
        taken = np.array([outcome == "done" and reason in _TAKEN for outcome, reason in self.ledger.kinds])
        return done[kinds], taken[kinds]

    def alive(self) -> NDArray[np.bool_]:
        """By number: whether the video was there to be downloaded; with a list those on it alone."""
        alive: NDArray[np.bool_] = self._standing() == _ALIVE
        alive[len(alive) if self.listed is None else self.listed :] = False
        return alive

    def _standing(self) -> NDArray[np.uint8]:
        kinds, failures = self.ledger.kind(), self.ledger.failures()
        of_kind = np.array([_standing_of(*kind) for kind in self.ledger.kinds], np.uint8)
        standing = of_kind[kinds]
        standing[(standing == _GIVEN_UP) & (failures < self._attempts)] = _WAITING
        standing[self._there[self._there < len(standing)]] = _ALIVE
        if self.listed:
            listed = standing[: self.listed]
            listed[listed == _UNCOUNTED] = _WAITING
        return standing

    def look(self, now: float) -> Downloads:
        """What `update` has found. `now`: seconds since 1970."""
        kinds, standing = self.ledger.kind(), self._standing()
        counted = np.zeros(len(standing), bool)
        counted[: len(standing) if self.listed is None else self.listed] = True
        tombstones = self._forgotten()
        counted[tombstones] = False
        done, taken = self._done()
        extracted = np.array([kind == ("done", EXTRACTED) for kind in self.ledger.kinds])[kinds]
        # What has come since the folder was last walked is where the ledger says it is.
        has_file = done & ~taken
        has_file[self._lost] = False
        has_file[self._there] = True

        def reasons(which: int) -> dict[str, int]:
            found = np.bincount(kinds[counted & (standing == which)], minlength=len(self.ledger.kinds))
            named: Counter[str] = Counter()
            for (outcome, reason), count in zip(self.ledger.kinds, found, strict=True):
                named[reason or outcome or NOT_ASKED] += int(count)
            return {reason: count for reason, count in sorted(named.items(), key=lambda one: -one[1]) if count}

        ended = (standing == _GONE) | (standing == _GIVEN_UP)
        settled = recent_rate(np.concatenate([self.ledger.done_times(), self.ledger.time()[ended]]), now)
        waiting = reasons(_WAITING)
        aside, aside_bytes = weight_aside(self.media)
        return Downloads(
            folder=str(self.media),
            listed=self.listed,
            alive=int((counted & (standing == _ALIVE)).sum()),
            gone=reasons(_GONE),
            given_up=reasons(_GIVEN_UP),
            waiting=waiting,
            forgotten=len(tombstones),
            unlisted=int(((standing != _UNCOUNTED) & ~counted).sum()) - len(tombstones),
            files=int(has_file.sum()),
            deleted=int((extracted & ~has_file).sum()),
            aside=aside,
            aside_bytes=aside_bytes,
            lost=int((done & ~taken & ~has_file).sum()),
            bytes=int(self.ledger.bytes()[has_file].sum()) + self._unstated,
            settled=settled,
            fetched=recent_rate(self.ledger.done_times(), now),
            hours_left=hours_left(sum(waiting.values()), settled),
            torn_lines=self.ledger.torn_lines(),
        )

    def _forgotten(self) -> list[int]:
        """Numbers of the listed ids that have a tombstone."""
        hashes = forgotten(self.media)
        if not hashes or not self.listed:
            return []
        listed = zip(range(self.listed), self._numbers, strict=False)
        return [number for number, video_id in listed if hashlib.sha256(video_id).hexdigest() in hashes]


def _standing_of(outcome: str, reason: str) -> int:
    """Where an id stands by its latest line; _GIVEN_UP where that depends on how often it was tried."""
    if not outcome:
        return _UNCOUNTED
    if outcome == "done":
        return _ALIVE
    if outcome != "failed":
        return _WAITING
    action = FAILURE_CLASSES.get(reason, UNKNOWN).action
    return {"permanent": _GONE, "retry": _GIVEN_UP}.get(action, _WAITING)


def _media_files(media: Path) -> Iterator[tuple[str, str, str]]:
    """Folder, name and stem of every media file; folders that can't be read, or vanish meanwhile, hold none."""
    for parent, folders, names in os.walk(media):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            stem, dot, suffix = name.rpartition(".")
            if dot + suffix.lower() in MEDIA_SUFFIXES and not name.startswith("."):
                yield parent, name, stem
