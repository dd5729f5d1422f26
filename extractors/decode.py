"""The messages of decoding: settings and paths go to a decoder, frames and their summary come back.

No decoder is imported here, so a process that only receives frames loads none.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from extractors.errors import MediaError
from extractors.timeline import check_feature_fps, parse_frame_size

# Only containers that hold their own frames: a playlist could name other files, or hosts, for FFmpeg to open.
CONTAINERS = "mov,matroska,mpegts,mpeg,avi,flv,asf,ogg,ivf,nut,rm,dv,wav,mp3,aac,flac"
FFMPEG_OPEN_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
LONGEST_DURATION_S = 24 * 3600.0


@dataclass(frozen=True)
class DecodeSettings:
    """How a video becomes rows of frames. ValueError if a value can't be used."""

    feature_fps: int = 1
    """rows a second; divides 30"""
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
        parse_frame_size(self.frame_size)
        for name in ("time_limit_s", "memory_limit_bytes", "frames_per_batch"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above zero, not {getattr(self, name)}")


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
    """shape (n,)"""
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
    """one line each; empty for a video that decord decoded whole"""


Decoded = MediaInfo | FrameBatch | DecodeSummary
"""What decoding a video yields: one MediaInfo, any number of FrameBatch, one DecodeSummary."""


def check_path(path: str | Path) -> str:
    """The absolute path of a regular file, which no FFmpeg reads as an option, a protocol or a pattern.

    MediaError "missing-file", "zero-length" or "undecodable" (a folder, a pipe, unreadable).
    """
    # Absolute, for FFmpeg takes what comes before a colon in any other name for a protocol.
    absolute = os.path.abspath(path)
    try:
        status = os.stat(absolute)
    except FileNotFoundError as error:
        raise MediaError("missing-file", f"{path}: there is no such file") from error
    except (OSError, ValueError) as error:
        raise MediaError("undecodable", f"{path}: can't be read ({error})") from error
    if not stat.S_ISREG(status.st_mode):
        raise MediaError("undecodable", f"{path}: is not a regular file")
    if status.st_size == 0:
        raise MediaError("zero-length", f"{path}: the file is empty")
    return absolute
