"""`mcn train`: an MCN on the clips of a manifest. A plain loop; devices and precision by Lightning Fabric."""

import csv
import dataclasses
import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from extractors.precision import resolve_device
from models import (
    BUILTIN_SCHEMES,
    MCN,
    ClipInputs,
    ClusterQueue,
    Clusters,
    ClusterSettings,
    Embeddings,
    LossSettings,
    ModelSettings,
    Scheme,
    SchemeError,
    builtin_scheme,
    cluster_terms,
    contrastive_terms,
    first_half_of_each_video,
    reconstruction_terms,
    scheme_from_dict,
    scheme_to_dict,
    term_weights,
    total_loss,
)
from pipeline.checkpoint import FILE, load_checkpoint, save_checkpoint
from pipeline.circumstance import circumstance
from pipeline.clip_sampling import PermutedCaptions, draw_clips, epoch_batches
from pipeline.config import as_plain, from_mapping, load_yaml
from pipeline.dataset import FeatureDataset, collate
from pipeline.errors import InputError, suggest
from pipeline.files import write_json, write_text
from pipeline.lease import locked
from pipeline.manifest import TRAIN
from pipeline.progress import Progress
from pipeline.report import StageReport
from pipeline.stopping import asked_to_stop

SAVE_EVERY_S = 30.0
VIDEOS = "videos.txt"
"""Beside the checkpoint: the ids it was trained on, one a line."""


