"""Frames through decord, by their number. It counts frames: for videos whose scan proves that it counts them right."""

import os
import re
import resource
import stat
import sys
from collections.abc import Iterator

import decord
import numpy as np
from numpy.typing import NDArray

from extractors.media_file import MediaFile
from extractors.media_scan import MediaScan

# Mean difference of 255. Two decoders of one picture agree far better; another picture, or a flipped one, is far off.
SAME_PICTURE = 2.0
# decord decodes ahead of a slow reader as far as the next key frame, which may be an hour away.
READ_AHEAD_BYTES = 2**30

# Opened now: while a video is read nothing can be.
_STATM = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC) if sys.platform == "linux" else None
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_STDERR = 2
_ERRORS = (
    decord.DECORDError,
    decord.DECORDLimitReachedError,
    RuntimeError,
    AssertionError,
    IndexError,
    StopIteration,
)
_SOURCE_LINE = re.compile(r"^(\[[\d:]+\] \S+:\d+: )+")

# It says nothing of a sound video at this level, and writes a line to stderr for whatever is damaged.
decord.logging.set_level(decord.logging.ERROR)


class DecordError(Exception):
    """decord can't give a video's frames, or can't be trusted with them; one line that says why."""


def decord_frames(
    file: MediaFile, scan: MediaScan, frames: NDArray[np.int64]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """For each of the ascending `frames`, counted from the first in time: its number, and the frame as displayed.

    RGB at the stored resolution, (height, width, 3), one at a time. decord gets the file's bytes: its old FFmpeg would
    accept any format, and open what is named in it. Raises DecordError where it has to stop.
    """
    messages = _Messages()
    at_first = _resident_bytes()
    try:
        # The smallest tolerance: decord would put a neighbour in the place of a frame that it can't decode.
        reader = decord.VideoReader(_WholeFile(file), ctx=decord.cpu(0), num_threads=1, fault_tol=1e-9)
        counted, first = len(reader), reader[0].asnumpy()
    except _ERRORS as error:
        raise _stop("can't open the file", error) from error
    if counted != scan.pts.size:
        raise DecordError(f"counts {counted} frames where the file has {scan.pts.size}")
    if not _same_picture(first, scan.first_frame):
        raise DecordError("shows another first frame than FFmpeg")
    for number in frames.tolist():
        where = f"at {float(scan.pts[number] * scan.time_base - scan.zero):.2f} s"
        try:
            frame = reader[number].asnumpy()
        except _ERRORS as error:
            raise _stop(f"broke {where}", error) from error
        if messages.any():
            raise DecordError("met damaged data")
        if frame.shape != first.shape:
            raise DecordError(f"changed the frame's size {where}")
        yield number, frame
        if _resident_bytes() - at_first > READ_AHEAD_BYTES:
            raise DecordError(f"had read too far ahead {where}")


class _WholeFile:
    def __init__(self, file: MediaFile) -> None:
        self._file = file

    def read(self) -> bytes:
        self._file.seek(0)
        return self._file.readall() or b""


class _Messages:
    """Whether anything has been written to stderr, a file in the decoder's process, since this was made."""

    def __init__(self) -> None:
        self._size = self._written()

    def any(self) -> bool:
        return self._written() != self._size

    def _written(self) -> int:
        status = os.fstat(_STDERR)
        if not stat.S_ISREG(status.st_mode):
            raise DecordError("has messages that can't be read here")
        return status.st_size


def _resident_bytes() -> int:
    if _STATM is None:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(os.pread(_STATM, 256, 0).split()[1]) * _PAGE_BYTES


def _same_picture(frame: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    if frame.shape != other.shape:
        return False
    return float(np.abs(frame.astype(np.int16) - other).mean()) <= SAME_PICTURE


def _stop(what: str, error: Exception) -> DecordError:
    # decord's messages begin with a time and a source line, and end with a stack.
    reason = _SOURCE_LINE.sub("", next(iter(str(error).splitlines()), ""))
    return DecordError(f"{what} ({reason[:160] or type(error).__name__})")
