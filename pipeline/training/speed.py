"""Steps of a study's own model on random clips: how fast this machine takes them, and with which losses.

What a step costs is taken as `a + b * clips` and timed at two sizes. The contrast, whose similarities grow with the
square of the clips, so counts for too little where the larger step is much smaller than the study's batch.
"""

import math
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from time import perf_counter

import torch
from lightning_fabric import Fabric
from torch import Tensor

from extractors.networks import STREAM_WIDTHS, described
from extractors.precision import resolve_device
from models.batch_step import BatchStep, Communicator, SingleProcess, StepLosses
from models.clips import ClipInputs
from models.kmeans import ClusterQueue, cosine_kmeans
from models.mcn import MCN
from models.pairing import Scheme
from models.settings import MEL_BANDS, ModelSettings
from pipeline.core.reporting import Progress
from pipeline.training.distributed import communicator_of, launch, precision_of
from pipeline.training.settings import TrainSettings, find_scheme

_SMALL, _GROWTH = 16, 8
"""Clips of the smaller step, and how many times as many the larger one has at least."""
_KMEANS_SHARE = 0.1
"""Of the time."""
_ROUNDS = 4
"""Of k-means that are timed."""
_FIRST_STEPS = 2
"""Whose losses are compared: the second sees the first one's gradients."""
_TIMED_STEPS = 5


@dataclass(frozen=True)
class TrainingShape:
    """What decides the cost of a step: a training's settings, and the rate of its features, rows a second."""

    settings: TrainSettings
    feature_fps: int

    @property
    def scheme(self) -> Scheme:
        """The pairing scheme."""
        return find_scheme(self.settings.scheme)

    @property
    def clips(self) -> int:
        """Of a whole batch."""
        return self.settings.batch_videos * self.settings.clips_per_video

    @property
    def rows(self) -> int:
        """Video rows of the shortest clip that is drawn; real ones have some more, which costs next to nothing."""
        return max(1, math.ceil(self.settings.clips.min_clip_seconds * self.feature_fps))

    def model_settings(self) -> ModelSettings:
        """The model's."""
        streams = self.settings.clips.streams
        widths = tuple(STREAM_WIDTHS.get(stream) or described(stream)["width"] for stream in streams)
        return self.settings.model_settings(self.scheme, widths, ModelSettings.word_dim)

    def parameters(self) -> int:
        """Number of parameters."""
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in MCN(self.model_settings()).parameters())

    def checkpoint_bytes(self) -> int:
        """Of a checkpoint, about: parameters, Adam's two moments, and the queues, 4 bytes each."""
        widths = sum(self.model_settings().width_of(space) for space in self.scheme.spaces)
        return 4 * (3 * self.parameters() + widths * self.settings.clustering.queue_rows)


@dataclass(frozen=True)
class TrainingRates:
    """Cost of a step of the whole batch."""

    device: str
    threads: int
    """Cores that share a step; 1 on a GPU."""
    step_s: float
    """Wall seconds, k-means at most included."""
    kmeans_s: float
    """Those of k-means in it: with all its rounds, shared out over the steps from fit to fit."""
    timed_clips: int
    """Clips of the largest step that was timed."""
    clip_s: float
    """Seconds to embed one clip without training: a third of what a clip adds to a training step."""


def probe_training(shapes: Mapping[str, TrainingShape], seconds: float) -> dict[str, TrainingRates]:
    """Name -> rates, measured for about `seconds` of wall time in all, shared equally.

    Raises ValueError for a device that isn't here, RuntimeError or MemoryError when a model doesn't fit into memory.
    """
    rates: dict[str, TrainingRates] = {}
    with torch.random.fork_rng(), Progress("probe: training", len(shapes), "scheme") as progress:
        torch.manual_seed(0)
        for name, shape in shapes.items():
            rates[name] = _rates(shape, seconds / len(shapes))
            progress.to(len(rates))
    return rates


