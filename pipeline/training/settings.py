"""Settings of `mcn train` and `mcn export`, and the presets of training."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from models.pairing import BUILTIN_SCHEMES, Scheme, SchemeError, builtin_scheme, scheme_from_dict
from models.settings import ClusterSettings, LossSettings, ModelSettings, check_numbers
from pipeline.clips.rules import ClipRules
from pipeline.core.config import from_mapping, load_yaml, settings_in
from pipeline.core.errors import InputError, suggest

NORM_GROUP = 128
"""Clips over which DaveNet's batch norm takes its statistics, unless `chunk_clips` says otherwise."""

CHANGEABLE_ON_RESUME = frozenset(
    (
        "out manifest scheme initial_weights device devices nodes precision workers stage_to stage_budget save_every "
        "log_every"
    ).split()
)
"""Settings that may differ when a run is resumed: training doesn't depend on them, or compares what they name."""

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
    """Settings of `mcn train`. Raises ValueError for values that can't be used."""

    PRESETS: ClassVar[dict[str, dict[str, dict[str, Any]]]] = {
        "preset": {"default": {}, "mcn-iccv21": _ICCV21, "sample": _SAMPLE},
        "model": {"mcn": {}, "davenet": _DAVENET},
    }

    manifest: Path
    """Manifest made by `mcn freeze`, DATASET/manifests/NAME.json: its split `train` is trained on."""
    out: Path
    """Folder for the checkpoint, metrics and settings; training resumes from a checkpoint there."""
    preset: Literal["default", "mcn-iccv21", "sample"] = "default"
    """Starting point: the owner's settings, the published run's (Chen et al., 2021), or the sample's."""
    model: Literal["mcn", "davenet"] = "mcn"
    """davenet: train DaveNet alone on pictures and sound, and write davenet.pt for `mcn extract --davenet-weights`."""
    scheme: str = "shared"
    """How modalities are paired: a built-in scheme (see `mcn inspect shared`), or a YAML file."""
    network: ModelSettings = ModelSettings()
    initial_weights: Path | None = None
    """Begin from published MCN weights (a state dict) in place of random ones."""
    share_initial_weights: bool = False
    """Draw each layer's initial weights from the seed and its role, so that schemes share them where shapes agree."""
    clips: ClipRules = ClipRules()
    permute_captions: bool = False
    """A control: permute the captions across the training videos, so that text says nothing."""
    loss: LossSettings = LossSettings()
    clustering: ClusterSettings = ClusterSettings()
    restart_clusters: bool = False
    """Published: on; every epoch begins with new centroids, so that a cluster means nothing beyond its epoch."""
    batch_videos: int = 128
    """Videos in a batch, over all processes."""
    clips_per_video: int = 32
    """Clips drawn from each video in a batch."""
    epochs: int = 30
    """Passes over the training videos."""
    learning_rate: float = 0.0001
    """Adam's learning rate."""
    schedule: Literal["constant", "warm-up-cosine"] = "constant"
    """warm-up-cosine, as published: linear from 0 over `warm_up_steps`, then half a cosine to 0 at the last step."""
    warm_up_steps: int = 5000
    """Steps of the warm-up; smaller batches need as many clips, so more steps."""
    seed: int = 1
    """Seed of the initial weights, the order of videos, the draws of clips and k-means."""
    shuffle_shards: int = 64
    """Videos are shuffled within so many shards at a time, the shards in an order of their own: see docs."""
    heldout_clips: int = 1000
    """Held-out clips on which retrieval is measured after each epoch; 0 for none."""
    chunk_clips: int = 0
    """Clips embedded at once (gradient caching: less memory, the same gradients); 0: all with frozen rows, 128 with
    logmel, where it is also the group over which DaveNet's batch norm takes its statistics."""
    device: str = "auto"
    """cpu, cuda, or auto."""
    devices: int = 1
    """Processes on this machine, a GPU each; under torchrun or srun, what those have started."""
    nodes: int = 1
    """Machines; more than one needs torchrun or srun."""
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
        least = dict.fromkeys("batch_videos clips_per_video epochs shuffle_shards devices nodes log_every".split(), 1)
        least |= dict.fromkeys("warm_up_steps chunk_clips workers heldout_clips".split(), 0)
        check_numbers(self, least, above_0=("learning_rate", "save_every", "stage_budget"))
        processes = self.devices * self.nodes
        if self.batch_videos % processes:
            raise ValueError(f"`batch_videos` {self.batch_videos} can't be shared by {processes} processes")
        if self.model == "davenet" and self.network.audio_from != "logmel":
            raise ValueError("model davenet is trained from the log-mel: leave `audio_from` out")

    @classmethod
    def flat(cls, **values: Any) -> "TrainSettings":
        """From the flat keys that flags and YAML have; InputError for what is unknown or doesn't fit."""
        return from_mapping(cls, values, "train")

    @property
    def chunk(self) -> int:
        """Clips embedded at once; 0 for all."""
        return self.chunk_clips or (NORM_GROUP if self.network.audio_from == "logmel" else 0)

    def model_settings(self, scheme: Scheme, video_streams: tuple[int, ...], word_dim: int) -> ModelSettings:
        """Those of the model for a data set whose streams are `video_streams` wide and its word vectors `word_dim`."""
        return replace(self.network, scheme=scheme, video_streams=video_streams, word_dim=word_dim)

    def clip_rules(self, scheme: Scheme) -> ClipRules:
        """How clips are cut; sound that no space of the scheme holds isn't read."""
        heard = any("audio" in space.modalities for space in scheme.spaces)
        return replace(self.clips, audio=self.network.audio_from if heard else "none")


def settings_of(content: Mapping[str, Any]) -> TrainSettings:
    """The settings a checkpoint was trained with."""
    names = settings_in(TrainSettings)
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
    """Settings of `mcn export`."""

    model: Path
    """Folder of `mcn train`, or its checkpoint."""
    out: Path
    """File to write: a state dict, as torch.save writes it."""
    davenet: Path | None = None
    """DaveNet's weights that made the data set's audio rows, for a model that was trained on those."""
