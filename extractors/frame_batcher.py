"""Frames or clips of several videos at once: what is decoded fills the network's batches, whichever video's it is."""

from collections import defaultdict
from collections.abc import Hashable
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Key = TypeVar("Key", bound=Hashable)


class Features(NamedTuple, Generic[Key]):
    """Rows that have been through the network: which video, which of its rows (n,), and the features (n, width)."""

    key: Key
    rows: NDArray[np.int64]
    features: NDArray[np.float32]


class _Network(Protocol):
    @property
    def frames_at_once(self) -> int: ...

    def features(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]: ...


class _Waiting(NamedTuple, Generic[Key]):
    key: Key
    row: int
    frame: NDArray[np.uint8]


class FrameBatcher(Generic[Key]):
    """Collects frames until `network.frames_at_once` of one shape are there; no more than that wait of any shape."""

    def __init__(self, network: _Network) -> None:
        self._network = network
        self._waiting: defaultdict[tuple[int, ...], list[_Waiting[Key]]] = defaultdict(list)

    def push(self, key: Key, rows: NDArray[np.int64], frames: NDArray[np.uint8]) -> list[Features[Key]]:
        """Add frames (n, H, W, 3), or clips (n, T, H, W, 3), that are rows (n,) of video `key`; give back what became
        complete, of any video.

        Frames are copied. Raises ValueError when rows and frames differ in number, or from the network.
        """
        if len(rows) != len(frames):
            raise ValueError(f"{len(rows)} rows for {len(frames)} frames of {key}")
        waiting = self._waiting[frames.shape[1:]]
        done: list[Features[Key]] = []
        for row, frame in zip(rows, frames, strict=True):
            waiting.append(_Waiting(key, int(row), frame.copy()))
            if len(waiting) >= self._network.frames_at_once:
                batch = waiting.copy()
                waiting.clear()
                done += self._run(batch)
        return done

    def flush(self) -> list[Features[Key]]:
        """Run what still waits."""
        batches = [batch for batch in self._waiting.values() if batch]
        self._waiting.clear()
        return [features for batch in batches for features in self._run(batch)]

    def pending(self, key: Key) -> int:
        """Number of frames of video `key` that wait for their batch."""
        return sum(frame.key == key for batch in self._waiting.values() for frame in batch)

    def discard(self, key: Key) -> None:
        """Forget the waiting frames of a video that failed."""
        for shape, batch in self._waiting.items():
            self._waiting[shape] = [frame for frame in batch if frame.key != key]

    def _run(self, batch: list[_Waiting[Key]]) -> list[Features[Key]]:
        features = self._network.features(np.stack([waiting.frame for waiting in batch]))
        indices: defaultdict[Key, list[int]] = defaultdict(list)
        for index, waiting in enumerate(batch):
            indices[waiting.key].append(index)
        return [
            Features(key, np.array([batch[index].row for index in own], dtype=np.int64), features[own])
            for key, own in indices.items()
        ]
