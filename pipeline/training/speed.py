"""How fast this machine trains: steps of the study's own model on random clips, as many at once as the time allows.

A step costs floating-point operations that are an exact polynomial of the number of clips (linear in the heads,
quadratic in the contrast), counted at three small sizes, beside what doesn't depend on the clips (Adam above all). So
two steps of fewer clips than the study's batch give the time of a whole one.
"""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from extractors.precision import resolve_device
from models.clips import ClipInputs
from models.kmeans import Clusters, assign
from models.losses import cluster_terms, contrastive_terms, reconstruction_terms, term_weights, total_loss
from models.mcn import MCN
from models.pairing import Scheme
from models.settings import ClusterSettings, LossSettings, ModelSettings
from pipeline.core.reporting import Progress
from pipeline.extraction.settings import STREAMS
from pipeline.training.distributed import precision_of
from pipeline.training.settings import TrainSettings, find_scheme

COUNTED_CLIPS = (4, 8, 12)
_LEAST_CLIPS = 16
_MUCH = 8
_PRODUCT_SIDE = 1024


@dataclass(frozen=True)
class TrainingShape:
    """What decides the cost of a step."""

    scheme: Scheme
    width: int
    streams: tuple[str, ...]
    rows: int
    """Video rows of a clip."""
    words: int
    clips: int
    """Clips of a whole batch."""
    hidden: int
    clusters: int
    queue_rows: int
    refit_every: int
    losses: LossSettings
    precision: str
    device: str

    def checkpoint_bytes(self) -> int:
        """Of a checkpoint, about: parameters, Adam's two moments, and the queues, 4 bytes each."""
        queues = sum(self.model_settings().width_of(space) for space in self.scheme.spaces) * self.queue_rows
        return 4 * (3 * self.parameters() + queues)

    def model_settings(self) -> ModelSettings:
        """The model's."""
        widths = tuple(STREAMS[stream] for stream in self.streams)
        return ModelSettings(self.scheme, self.width, widths, reconstruction_hidden=self.hidden)

    def kmeans_operations(self) -> float:
        """Of k-means, a step: at most, with all its rounds, a fit every `refit_every` steps on queue and batch."""
        settings, model = ClusterSettings(), self.model_settings()
        widths = sum(model.width_of(space) for space in self.scheme.spaces)
        # Each round is a product to assign the rows and one to average them.
        fit = settings.iterations * 4 * (self.queue_rows + self.clips) * self.clusters * widths
        return fit / self.refit_every if self.losses.cluster_weight else 0.0

    def parameters(self) -> int:
        """Number of parameters."""
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in MCN(self.model_settings()).parameters())


@dataclass(frozen=True)
class TrainingRates:
    """Cost of a step of the whole batch."""

    device: str
    threads: int
    """Cores that share a step; 1 on a GPU."""
    step_s: float
    """Wall seconds, k-means at most included."""
    kmeans_s: float
    """Those of k-means in it."""
    timed: str
    """What was timed: `512 clips of shared`."""
    clip_s: float
    """Seconds to embed one clip without training: a third of a training step's linear part."""


def shape_of(settings: TrainSettings, feature_fps: int) -> TrainingShape:
    """The shape of a training on features at `feature_fps`."""
    try:
        precision = precision_of(settings)
    except ValueError:  # a device that isn't here: the probe fails on it, and says so
        precision = "fp32"
    return TrainingShape(
        find_scheme(settings.scheme),
        settings.width,
        settings.streams,
        rows_of_a_clip(settings.min_clip_seconds, feature_fps),
        settings.max_words,
        settings.batch_videos * settings.clips_per_video,
        settings.reconstruction_hidden,
        settings.clusters,
        settings.queue_rows,
        settings.refit_every,
        settings.losses(),
        precision,
        settings.device,
    )


def probe_training(shapes: Mapping[str, TrainingShape], seconds: float) -> dict[str, TrainingRates]:
    """Name -> rates, measured for about `seconds` of wall time in all; the shapes share device and precision.

    Most of the time goes to the first shape's large step, which says what an operation costs here; for the others their
    operations are counted and a small step is timed, so that load on the machine doesn't tell schemes apart.
    Raises ValueError for a device that isn't here, RuntimeError or MemoryError when a model doesn't fit into memory.
    """
    began = time.monotonic()
    operation_s, timed = 0.0, ""
    rates: dict[str, TrainingRates] = {}
    with torch.random.fork_rng(), Progress("probe: training", len(shapes), "scheme") as progress:
        torch.manual_seed(0)
        for name, shape in shapes.items():
            device = resolve_device(shape.device)
            trial = _Trial(shape, device)
            cost = _polynomial([trial.operations(clips) for clips in COUNTED_CLIPS])
            least = min(shape.clips, _LEAST_CLIPS)
            # The first step allocates what Adam keeps.
            small = min(trial.timed(least), trial.timed(least))
            if not timed:
                # What the first shape has cost so far is what each of the others will.
                left = seconds - (time.monotonic() - began) * len(shapes)
                operation_s, clips = _operation_s(trial, cost, small, left)
                timed = f"{clips} clips of {name}"
            quadratic = (cost(3) - 2 * cost(2) + cost(1)) / 2
            kmeans_s = shape.kmeans_operations() * operation_s
            rates[name] = TrainingRates(
                str(device),
                torch.get_num_threads() if device.type == "cpu" else 1,
                small + (cost(shape.clips) - cost(least)) * operation_s + kmeans_s,
                kmeans_s,
                timed,
                (cost(2) - cost(1) - 3 * quadratic) / 3 * operation_s,
            )
            progress.to(len(rates))
    return rates


