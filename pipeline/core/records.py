"""The words of the domain: one dataclass each. Times are seconds from the video's time zero (docs/data-format.md)."""

import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

VIDEO_ID = re.compile(r"[A-Za-z0-9_-]{11}")
"""An id of YouTube's."""

STAGE = "download"

EXTRACTED = "extracted"
"""Reason of a download that is done and whose file may be deleted, its features being in a shard: not fetched again
unless asked for by this word."""

NO_FEATURES = "no-features"
"""Reason of a download that is done and whose file, which gave no features, may be moved aside: the same holds."""


class Caption(NamedTuple):
    """One line of speech recognition: what was said in [start, end) seconds."""

    start: float
    end: float
    text: str


@dataclass(frozen=True, slots=True)
class VideoRecord:
    """One line of the HowTo100M list."""

    video_id: str
    category_1: str = ""
    category_2: str = ""
    rank: str = ""
    task_id: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one attempt at one video in one stage."""

    video_id: str
    stage: str
    outcome: str
    """`done`, `failed`, `skipped` or `waiting`."""
    reason: str = ""
    """Class of the failure, e.g. `private` or `undecodable`."""
    message: str = ""
    attempt: int = 1
    time: float = 0.0
    """Seconds since 1970 by the writer's clock; clocks of several hosts may differ."""
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ShardPlan:
    """Which videos go into one shard, in their order there."""

    name: str
    video_ids: tuple[str, ...]
    digest: str
    """sha256 of the plan's content (docs/data-format.md)."""


@dataclass(frozen=True)
class Clip:
    """A half-open span [start, end) seconds of one video."""

    video_id: str
    start: float
    end: float


@dataclass(frozen=True)
class Words:
    """Words of a video's captions: ids [n] into `table`, caption c owning ids[offsets[c]:offsets[c + 1]]."""

    table: tuple[str, ...]
    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]

    def of_caption(self, index: int) -> list[str]:
        """The words of caption `index`, in their order."""
        return [self.table[i] for i in self.ids[self.offsets[index] : self.offsets[index + 1]]]


@dataclass(frozen=True)
class VideoFeatures:
    """Everything stored of one video: T rows, row k at k / feature_fps seconds; F log-mel frames at 100 a second."""

    video_id: str
    duration: float
    feature_fps: int
    video: dict[str, NDArray[np.float16]]
    """Stream name -> [T, D]; rows where `video_mask` is False are zero and stand for nothing."""
    video_mask: NDArray[np.bool_]
    """[T]: a source frame was on screen at the row's time."""
    audio: NDArray[np.float16] | None
    """DaveNet rows [A, 1024], or None if not stored."""
    audio_mask: NDArray[np.bool_]
    """[A]: sound was there in the row's span; A = T, or all DaveNet outputs at the native rate."""
    logmel: NDArray[np.float16] | None
    """[F, 40] decibels in [-80, 0], or None if not stored; F = 0 without an audio track."""
    logmel_start: float
    """Seconds from time zero to log-mel frame 0."""
    captions: tuple[Caption, ...]
    words: Words
    decoder: str = ""
    """What decoded the frames: `decord`, `pyav` or `decord+pyav`."""
    audio_rate: str = "rows"
    """`rows`: `audio` has a row per video row; `native`: one every 160 ms from `logmel_start` on."""
