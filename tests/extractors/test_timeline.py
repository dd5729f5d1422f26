import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractors.timeline import (
    frame_size,
    parse_frame_size,
    row_count,
    source_frame_on_screen,
    view_size,
)

DIVISORS = [1, 2, 3, 5, 6, 10, 15, 30]


@pytest.mark.parametrize(
    ("duration", "fps", "rows"),
    [
        (10.38, 1, 11),
        (10.0, 1, 10),
        (0.0, 1, 0),
        (-1.0, 1, 0),
        (0.04, 1, 1),
        (1 / 30, 30, 1),
        (0.1, 30, 3),
        # The product with the rate is rounded down here, and up there.
        (math.nextafter(1 / 3, 1), 3, 2),
        (31 / 15, 15, 31),
        (math.nan, 1, 0),
    ],
)
def test_row_count_of_known_durations(duration: float, fps: int, rows: int) -> None:
    assert row_count(duration, fps) == rows


@given(st.floats(0, 200), st.sampled_from(DIVISORS))
def test_row_count_is_the_number_of_row_times_before_the_end(duration: float, fps: int) -> None:
    counted = sum(1 for k in range(200 * fps + 2) if k / fps < duration)
    assert row_count(duration, fps) == counted
    times = np.arange(counted) / fps
    assert times.tolist() == [k / fps for k in range(counted)]


@given(st.integers(1, 4000), st.sampled_from(DIVISORS))
def test_a_duration_of_whole_grid_frames_has_a_row_for_each_step(grid_frames: int, fps: int) -> None:
    assert row_count(grid_frames / 30, fps) == math.ceil(Fraction(grid_frames, 30) * fps)


@pytest.mark.parametrize("fps", [0, -1, 4, 31, 60])
def test_a_rate_off_the_grid_is_refused_with_the_rates_that_are_on_it(fps: int) -> None:
    with pytest.raises(ValueError, match="1, 2, 3, 5, 6, 10, 15, 30"):
        row_count(1.0, fps)


@given(
    st.lists(st.integers(-100, 3000), min_size=1, max_size=40, unique=True).map(sorted),
    st.sampled_from([Fraction(1, 1000), Fraction(1, 90_000), Fraction(1001, 30_000)]),
    st.fractions(-5, 5, max_denominator=90_000),
    st.sampled_from([1, 2, 30]),
    st.data(),
)
def test_source_frame_is_the_last_one_shown(
    pts: list[int], base: Fraction, zero: Fraction, fps: int, data: st.DataObject
) -> None:
    # Each frame leaves the screen when the next one comes, or after one tick.
    ends = [data.draw(st.sampled_from([pts[i] + 1, pts[i + 1]])) for i in range(len(pts) - 1)] + [2**62]
    expected = []
    for row in range(40):
        time = Fraction(row, fps) + Fraction(1, 1000) + zero
        shown = [index for index, stamp in enumerate(pts) if stamp * base <= time]
        gone = bool(shown) and ends[shown[-1]] * base <= time
        expected.append(shown[-1] if shown and not gone else -1)
    got = source_frame_on_screen(np.array(pts), np.array(ends), base, zero, 40, fps)
    assert got.tolist() == expected


@pytest.mark.parametrize(("ends", "shown"), [(3001, -1), (3002, 0)])
def test_a_frame_that_leaves_the_screen_at_a_rows_time_is_gone(ends: int, shown: int) -> None:
    """Row 3 looks at 3.001 s, a millisecond after its own time; a frame is on screen up to before its end."""
    got = source_frame_on_screen(np.array([0, 9000]), np.array([ends, 2**62]), Fraction(1, 1000), Fraction(0), 5, 1)
    assert got.tolist() == [0, 0, 0, shown, 0 if ends > 4001 else -1]


@pytest.mark.parametrize(("comes", "shown"), [(3001, 1), (3002, 0)])
def test_a_frame_that_comes_a_millisecond_after_a_row_is_on_screen(comes: int, shown: int) -> None:
    got = source_frame_on_screen(np.array([0, comes]), np.array([comes, 2**62]), Fraction(1, 1000), Fraction(0), 4, 1)
    assert got.tolist() == [0, 0, 0, shown]


def test_a_clock_that_starts_elsewhere_moves_every_row() -> None:
    """Zero at 7/3 s, of which no tick of a millisecond is a multiple."""
    pts = np.arange(2000, 8000, 100)
    got = source_frame_on_screen(pts, np.append(pts[1:], 2**62), Fraction(1, 1000), Fraction(7, 3), 5, 1)
    assert got.tolist() == [int((Fraction(7, 3) + row + Fraction(1, 1000) - 2) * 10) for row in range(5)]


def test_times_rounded_to_milliseconds_show_the_frame_meant() -> None:
    pts = np.round(np.arange(300) / 30 * 1000).astype(np.int64)
    ends = np.append(pts[1:], 2**62)
    got = source_frame_on_screen(pts, ends, Fraction(1, 1000), Fraction(0), 300, 30)
    assert got.tolist() == list(range(300))


def test_the_first_second_of_ntsc_shows_the_frame_a_millisecond_after_it() -> None:
    # Frame 30 of 30000/1001 a second is at 1.001 s to the digit, which floats would round to either side.
    pts = np.arange(90) * 1001
    got = source_frame_on_screen(pts, np.append(pts[1:], 2**62), Fraction(1, 30_000), Fraction(0), 3, 1)
    assert got.tolist() == [0, 30, 59]


@pytest.mark.parametrize(
    ("display", "size"),
    [
        ((640, 360), (454, 256)),
        ((1920, 1080), (454, 256)),
        ((426, 240), (454, 256)),
        ((640, 480), (340, 256)),
        ((360, 640), (256, 454)),
        ((100, 100), (256, 256)),
        ((360 * 16 / 11, 288), (464, 256)),
    ],
)
def test_frame_size_keeps_the_short_side(display: tuple[float, float], size: tuple[int, int]) -> None:
    assert frame_size(*display) == size


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_frame_size_is_even_and_at_most_two_pixels_short(width: int, height: int) -> None:
    size = frame_size(width, height)
    assert min(size) == 256 and size[0] % 2 == size[1] % 2 == 0
    exact = 256 * max(width, height) / min(width, height)
    assert exact - 2 < max(size) <= exact


def test_frame_size_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no size"):
        frame_size(0, 10)


def test_parse_frame_size() -> None:
    assert parse_frame_size("short-256") is None
    assert parse_frame_size("454x256") == (454, 256)


@pytest.mark.parametrize("text", ["", "short-128", "454", "454*256", "0x256", "1x1", "99999x2", "-4x4", "454x256 "])
def test_a_frame_size_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="such as 454x256"):
        parse_frame_size(text)


def test_view_size() -> None:
    assert view_size((454, 256), "full") == (397, 224)
    assert view_size((256, 454), "full") == (224, 397)
    assert view_size((454, 256), "center") == (224, 224)
    with pytest.raises(ValueError, match="full or center"):
        view_size((454, 256), "left")  # type: ignore[arg-type]
