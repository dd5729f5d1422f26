"""Clips of real videos that probes look at: windows spread over each video, and annotated steps, with what is said."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.clips.clip_rules import ClipRules
from pipeline.clips.cutting import ClipFeatures, Cutter, known_words
from pipeline.clips.rules import ClipSpan, window_clips
from pipeline.core.records import Clip, VideoFeatures
from pipeline.evaluation.lists import StepList
from pipeline.evaluation.probe.clip_vectors import ClipVectors, embed_clips
from pipeline.training.trained_model import TrainedModel


@dataclass(frozen=True)
class Window:
    """A clip and the words said in it, in the order of time."""

    clip: Clip
    words: tuple[str, ...]


def probed_rules(model: TrainedModel) -> ClipRules:
    """The model's rules with half-open bounds, whatever training's were: neighbouring clips share no row."""
    return replace(model.rules, bounds="half-open")


def chosen_videos(video_ids: Sequence[str], most: int, seed: int) -> list[str]:
    """`most` of the ids by chance, or all of them if there are fewer, in their order."""
    if len(video_ids) <= most:
        return list(video_ids)
    places = np.random.default_rng([seed, 3]).choice(len(video_ids), most, replace=False)
    return [video_ids[place] for place in sorted(places.tolist())]


def read_windows(model: TrainedModel, video_ids: Sequence[str], seconds: float, most: int) -> list[Window]:
    """At most `most` windows of each video, spread evenly over it: whole ones, or a video shorter than one.

    A caption belongs to the window in which it starts.
    """
    found = []
    for video_id in video_ids:
        spans = window_clips(_captioned(model, video_id), seconds)
        whole = [span for span in spans if span.end - span.start > 0.999 * seconds] or spans[:1]
        places = sorted({int((place + 0.5) * len(whole) / most) for place in range(most)})
        found += [_window(video_id, whole[place]) for place in places]
    return found


def step_windows(model: TrainedModel, steps: Sequence[StepList]) -> tuple[list[Window], list[str]]:
    """Every annotated segment and its step, named TASK:STEP. A segment has the words of captions that overlap it."""
    windows, names = [], []
    for one in steps:
        video = _captioned(model, one.video_id)
        for step in one.steps:
            for start, end in step.segments:
                if start < video.duration:
                    windows.append(Window(Clip(one.video_id, start, end), _words_between(video, start, end)))
                    names.append(f"{one.task_id}:{step.number}")
    return windows, names


def embed_windows(model: TrainedModel, windows: Sequence[Window]) -> ClipVectors:
    """Vectors of the windows, in their order."""
    rules = probed_rules(model)
    return embed_clips(model, _cut(model, windows, rules), rules)


def videos_of(windows: Sequence[Window], rows: NDArray[np.int64]) -> list[str]:
    """The video of each of these rows."""
    return [windows[row].clip.video_id for row in rows.tolist()]


def _cut(model: TrainedModel, windows: Sequence[Window], rules: ClipRules) -> Iterator[ClipFeatures]:
    cutter, last = None, ""
    for window in windows:
        if cutter is None or window.clip.video_id != last:
            last = window.clip.video_id
            cutter = Cutter(model.dataset.video(last, rules), rules)
        yield cutter.cut(window.clip.start, window.clip.end, known_words(window.words, model.vectors))


def _captioned(model: TrainedModel, video_id: str) -> VideoFeatures:
    return model.dataset.video(video_id, ClipRules(streams=(), audio="none"), texts=True)


def _window(video_id: str, span: ClipSpan) -> Window:
    return Window(Clip(video_id, span.start, span.end), span.words)


def _words_between(video: VideoFeatures, start: float, end: float) -> tuple[str, ...]:
    said = [index for index, caption in enumerate(video.captions) if caption.start < end and caption.end > start]
    return tuple(word for index in said for word in video.words.of_caption(index))
