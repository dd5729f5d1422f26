"""Frames through decord, by their number. It counts frames, so it is trusted only where a scan of the file agrees."""

import re
from collections.abc import Iterator

import decord
import numpy as np
import psutil
from numpy.typing import NDArray

from extractors.media_scan import MediaScan

# Mean difference of 255. Two decoders of one picture agree far better; another picture, or a flipped one, is far off.
SAME_PICTURE = 4.0
# decord decodes ahead of a slow reader as far as the next key frame, which may be an hour away.
READ_AHEAD_BYTES = 2**30

_SOURCE_LINE = re.compile(r"^(\[[\d:]+\] \S+:\d+: )+")

decord.logging.set_level(decord.logging.QUIET)


class DecordError(Exception):
    """decord can't give a video's frames, or can't be trusted with them; one line that says why."""


def decord_frames(path: str, scan: MediaScan, frames: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """For each of the ascending `frames`, counted from the first in time: its number, and the frame as displayed.

    RGB at the stored resolution, (height, width, 3), one at a time. Raises DecordError where it has to stop.
    """
    if not scan.one_packet_per_frame or scan.first_pts != scan.pts[0]:
        raise DecordError("the file's packets and frames do not match")
    memory = psutil.Process().memory_info
    at_first = memory().rss
    try:
        # The smallest tolerance: decord would put a neighbour in the place of a frame that it can't decode.
        reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1, fault_tol=1e-9)
        counted, first = len(reader), reader[0].asnumpy()
    except Exception as error:
        raise _stop("can't open the file", error) from error
    if counted != scan.pts.size:
        raise DecordError(f"counts {counted} frames where the file has {scan.pts.size}")
    if not _same_picture(first, scan.first_frame):
        raise DecordError("shows another first frame than FFmpeg")
    for number in frames.tolist():
        try:
            frame = reader[number].asnumpy()
        except Exception as error:
            raise _stop(f"broke at {scan.times[number]:.2f} s", error) from error
        if frame.shape != first.shape:
            raise DecordError(f"changed the frame's size at {scan.times[number]:.2f} s")
        yield number, frame
        if memory().rss - at_first > READ_AHEAD_BYTES:
            raise DecordError(f"had read too far ahead at {scan.times[number]:.2f} s")


def _same_picture(frame: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    if frame.shape != other.shape:
        return False
    return float(np.abs(frame.astype(np.int16) - other).mean()) <= SAME_PICTURE


def _stop(what: str, error: Exception) -> DecordError:
    if isinstance(error, MemoryError):
        raise error
    # decord's messages begin with a time and a source line, and end with a stack.
    reason = _SOURCE_LINE.sub("", next(iter(str(error).splitlines()), ""))
    return DecordError(f"{what} ({reason[:160] or type(error).__name__})")
