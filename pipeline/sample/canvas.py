"""Shapes with texture and shading on a transparent square, from which the sample's objects and tools are made."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from scipy.ndimage import gaussian_filter, zoom

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
