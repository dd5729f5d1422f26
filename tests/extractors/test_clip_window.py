"""Clips beside the rule of docs/data-format.md, worked out from all frames at once."""

from fractions import Fraction

import numpy as np
import pytest

from extractors.clip_window import ClipWindow
from extractors.decode import DecodeSettings
from extractors.network import ClipShape

Clips = dict[int, list[int]]


def expected(clip: ClipShape, settings: DecodeSettings, there: set[int]) -> Clips:
    """Row -> the numbers of its clip's frames, by times in seconds."""
    at = {Fraction(number, settings.frame_fps): number for number in there}
    clips = {}
    for row in range(max(there) // settings.frames_per_row + 1):
        time = Fraction(row, settings.feature_fps)
        if time not in at:
            continue
        times = [time + Fraction(clip.step * (i - clip.frames // 2), 30) for i in range(clip.frames)]
        shown = [at.get(t) for t in times]
        for place in range(1, clip.frames):
            shown[place] = shown[place - 1] if shown[place] is None else shown[place]
        first = next(number for number in shown if number is not None)
        clips[row] = [first if number is None else number for number in shown]
    return clips


def found(clip: ClipShape, settings: DecodeSettings, there: list[int], batch: int = 3) -> tuple[Clips, int]:
    """The same by a window; and the most frames that it held."""
    window, clips, most = ClipWindow(clip, settings), {}, 0
    for first in range(0, len(there), batch):
        numbers = np.array(there[first : first + batch])
        frames = np.broadcast_to((numbers % 256).astype(np.uint8)[:, None, None, None], (len(numbers), 1, 1, 3)).copy()
        for row, shown in window.push(numbers, frames):
            clips[row] = shown
        frames[:] = 0
        most = max(most, len(window))
    clips |= dict(window.finish())
    assert len(window) == 0
    return {row: shown[:, 0, 0, 0].tolist() for row, shown in clips.items()}, most


@pytest.mark.parametrize(
    ("frames", "step", "feature_fps", "frames_per_row"),
    [(16, 2, 1, 15), (16, 4, 1, 15), (5, 2, 3, 5), (32, 2, 1, 30), (128, 2, 1, 15), (4, 2, 30, 1), (3, 4, 6, 5)],
)
@pytest.mark.parametrize("lost", [0.0, 0.3])
def test_clips_follow_the_rule(frames: int, step: int, feature_fps: int, frames_per_row: int, lost: float) -> None:
    clip, settings = ClipShape(frames, step, (8,), 8), DecodeSettings(feature_fps, frames_per_row)
    random = np.random.default_rng(frames)
    there = [number for number in range(200) if random.random() >= lost]
    clips, _ = found(clip, settings, there)
    assert clips == expected(clip, settings, set(there)) and len(clips) > 3


def test_a_window_holds_no_more_than_a_clip_and_a_batch() -> None:
    clip, settings = ClipShape(16, 2, (8,), 8), DecodeSettings(1, 15)
    clips, most = found(clip, settings, list(range(5000)))
    assert len(clips) == 334 and most <= 16 + 3


def test_edges_repeat_the_frame_there() -> None:
    clips, _ = found(ClipShape(4, 2, (8,), 8), DecodeSettings(1, 15), list(range(17)))
    assert clips == {0: [0, 0, 0, 1], 1: [13, 14, 15, 16]}
    clips, _ = found(ClipShape(4, 2, (8,), 8), DecodeSettings(1, 15), list(range(15)) + [15])
    assert clips[1] == [13, 14, 15, 15]


def test_frames_that_lie_between_those_decoded_are_refused() -> None:
    with pytest.raises(ValueError, match="clips at 15 frames a second can't be had of 10 a second"):
        ClipWindow(ClipShape(16, 2, (8,), 8), DecodeSettings(1, 10))
