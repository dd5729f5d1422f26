"""Which clips of a video are probed, and what is said in them."""

from typing import Any

import pytest

from pipeline.evaluation.lists import read_step_lists
from pipeline.evaluation.probe.clips import chosen_videos, read_windows, step_windows
from pipeline.training.checkpoint import open_trained


@pytest.mark.parametrize(("most", "starts"), [(1, [6]), (2, [2, 8]), (3, [2, 6, 10]), (99, [0, 2, 4, 6, 8, 10])])
def test_windows_are_spread_over_a_video(factors: Any, most: int, starts: list[int]) -> None:
    windows = read_windows(open_trained(factors.model), ["video000001", "video000002"], 2.0, most)
    assert [w.clip.start for w in windows if w.clip.video_id == "video000001"] == starts
    assert all(w.clip.end - w.clip.start == 2 for w in windows) and len(windows) == 2 * len(starts)
    for window in windows:
        assert window.words == (f"task{window.clip.video_id[-1]}", f"step{int(window.clip.start) // 2 % 2}")


def test_only_whole_windows_count_where_there_are_any(factors: Any) -> None:
    model = open_trained(factors.model)
    assert [w.clip.start for w in read_windows(model, ["video000001"], 5.0, 9)] == [0, 5]
    assert [(w.clip.start, w.clip.end) for w in read_windows(model, ["video000001"], 50.0, 9)] == [(0, 12)]


def test_segments_have_the_words_said_in_them(factors: Any) -> None:
    model = open_trained(factors.model)
    lists = [one for one in read_step_lists(factors.steps) if one.video_id == "video000006"]
    windows, names = step_windows(model, lists)
    assert sorted(names) == ["2:0"] * 3 + ["2:1"] * 3
    for window, name in zip(windows, names, strict=True):
        assert window.words == ("task2", f"step{name[-1]}") and window.clip.start // 2 % 2 == int(name[-1])


def test_videos_are_chosen_by_chance_and_the_same_again() -> None:
    ids = [f"v{n:03d}" for n in range(100)]
    chosen = chosen_videos(ids, 10, seed=0)
    assert chosen == sorted(chosen) == chosen_videos(ids, 10, seed=0) and len(set(chosen)) == 10
    assert chosen != chosen_videos(ids, 10, seed=1) and chosen_videos(ids, 100, seed=0) == ids
