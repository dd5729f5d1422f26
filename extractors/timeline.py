"""Times, rows and sizes: arithmetic alone, no media.

Time is in seconds from the container's presentation time zero. The grid is constant: grid frame k shows the source
frame on screen at k/30 s, whatever the source's own rate. Matroska stores times in whole milliseconds, so a frame meant
for t may be stamped up to 1 ms after it, and counts as on screen at t. Feature rows sample the grid: row k is at
k/feature_fps.
"""

import math
import re
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

GRID_FPS = 30
SHORT_SIDE = 256
VIEW_SIDE = 224
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


def source_frame_on_screen(
    pts: NDArray[np.int64], ends: NDArray[np.int64], time_base: Fraction, zero: Fraction, rows: int, feature_fps: int
) -> NDArray[np.int64]:
    """Index of the source frame on screen at each row: the last one with a time <= t + 0.001 s, shape (rows,).

    `pts` is ascending, in ticks of `time_base` seconds, shape (frames,); a frame leaves the screen at its tick of
    `ends`; `zero` is time zero in seconds on that clock. -1 where no frame has been shown yet, or one has left the
    screen and none has followed. Computed in whole numbers: 30 frames of 30000/1001 a second end at 1.001 s exactly, so
    that row 1 at 1 a second shows the one that follows.
    """
    check_feature_fps(feature_fps)
    # (k / fps + 1 / 1000 + zero) / time_base over one denominator.
    denominator = time_base.numerator * feature_fps * 1000 * zero.denominator
    step = time_base.denominator * 1000 * zero.denominator
    first = time_base.denominator * feature_fps * (zero.denominator + 1000 * zero.numerator)
    # Python's integers do not overflow.
    latest = np.array([(first + row * step) // denominator for row in range(rows)], dtype=np.int64)
    frames = np.searchsorted(pts, latest, side="right").astype(np.int64) - 1
    frames[(frames >= 0) & (ends[frames] <= latest)] = -1
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
