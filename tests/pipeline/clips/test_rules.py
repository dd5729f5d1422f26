"""Clips of captions against the training rules by hand; windows against a count of seconds."""

from collections.abc import Callable
from typing import Any

import pytest

from pipeline.clips.rules import ClipRules, caption_clips, window_clips


@pytest.fixture
def video(make_video: Callable[..., Any]) -> Any:
    return make_video("v", [(0, 2, "peel it"), (2, 4, "chop it"), (9, 12, "stir well"), (9, 12, "stir")], 25.0)


def test_captions_grow_and_equal_spans_are_kept_once(video: Any) -> None:
    clips = caption_clips(video, ClipRules(min_clip_seconds=3.0))
    assert [(clip.start, clip.end) for clip in clips] == [(0, 4), (9, 12)]
    assert [clip.text for clip in clips] == ["peel it chop it", "stir well"]
    assert clips[0].words == ("peel", "it", "chop", "it")


def test_the_chosen_captions_words_come_first(video: Any) -> None:
    clips = caption_clips(video, ClipRules(min_clip_seconds=9.0))
    clip = next(clip for clip in clips if clip.start == 0 and clip.end == 12)
    assert clip.words[:2] == ("peel", "it") and clip.text == "peel it chop it stir well"


def test_windows_lie_side_by_side_and_share_out_the_captions(video: Any) -> None:
    clips = window_clips(video, 10.0)
    assert [(clip.start, clip.end) for clip in clips] == [(0, 10), (10, 20), (20, 25)]
    assert [clip.text for clip in clips] == ["peel it chop it stir well stir", "", ""]
    assert clips[1].words == ()


@pytest.mark.parametrize(("seconds", "count"), [(10.0, 1), (10.001, 1), (10.5, 2), (20.0, 2), (0.004, 1)])
def test_a_video_has_as_many_windows_as_cover_it(make_video: Callable[..., Any], seconds: float, count: int) -> None:
    clips = window_clips(make_video("v", [], seconds), 10.0)
    assert len(clips) == count and clips[0].start == 0
    assert clips[-1].end == pytest.approx(seconds, abs=0.01)
