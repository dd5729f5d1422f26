"""Times, rows and sizes: arithmetic alone, no media.

Time is in seconds from the container's presentation time zero. The grid is constant: grid frame k shows the source
frame on screen at k/30 s, whatever the source's own rate. Feature rows sample the grid: row k is at k/feature_fps.
"""

import math
import re
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

GRID_FPS = 30
SHORT_SIDE = 256
VIEW_SIDE = 224
# Matroska stores times in whole milliseconds, so a frame meant for t may be stamped up to 1 ms after it.
TIMESTAMP_TOLERANCE_S = 0.001
_SIZE_PATTERN = re.compile(r"(\d{1,5})x(\d{1,5})")

View = Literal["full", "center"]


def check_feature_fps(feature_fps: int) -> None:
    """Raises ValueError unless rows at `feature_fps` a second fall on the 30 fps grid."""
    if feature_fps < 1 or GRID_FPS % feature_fps:
        divisors = ", ".join(str(fps) for fps in range(1, GRID_FPS + 1) if GRID_FPS % fps == 0)
        raise ValueError(f"feature fps {feature_fps} does not divide {GRID_FPS}: choose one of {divisors}")


def row_count(duration_s: float, feature_fps: int) -> int:
    """Number of rows k >= 0 with k / feature_fps < `duration_s`: at 1 fps, 10.38 s has 11 and 10.00 s has 10."""
    check_feature_fps(feature_fps)
    if not (math.isfinite(duration_s) and duration_s > 0):
        return 0
    count = math.ceil(duration_s * feature_fps)
    # The product is rounded, so it may fall just past a row's own time or short of it.
    while count and (count - 1) / feature_fps >= duration_s:
        count -= 1
    while count / feature_fps < duration_s:
        count += 1
    return count


def row_times(rows: int, feature_fps: int) -> NDArray[np.float64]:
    """Time of each row in seconds, shape (rows,)."""
    check_feature_fps(feature_fps)
    return np.arange(rows, dtype=np.float64) / feature_fps


def source_frame_on_screen(pts_s: ArrayLike, times_s: ArrayLike, end_s: float) -> NDArray[np.int64]:
    """Index of the source frame on screen at each time: the last one with pts <= t + 0.001 s.

    `pts_s` is ascending, shape (frames,); `times_s` has any order, shape (T,); the result has shape (T,), with -1 where
    no frame has been shown yet or the stream has ended (t >= `end_s`).
    """
    pts = np.asarray(pts_s, dtype=np.float64)
    times = np.asarray(times_s, dtype=np.float64)
    frames = np.searchsorted(pts, times + TIMESTAMP_TOLERANCE_S, side="right").astype(np.int64) - 1
    frames[times >= end_s] = -1
    return frames


def frame_size(display_width: float, display_height: float, short_side: int = SHORT_SIDE) -> tuple[int, int]:
    """(width, height) in pixels with the short side as given, the other in proportion, floored to even.

    640x360 gives 454x256. The display size counts non-square pixels and rotation, so it need not be whole.
    """
    if not (display_width > 0 and display_height > 0):
        raise ValueError(f"a frame of {display_width}x{display_height} has no size")
    if display_width >= display_height:
        return max(2, int(short_side * display_width / display_height) // 2 * 2), short_side
    return short_side, max(2, int(short_side * display_height / display_width) // 2 * 2)


def parse_frame_size(text: str) -> tuple[int, int] | None:
    """`"454x256"` gives (454, 256), `"short-256"` None: each video its own aspect. Anything else is a ValueError."""
    if text == f"short-{SHORT_SIDE}":
        return None
    match = _SIZE_PATTERN.fullmatch(text)
    if not match or not all(2 <= int(side) <= 8192 for side in match.groups()):
        raise ValueError(f"frame size {text!r} is neither short-{SHORT_SIDE} nor WIDTHxHEIGHT, such as 454x256")
    return int(match[1]), int(match[2])


def view_size(size: tuple[int, int], view: View) -> tuple[int, int]:
    """(width, height) that the network sees of a frame of `size` = (width, height).

    `full` is the whole frame with short side 224 and the other side floored (454x256 gives 397x224); `center` is
    the middle 224x224 of it.
    """
    if view == "center":
        return VIEW_SIDE, VIEW_SIDE
    if view != "full":
        raise ValueError(f"view {view!r} is unknown: choose full or center")
    width, height = size
    if width >= height:
        return VIEW_SIDE * width // height, VIEW_SIDE
    return VIEW_SIDE, VIEW_SIDE * height // width
