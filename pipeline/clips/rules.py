"""Which clips there are and how they are cut: rules that training and evaluation share, grown captions, windows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from models.settings import check_numbers
from pipeline.core.records import Caption, VideoFeatures

AUDIO_SECONDS = 10.0
"""A clip's frozen audio vector is the mean of the rows within its first 10 s: what the published model hears of it."""


@dataclass(frozen=True)
class ClipRules:
    """What a clip holds; the defaults are the mended rules, each docstring says what was published."""

    streams: tuple[str, ...] = ("resnet152",)
    """Video streams of the data set, side by side in a row. Published: a 2-D and a 3-D one."""
    audio: Literal["davenet", "logmel", "none"] = field(default="davenet", metadata={"flag": False})
    """What is read of the sound: frozen rows, log-mel for a DaveNet in training, nothing."""
    min_clip_seconds: float = 10.0
    """Captions grow by their neighbours to at least this long. Published: 10."""
    max_words: int = 20
    """First words of a clip with a vector that are kept. Published: 20."""
    bounds: Literal["half-open", "inclusive"] = "half-open"
    """A clip's rows: those whose time lies in [start, end); or, as published, int(start * fps) to int(end * fps), and a
    grown clip ends with its last caption, even where an earlier one ends later."""
    word_order: Literal["time", "absorbed"] = "time"
    """Which words of a grown clip come first, and so are kept, after its own caption's: its neighbours' in the order of
    time; or, as published, in the order in which the clip took them up."""
    logmel_frames: int = 1000
    """With audio_from logmel: frames of a clip from its start on, 100 a second. Published: 1000, so 10 s of however
    long a clip."""
    clamp_logmel_start: bool = True
    """Start at frame 0 at the earliest. Published: off; a clip that starts before 12.5 ms so has no sound at all. Off
    is for reproduction alone."""
    logmel_padding: Literal["silence", "loudest"] = "silence"
    """What fills a short clip's frames: -80 dB, or as published 0 dB, the recording's loudest level."""

    def __post_init__(self) -> None:
        check_numbers(self, {"min_clip_seconds": 0, "max_words": 1, "logmel_frames": 1})

    def without_sound(self) -> "ClipRules":
        """The same clips, of which no sound is read."""
        return replace(self, audio="none")


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
    spans: dict[tuple[float, float], ClipSpan] = {}
    for chosen in range(len(video.captions)):
        start, end, order = grown_span(video.captions, chosen, rules)
        if (start, end) not in spans:
            spans[start, end] = ClipSpan(start, end, _text(video, sorted(order)), _words(video, order))
    return list(spans.values())


def window_clips(video: VideoFeatures, seconds: float) -> list[ClipSpan]:
    """Half-open windows of `seconds` from 0 to the video's end, the last one as long as the video lasts.

    A caption belongs to the window in which it starts.
    """
    windows = max(1, math.ceil((video.duration - SHORTEST_WINDOW_S) / seconds))
    captions_of: list[list[int]] = [[] for _ in range(windows)]
    for index, caption in enumerate(video.captions):
        captions_of[min(max(int(caption.start // seconds), 0), windows - 1)].append(index)
    ends = [min((window + 1) * seconds, video.duration) for window in range(windows)]
    return [
        ClipSpan(window * seconds, end, _text(video, order), _words(video, order))
        for window, (end, order) in enumerate(zip(ends, captions_of, strict=True))
    ]


def _text(video: VideoFeatures, captions: Sequence[int]) -> str:
    return " ".join(video.captions[index].text for index in captions)


def _words(video: VideoFeatures, captions: Sequence[int]) -> tuple[str, ...]:
    return tuple(word for index in captions for word in video.words.of_caption(index))


def grow_clip(captions: Sequence[Caption], chosen: int, min_seconds: float) -> list[int]:
    """Grow caption `chosen` by its neighbours to at least `min_seconds`; returns the captions' indices as taken up.

    As published (Chen et al.'s data loader): each step takes the neighbour that gives the shorter span, ties go to
    the previous one, and growth stops at the video's ends.
    """
    first = last = chosen
    taken = [chosen]
    while captions[last].end - captions[first].start < min_seconds:
        before = captions[last].end - captions[first - 1].start if first > 0 else np.inf
        after = captions[last + 1].end - captions[first].start if last + 1 < len(captions) else np.inf
        if before == after == np.inf:
            break
        if before <= after:
            first -= 1
            taken.append(first)
        else:
            last += 1
            taken.append(last)
    return taken


def grown_span(captions: Sequence[Caption], chosen: int, rules: ClipRules) -> tuple[float, float, list[int]]:
    """Start and end (s) of caption `chosen` grown to `rules.min_clip_seconds`, and its captions in their words' order.

    The chosen caption comes first, then its neighbours by `rules.word_order`.
    """
    order = grow_clip(captions, chosen, rules.min_clip_seconds)
    end = max(captions[index].end for index in order)
    if rules.bounds == "inclusive":
        end = captions[max(order)].end
    start = captions[min(order)].start
    return start, end, [chosen, *sorted(order[1:])] if rules.word_order == "time" else order
