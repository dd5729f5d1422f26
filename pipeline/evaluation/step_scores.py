"""Scores of a video's seconds for the steps of its list: the windows of what is seen and heard, the texts of steps."""

from dataclasses import dataclass, replace
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.clips.cutting import Cutter
from pipeline.core.errors import InputError
from pipeline.core.records import VideoFeatures
from pipeline.evaluation.lists import StepList
from pipeline.evaluation.settings import Windows
from pipeline.training.checkpoint import TrainedModel


@dataclass(frozen=True)
class StepScores:
    """Scores of a video with T seconds for K steps."""

    scores: NDArray[np.float64]
    """[T, K], without NaN."""
    unseen: NDArray[np.bool_]
    """[T]: seconds in whose window there is nothing to see, nor to hear where that is asked for."""
    unknown: NDArray[np.bool_]
    """[K]: steps that no known word describes."""


def window(second: int, length: int, seconds: int) -> tuple[int, int]:
    """The half-open window of `length` seconds about `second`, shifted inside [0, `seconds`), cut where it is longer.

    It begins length // 2 before the second: [t, t + 1) for a length of 1, [t - 4, t + 4) for 8.
    """
    first = max(0, min(second - length // 2, seconds - length))
    return first, min(first + length, seconds)


def whole_seconds(duration: float) -> int:
    """The number of seconds t of a video, 0 <= t < duration; one at least."""
    return max(1, ceil(duration - 1e-9))


class StepScorer:
    """Scores videos by dot products in the space of a model that contrasts text with video."""

    def __init__(self, model: TrainedModel, windows: Windows) -> None:
        """InputError where the model's scheme has no such space, or it lacks audio where audio is asked for."""
        scheme = model.network.settings.scheme
        spaces = scheme.contrasting("text", "video")
        if not spaces:
            raise InputError(f"{model.checkpoint}: scheme {scheme.name} never contrasts text with video")
        self.space = spaces[0].name
        if windows.fusion != "video" and "audio" not in spaces[0].modalities:
            raise InputError(
                f"{model.checkpoint}: space {self.space} of scheme {scheme.name} holds no audio; use --fusion video"
            )
        self._model, self._windows = model, windows
        # Whatever training's bounds, second t has the rows of [t, t + 1).
        self._rules = replace(model.rules, bounds="half-open")
        if windows.fusion == "video":
            self._rules = self._rules.without_sound()

    def duration(self, video_id: str) -> float:
        """Of a video, in seconds."""
        return self._video(video_id).duration

    def score(self, steps: StepList) -> StepScores:
        """The scores of one video.

        A second without anything to see (or hear, where audio is asked for) scores a standard deviation below each
        step's lowest, so that it is chosen last; a step without a known word as the video's lowest everywhere. Where
        there is nothing left, all scores are 0. InputError on NaN or infinity, which a broken model gives.
        """
        texts = self._model.embed_texts([step.text for step in steps.steps], self._windows.max_words)
        text, known = _vectors(texts.vectors[self.space]["text"]), texts.present["text"].numpy()
        seen, present = self._seconds(self._video(steps.video_id))
        scores = (seen @ text.T).numpy()
        if not np.isfinite(scores[present][:, known]).all():
            raise InputError(
                f"{self._model.checkpoint}: its scores of video {steps.video_id} hold NaN or infinity; train it again"
            )
        valid = scores[present][:, known]
        scores[:, ~known] = valid.min() if valid.size else 0.0
        scores[~present] = scores[present].min(axis=0) - (valid.std() or 1.0) if valid.size else 0.0
        return StepScores(scores, ~present, ~known)

    def _video(self, video_id: str) -> VideoFeatures:
        return self._model.dataset.video(video_id, self._rules)

    def _seconds(self, video: VideoFeatures) -> tuple[Tensor, NDArray[np.bool_]]:
        """Vectors [T, D] of a video's seconds, and whether there is anything [T]."""
        vectors, present = self._embed(video, "video", self._windows.video_seconds)
        if self._windows.fusion == "video":
            return vectors, present.numpy()
        heard, has_sound = self._embed(video, "audio", self._windows.audio_seconds)
        return vectors + heard, (present | has_sound).numpy()

    def _embed(self, video: VideoFeatures, modality: str, length: int) -> tuple[Tensor, Tensor]:
        """Vectors [T, D] of one modality, zero where it is absent, and whether it is there [T]."""
        seconds = whole_seconds(video.duration)
        rules = self._rules.without_sound() if modality == "video" else replace(self._rules, streams=())
        cutter = Cutter(video, rules)
        spans = [window(second, length, seconds) for second in range(seconds)]
        embedded = self._model.embed((cutter.cut(float(first), float(last)) for first, last in spans), rules)
        present = embedded.present[modality]
        return _vectors(embedded.vectors[self.space][modality]).masked_fill(~present[:, None], 0.0), present


def _vectors(embedded: Tensor) -> Tensor:
    return embedded.detach().to("cpu", torch.float64)
