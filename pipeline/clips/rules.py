"""Which clips of a video are embedded: its captions as training grows them, or windows side by side."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.clips.clip_rules import ClipRules
from pipeline.core.records import VideoFeatures
from pipeline.training.clip_sampling import grown_span

SHORTEST_WINDOW_S = 0.01
"""A last window shorter than this is none: a duration is rarely a round number."""


@dataclass(frozen=True, slots=True)
class ClipSpan:
    """A clip to be: start and end in seconds of the video, what is said in it, and the words in the model's order."""

    start: float
    end: float
    text: str
    words: tuple[str, ...]


def caption_clips(video: VideoFeatures, rules: ClipRules) -> list[ClipSpan]:
    """Every caption grown by the training rules, in the captions' order; equal spans once, as the first caption's.

    `video` must have its captions' texts.
    """
    found: dict[tuple[float, float], ClipSpan] = {}
    for chosen in range(len(video.captions)):
        start, end, order = grown_span(video.captions, chosen, rules)
        if (start, end) not in found:
            found[start, end] = ClipSpan(start, end, _text(video, sorted(order)), _words(video, order))
    return list(found.values())


def window_clips(video: VideoFeatures, seconds: float) -> list[ClipSpan]:
    """Half-open windows of `seconds` from 0 to the video's end, the last one as long as the video lasts.

    A caption belongs to the window in which it starts.
    """
    windows = max(1, math.ceil((video.duration - SHORTEST_WINDOW_S) / seconds))
    said: list[list[int]] = [[] for _ in range(windows)]
    for index, caption in enumerate(video.captions):
        said[min(max(int(caption.start // seconds), 0), windows - 1)].append(index)
    ends = [min((window + 1) * seconds, video.duration) for window in range(windows)]
    return [
        ClipSpan(window * seconds, end, _text(video, order), _words(video, order))
        for window, (end, order) in enumerate(zip(ends, said, strict=True))
    ]


def _text(video: VideoFeatures, captions: Sequence[int]) -> str:
    return " ".join(video.captions[index].text for index in captions)


def _words(video: VideoFeatures, captions: Sequence[int]) -> tuple[str, ...]:
    return tuple(word for index in captions for word in video.words.of_caption(index))
