"""Settings of `mcn extract` and `mcn weights`, and the Identity that follows from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Any, Literal

from extractors.cache_folder import cache_folder
from extractors.decode import DecodeSettings
from extractors.devices import local_processes
from extractors.feature_format import AUDIO_FPS, LOGMEL_BYTES_PER_S, SAMPLE_RATE
from extractors.networks import (
    NETWORKS,
    STREAM_WIDTHS,
    check_view,
    clip_shape,
    described,
    is_video_network,
    near_names,
    own_view,
)
from extractors.timeline import GRID_FPS, check_feature_fps
from extractors.weight_specs import mapped_weights, stream_weights
from models.settings import AUDIO_WIDTH
from pipeline.core.config import from_mapping
from pipeline.core.provenance import recorded_path, usable_cores
from pipeline.core.remote import address_of
from pipeline.dataset.folder import made_from, read_description
from pipeline.dataset.schema import SCHEMA

STAGE = "extract"


@dataclass(frozen=True)
class ExtractSettings:
    """Settings of `mcn extract`. Raises ValueError for values that can't be used together."""

    media: Path
    """Folder of video files named by their ids (nested or flat), or one video file; or the address of one, such as
    s3://bucket/media, whose videos are fetched to --cache as they are decoded."""
    out: Path
    """Data set folder; an existing one with the same settings grows. Or the address of one, such as s3://bucket/dataset:
    it is made in --cache, each closed shard is uploaded and checked; one process writes to it."""
    captions: Path | None = None
    """caption.json or raw_caption.json, {video_id: {"start": [s], "end": [s], "text": [str]}}, or a folder of ID.csv
    with columns start,end,text. Without it no words are stored."""
    drop_overlaps: bool = False
    """Leave out captions that repeat an earlier one's text and overlap it in time."""
    ids: Path | None = None
    """csv with a column video_id: only these videos are taken. Default: all there are in --media."""
    streams: tuple[str, ...] = ("resnet152",)
    """Video networks, separated by commas: resnet152, efficientnet-lite0, torchvision's, of pictures (resnet18,
    convnext_tiny, vit_b_16, ...) or of clips (r3d_18, s3d, swin3d_t, ...), or timm's, CLIP's image towers among them
    (timm.NAME, such as timm.vit_base_patch16_clip_quickgelu_224.openai; extra timm); `mcn weights list` names all."""
    weights: str = ""
    """Of the video networks: NAME=WEIGHTS,...; one without a name is resnet152's, or the only stream's, save
    efficientnet-lite0's. WEIGHTS: a published name (IMAGENET1K_V2; needs the internet once, see `mcn weights fetch`), a
    file, or random:SEED. Default: each network's first in `mcn weights list`."""
    davenet_weights: str = NETWORKS["davenet"].default_weights
    """DaveNet's weights: a file (AVLnet, MCN or DAVEnet state dict) or random:SEED, which proves plumbing alone."""
    view: Literal["full", "center"] = "full"
    """What a network sees of a frame: all of it with short side 224, or the middle 224x224; timm's networks see what
    their own transform shows."""
    feature_fps: int = 1
    """Rows a second; a divisor of 30."""
    frame_size: str = "short-256"
    """short-256 (aspect kept; 454x256 for 16:9) or WxH."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic of the video networks; auto is bf16 where the processor has it. Resolved once per data set."""
    audio_rate: Literal["rows", "native"] = "rows"
    """DaveNet rows averaged to the video's rows, or every 160 ms."""
    audio_store: Literal["both", "davenet", "logmel"] = "both"
    """What is kept of the sound: DaveNet rows, the log-mel (8 kB a second), or both."""
    word_vectors: Path | None = None
    """word2vec .bin, .txt or .kv, e.g. GoogleNews, or GloVe's .txt. Default: trained on the captions by gensim."""
    split: Path | None = None
    """csv video_id,split: vectors trained here see only the captions of split `train`."""
    shard_size: float = 1024.0
    """MiB a shard aims at; small sets are cut into up to 8 shards."""
    time_limit: float = 600.0
    """Seconds of decoding one video may take before its decoder is killed."""
    part: str = ""
    """I/N: take only part I of N of the plans, one process each, no cluster software; default: SLURM's array task."""
    follow: bool = False
    """Go on while a download fills --media, until every id of --ids is extracted or given up; shards are filled
    first."""
    delete_media: bool = False
    """Delete a video's media once its features are in a closed, verified shard. Others are kept: moved aside to
    .undecodable when a download with --media-budget waits for room and another attempt at them would fail too."""
    dry_run: bool = False
    """With --delete-media: list the files that would be deleted or moved aside as the data set is now; do nothing."""
    ask_again: tuple[str, ...] = ()
    """Failures of closed shards to try anew in new shards, e.g. timeout,crashed."""
    poll: float = 30.0
    """Seconds between looks at media and other processes' work, with --follow or several processes."""
    cache: Path | None = None
    """Folder on this machine for what is fetched from addresses. Default: $MCN_CACHE, or mcn in the user's folder of
    caches."""
    cache_size: float = 16.0
    """GiB that fetched videos may take there, and as many that uploaded shards may; the oldest make room."""
    workers: int = 0
    """Local worker processes; 0: one a GPU, or on a processor one a core. Cores of those with nothing left to do go to
    the networks of the others. Ignored by cluster runners."""
    decoders: int = 0
    """Decoder processes beside each worker's networks. 0: one on a processor, whose cores the workers share; on a GPU
    as many as keep it busy, up to this machine's cores."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: with several GPUs each worker takes one that no other has."""

    def __post_init__(self) -> None:
        for stream in self.streams:
            if not is_video_network(stream):
                raise ValueError(f"`streams`: {stream or 'a name of no letters'} is unknown; {near_names(stream)}")
            try:
                check_view(stream, self.view)
            except ValueError as error:
                raise ValueError(f"`streams`: {error}") from None
        if not self.streams:
            raise ValueError("`streams`: none is given; give one at least, such as resnet152")
        stream_weights(self.weights, self.streams)
        if min(self.shard_size, self.time_limit, self.poll, self.cache_size) <= 0:
            raise ValueError("`shard_size`, `time_limit`, `poll` and `cache_size` must be above 0")
        if min(self.workers, self.decoders) < 0:
            raise ValueError("`workers` and `decoders` must be at least 0")
        if address_of(self.media) and (self.delete_media or self.follow):
            name = "delete_media" if self.delete_media else "follow"
            raise ValueError(f"`{name}` goes with a local folder of `media`: in a store nothing is deleted or awaited")
        if self.follow and self.ids is None:
            raise ValueError("`follow` needs `ids`: without a list it never knows that every video has arrived")
        if self.dry_run and not self.delete_media:
            raise ValueError("`dry_run` goes with `delete_media`: it lists the media that would be deleted")
        if address_of(self.out) and (self.delete_media or self.follow or self.part):
            name = "delete_media" if self.delete_media else "follow" if self.follow else "part"
            raise ValueError(f"`{name}` goes with a local `out`: one process writes to a data set at an address")
        self.decoding()

    @property
    def media_cache(self) -> Path:
        """Where fetched videos go, on the machine that asks."""
        return (self.cache or cache_folder()) / "media"

    def decoding(self) -> DecodeSettings:
        """The settings of the decoder: rows, and between them the frames that clips show."""
        check_feature_fps(self.feature_fps)
        row_step = GRID_FPS // self.feature_fps
        clips = [clip for stream in self.streams if (clip := clip_shape(stream)) is not None]
        return DecodeSettings(
            feature_fps=self.feature_fps,
            # The fewest that have the rows' own times and those of all clips' frames.
            frames_per_row=row_step // gcd(row_step, *(clip.step for clip in clips)) if clips else 1,
            frame_size=self.frame_size,
            time_limit_s=self.time_limit,
        )

    def decoders_each(self, device: str) -> tuple[int, int]:
        """How many decoder processes a worker on `device` starts with, and how many at most."""
        if self.decoders:
            return self.decoders, self.decoders
        return 1, 1 if device == "cpu" else max(1, usable_cores() // self.local_workers())

    def local_workers(self) -> int:
        """How many processes work side by side on this machine."""
        return self.workers or local_processes(self.device, usable_cores())

    def bytes_per_second(self, widths: Mapping[str, int] = STREAM_WIDTHS) -> float:
        """Size of one second of video in a shard, captions aside.

        `widths`: stream -> width of a row; timm, loaded for that, says what they lack, or WeightsError.
        """
        values = sum(widths.get(stream) or int(described(stream)["width"]) for stream in self.streams)
        video = 2 * values * self.feature_fps
        davenet = 2 * AUDIO_WIDTH * (self.feature_fps if self.audio_rate == "rows" else AUDIO_FPS)
        logmel = LOGMEL_BYTES_PER_S
        return video + {"both": davenet + logmel, "davenet": davenet, "logmel": logmel}[self.audio_store]


def identity(
    settings: ExtractSettings,
    digests: dict[str, str],
    precision: str,
    captions: dict[str, str],
    descriptions: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """The Identity of docs/data-format.md.

    `digests`: network -> sha256 of its weights; `precision`: bf16 or fp32; `captions`: of `caption_identity`;
    `descriptions`: stream -> what `extractors.networks.described` says, where asking for it here would load PyTorch.
    """
    descriptions = descriptions or {}
    return {
        "schema": SCHEMA,
        "feature_fps": settings.feature_fps,
        "frame_size": settings.frame_size,
        "streams": {
            stream: {
                "network": stream,
                "weights": digests[stream],
                "view": own_view(stream) or settings.view,
                "precision": precision,
                **(descriptions.get(stream) or described(stream)),
            }
            for stream in settings.streams
        },
        "audio": {
            "sample_rate": SAMPLE_RATE,
            "rate": settings.audio_rate,
            "store": settings.audio_store,
            "weights": digests["davenet"],
            "precision": "fp32",
        },
        "captions": captions,
    }


def settings_of(dataset: Path, media: Path | None) -> ExtractSettings:
    """The settings that a data set was made with, on `media` if given. InputError when the file holds none."""
    values = dict(read_description(dataset).get("settings", {}))
    for name in ("media", "captions", "split", "word_vectors", "davenet_weights"):
        place = made_from(dataset, name)
        values |= {name: str(place)} if place is not None and place.exists() else {}
    if isinstance(weights := values.get("weights"), str):
        home = str(values.get("out", ""))
        values["weights"] = mapped_weights(weights, lambda spec: _file_now(spec, home, dataset))
    values |= {"out": str(dataset), **({"media": str(media)} if media is not None else {})}
    values |= {"part": "", "follow": False, "delete_media": False, "dry_run": False, "ids": None}
    return from_mapping(ExtractSettings, values, str(dataset / "dataset.json"))


def _file_now(spec: str, home_then: str, home_now: Path) -> str:
    """A recorded file of weights where it is now, if it has moved together with the data set; else as recorded."""
    place = recorded_path(spec, home_then, home_now)
    return str(place) if spec and place.exists() else spec


@dataclass(frozen=True)
class ListWeightsSettings:
    """Settings of `mcn weights list`."""

    names: str = ""
    """Only those whose names match this pattern with * and ?; timm's stand in the list where it begins with timm."""


@dataclass(frozen=True)
class FetchWeightsSettings:
    """Settings of `mcn weights fetch`."""

    name: str
    """NETWORK or NETWORK:WEIGHTS, as mcn weights list prints them; without WEIGHTS the network's default."""
    to: Path | None = None
    """Folder to keep the file in, e.g. one that nodes without internet share; default: torch's own cache, for timm's
    weights/ of $MCN_CACHE, or of mcn in the user's folder of caches."""
