"""Windows of seconds, by their formula."""

import pytest

from pipeline.evaluation.step_scores import whole_seconds, window


@pytest.mark.parametrize("seconds", [1, 3, 8, 9, 30])
@pytest.mark.parametrize("length", [1, 2, 3, 8])
def test_windows_hold_their_second_keep_their_length_and_stay_inside(seconds: int, length: int) -> None:
    windows = [window(second, length, seconds) for second in range(seconds)]
    for second, (first, last) in enumerate(windows):
        assert 0 <= first <= second < last <= seconds and last - first == min(length, seconds)
        middle = second - length // 2
        assert first == middle or middle < 0 or middle + length > seconds
    assert windows == sorted(windows)


def test_the_published_windows() -> None:
    assert [window(second, 1, 5) for second in (0, 4)] == [(0, 1), (4, 5)]
    assert [window(second, 8, 20) for second in (0, 4, 5, 10, 16, 17, 19)] == [
        (0, 8), (0, 8), (1, 9), (6, 14), (12, 20), (12, 20), (12, 20),
    ]  # fmt: skip
    assert window(2, 8, 5) == (0, 5)


def test_a_video_has_as_many_seconds_as_rows_at_one_a_second() -> None:
    assert [whole_seconds(duration) for duration in (10.0, 10.38, 9.999999999999, 10.001, 0.2)] == [10, 11, 10, 11, 1]