def probe_failure(error: Exception) -> str:
    """Why there are no rates, in a line: a machine too small for a study is not the study's fault."""
    return f"the probe failed: {(str(error) or type(error).__name__).splitlines()[0][:120]}"


def first_losses(shape: TrainingShape, clips: int, communicator: Communicator | None = None) -> list[float]:
    """The losses of the first two optimiser steps on a made batch of `clips` clips.

    Weights, centroids and clips are drawn on the processor, so that devices and numbers of processes that share the
    batch differ by rounding alone. Raises as `probe_training`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trial = _Trial(shape, communicator)
        batch = trial.batch(clips)
        return [float(trial.take_step(*batch)[1].total) for _ in range(_FIRST_STEPS)]


def steps_per_s(shape: TrainingShape, clips: int, communicator: Communicator | None = None) -> float:
    """Optimiser steps a second on batches of `clips` clips that are there already, without fits of k-means."""
    with torch.random.fork_rng(devices=[]):
        trial = _Trial(shape, communicator)
        batch = trial.batch(clips)
        trial.take_step(*batch)  # allocates what later ones find
        return _TIMED_STEPS / sum(trial.take_step(*batch)[0] for _ in range(_TIMED_STEPS))


def shared_steps(shape: TrainingShape, clips: int, patience: timedelta) -> tuple[list[float], float]:
    """`first_losses` in fp32 on `clips` clips, and `steps_per_s` of whole batches, by all the settings' processes.

    They are started as those of `mcn train`. Raises as `pipeline.training.distributed.launch`, and torch's
    ProcessException where one fails or waits for the others for longer than `patience`.
    """
    work = partial(_shared_steps, feature_fps=shape.feature_fps, clips=clips)
    *losses, rate = launch(shape.settings, "fp32", work, patience)
    return losses, rate


def _shared_steps(
    fabric: Fabric, settings: TrainSettings, stop: Path | None, feature_fps: int, clips: int
) -> list[float]:
    """What each process does. Fabric walks through what is given back, and knows no frozen dataclass."""
    communicator = communicator_of(fabric)
    shape = TrainingShape(replace(settings, device=str(fabric.device)), feature_fps)
    in_fp32 = replace(shape, settings=replace(shape.settings, precision="fp32"))
    return [*first_losses(in_fp32, clips, communicator), steps_per_s(shape, shape.clips, communicator)]


def _rates(shape: TrainingShape, seconds: float) -> TrainingRates:
    trial, settings = _Trial(shape), shape.settings
    step_s, clip_s, timed_clips = extrapolated(trial.step_s, shape.clips, (1 - _KMEANS_SHARE) * seconds)
    kmeans_s = 0.0
    if settings.loss.cluster_weight:
        rows = settings.clustering.queue_rows + shape.clips
        rounds_s, _, _ = extrapolated(trial.kmeans_s, rows, _KMEANS_SHARE * seconds)
        kmeans_s = rounds_s * settings.clustering.iterations / _ROUNDS / settings.clustering.refit_every
    threads = torch.get_num_threads() if trial.device.type == "cpu" else 1
    return TrainingRates(str(trial.device), threads, step_s + kmeans_s, kmeans_s, timed_clips, clip_s / 3)


def extrapolated(timed: Callable[[int], float], whole: int, seconds: float) -> tuple[float, float, int]:
    """Seconds that work of size `whole` takes, those that each unit adds, and the largest size that was timed.

    `timed` does the work of a size and returns its seconds. It is called at a small size and at larger ones, up to
    `whole`, so long as all that takes no more than about `seconds`.
    """
    began = perf_counter()
    size = small = min(whole, _SMALL)
    # The first call allocates what later ones find.
    least_s = taken_s = min(timed(small), timed(small))
    larger = min(whole, _GROWTH * small)
    while larger > size and (size == small or perf_counter() - began + taken_s * larger / size < seconds):
        size, taken_s = larger, timed(larger)
        larger = min(whole, 2 * size)
    # Where a busy machine was no slower at the larger size, all of the time counts as that of its units.
    unit_s = (taken_s - least_s) / (size - small) if taken_s > least_s else taken_s / size
    return taken_s + (whole - size) * unit_s, unit_s, size


class _Trial:
    """A model being trained on random clips."""

    def __init__(self, shape: TrainingShape, communicator: Communicator | None = None) -> None:
        self._shape = shape
        self._communicator = communicator or SingleProcess()
        self.device = resolve_device(shape.settings.device)
        self._model = MCN(shape.model_settings()).to(self.device).train()
        if shape.settings.network.standardise:
            self._model.fit_standardisation([self._inputs(_SMALL).to(self.device)])
        self._optimizer = torch.optim.Adam(self._model.parameters(), lr=shape.settings.learning_rate, fused=True)
        self._generator = torch.Generator().manual_seed(0)
        # Always fitted, never due and without rows: k-means is timed apart.
        clusters = replace(shape.settings.clustering, queue_rows=0, refit_every=sys.maxsize)
        self._queues: dict[str, ClusterQueue] = {}
        for space in shape.scheme.spaces:
            queue = ClusterQueue(self._model.settings.width_of(space), clusters)
            queue.centroids.normal_()
            queue.fitted.fill_(True)
            queue.batches.fill_(1)
            self._queues[space.name] = queue.to(self.device)

    def step_s(self, clips: int) -> float:
        """Wall seconds of an optimiser step without a fit of k-means."""
        return self.take_step(*self.batch(clips))[0]

    def batch(self, clips: int) -> tuple[ClipInputs, Tensor]:
        """This process's share of `clips` random clips, and the video (B,) of each."""
        share = clips // self._communicator.processes
        own = slice(self._communicator.rank * share, (self._communicator.rank + 1) * share)
        video_index = torch.arange(clips) // self._shape.settings.clips_per_video
        return self._inputs(clips)[own].to(self.device), video_index[own].to(self.device)

    def take_step(self, inputs: ClipInputs, video_index: Tensor) -> tuple[float, StepLosses]:
        """An optimiser step without a fit of k-means: wall seconds, and the losses before it."""
        settings, clips = self._shape.settings, len(inputs)
        # Two chunks at least, where the whole batch has several: each clip is then embedded twice.
        chunk = min(settings.chunk, -(-clips // 2)) if settings.chunk < self._shape.clips else 0
        step = BatchStep(self._model, self._queues, settings.loss, chunk, self._communicator, self._autocast)
        began = self._now()
        losses = step.backward(inputs, video_index, self._generator)
        self._optimizer.step()
        return self._now() - began, losses

    def kmeans_s(self, rows: int) -> float:
        """Wall seconds of `_ROUNDS` rounds of k-means on `rows` joint features of each space."""
        taken = 0.0
        for queue in self._queues.values():
            data = torch.randn(rows, queue.centroids.shape[1], device=self.device)
            began = self._now()
            cosine_kmeans(data, replace(queue.settings, iterations=_ROUNDS), self._generator, queue.centroids)
            taken += self._now() - began
        return taken

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return perf_counter()

    def _autocast(self) -> AbstractContextManager[object]:
        bf16 = precision_of(self._shape.settings) == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16) if bf16 else nullcontext()

    def _inputs(self, clips: int) -> ClipInputs:
        shape, settings, model = self._shape, self._shape.settings, self._model.settings
        logmel = settings.network.audio_from == "logmel"
        present = torch.ones(clips, dtype=torch.bool)
        return ClipInputs(
            video=torch.rand(clips, shape.rows, model.video_dim),
            video_rows=torch.ones(clips, shape.rows, dtype=torch.bool),
            audio=torch.rand(clips, *((MEL_BANDS, settings.clips.logmel_frames) if logmel else (model.audio_dim,))),
            has_audio=present,
            audio_frames=torch.full((clips,), settings.clips.logmel_frames) if logmel else None,
            words=torch.randn(clips, settings.clips.max_words, model.word_dim),
            known_words=torch.ones(clips, settings.clips.max_words, dtype=torch.bool),
        )
