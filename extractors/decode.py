"""The messages of decoding: settings and paths go to a decoder; frames or samples, and their summary, come back.

No decoder is imported here, so a process that only receives frames loads none.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from extractors.timeline import check_feature_fps, parse_frame_size

LONGEST_DURATION_S = 24 * 3600.0


@dataclass(frozen=True)
class DecodeSettings:
    """How a video becomes rows of frames. ValueError if a value can't be used."""

    feature_fps: int = 1
    """rows a second; divides 30"""
    frames_per_row: int = 1
    """frames from one row to the next, for networks that see clips; feature_fps times this divides 30"""
    frame_size: str = "short-256"
    """short side 256 with the video's own aspect, or WIDTHxHEIGHT"""
    time_limit_s: float = 300.0
    """seconds that a caller waits for the decoder over one video before it is killed"""
    memory_limit_bytes: int = 4 * 2**30
    """address space of the decoder's process, its libraries (0.3 GiB) included; enforced on Linux"""
    frames_per_batch: int = 8
    """frames sent at once; one further batch is decoded ahead"""

    def __post_init__(self) -> None:
        check_feature_fps(self.feature_fps)
        check_feature_fps(self.frame_fps)
        parse_frame_size(self.frame_size)
        for name in ("time_limit_s", "memory_limit_bytes", "frames_per_batch"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above zero, not {getattr(self, name)}")

    @property
    def frame_fps(self) -> int:
        """Frames a second that are sent."""
        return self.feature_fps * self.frames_per_row


@dataclass(frozen=True)
class MediaInfo:
    """What is known of a video before its frames are decoded."""

    duration: float
    """seconds from time zero to the measured end of the video stream"""
    width: int
    """pixels of the frames sent, rotation and pixel shape applied"""
    height: int
    rows: int
    """number of k with k / feature_fps < duration"""
    has_audio: bool


@dataclass(frozen=True)
class FrameBatch:
    """Frames of rows in ascending order; a row that has no frame is left out."""

    rows: NDArray[np.int64]
    """shape (n,); counted at `frame_fps`: with `frames_per_row` above 1 a feature's row k is k * frames_per_row here"""
    frames: NDArray[np.uint8]
    """RGB, shape (n, height, width, 3)"""


@dataclass(frozen=True)
class DecodeSummary:
    """What is known of a video once its last frame is sent."""

    mask: NDArray[np.bool_]
    """shape (rows,), True where the row's frame was sent"""
    decoder: str
    """`decord`, `pyav`, or `decord+pyav` where the second took over"""
    notes: tuple[str, ...]
    """one line each: why decord did not decode it, what is masked, what is left out"""


Decoded = MediaInfo | FrameBatch | DecodeSummary
"""What decoding a video yields: one MediaInfo, any number of FrameBatch, one DecodeSummary."""


@dataclass(frozen=True)
class SoundChunk:
    """The next samples of a file's sound."""

    samples: NDArray[np.int16]
    """mono, 16 kHz, shape (n,)"""


@dataclass(frozen=True)
class SoundSummary:
    """What is known of a file's sound once its last chunk is sent."""

    has_audio: bool
    start: float
    """seconds from time zero to the first sample, never negative"""
    notes: tuple[str, ...]
    """one line each; empty for a stream without faults"""


@dataclass(frozen=True)
class MediaFacts:
    """What was measured of a whole file."""

    duration: float
    """seconds from time zero to the end of the last video packet"""
    width: int
    height: int
    video_codec: str
    audio_codec: str
    """empty without an audio track"""


@dataclass(frozen=True)
class StatedDuration:
    """What a container says of itself."""

    seconds: float
    """0 where it says nothing"""


@dataclass(frozen=True)
class Picture:
    """A frame as a JPEG."""

    jpeg: bytes
