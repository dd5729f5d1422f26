"""The layout of shards, parts and staged copies (docs/data-format.md), once, as a table; it loads no h5py.

Reader, writer, check, staging and `mcn inspect` follow the table: a further dataset costs a line here and, where it is
an attribute of VideoFeatures, nothing in them.
"""

import re
from dataclasses import dataclass
from typing import Any

from models.settings import AUDIO_WIDTH, MEL_BANDS

SCHEMA = 1
ATTRIBUTES = ("schema", "kind", "name", "identity", "circumstance", "plan", "digest")
"""Of the root of every shard and part."""
COPY_ATTRIBUTES = (*(name for name in ATTRIBUTES if name != "digest"), "content")
"""Of the root of every staged copy."""
_LARGEST_WIDTH = 1 << 16
_STREAM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")


@dataclass(frozen=True)
class Field:
    """A dataset of the file: `name` is its path, `shape` that of one entry."""

    name: str
    dtype: str
    """numpy's; `S`: fixed-length text, zero-padded, as long as the longest of the file."""
    index: str | None = ""
    """The dataset of offsets that says which entries are a video's (of `captions/text` and `captions/words`: a
    caption's). Empty: a video has one entry. A dataset of offsets itself has one more than that; None: any number."""
    shape: tuple[int, ...] = ()
    digest: str = ""
    """Name of the checksums over it, one per video, in the group `digests`; empty without any."""
    attribute: str = ""
    """Of VideoFeatures: the one that holds just these values; empty where it takes more than one dataset."""
    large: bool = False
    """Read a video at a time; what isn't large is read whole after opening, and is in every staged copy."""

    @property
    def is_index(self) -> bool:
        """Whether it holds offsets into other datasets."""
        return self.name.endswith("offsets")

    @property
    def is_mask(self) -> bool:
        """Whether it holds 0 and 1 alone."""
        return self.name.endswith("mask")


_DAVENET = Field("audio/davenet", "<f2", "audio/offsets", (AUDIO_WIDTH,), "davenet", "audio", large=True)
FIELDS = (
    Field("videos/id", "S", digest="id", attribute="video_id"),
    Field("videos/duration", "<f8", digest="duration", attribute="duration"),
    Field("videos/logmel_start", "<f8", digest="logmel_start", attribute="logmel_start"),
    Field("videos/decoder", "S16", digest="decoder", attribute="decoder"),
    Field("rows/offsets", "<i8"),
    Field("rows/video_mask", "u1", "rows/offsets", digest="video_mask", attribute="video_mask"),
    Field("audio/offsets", "<i8"),
    Field("audio/mask", "u1", "audio/offsets", digest="audio_mask", attribute="audio_mask"),
    _DAVENET,
    Field("logmel/offsets", "<i8"),
    Field("logmel/frames", "<f2", "logmel/offsets", (MEL_BANDS,), "logmel", "logmel", large=True),
    Field("captions/offsets", "<i8"),
    Field("captions/times", "<f8", "captions/offsets", (2,), "times"),
    Field("captions/text_offsets", "<i8", "captions/offsets", digest="text_lengths", large=True),
    Field("captions/text", "u1", "captions/text_offsets", digest="text", large=True),
    Field("captions/word_offsets", "<i8", "captions/offsets"),
    Field("captions/words", "<i4", "captions/word_offsets", digest="words"),
    Field("words/offsets", "<i8", None),
    Field("words/text", "u1", "words/offsets"),
)
"""Of every file, streams apart; `audio/davenet` where it is stored."""


def fields(identity: dict[str, Any]) -> list[Field]:
    """The datasets of a file with this Identity, checksums apart. ValueError when nothing can have it."""
    check_identity(identity)
    streams = [
        Field(f"rows/{stream}", "<f2", "rows/offsets", (settings["width"],), stream, large=True)
        for stream, settings in identity["streams"].items()
    ]
    stored = [field for field in FIELDS if field is not _DAVENET or identity["audio"]["store"] != "logmel"]
    return [*stored, *streams]


def check_identity(identity: dict[str, Any]) -> None:
    """ValueError when a reader can't go by what the Identity says of rows and sound; KeyError when it doesn't say it.

    What made the values, it may say as it likes.
    """
    fps, audio = identity["feature_fps"], identity["audio"]
    if type(fps) is not int or not 1 <= fps <= 30:
        raise ValueError(f"feature_fps is {str(fps)[:20]!a}")
    for stream, settings in identity["streams"].items():
        width = settings["width"]
        if not _STREAM.fullmatch(stream) or type(width) is not int or not 1 <= width <= _LARGEST_WIDTH:
            raise ValueError(f"a stream is {stream[:80]!a} of width {str(width)[:20]!a}")
    if audio["rate"] not in ("rows", "native") or audio["store"] not in ("both", "davenet", "logmel"):
        raise ValueError(f"audio is {str(audio)[:80]!a}")
