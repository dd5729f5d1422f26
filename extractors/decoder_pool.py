"""Several videos decoded at once, each by a process of its own; frames and sound arrive in the order they are ready.

A network that takes hundreds of frames a second needs more than one decoder. A thread for each waits for its process,
and computes the log-mel of what it decoded, so that none of this holds the network up.
"""

import queue
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from extractors.audio_track import extract_audio
from extractors.decode import DecodeSettings, DecodeSummary, FrameBatch, MediaInfo
from extractors.decoder_process import DecoderProcess
from extractors.errors import MediaError
from extractors.logmel import log_mel
from models.settings import MEL_BANDS

Result = TypeVar("Result")

GROW_AFTER_NS = 2 * 10**9
"""Nanoseconds of work between two decisions about another decoder."""
STARVED_SHARE = 0.1
"""Of those, what the network may wait for frames before another decoder is started."""
_BATCHES_EACH = 2


@dataclass(frozen=True)
class Sound:
    """All of a video's sound."""

    logmel: NDArray[np.float32]
    """(F, 40) in dB; (0, 40) without sound"""
    start: float
    """seconds from time zero to the first sample"""
    notes: tuple[str, ...]


Event = MediaInfo | FrameBatch | DecodeSummary | Sound | Exception
"""Of one video: a MediaInfo, its FrameBatches, a DecodeSummary, a Sound; or an error at any of these places, the last.
MediaError is the file's; every other isn't."""


class DecoderPool:
    """Decoders and their threads; they start with the first videos. To be used by one thread, and as a context manager.

    `check` is called with a decoder before its first video and after each MediaError, which stands if it returns: what
    it raises takes the error's place.
    """

    def __init__(
        self, settings: DecodeSettings, check: Callable[[DecoderProcess], object], at_once: int = 1, most: int = 1
    ) -> None:
        """`at_once` decoders at first, up to `most` while the network waits for frames."""
        self.settings, self._check, self._at_once, self._most = settings, check, at_once, max(at_once, most)
        self._lanes: list[_Lane] = []
        self._working: set[_Lane] = set()
        # Bounded, so that decoders wait where the network is the slower one.
        self._events: _Events = queue.Queue(_BATCHES_EACH * self._most)
        self._feeding = Feeding()
        self._starved = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End all decoders; videos in work are given up."""
        self._give_up()
        for lane in self._lanes:
            lane.end()
        self._lanes.clear()

    @property
    def decoders(self) -> int:
        """How many there are by now."""
        return len(self._lanes)

    def spent(self) -> Counter[str]:
        """Nanoseconds so far: decoders `decoding`, `blocked` by a network that had enough, `idle` without a video, all
        of them added up; and the network `starved`, waiting for them."""
        return sum((lane.spent for lane in self._lanes), Counter({"starved": self._starved}))

    def decode(self, videos: Iterable[tuple[str, Path]]) -> Generator[tuple[str, Path, Event]]:
        """Each (id, file) of `videos` as events; of several videos they alternate.

        A video is taken from `videos` when a decoder is free for it, by the thread that iterates. Left early, videos in
        work are given up.
        """
        source = iter(videos)
        exhausted = False
        try:
            while True:
                while not exhausted and (lane := self._free_lane()) is not None:
                    if (video := next(source, None)) is None:
                        exhausted = True
                    else:
                        self._working.add(lane)
                        lane.begin(*video)
                if not self._working:
                    return
                began = time.monotonic_ns()
                lane, event = self._events.get()
                waited = time.monotonic_ns() - began
                self._starved += waited
                if event is None:
                    self._working.discard(lane)
                    continue
                yield lane.key, lane.path, event
                self._feeding.note(waited, time.monotonic_ns() - began - waited)
        finally:
            self._give_up()

    def _free_lane(self) -> "_Lane | None":
        for lane in self._lanes:
            if lane not in self._working:
                return lane
        if len(self._lanes) < self._at_once or (len(self._lanes) < self._most and self._feeding.starves()):
            self._lanes.append(_Lane(self.settings, self._check, self._events))
            return self._lanes[-1]
        return None

    def _give_up(self) -> None:
        """End what is in work, and wait until it has ended."""
        for lane in self._working:
            lane.give_up()
        while self._working:
            lane, event = self._events.get()
            if event is None:
                self._working.discard(lane)


class Feeding:
    """Whether the network has waited for frames for more than a small share of the last seconds."""

    def __init__(self) -> None:
        self._waited = self._worked = 0

    def note(self, waited: int, worked: int) -> None:
        """Count nanoseconds of the network's."""
        self._waited += waited
        self._worked += worked

    def starves(self) -> bool:
        """Decided once there are `GROW_AFTER_NS` of them, which are then forgotten."""
        total = self._waited + self._worked
        if total < GROW_AFTER_NS:
            return False
        share, self._waited, self._worked = self._waited / total, 0, 0
        return share > STARVED_SHARE


