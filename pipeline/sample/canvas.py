"""Shapes with texture and shading on a transparent square, and the 8 backgrounds: what frames are drawn from."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from scipy.ndimage import gaussian_filter, zoom

from pipeline.sample.procedures import BACKGROUNDS

Colour = tuple[int, int, int]
Point = tuple[float, float]

SIDE = 384
"""Pixels of a finished sprite's side."""
_OVERSAMPLED = 2


class Canvas:
    """A transparent square of 100 x 100 units, y downwards."""

    def __init__(self) -> None:
        self.image = Image.new("RGBA", (SIDE * _OVERSAMPLED, SIDE * _OVERSAMPLED))
        self._draw = ImageDraw.Draw(self.image)
        self._unit = SIDE * _OVERSAMPLED / 100

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        """A filled polygon."""
        self._draw.polygon([(x * self._unit, y * self._unit) for x, y in points], fill=(*colour, 255))

    def ellipse(self, x: float, y: float, across: float, down: float, colour: Colour, turn: float = 0.0) -> None:
        """A filled ellipse about (x, y) with half axes `across` and `down`, turned by `turn` degrees clockwise."""
        angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
        cosine, sine = np.cos(np.radians(turn)), np.sin(np.radians(turn))
        horizontal, vertical = across * np.cos(angles), down * np.sin(angles)
        points = zip(x + horizontal * cosine - vertical * sine, y + horizontal * sine + vertical * cosine, strict=True)
        self.polygon([(float(px), float(py)) for px, py in points], colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour, radius: float = 0.0) -> None:
        """A filled rectangle with rounded corners."""
        corners = [value * self._unit for value in (left, top, right, bottom)]
        self._draw.rounded_rectangle(corners, radius * self._unit, fill=(*colour, 255))

    def line(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """A line with round ends and joints."""
        pixels = [(x * self._unit, y * self._unit) for x, y in points]
        self._draw.line(pixels, (*colour, 255), int(width * self._unit), "curve")
        for x, y in (points[0], points[-1]):
            self.ellipse(x, y, width / 2, width / 2, colour)

    def curve(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """A smooth (Bezier) curve with the given control points."""
        self.line(bezier(points), width, colour)

    def finished(self, grain: float = 0.10, grain_size: float = 3.0, seed: int = 0) -> Image.Image:
        """The sprite: lit from the upper left, with grain of relative strength `grain`, a dark rim and soft edges."""
        sprite = self.image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        pixels = np.asarray(sprite, dtype=np.float32)
        colour, alpha = pixels[..., :3], pixels[..., 3:]
        # A blurred outline is high in the middle: its slope stands for the surface's slope.
        relief = gaussian_filter(alpha[..., 0] / 255, SIDE / 22)
        slope_y, slope_x = np.gradient(relief)
        light = 1 + SIDE * 0.0215 * (slope_x + slope_y)
        texture = 1 + grain * grain_of(np.random.default_rng([seed, *b"grain"]), SIDE, SIDE, grain_size)
        inner = np.asarray(sprite.getchannel("A").filter(ImageFilter.MinFilter(5)), dtype=np.float32)
        rim = 0.45 + 0.55 * gaussian_filter(inner, 1.2) / 255
        shaded = np.clip(colour * (np.clip(light, 0.62, 1.3) * texture * rim)[..., None], 0, 255)
        return Image.fromarray(np.concatenate([shaded, alpha], axis=2).astype(np.uint8), "RGBA")


def bezier(points: Sequence[Point], steps: int = 40) -> list[Point]:
    """Points of the Bezier curve with the given control points (de Casteljau)."""
    result = []
    for t in np.linspace(0, 1, steps):
        level = np.array(points, dtype=float)
        while len(level) > 1:
            level = (1 - t) * level[:-1] + t * level[1:]
        result.append((float(level[0][0]), float(level[0][1])))
    return result


def grain_of(random: np.random.Generator, height: int, width: int, size: float) -> NDArray[np.float32]:
    """[height, width] smooth noise of unit deviation with features of about `size` pixels."""
    rows, columns = int(height / size) + 3, int(width / size) + 3
    coarse = random.standard_normal((rows, columns)).astype(np.float32)
    fine = zoom(coarse, size, order=1)[:height, :width]
    return np.asarray(fine / fine.std(), dtype=np.float32)


WIDER = 1.4
HIGHER = 1.08
TABLE_TOP = 0.60
"""Where the wall ends, as a share of the height."""

_Pixels = NDArray[np.float32]


def _plain(height: int, width: int, colour: Colour) -> _Pixels:
    return np.full((height, width, 3), colour, np.float32)


def _marked(mask: NDArray[np.bool_], colour: Colour, other: Colour) -> _Pixels:
    return np.where(mask[..., None], np.array(colour, np.float32), np.array(other, np.float32))


def _wall(name: str, height: int, width: int, unit: float, random: np.random.Generator) -> _Pixels:
    rows, columns = np.indices((height, width))
    if name == "tiles":
        joint = ((rows % int(0.16 * unit)) < 3) | ((columns % int(0.16 * unit)) < 3)
        return _marked(joint, (150, 170, 172), (206, 226, 226))
    if name == "brick":
        row = rows // int(0.09 * unit)
        joint = ((rows % int(0.09 * unit)) < 4) | (((columns + row % 2 * int(0.11 * unit)) % int(0.22 * unit)) < 4)
        return _marked(joint, (178, 164, 152), (150, 82, 66))
    if name == "garden":
        leaves = grain_of(random, height, width, unit / 16)[..., None]
        return _plain(height, width, (112, 158, 96)) + leaves * np.array((22, 30, 18), np.float32)
    if name == "night":
        sky = _plain(height, width, (26, 30, 62)) + (rows / height * 40)[..., None].astype(np.float32)
        lights = grain_of(random, height, width, unit / 24) > 2.3
        return np.where(lights[..., None], np.array((240, 214, 140), np.float32), sky)
    if name == "plaster":
        stain = grain_of(random, height, width, unit / 4)[..., None]
        return _plain(height, width, (216, 200, 168)) + 9 * stain
    if name == "pegboard":
        step = int(0.07 * unit)
        hole = ((rows % step - step / 2) ** 2 + (columns % step - step / 2) ** 2) < 16
        return _marked(hole, (92, 74, 56), (186, 156, 118))
    if name == "curtain":
        fold = np.sin(columns / (0.03 * unit))[..., None] * np.ones((height, 1, 1))
        return (_plain(height, width, (150, 84, 120)) + 26 * fold).astype(np.float32)
    shelf = (rows % int(0.28 * unit)) < 10
    return _marked(shelf, (96, 104, 112), (158, 168, 178))


_TABLES: dict[str, tuple[Colour, bool]] = {
    "tiles": ((176, 132, 88), True),
    "brick": ((206, 206, 200), False),
    "garden": ((150, 116, 84), True),
    "night": ((92, 70, 60), True),
    "plaster": ((120, 146, 150), False),
    "pegboard": ((128, 128, 124), False),
    "curtain": ((232, 224, 210), False),
    "steel": ((140, 150, 160), False),
}


@lru_cache(maxsize=2 * len(BACKGROUNDS))
def background(name: str, width: int, height: int) -> Image.Image:
    """The background `name` for frames of width x height: RGB of 1.4 x 1.08 that size, slightly out of focus."""
    random = np.random.default_rng([*name.encode()])
    full_width, full_height = round(width * WIDER), round(height * HIGHER)
    unit = float(min(width, height))
    edge = round(full_height * TABLE_TOP)
    wall = _wall(name, edge, full_width, unit, random)
    colour, planks = _TABLES[name]
    table = _plain(full_height - edge, full_width, colour)
    if planks:
        table += 12 * grain_of(random, 40, full_width, unit / 30).repeat(8, axis=0)[: full_height - edge, :, None]
    table *= np.linspace(0.78, 1.08, full_height - edge, dtype=np.float32)[:, None, None]
    pixels = np.concatenate([wall, table]) + 3 * grain_of(random, full_height, full_width, 3)[..., None]
    pixels[edge - 2 : edge + 3] *= 0.7
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8), "RGB")
    return image.filter(ImageFilter.GaussianBlur(unit / 240))
