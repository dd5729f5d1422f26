"""The 8 backgrounds: a wall above a table, wider than the frame so that the camera can move."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from pipeline.sample.canvas import Colour, grain_of
from pipeline.sample.procedures import BACKGROUNDS

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
