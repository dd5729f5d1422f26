"""Temporal action localization: what is found of a video's steps, and how videos and tasks are averaged.

R matrices, T seconds, K steps. A step is *present* in a video where it is annotated, *true* in the seconds that its
segments there touch: second t is the span [t, t + 1), and [start, end) touches floor(start) <= t < ceil(end), as the
reader of CrossTask (Zhukov et al., 2019) has it. Every figure is a fraction in [0, 1] over the present steps:

recall            steps whose one second (`assign_steps`) is true / present steps. CrossTask's, and MCN's headline.
unordered recall  true pairs (second, step) in which the step has the second's highest score / true pairs. The published
                  program marks a second's best step and then counts as for recall, which would be seconds over steps
                  and can exceed 1; here both are seconds. A present step with no second inside the video counts as one
                  true pair that isn't found.
IoU, IoD          |true and found| / |true or found|, and |true and found| / |found|, in seconds, for each present step
                  with the segment found (`segment_steps`); 0 where none is found. Mean over present steps. MCN (Chen et
                  al., 2021) and Mining YouTube (Kuehne et al., 2019) name both; neither states a formula for the
                  average, no code of theirs computes them.

Averages: all figures are those of a video, then the mean over a task's videos, then the mean over tasks. Pooled recall
sums steps found and steps present over a task's videos, and takes the mean over tasks of their ratio: CrossTask's own
program does so, MCN's takes the former.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.alignment import assign_steps, frame_log_probabilities, segment_steps
from pipeline.metrics.intervals import Interval, bootstrap

FIGURES = ("recall", "pooled recall", "unordered recall", "IoU", "IoD")


@dataclass(frozen=True)
class Alignment:
    """How segments are found: see `frame_log_probabilities` and `segment_steps`."""

    background: float
    step_seconds: float


@dataclass(frozen=True)
class Found:
    """What is found by score matrices [..., T, K] of one video."""

    chosen: NDArray[np.int64]
    """[..., K]: each step's one second; -1 without one."""
    best: NDArray[np.int64]
    """[..., T]: each second's best step, the first of equal ones; -1 where that isn't looked for."""
    segments: NDArray[np.int64]
    """[..., K, 2]: each step's half-open span in whole seconds; [-1, -1) without one."""

    def without(self, steps: NDArray[np.bool_]) -> "Found":
        """The same, but nothing found for `steps` [K]: ties alone would have placed them."""
        return Found(
            np.where(steps, -1, self.chosen),
            np.where(steps[self.best], -1, self.best),
            np.where(steps[:, None], -1, self.segments),
        )


@dataclass(frozen=True)
class VideoFigures:
    """Figures of one video [...], a scalar array for one matrix."""

    hits: NDArray[np.int64]
    """Present steps whose one second is true."""
    present: int
    unordered: NDArray[np.float64]
    iou: NDArray[np.float64]
    iod: NDArray[np.float64]


def find_steps(scores: NDArray[np.floating], alignment: Alignment) -> Found:
    """What `scores` [..., T, K] find, K > 0. Raises ValueError on NaN or infinity."""
    return Found(
        chosen=assign_steps(scores),
        best=np.argmax(scores, axis=-1),
        segments=segment_steps(frame_log_probabilities(scores, alignment.background), alignment.step_seconds),
    )


def video_figures(found: Found, truth: NDArray[np.bool_], present: Sequence[bool]) -> VideoFigures:
    """Figures of what was found in a video, with `truth` [T, K] and whether each step is `present` [K].

    Raises ValueError without a present step.
    """
    counted = np.asarray(present, np.bool_)
    if not counted.any():
        raise ValueError("a video without a present step has no recall")
    steps = np.arange(len(counted))
    # A row more, which index -1 means.
    padded = np.concatenate([truth, np.zeros((1, len(counted)), np.bool_)])
    hits = (padded[found.chosen, steps] & counted).sum(axis=-1)
    times = np.arange(len(truth))
    unseen = int((counted & ~truth.any(axis=0)).sum())
    right = truth[times, found.best] & (found.best >= 0)
    unordered = right.sum(axis=-1) / (int(truth.sum()) + unseen)
    summed = np.concatenate([np.zeros((1, len(counted)), np.int64), np.cumsum(truth, axis=0)])
    starts, stops = found.segments[..., 0], found.segments[..., 1]
    common = summed[stops, steps] - summed[starts, steps]
    length = stops - starts
    either = truth.sum(axis=0) + length - common
    return VideoFigures(
        hits=hits,
        present=int(counted.sum()),
        unordered=unordered,
        iou=(common / np.maximum(either, 1))[..., counted].mean(axis=-1),
        iod=(common / np.maximum(length, 1))[..., counted].mean(axis=-1),
    )


