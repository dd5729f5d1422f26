"""Settings of `mcn embed`, `mcn index` and `mcn search`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SMALLEST_MEMORY = 512 << 20


_UNITS = {"B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


@dataclass(frozen=True)
class EmbedSettings:
    """Settings of `mcn embed`."""

    checkpoint: Path
    """Trained model: a checkpoint file or the folder it lies in."""
    out: Path
    """The HDF5 file to write (.h5); a summary is written beside it (.json)."""
    manifest: Path | None = None
    """Manifest of `mcn freeze`; default: the one the model was trained on."""
    split: str = "all"
    """Clips of which videos: a split of the manifest, heldout (every split whose name begins so), or all."""
    clips: Literal["captions", "windows"] = "captions"
    """captions: each caption, grown as in training, equal spans once (a video without captions: windows). windows: side
    by side, whatever is said."""
    window_seconds: float = 10.0
    """Length of a window, s."""
    precision: Literal["float16", "float32"] = "float16"
    """Of the stored vectors; a value that float16 can't hold is an error."""

    def __post_init__(self) -> None:
        if self.window_seconds < 1:
            raise ValueError("`window_seconds` must be at least 1")
        if self.out.suffix != ".h5":
            raise ValueError(f"`out` must be a file that ends in .h5, not {self.out}")


@dataclass(frozen=True)
class IndexSettings:
    """Settings of `mcn index`."""

    embeddings: Path
    """File of `mcn embed`."""
    out: Path
    """Folder of the index."""
    space: str = ""
    """Space of the vectors; default: the one that contrasts text with the modality."""
    modality: str = "video"
    """Whose vectors are searched: video, audio or text."""
    memory: str = "1GiB"
    """Bytes that building and searching may take, PyTorch apart, which a text query needs: 800MiB, 4GiB."""

    def __post_init__(self) -> None:
        memory_bytes(self.memory)


def memory_bytes(text: str) -> int:
    """`1GiB` in bytes; ValueError for what is no size, or too small."""
    number = text.upper().rstrip("BIKMG ")
    unit = text.upper()[len(number) :].strip()
    try:
        size = int(float(number) * _UNITS[unit])
    except (KeyError, ValueError, OverflowError):
        raise ValueError(f"`memory`: expected a size such as 1GiB or 800MiB, got {text!r}") from None
    if size < SMALLEST_MEMORY:
        raise ValueError(f"`memory` is {text}: at least {SMALLEST_MEMORY >> 20}MiB are needed")
    return size


@dataclass(frozen=True)
class SearchSettings:
    """Settings of `mcn search`."""

    index: Path
    """Folder of `mcn index`."""
    query: str = ""
    """What to look for, in quotes."""
    like: str = ""
    """VIDEO@SECONDS in place of a query: clips like the one of that video at that second."""
    top: int = 10
    """How many clips to show."""
    thumbnails: Path | None = None
    """Folder for a JPEG of each clip's middle, where its media are there."""
    media: Path | None = None
    """Folder of media files; default: the one that the data set was made from."""
    checkpoint: Path | None = None
    """The model, where it isn't any more where it was."""
    manifest: Path | None = None
    """The manifest, where it isn't any more where it was."""
    embeddings: Path | None = None
    """The embeddings file, where it isn't any more where it was."""
    json: bool = False
    """Print JSON."""

    def __post_init__(self) -> None:
        if not 1 <= self.top <= 1000:
            raise ValueError("`top` must be 1 to 1000")
        if self.media is not None and self.thumbnails is None:
            raise ValueError("`media` goes with `thumbnails`: where pictures are to be written")
