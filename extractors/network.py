"""What a row of the table of networks says of one: how it is built and run, what it is fed, where its weights are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extractors.timeline import GRID_FPS

if TYPE_CHECKING:
    from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ClipShape:
    """What a video network sees of a row: `frames` frames, `step` frames of the 30 fps grid apart.

    Each is resized to `resize` (height, width), or by one number to that short side, and cut to its middle `side` x
    `side`, as the published transform does it.
    """

    frames: int
    step: int
    resize: tuple[int, ...]
    side: int

    @property
    def fps(self) -> float:
        """Frames a second; whole where that is a whole number."""
        return GRID_FPS // self.step if GRID_FPS % self.step == 0 else GRID_FPS / self.step


@dataclass(frozen=True)
class PictureShape:
    """What a network of pictures sees of a frame, where its publisher states that for each network by itself.

    The frame is resized by antialiased `interpolation` (`bilinear` or `bicubic`) to `resize` (height, width): by mode
    `center` so that it covers them, `border` so that it fits into them, `squash` to just these. Its middle `cut`
    (height, width) is shown; what lacks of it has the network's mean colour.
    """

    resize: tuple[int, int]
    cut: tuple[int, int]
    interpolation: str
    mode: str

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a frame after the resize."""
        if self.mode == "squash":
            return self.resize
        ratios = height / self.resize[0], width / self.resize[1]
        if self.mode == "center" and self.resize[0] == self.resize[1]:
            short = min(height, width)
            return self.resize[0] * height // short, self.resize[0] * width // short
        ratio = max(ratios) if self.mode == "border" else min(ratios)
        return round(height / ratio), round(width / ratio)


@dataclass(frozen=True)
class Source:
    """Where published weights come from, and on which terms."""

    address: str
    terms: str


def _no_source(name: str) -> Source:
    raise KeyError(name)


def _no_file(name: str, folder: Path | None) -> Path:
    raise KeyError(name)


@dataclass(frozen=True)
class Network:
    """A network without its weights.

    `build` gives the module with its initial values, parameters under their published names. `feature_map` runs it:
    pictures `(B, 3, H, W)` or clips `(B, 3, T, H, W)` to `(B, width)` or `(B, width, h, w)`, of which the average over
    positions is taken; `(B, 40, T)` log-mel to `(B, width, t)`. Pixels in 0..255 are shifted by `pixel_mean` and
    divided by `pixel_deviation`. `last_norm` is the attribute under which each residual block keeps the batch norm that
    ends its branch. Tensors of a weights file whose name starts with one of `unused` don't enter the features, and what
    matches a pattern of `renamed` is read under the name beside it. `fetch` gives the file of the weights that one of
    the names in `published` stands for, in a folder or (None) where such files are kept; `source` where
    they come from. `build` and `fetch` raise WeightsError when a package is missing or the file can't be downloaded.
    `remarks` are its publisher's on these weights, a line each.
    """

    name: str
    width: int
    build: Callable[[], nn.Module]
    feature_map: Callable[[Any, Tensor], Tensor]
    unused: tuple[str, ...]
    default_weights: str
    last_norm: str = ""
    renamed: tuple[tuple[str, str], ...] = ()
    published: tuple[str, ...] = ()
    fetch: Callable[[str, Path | None], Path] = _no_file
    source: Callable[[str], Source] = _no_source
    pixel_mean: tuple[float, ...] = ()
    pixel_deviation: tuple[float, ...] = ()
    side: int = 0
    """The only height and width of pictures that it takes; 0 where any will do."""
    clip: ClipShape | None = None
    """What a video network sees of a row; None for a network of pictures or sound."""
    picture: PictureShape | None = None
    """What a network of pictures sees of a frame; None where the view says it."""
    remarks: tuple[str, ...] = ()


def in_bytes(values: tuple[float, ...]) -> tuple[float, ...]:
    """Means or deviations of pixels in 0..1 as those of pixels in 0..255."""
    return tuple(255 * value for value in values)