class _GivenUpError(Exception):
    """Nobody wants the video any more."""


class _Lane:
    """One decoder and the thread that waits for it."""

    def __init__(self, settings: DecodeSettings, check: Callable[[DecoderProcess], object], events: "_Events") -> None:
        self.key, self.path = "", Path()
        self.spent: Counter[str] = Counter()
        self._check, self._events = check, events
        self._decoder = DecoderProcess(settings)
        self._checked = self._given_up = False
        self._inbox: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="decoder", daemon=True)
        self._thread.start()

    def begin(self, key: str, path: Path) -> None:
        """Take up a video; only when the one before has ended."""
        self.key, self.path, self._given_up = key, path, False
        self._decoder.resume()
        self._inbox.put(True)

    def give_up(self) -> None:
        """Leave the video in work, whatever its decoder does."""
        self._given_up = True
        self._decoder.interrupt()

    def end(self) -> None:
        """End thread and decoder, between two videos."""
        self._inbox.put(False)
        self._thread.join()
        self._decoder.close()

    def _run(self) -> None:
        while self._timed("idle", self._inbox.get):
            try:
                with tempfile.TemporaryDirectory(prefix="mcn-audio-") as scratch:
                    self._decode(Path(scratch))
            except _GivenUpError:
                pass
            except Exception as error:
                with suppress(_GivenUpError):
                    self._put(self._judged(error))
            self._events.put((self, None))

    def _decode(self, scratch: Path) -> None:
        if not self._checked:
            self._check(self._decoder)
            self._checked = True
        events = decoded(self._decoder, self.path, scratch)
        while (event := self._timed("decoding", lambda: next(events, None))) is not None:
            self._put(event)

    def _judged(self, error: Exception) -> Exception:
        """A MediaError where the check shows that the decoder isn't its cause; otherwise what the check raised."""
        if isinstance(error, MediaError) and not self._given_up:
            try:
                self._check(self._decoder)
            except Exception as fault:
                return fault
        return error

    def _put(self, event: Event) -> None:
        """Raises _GivenUpError where nobody wants it."""
        if self._given_up:
            raise _GivenUpError
        self._timed("blocked", lambda: self._events.put((self, event)))

    def _timed(self, what: str, call: Callable[[], Result]) -> Result:
        began = time.monotonic_ns()
        try:
            return call()
        finally:
            self.spent[what] += time.monotonic_ns() - began


_Events = queue.Queue[tuple[_Lane, Event | None]]
"""None: the lane's video has ended."""


def decoded(
    decoder: DecoderProcess, path: Path, scratch: Path
) -> Iterator[MediaInfo | FrameBatch | DecodeSummary | Sound]:
    """One video's picture, then its sound; `scratch` is a folder for the samples. Raises MediaError, DecoderError."""
    yield decoder.open(path)
    yield from decoder.batches()
    yield decoder.summary
    track = extract_audio(path, scratch, decoder=decoder)
    heard = track is not None and len(track.samples) > 0
    yield Sound(
        log_mel(track.samples) if track and heard else np.zeros((0, MEL_BANDS), np.float32),
        track.start if track and heard else 0.0,
        track.notes if track else (),
    )
