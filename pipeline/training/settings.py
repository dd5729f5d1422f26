"""What `mcn train` can be told, its presets, and what each part of training is told of it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from models.pairing import BUILTIN_SCHEMES, Scheme, SchemeError, builtin_scheme, scheme_from_dict
from models.settings import ClusterSettings, LossSettings, ModelSettings
from pipeline.clips.rules import ClipRules
from pipeline.core.config import from_mapping, load_yaml
from pipeline.core.errors import InputError, suggest

NORM_GROUP = 128
"""Clips over which DaveNet's batch norm takes its statistics, unless `chunk_clips` says otherwise."""

CHANGEABLE_ON_RESUME = frozenset(
    (
        "out manifest scheme initial_weights device devices nodes precision workers stage_to stage_budget save_every "
        "log_every"
    ).split()
)
"""Settings that a run which goes on may be given anew: training doesn't depend on them, or compares what they name."""

_ICCV21: dict[str, Any] = {
    "streams": ("resnet152", "resnext101"),
    "audio_from": "logmel",
    "chunk_clips": 1024,
    "width": 6144,
    "schedule": "warm-up-cosine",
    "warm_up_steps": 5000,
    "cluster_weight": 1 / 3,
    "term_weights": "sum",
    "bounds": "inclusive",
    "word_order": "absorbed",
    "clamp_logmel_start": False,
    "logmel_padding": "loudest",
    "mask_padding_words": False,
    "own_frames_in_training": False,
    "zeros_for_missing": True,
    "detach_targets": False,
    "spread_start": False,
    "reseed_dead": False,
    "labels_before_update": True,
    "queue_only_when_full": True,
    "restart_clusters": True,
}
_SAMPLE: dict[str, Any] = {
    "streams": ("efficientnet-lite0",),
    "batch_videos": 12,
    "clips_per_video": 12,
    "epochs": 150,
    "width": 256,
    "reconstruction_hidden": 128,
    "learning_rate": 0.0005,
    "min_clip_seconds": 0.0,
    "clusters": 32,
    "queue_rows": 720,
    "standardise": True,
    "workers": 0,
}
_DAVENET: dict[str, Any] = {
    "scheme": "video-audio",
    "audio_from": "logmel",
    "cluster_weight": 0.0,
    "reconstruction_weight": 0.0,
    "term_weights": "sum",
}