@dataclass(frozen=True)
class TrainSettings:
    """What `mcn train` can be told."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {},
        "sample": {
            "streams": "efficientnet-lite0",
            "batch_videos": 12,
            "clips_per_video": 12,
            "epochs": 60,
            "width": 256,
            "reconstruction_hidden": 128,
            "learning_rate": 0.0005,
            "min_clip_seconds": 0.0,
            "clusters": 32,
            "queue_rows": 720,
            "standardise": True,
        },
    }

    manifest: Path
    """Manifest made by `mcn freeze`, DATASET/manifests/NAME.json: its split `train` is trained on."""
    out: Path
    """Folder for the checkpoint, metrics and settings; training goes on from a checkpoint there."""
    preset: Literal["default", "sample"] = "default"
    """Starting point: the owner's settings, or the sample's (at most 90 s on two cores)."""
    scheme: str = "shared"
    """How modalities are paired: shared, disjoint, fine-and-coarse, fine-and-coarse-mmv, or a YAML file."""
    streams: tuple[str, ...] = ("resnet152",)
    """Video streams of the data set, side by side."""
    batch_videos: int = 128
    """Videos in a batch."""
    clips_per_video: int = 32
    """Clips drawn from each video in a batch."""
    epochs: int = 30
    """Passes over the training videos."""
    learning_rate: float = 0.0001
    """Adam's, constant."""
    width: int = 4096
    """Embedding width of every space."""
    reconstruction_hidden: int = 1024
    """Hidden width of the decoders."""
    standardise: bool = False
    """Standardise inputs by the training clips' statistics, saved with the model."""
    min_clip_seconds: float = 10.0
    """Captions grow by their neighbours to at least this long."""
    max_words: int = 20
    """First words of a clip that are kept."""
    margin: float = 0.001
    """L_MMS's and L_Cluster's margin."""
    cluster_weight: float = 1.0
    """Weight of each cluster term; 0 switches L_Cluster off."""
    reconstruction_weight: float = 50.0
    """Weight of each reconstruction term; 0 switches L_Reconstruct off."""
    term_weights: Literal["balanced", "sum"] = "balanced"
    """Scale each kind of term to scheme shared's number, or sum them up as they are."""
    clusters: int = 256
    """k-means clusters of each space."""
    queue_rows: int = 40960
    """Joint features of earlier batches that k-means sees."""
    refit_every: int = 20
    """Batches between fits of k-means."""
    permute_captions: bool = False
    """A control: permute the captions across the training videos, so that text says nothing."""
    seed: int = 1
    """Of the initial weights, the order of videos, the draws of clips and k-means."""
    device: str = "auto"
    """cpu, cuda, or auto."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: autocast; the losses stay in fp32 always."""

    def __post_init__(self) -> None:
        for name in ("batch_videos", "clips_per_video", "epochs", "width", "max_words", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")

    def losses(self) -> LossSettings:
        """The part that the losses are told."""
        return LossSettings(
            margin=self.margin,
            cluster_weight=self.cluster_weight,
            reconstruction_weight=self.reconstruction_weight,
            term_weights=self.term_weights,
        )


def find_scheme(name: str) -> Scheme:
    """A built-in scheme by name, or one from a YAML file; InputError says what makes no sense."""
    if name in BUILTIN_SCHEMES:
        return builtin_scheme(name)
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        raise InputError(f"scheme: {name!r} is neither built in nor a .yaml file; {suggest(name, BUILTIN_SCHEMES)}")
    try:
        return scheme_from_dict(load_yaml(path))
    except SchemeError as error:
        raise InputError(f"{path}: {error}") from None


class _Run:
    """Everything a training run holds between steps."""

    def __init__(self, settings: TrainSettings) -> None:
        self.settings = settings
        self.scheme = find_scheme(settings.scheme)
        self.dataset = FeatureDataset(settings.manifest)
        self.vectors = self.dataset.word_vectors()
        self.notes: list[str] = []
        if self._needs_audio() and not self._stores_audio():
            raise InputError(
                f"{self.dataset.folder}: no DaveNet rows (--audio-store logmel), scheme {self.scheme.name} needs them; "
                "extract with --audio-store both"
            )
        self.video_ids = self._training_videos()
        self.permuted = None
        if settings.permute_captions:
            self.permuted = PermutedCaptions(self.dataset, self.video_ids, settings.streams, settings.seed)
            self.notes.append("a control: captions are permuted across the training videos")
        self.model_settings = {
            "width": settings.width,
            "video_streams": [self.dataset.stream_width(stream) for stream in settings.streams],
            "word_dim": self.vectors.vector_size,
            "reconstruction_hidden": settings.reconstruction_hidden,
            "standardise": settings.standardise,
        }
        torch.manual_seed(settings.seed)
        self.generator = torch.Generator().manual_seed(settings.seed)
        streams = tuple(self.model_settings["video_streams"])
        module = MCN(ModelSettings(**(self.model_settings | {"scheme": self.scheme, "video_streams": streams})))
        cluster_settings = ClusterSettings(
            clusters=settings.clusters, queue_rows=settings.queue_rows, refit_every=settings.refit_every
        )
        self.queues = nn.ModuleDict(
            {
                space.name: ClusterQueue(module.settings.width_of(space), cluster_settings)
                for space in self.scheme.spaces
            }
        )
        precision: Literal["bf16-mixed", "32-true"] = "bf16-mixed" if settings.precision == "bf16" else "32-true"
        self.fabric = Fabric(accelerator=resolve_device(settings.device).type, devices=1, precision=precision)
        optimizer = torch.optim.Adam(module.parameters(), lr=settings.learning_rate)
        self.module = module
        # The wrapper that Fabric gives back refuses frozen dataclasses as outputs: the module itself is called.
        _, self.optimizer = self.fabric.setup(module, optimizer)
        self.queues.to(self.fabric.device)
        self.epoch = 0
        self.history: list[dict[str, float]] = []

    def _needs_audio(self) -> bool:
        return any("audio" in space.trained_modalities for space in self.scheme.spaces)

    def _stores_audio(self) -> bool:
        return self.dataset.identity["audio"]["store"] != "logmel"

    def _training_videos(self) -> list[str]:
        settings, present = self.settings, self.dataset.manifest.ids(TRAIN)
        silent = self.dataset.without_captions() & set(present)
        if silent:
            self.notes.append(f"{len(silent)} videos without captions can't be drawn from and are left out")
        present = sorted(set(present) - silent)
        if len(present) < settings.batch_videos:
            raise InputError(
                f"{settings.manifest}: {len(present)} videos to train on make no batch of {settings.batch_videos}; "
                "lower --batch-videos or extract more"
            )
        return present

    def batches(self, epoch: int) -> Iterator[tuple[ClipInputs, torch.Tensor]]:
        """An epoch's batches, each with the number of every clip's video."""
        settings = self.settings
        for chosen in epoch_batches(self.video_ids, settings.batch_videos, settings.seed, epoch):
            clips = [
                clip
                for video_id in chosen
                for clip in draw_clips(
                    self.dataset.video(video_id, settings.streams),
                    self.vectors,
                    settings.seed,
                    epoch,
                    settings.clips_per_video,
                    settings.min_clip_seconds,
                    settings.max_words,
                    self.permuted,
                )
            ]
            video_index = torch.arange(len(chosen)).repeat_interleave(settings.clips_per_video)
            yield collate(clips).to(self.fabric.device), video_index.to(self.fabric.device)

    def step(self, clips: ClipInputs, video_index: torch.Tensor) -> dict[str, float]:
        """One optimiser step; returns every loss term by name. InputError when the loss is no longer finite."""
        with self.fabric.autocast():
            embeddings: Embeddings = self.module(clips)
            errors = self.module.reconstruction_errors(embeddings) if self.settings.reconstruction_weight else {}
        clusters: dict[str, Clusters] = {}
        if self.settings.cluster_weight:
            for space in self.scheme.spaces:
                joint, present = embeddings.joint(space)
                queued = first_half_of_each_video(video_index)
                queue = self.queues[space.name]
                assert isinstance(queue, ClusterQueue)
                try:
                    clusters[space.name] = queue.step(joint, present, self.generator, queued)
                except ValueError as error:
                    raise InputError(
                        f"training: {error}: see --clusters, --batch-videos and --clips-per-video"
                    ) from None
        total, terms = self._losses(embeddings, clusters, errors, video_index)
        for name, term in terms.items():
            if not torch.isfinite(term):
                raise InputError(
                    f"training: {name} became {float(term.detach())} in epoch {self.epoch + 1}; "
                    "the last checkpoint is whole: lower --learning-rate and train anew in another --out"
                )
        self.optimizer.zero_grad()
        self.fabric.backward(total)
        self.optimizer.step()
        return {name: float(term.detach()) for name, term in {"total": total, **terms}.items()}

    def _losses(
        self,
        embeddings: Embeddings,
        clusters: dict[str, Clusters],
        errors: dict[str, dict[str, torch.Tensor]],
        video_index: torch.Tensor,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """L_MMS + L_Cluster + L_Reconstruct and its terms by name; a kind whose weight is 0 is left out."""
        settings = self.settings.losses()
        terms = contrastive_terms(self.scheme, embeddings, settings, video_index)
        if settings.cluster_weight:
            terms |= cluster_terms(self.scheme, embeddings, clusters, settings)
        if settings.reconstruction_weight:
            terms |= reconstruction_terms(self.scheme, errors, embeddings.present)
        return total_loss(terms, term_weights(self.scheme, settings)), terms

    def save(self) -> None:
        """Write checkpoint and metrics."""
        save_checkpoint(
            self.settings.out,
            {
                "model": self.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "queues": self.queues.state_dict(),
                "generator": self.generator.get_state(),
                "epoch": self.epoch,
                "history": self.history,
                "settings": as_plain(self.settings),
                "model_settings": self.model_settings,
                "scheme": scheme_to_dict(self.scheme),
                "identity": self.dataset.identity,
                "words": self.dataset.description["words"],
                "manifest": {"name": self.dataset.manifest.name, "digest": self.dataset.manifest.digest},
                "videos": len(self.video_ids),
            },
        )
        self.save_metrics()

    def save_metrics(self) -> None:
        """Write the learning curves as metrics.csv."""
        table = io.StringIO()
        writer = csv.DictWriter(table, fieldnames=list(self.history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.history)
        write_text(self.settings.out / "metrics.csv", table.getvalue())

    def resume(self) -> None:
        """Go on from the checkpoint in `out`; InputError when it was made with other settings."""
        content = load_checkpoint(self.settings.out)
        for name, value in as_plain(self.settings).items():
            before = content["settings"].get(name)
            if name not in ("out", "manifest", "device") and before != value:
                raise InputError(
                    f"{self.settings.out / FILE}: made with {name} {before!r}, asked for {value!r}; take another --out"
                )
        if content["identity"] != self.dataset.identity or content["words"] != self.dataset.description["words"]:
            raise InputError(f"{self.settings.out / FILE}: made on another data set; choose another --out")
        if content["scheme"] != scheme_to_dict(self.scheme):
            raise InputError(f"{self.settings.out / FILE}: made with another scheme; choose another --out")
        frozen = {"name": self.dataset.manifest.name, "digest": self.dataset.manifest.digest}
        if content["manifest"] != frozen:
            raise InputError(
                f"{self.settings.out / FILE}: trained on manifest {_shown(content['manifest'])}, asked for "
                f"{_shown(frozen)}; choose another --out"
            )
        self.module.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.queues.load_state_dict(content["queues"])
        self.generator.set_state(content["generator"])
        self.epoch, self.history = content["epoch"], content["history"]


def run(settings: TrainSettings) -> StageReport:
    """Train until `epochs` are done. Killed at any moment, the same call goes on from the last checkpoint."""
    report = StageReport("train", unit="epoch")
    try:
        training = _Run(settings)
    except ValueError as error:  # sizes that the model or k-means refuses, a device that isn't there
        raise InputError(f"mcn train: {str(error).splitlines()[0]}") from None
    report.notes = training.notes
    with locked(settings.out / "lock.json", f"training in {settings.out}"):
        return _run(settings, training, report)


def _run(settings: TrainSettings, training: _Run, report: StageReport) -> StageReport:
    if (settings.out / FILE).exists():
        training.resume()
    report.skipped = training.epoch
    if training.epoch < settings.epochs:
        write_json(settings.out / "settings.json", as_plain(settings))
        write_text(settings.out / VIDEOS, "".join(f"{video_id}\n" for video_id in training.video_ids))
        if training.epoch == 0 and settings.standardise:
            try:
                training.module.fit_standardisation(clips for clips, _ in training.batches(0))
            except ValueError as error:
                raise InputError(f"{settings.manifest}: {error}; train without --standardise") from None
        _train(training)
    training.save_metrics()
    report.done = training.epoch - report.skipped
    report.detail = {
        "checkpoint": str(settings.out / FILE),
        "scheme": training.scheme.name,
        "videos": len(training.video_ids),
        "manifest": {"name": training.dataset.manifest.name, "digest": training.dataset.manifest.digest},
        "circumstance": circumstance(str(training.fabric.device)),
        "parameters": sum(parameter.numel() for parameter in training.module.parameters()),
        "last": training.history[-1],
        "settings": as_plain(settings),
    }
    report.stopped = training.epoch < settings.epochs
    report.complete = not report.stopped
    report.finish().publish(settings.out / "train.json")
    return report


def _train(training: _Run) -> None:
    settings = training.settings
    saved = time.monotonic()
    board = SummaryWriter(str(settings.out / "tensorboard"), purge_step=training.epoch + 1)
    with Progress("train", settings.epochs, "epoch") as progress:
        progress.to(training.epoch)
        training.module.train()
        while training.epoch < settings.epochs:
            steps = [training.step(*batch) for batch in training.batches(training.epoch)]
            means = {name: sum(step[name] for step in steps) / len(steps) for name in steps[0]}
            training.epoch += 1
            training.history.append({"epoch": training.epoch, **means})
            for name, value in means.items():
                board.add_scalar(name, value, training.epoch)
            stopping = asked_to_stop()
            if stopping or time.monotonic() - saved > SAVE_EVERY_S or training.epoch == settings.epochs:
                training.save()
                saved = time.monotonic()
            progress.to(training.epoch, f"loss {means['total']:.3f}")
            if stopping:
                break
    board.close()


def _shown(manifest: dict[str, str]) -> str:
    return f"{manifest['name']}, digest {manifest['digest'][:12]}"


def settings_of(content: dict[str, Any]) -> TrainSettings:
    """The settings a checkpoint was trained with."""
    names = {field.name for field in dataclasses.fields(TrainSettings)}
    return from_mapping(TrainSettings, {k: v for k, v in content["settings"].items() if k in names}, "checkpoint")