@dataclass(frozen=True)
class Scores:
    """Figures of N videos, one matrix each, in the order of `FIGURES` where they are averaged."""

    tasks: NDArray[np.int64]
    """[N]: each video's task, from 0 on."""
    hits: NDArray[np.float64]
    present: NDArray[np.float64]
    unordered: NDArray[np.float64]
    iou: NDArray[np.float64]
    iod: NDArray[np.float64]

    def averages(self, items: NDArray[np.int64]) -> list[float]:
        """The averages of `FIGURES` over videos `items`, repeated as given; tasks without one of them are left out."""
        tasks = self.tasks[items]
        count = np.bincount(tasks)
        present_tasks = count > 0

        def per_task(values: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.bincount(tasks, values[items])[present_tasks].astype(np.float64)

        def mean(values: NDArray[np.float64]) -> float:
            return float((per_task(values) / count[present_tasks]).mean())

        pooled = float((per_task(self.hits) / per_task(self.present)).mean())
        return [mean(self.hits / self.present), pooled, mean(self.unordered), mean(self.iou), mean(self.iod)]


def gather(figures: Sequence[VideoFigures], task_ids: Sequence[str], matrix: int | None = None) -> Scores:
    """The figures of all videos; of their matrix `matrix`, where each video has several."""
    index = () if matrix is None else matrix
    return Scores(
        tasks=np.unique(np.asarray(task_ids), return_inverse=True)[1].astype(np.int64),
        hits=np.array([one.hits[index] for one in figures], np.float64),
        present=np.array([one.present for one in figures], np.float64),
        unordered=np.array([one.unordered[index] for one in figures], np.float64),
        iou=np.array([one.iou[index] for one in figures], np.float64),
        iod=np.array([one.iod[index] for one in figures], np.float64),
    )


@dataclass(frozen=True)
class LocalizationMetrics:
    """The averages of N videos, with intervals over videos, beside what scores that say nothing come to."""

    videos: int
    tasks: int
    steps: int
    """Present steps, over all videos."""
    figures: dict[str, Interval]
    """By the names in `FIGURES`."""
    chance: dict[str, float]


def localization_metrics(
    scores: Scores, chance: Sequence[Scores], video_ids: Sequence[str], draws: int, seed: int
) -> LocalizationMetrics:
    """Metrics of N videos; `chance` are the figures of the same videos by random scores.

    A draw of the bootstrap takes as many videos as there are; tasks of which it has none are left out of its average.
    Raises ValueError without a video or without `chance`.
    """
    everything = np.arange(len(video_ids))
    intervals = bootstrap(scores.averages, video_ids, draws, seed)
    random = np.mean([one.averages(everything) for one in chance], axis=0)
    return LocalizationMetrics(
        videos=len(set(video_ids)),
        tasks=int(scores.tasks.max()) + 1,
        steps=int(scores.present.sum()),
        figures=dict(zip(FIGURES, intervals, strict=True)),
        chance=dict(zip(FIGURES, map(float, random), strict=True)),
    )


def paired_differences(
    scores: Scores, others: Scores, video_ids: Sequence[str], draws: int, seed: int
) -> dict[str, Interval]:
    """By `FIGURES` how much `scores` exceed `others`, which are of the same videos in the same order.

    Each draw of the bootstrap gives both the same videos: the interval is paired.
    """

    def difference(items: NDArray[np.int64]) -> list[float]:
        return [mine - theirs for mine, theirs in zip(scores.averages(items), others.averages(items), strict=True)]

    return dict(zip(FIGURES, bootstrap(difference, video_ids, draws, seed), strict=True))