def _operation_s(trial: "_Trial", cost: Callable[[int], float], small: float, seconds: float) -> tuple[float, int]:
    """Seconds of one operation, by a step of as many clips as the time allows, and that number of clips.

    `small`: seconds of a step of _LEAST_CLIPS. What doesn't grow with the clips (weights read, gradients written, Adam)
    is in it already. No operation is faster than those of a plain product: a busy machine must not make it seem so.
    """
    shape, began = trial.shape, time.monotonic()
    fastest_s = _product_s(trial.device, shape.precision)
    least = min(shape.clips, _LEAST_CLIPS)
    clips = min(shape.clips, _MUCH * least)
    while clips < shape.clips and small + 2 * fastest_s * cost(2 * clips) < seconds / 3:
        clips = min(2 * clips, shape.clips)
    if clips == least:
        return max(small / cost(clips), fastest_s), clips
    large = trial.timed(clips)
    while time.monotonic() - began + large < seconds:
        again = trial.timed(clips)
        if again > large:
            break
        large = again
    return max((large - small) / (cost(clips) - cost(least)), fastest_s), clips


def _polynomial(counts: list[int]) -> Callable[[int], float]:
    """The quadratic through the counts at COUNTED_CLIPS."""
    first, second, third = counts
    a, b, c = COUNTED_CLIPS

    def at(n: int) -> float:
        return (
            first * (n - b) * (n - c) / ((a - b) * (a - c))
            + second * (n - a) * (n - c) / ((b - a) * (b - c))
            + third * (n - a) * (n - b) / ((c - a) * (c - b))
        )

    return at


def _product_s(device: torch.device, precision: str) -> float:
    """Least seconds an operation takes: those of a product of matrices."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    matrix = torch.ones(_PRODUCT_SIDE, _PRODUCT_SIDE, dtype=dtype, device=device)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        float((matrix @ matrix)[0, 0])  # waits for the result
        times.append(time.perf_counter() - began)
    return min(times) / (2 * _PRODUCT_SIDE**3)


class _Trial:
    """A model being trained on random clips."""

    def __init__(self, shape: TrainingShape, device: torch.device) -> None:
        self.shape, self.device = shape, device
        self.settings = shape.model_settings()
        self.model = MCN(self.settings).to(device).train()
        self.optimiser = torch.optim.Adam(self.model.parameters())
        self.centroids = {
            space.name: torch.randn(shape.clusters, self.settings.width_of(space), device=device)
            for space in shape.scheme.spaces
        }

    def operations(self, clips: int) -> int:
        """Floating-point operations of a step."""
        with FlopCounterMode(display=False) as counter:
            self._backward(self._inputs(clips))
        return int(counter.get_total_flops())

    def timed(self, clips: int) -> float:
        """Wall seconds of a step."""
        inputs = self._inputs(clips)
        self._wait()
        began = time.perf_counter()
        self._backward(inputs)
        self.optimiser.step()
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _inputs(self, clips: int) -> ClipInputs:
        shape, model = self.shape, self.settings
        inputs = ClipInputs(
            video=torch.rand(clips, shape.rows, model.video_dim),
            video_rows=torch.ones(clips, shape.rows, dtype=torch.bool),
            audio=torch.rand(clips, model.audio_dim),
            has_audio=torch.ones(clips, dtype=torch.bool),
            words=torch.randn(clips, shape.words, model.word_dim),
            known_words=torch.ones(clips, shape.words, dtype=torch.bool),
        )
        return inputs.to(self.device)

    def _backward(self, inputs: ClipInputs) -> None:
        """What the trainer does in a step, up to the gradients; k-means is counted apart."""
        scheme, losses = self.shape.scheme, self.shape.losses
        halved = torch.autocast(self.device.type, torch.bfloat16) if self.shape.precision == "bf16" else nullcontext()
        with halved:
            embeddings = self.model(inputs)
            errors = self.model.reconstruction_errors(embeddings) if losses.reconstruction_weight else {}
        terms = contrastive_terms(scheme, embeddings, losses)
        if losses.cluster_weight:
            clusters = {}
            for space in scheme.spaces:
                joint, _ = embeddings.joint(space)
                centroids = self.centroids[space.name]
                clusters[space.name] = Clusters(centroids, assign(joint.detach(), centroids))
            terms |= cluster_terms(scheme, embeddings, clusters, losses)
        if losses.reconstruction_weight:
            terms |= reconstruction_terms(scheme, errors, embeddings.present)
        total = total_loss(terms, term_weights(scheme, losses))
        self.optimiser.zero_grad()
        total.backward()


def rows_of_a_clip(min_clip_seconds: float, feature_fps: int) -> int:
    """Rows of the shortest clip that training draws; real ones have some more, which costs next to nothing."""
    return max(1, math.ceil(min_clip_seconds * feature_fps))