@dataclass(frozen=True)
class TrainSettings:
    """What `mcn train` can be told."""

    PRESETS: ClassVar[dict[str, dict[str, dict[str, Any]]]] = {
        "preset": {"default": {}, "mcn-iccv21": _ICCV21, "sample": _SAMPLE},
        "model": {"mcn": {}, "davenet": _DAVENET},
    }

    manifest: Path
    """Manifest made by `mcn freeze`, DATASET/manifests/NAME.json: its split `train` is trained on."""
    out: Path
    """Folder for the checkpoint, metrics and settings; training goes on from a checkpoint there."""
    preset: Literal["default", "mcn-iccv21", "sample"] = "default"
    """Starting point: the owner's settings, the published run's (Chen et al., 2021), or the sample's."""
    model: Literal["mcn", "davenet"] = "mcn"
    """davenet: train DaveNet alone on pictures and sound, and write davenet.pt for `mcn extract --davenet-weights`."""
    scheme: str = "shared"
    """How modalities are paired: a built-in scheme (see `mcn inspect shared`), or a YAML file."""
    streams: tuple[str, ...] = ("resnet152",)
    """Video streams of the data set, side by side. Published: a 2-D and a 3-D one."""
    audio_from: Literal["davenet", "logmel"] = "davenet"
    """davenet: frozen rows of the data set. logmel: DaveNet is part of the model and trained with it, as published."""
    share_initial_weights: bool = False
    """Draw each layer's initial weights from the seed and its role, so that schemes share them where shapes agree."""
    initial_weights: Path | None = None
    """Begin from published MCN weights (a state dict) in place of random ones."""
    batch_videos: int = 128
    """Videos in a batch, over all processes."""
    clips_per_video: int = 32
    """Clips drawn from each video in a batch."""
    epochs: int = 30
    """Passes over the training videos."""
    learning_rate: float = 0.0001
    """Adam's."""
    schedule: Literal["constant", "warm-up-cosine"] = "constant"
    """warm-up-cosine, as published: linear from 0 over `warm_up_steps`, then half a cosine to 0 at the last step."""
    warm_up_steps: int = 5000
    """Steps of the warm-up; smaller batches want as many clips, so more steps."""
    width: int = 4096
    """Embedding width of every space. Published: 6144."""
    reconstruction_hidden: int = 1024
    """Hidden width of the decoders."""
    standardise: bool = False
    """Standardise inputs by the training clips' statistics, saved with the model."""
    min_clip_seconds: float = 10.0
    """Captions grow by their neighbours to at least this long."""
    max_words: int = 20
    """First words of a clip that are kept."""
    bounds: Literal["half-open", "inclusive"] = "half-open"
    """A clip's rows: those whose time lies in [start, end); or, as published, int(start * fps) to int(end * fps), and a
    grown clip ends with its last caption, even where an earlier one ends later."""
    word_order: Literal["time", "absorbed"] = "time"
    """Which words of a grown clip come first, and so are kept, after its own caption's: its neighbours' in the order of
    time; or, as published, in the order in which the clip took them up."""
    logmel_frames: int = 1000
    """With audio_from logmel: frames of a clip, 100 a second."""
    clamp_logmel_start: bool = True
    """Published: off; a clip that starts before 12.5 ms so has no sound at all. Off is for reproduction alone."""
    logmel_padding: Literal["silence", "loudest"] = "silence"
    """What fills a short clip's frames: -80 dB, or as published 0 dB, the recording's loudest level."""
    mask_padding_words: bool = True
    """Published: off; padding takes part in the maximum over words as relu(bias), which favours short captions."""
    own_frames_in_training: bool = True
    """Published: off; DaveNet's output is averaged over padding too in training, though not in evaluation."""
    zeros_for_missing: bool = False
    """Published: on; a missing modality is a vector of zeros that is trained on. Else it leaves every term."""
    detach_targets: bool = True
    """Published: off; reconstruction may then shrink the audio and text features that it has to predict."""
    margin: float = 0.001
    """L_MMS's and L_Cluster's margin."""
    temperature: float = 1.0
    """L_MMS's similarities are divided by it; with --normalise some 0.05 to 0.1 are usual. Published: 1."""
    normalise: bool = False
    """Contrast L2-normalised vectors. Published: raw dot products."""
    directions: Literal["both", "first", "second"] = "both"
    """Directions of each pair in L_MMS; `first` finds the pair's second modality from its first."""
    mask_same_video: bool = False
    """Leave other clips of the same video out of L_MMS's negatives. Published: off, in spite of the loss's name."""
    cluster_weight: float = 1.0
    """Weight of each cluster term; 0 switches L_Cluster off. Published: 1/3."""
    reconstruction_weight: float = 50.0
    """Weight of each reconstruction term; 0 switches L_Reconstruct off."""
    contrast_weight: float = 1.0
    """Weight of each contrastive term; 0 switches L_MMS off."""
    term_weights: Literal["balanced", "sum"] = "balanced"
    """Scale each kind of term to scheme shared's number, or sum them up as they are."""
    clusters: int = 256
    """k-means clusters of each space."""
    queue_rows: int = 40960
    """Joint features of earlier batches that k-means sees."""
    refit_every: int = 20
    """Batches between fits of k-means."""
    spherical: bool = False
    """Centroids are unit means of unit rows. Published: off, plain means, so that long vectors weigh more."""
    spread_start: bool = True
    """The first centroids are clips far apart (k-means++). Published: off, clips drawn at random."""
    reseed_dead: bool = True
    """A cluster without clips restarts at an outlying one. Published: off; it becomes a zero vector for good."""
    labels_before_update: bool = False
    """Published: on; a fit's labels are those before its last centroid update."""
    queue_only_when_full: bool = False
    """Published: on; until the queue is full, k-means sees the batch alone."""
    restart_clusters: bool = False
    """Published: on; every epoch begins with new centroids, so that a cluster means nothing beyond its epoch."""
    permute_captions: bool = False
    """A control: permute the captions across the training videos, so that text says nothing."""
    heldout_clips: int = 1000
    """Held-out clips on which retrieval is measured after each epoch; 0 for none."""
    seed: int = 1
    """Of the initial weights, the order of videos, the draws of clips and k-means."""
    shuffle_shards: int = 64
    """Videos are shuffled within so many shards at a time, the shards in an order of their own: see docs."""
    chunk_clips: int = 0
    """Clips embedded at once (gradient caching: less memory, the same gradients); 0: all with frozen rows, 128 with
    logmel, where it is also the group over which DaveNet's batch norm takes its statistics."""
    device: str = "auto"
    """cpu, cuda, or auto."""
    devices: int = 1
    """Processes on this machine, a GPU each; under torchrun or srun, what those have started."""
    nodes: int = 1
    """Machines; more than one wants torchrun or srun."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16: autocast; the losses stay in fp32 always. auto: bf16 on a GPU that has it, else fp32."""
    workers: int = 2
    """Processes that read clips; 0 reads between the steps."""
    stage_to: Path | None = None
    """Copy what the scheme reads to this local folder first, verified."""
    stage_budget: float = 500.0
    """GiB that may be copied; the rest is read from where it lies."""
    save_every: float = 10.0
    """Minutes between checkpoints, besides the last."""
    log_every: int = 50
    """Steps between lines in TensorBoard."""

    def __post_init__(self) -> None:
        above = "batch_videos clips_per_video epochs width max_words learning_rate logmel_frames "
        above += "shuffle_shards devices nodes log_every save_every stage_budget reconstruction_hidden"
        for name in above.split():
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in "warm_up_steps chunk_clips workers heldout_clips min_clip_seconds".split():
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be below 0, but is {getattr(self, name)}")
        self.losses(), self.cluster_settings()  # each refuses what it can't use
        processes = self.devices * self.nodes
        if self.batch_videos % processes:
            raise ValueError(f"batch_videos {self.batch_videos} can't be shared by {processes} processes")
        if self.model == "davenet" and self.audio_from != "logmel":
            raise ValueError("model davenet is trained from the log-mel: leave audio_from out")

    @property
    def chunk(self) -> int:
        """Clips embedded at once; 0 for all."""
        return self.chunk_clips or (NORM_GROUP if self.audio_from == "logmel" else 0)

    def losses(self) -> LossSettings:
        """What the losses are told."""
        return LossSettings(
            margin=self.margin,
            temperature=self.temperature,
            normalise=self.normalise,
            directions=self.directions,
            mask_same_video=self.mask_same_video,
            contrast_weight=self.contrast_weight,
            cluster_weight=self.cluster_weight,
            reconstruction_weight=self.reconstruction_weight,
            term_weights=self.term_weights,
        )

    def cluster_settings(self) -> ClusterSettings:
        """What k-means is told."""
        return ClusterSettings(
            clusters=self.clusters,
            spherical=self.spherical,
            spread_start=self.spread_start,
            reseed_dead=self.reseed_dead,
            labels_before_update=self.labels_before_update,
            queue_rows=self.queue_rows,
            queue_only_when_full=self.queue_only_when_full,
            refit_every=self.refit_every,
        )

    def model_settings(self, scheme: Scheme, video_streams: tuple[int, ...], word_dim: int) -> ModelSettings:
        """What the model is told; `video_streams` are the streams' widths."""
        return ModelSettings(
            scheme=scheme,
            width=self.width,
            video_streams=video_streams,
            word_dim=word_dim,
            reconstruction_hidden=self.reconstruction_hidden,
            audio_from=self.audio_from,
            standardise=self.standardise,
            mask_padding_words=self.mask_padding_words,
            own_frames_in_training=self.own_frames_in_training,
            zeros_for_missing=self.zeros_for_missing,
            detach_targets=self.detach_targets,
        )

    def clip_rules(self, scheme: Scheme) -> ClipRules:
        """How clips are cut; sound that no space of the scheme holds isn't read."""
        heard = any("audio" in space.modalities for space in scheme.spaces)
        return ClipRules(
            streams=self.streams,
            audio=self.audio_from if heard else "none",
            min_seconds=self.min_clip_seconds,
            max_words=self.max_words,
            bounds=self.bounds,
            word_order=self.word_order,
            logmel_frames=self.logmel_frames,
            clamp_logmel_start=self.clamp_logmel_start,
            logmel_padding=self.logmel_padding,
        )


def settings_of(content: Mapping[str, Any]) -> TrainSettings:
    """The settings a checkpoint was trained with."""
    names = {field.name for field in fields(TrainSettings)}
    return from_mapping(TrainSettings, {k: v for k, v in content["settings"].items() if k in names}, "checkpoint")


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


@dataclass(frozen=True)
class ExportSettings:
    """Which model goes where."""

    model: Path
    """Folder of `mcn train`, or its checkpoint."""
    out: Path
    """File to write: a state dict, as torch.save writes it."""
    davenet: Path | None = None
    """DaveNet's weights that made the data set's audio rows, for a model that was trained on those."""
