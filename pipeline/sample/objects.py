"""The 24 objects of the sample, each with its own outline, colours and texture."""

from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image

from pipeline.sample.canvas import Canvas, Colour, bezier

GREEN: Colour = (52, 140, 48)
DARK_GREEN: Colour = (28, 92, 36)
BROWN: Colour = (110, 70, 36)

_Drawer = Callable[[Canvas], None]


def _carrot(c: Canvas) -> None:
    for x, y in ((72, 6), (86, 10), (94, 24), (80, 2), (95, 14)):
        c.curve([(72, 28), (76, 18), (x, y)], 4.5, GREEN)
    c.polygon(
        [(62, 20), (80, 38), *bezier([(80, 38), (60, 68), (6, 96)]), *bezier([(6, 96), (32, 40), (62, 20)])],
        (240, 120, 20),
    )
    for down in (0.15, 0.3, 0.45, 0.6, 0.75):
        edge = (71 - 62 * down, 29 + 60 * down)
        c.line([(edge[0] - 8 * (1 - down), edge[1] - 7 * (1 - down)), edge], 1.3, (190, 80, 5))


def _tomato(c: Canvas) -> None:
    c.ellipse(50, 55, 44, 39, (214, 30, 24))
    c.ellipse(34, 40, 10, 6, (250, 130, 115), -35)
    for angle in range(0, 360, 60):
        x, y = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        c.polygon([(50 + 4 * y, 24 - 4 * x), (50 + 22 * x, 24 + 12 * y), (50 - 4 * y, 24 + 4 * x)], DARK_GREEN)
    c.line([(50, 24), (54, 8)], 4, GREEN)


def _lemon(c: Canvas) -> None:
    c.ellipse(50, 52, 38, 29, (250, 222, 40), -25)
    c.ellipse(86, 34, 9, 7, (250, 222, 40), -25)
    c.ellipse(14, 69, 9, 7, (245, 210, 30), -25)
    for x in range(24, 80, 8):
        for y in range(34, 74, 8):
            if ((x - 50) / 34) ** 2 + ((y - 52) / 22) ** 2 < 0.8:
                c.ellipse(x + y % 5, y - (x - 50) / 3, 1.0, 1.0, (215, 180, 10))
    c.polygon([(88, 32), *bezier([(88, 32), (80, 8), (60, 8)]), *bezier([(60, 8), (74, 26), (88, 32)])], GREEN)


def _banana(c: Canvas) -> None:
    for tip, colour in (((96, 40), (232, 190, 30)), ((97, 62), (250, 214, 50))):
        outer = bezier([(14, 10), (2, 104), tip])
        inner = bezier([tip, (32, 66), (24, 10)])
        c.polygon([*outer, *inner], colour)
    c.curve([(19, 14), (18, 84), (92, 58)], 1.4, (196, 150, 20))
    c.line([(19, 12), (17, 3)], 8, (90, 70, 20))
    c.ellipse(96, 60, 4, 4, (60, 44, 16))


def _egg(c: Canvas) -> None:
    for x, y, size in (
        (50, 52, 34),
        (26, 58, 18),
        (76, 60, 18),
        (40, 78, 16),
        (66, 30, 16),
        (62, 76, 17),
        (34, 32, 15),
    ):
        c.ellipse(x, y, size, size * 0.85, (252, 250, 244))
    c.ellipse(51, 52, 19, 18, (252, 176, 16))
    c.ellipse(45, 45, 5, 4, (255, 232, 150))


def _onion(c: Canvas) -> None:
    c.polygon(
        [
            *bezier([(50, 8), (42, 26), (2, 30), (8, 70)]),
            *bezier([(8, 70), (18, 96), (50, 94)]),
            *bezier([(50, 94), (82, 96), (92, 70)]),
            *bezier([(92, 70), (98, 30), (58, 26), (50, 8)]),
        ],
        (128, 28, 96),
    )
    for shift in (-34, -20, -7, 7, 20, 34):
        c.curve([(50, 14), (50 + 1.3 * shift, 40), (50 + 1.1 * shift, 70), (50, 93)], 1.5, (206, 140, 190))
    for shift in (-6, -2, 2, 6):
        c.line([(50, 92), (50 + shift, 99)], 1.2, (220, 200, 160))


def _broccoli(c: Canvas) -> None:
    c.polygon([(42, 98), (60, 98), (66, 60), (84, 46), (70, 44), (30, 44), (16, 46), (36, 60)], (150, 196, 96))
    for x, y, size in ((24, 38, 17), (76, 38, 17), (38, 24, 18), (62, 24, 18), (50, 40, 19), (50, 14, 12)):
        c.ellipse(x, y, size, size * 0.9, (40, 112, 40))
        for angle in range(0, 360, 40):
            px, py = x + size * 0.7 * np.cos(np.radians(angle)), y + size * 0.62 * np.sin(np.radians(angle))
            c.ellipse(px, py, size * 0.26, size * 0.24, (66, 150, 56) if angle > 170 else (30, 92, 34))


def _mushroom(c: Canvas) -> None:
    c.polygon(
        [(38, 46), (62, 46), *bezier([(62, 46), (60, 80), (70, 96)]), *bezier([(30, 96), (40, 80), (38, 46)])],
        (242, 230, 208),
    )
    c.polygon([*bezier([(4, 54), (6, 2), (94, 2), (96, 54)]), *bezier([(96, 54), (50, 70), (4, 54)])], (176, 122, 78))
    c.ellipse(50, 56, 38, 7, (112, 76, 52))
    for x in range(18, 84, 6):
        c.line([(x, 53), (50 + (x - 50) * 0.6, 61)], 0.8, (230, 205, 170))
    for x, y in ((30, 30), (52, 20), (70, 34), (46, 40)):
        c.ellipse(x, y, 5, 3.5, (206, 160, 116))


def _bread(c: Canvas) -> None:
    c.box(10, 34, 90, 94, (170, 98, 40), 6)
    for x in (26, 50, 74):
        c.ellipse(x, 30, 20, 20, (170, 98, 40))
    c.box(16, 38, 84, 88, (240, 208, 150), 5)
    for x in (28, 50, 72):
        c.ellipse(x, 34, 16, 15, (240, 208, 150))
    random = np.random.default_rng(7)
    for x, y in random.uniform((22, 30), (78, 82), (46, 2)):
        c.ellipse(float(x), float(y), 1.8, 1.2, (206, 166, 104))


def _cheese(c: Canvas) -> None:
    c.polygon([(4, 62), (66, 18), (97, 50), (97, 56)], (255, 226, 110))
    c.polygon([(4, 62), (97, 53), (97, 86), (4, 92)], (246, 190, 40))
    for x, y, size in ((24, 78, 8), (50, 70, 6), (74, 76, 9), (62, 40, 6), (42, 84, 4), (88, 64, 4)):
        c.ellipse(x, y, size, size * 0.8, (196, 134, 16))


def _fish(c: Canvas) -> None:
    c.polygon([(24, 50), (2, 24), (6, 50), (2, 78)], (86, 126, 160))
    c.polygon([*bezier([(14, 50), (50, 8), (98, 50)]), *bezier([(98, 50), (50, 92), (14, 50)])], (128, 172, 200))
    c.polygon([(42, 33), (56, 14), (66, 32)], (86, 126, 160))
    c.polygon([(46, 66), (54, 84), (62, 66)], (86, 126, 160))
    for x in range(30, 74, 8):
        for y in range(38, 66, 7):
            c.ellipse(x + y % 2 * 4, y, 3.4, 2.8, (188, 214, 230))
    c.ellipse(86, 45, 4, 4, (255, 255, 255))
    c.ellipse(86, 45, 2, 2, (10, 10, 20))
    c.curve([(78, 36), (72, 50), (78, 63)], 1.5, (60, 90, 120))


def _pepper(c: Canvas) -> None:
    for x, across in ((28, 24), (72, 24), (50, 24)):
        c.ellipse(x, 58, across, 38, (36, 150, 46))
    for x in (38, 62):
        c.curve([(x, 24), (x + (x - 50) / 3, 60), (x, 94)], 2, (16, 96, 26))
    c.ellipse(50, 24, 12, 5, (16, 96, 26))
    c.curve([(50, 24), (50, 10), (62, 4)], 7, (84, 130, 40))
    c.ellipse(24, 48, 4, 13, (150, 220, 140))


def _corn(c: Canvas) -> None:
    c.ellipse(50, 44, 21, 42, (236, 176, 20))
    for y in range(6, 84, 6):
        for x in range(31, 74, 7):
            if ((x - 50) / 21) ** 2 + ((y - 44) / 41) ** 2 < 0.95:
                c.ellipse(x, y, 3.2, 2.7, (255, 220, 70))
    c.polygon(
        [(50, 98), *bezier([(50, 98), (14, 90), (16, 36)]), *bezier([(16, 36), (36, 60), (50, 98)])], (110, 170, 60)
    )
    c.polygon(
        [(50, 98), *bezier([(50, 98), (86, 90), (84, 36)]), *bezier([(84, 36), (64, 60), (50, 98)])], (84, 146, 50)
    )


def _strawberry(c: Canvas) -> None:
    c.polygon(
        [*bezier([(50, 98), (2, 66), (4, 16), (50, 24)]), *bezier([(50, 24), (96, 16), (98, 66), (50, 98)])],
        (226, 24, 60),
    )
    for y in range(34, 90, 10):
        for x in range(20, 84, 11):
            if abs(x - 50) < (94 - y) * 0.6:
                c.ellipse(x + y % 4 * 2, y, 1.3, 2.2, (255, 222, 120))
    for x in (18, 34, 50, 66, 82):
        c.polygon([(46, 16), (x, 34), (54, 16)], GREEN)
    c.line([(50, 18), (50, 5)], 4, GREEN)


def _cucumber(c: Canvas) -> None:
    c.line([(16, 84), (78, 22)], 27, (36, 110, 44))
    for shift in (-8, 0, 8):
        c.line([(14 + shift, 82 + shift), (70 + shift, 26 + shift)], 1.6, (120, 180, 90))
    c.ellipse(80, 20, 15, 12, (36, 110, 44), 45)
    c.ellipse(81, 19, 12, 9, (214, 240, 170), 45)
    for x, y in ((78, 16), (84, 22), (78, 22), (84, 16)):
        c.ellipse(x, y, 1.6, 0.9, (250, 250, 220), 45)


def _pumpkin(c: Canvas) -> None:
    for x, across in ((20, 18), (80, 18), (34, 18), (66, 18), (50, 17)):
        c.ellipse(x, 58, across, 36 if x == 50 else 34, (236, 118 + (x % 20), 14))
    for x in (27, 42, 58, 73):
        c.curve([(50 + (x - 50) * 0.5, 26), (x + (x - 50) * 0.7, 58), (50 + (x - 50) * 0.5, 91)], 1.8, (168, 70, 4))
    c.polygon([(44, 28), (42, 10), (54, 4), (58, 10), (56, 28)], (96, 112, 48))


def _chocolate(c: Canvas) -> None:
    c.box(14, 6, 86, 94, (70, 36, 18), 3)
    for row in range(4):
        for column in range(3):
            x, y = 18 + column * 22, 10 + row * 21
            c.box(x, y, x + 19, y + 18, (104, 58, 32), 1)
            c.box(x + 4, y + 4, x + 15, y + 14, (84, 44, 24), 1)


def _butter(c: Canvas) -> None:
    c.ellipse(50, 74, 48, 17, (226, 232, 240))
    c.ellipse(50, 71, 40, 12, (176, 196, 220))
    c.polygon([(16, 46), (34, 32), (86, 32), (70, 46)], (255, 246, 176))
    c.polygon([(16, 46), (70, 46), (70, 76), (16, 76)], (250, 226, 120))
    c.polygon([(70, 46), (86, 32), (86, 62), (70, 76)], (226, 194, 84))
    for x in (30, 43, 56):
        c.line([(x, 47), (x, 75)], 0.9, (226, 194, 84))


def _potato(c: Canvas) -> None:
    c.ellipse(42, 56, 36, 32, (190, 148, 90), 15)
    c.ellipse(64, 48, 31, 27, (190, 148, 90), -20)
    for x, y in ((24, 48), (46, 34), (66, 40), (80, 54), (36, 72), (58, 64), (50, 52), (70, 66), (28, 62)):
        c.ellipse(x, y, 3.2, 1.7, (112, 80, 42), x * 7 % 60)


def _apple(c: Canvas) -> None:
    c.ellipse(34, 58, 29, 36, (150, 200, 40), 8)
    c.ellipse(66, 58, 29, 36, (150, 200, 40), -8)
    c.ellipse(50, 62, 28, 32, (150, 200, 40))
    c.ellipse(50, 27, 10, 4, (90, 130, 20))
    c.curve([(50, 28), (48, 14), (56, 4)], 4, BROWN)
    c.polygon([(54, 16), *bezier([(54, 16), (70, 0), (92, 10)]), *bezier([(92, 10), (76, 24), (54, 16)])], DARK_GREEN)
    c.ellipse(26, 46, 5, 11, (222, 244, 150), 15)


def _grapes(c: Canvas) -> None:
    c.line([(50, 24), (56, 4)], 4, BROWN)
    c.polygon([(56, 14), (74, 4), (92, 10), (88, 26), (70, 26)], GREEN)
    for row, count in enumerate((5, 4, 5, 4, 3, 2, 1)):
        for i in range(count):
            x, y = 50 + (i - (count - 1) / 2) * 17, 26 + row * 11
            c.ellipse(x, y, 9.5, 9.5, (54, 24, 92))
            c.ellipse(x - 1, y - 1, 7.5, 7.5, (98, 56, 150))
            c.ellipse(x - 3.5, y - 3.5, 2, 2, (206, 180, 236))


def _melon(c: Canvas) -> None:
    for radius, colour in ((48, (24, 100, 40)), (44, (210, 240, 190)), (40, (236, 60, 76))):
        angles = np.radians(np.linspace(0, 180, 60))
        c.polygon([(50 + radius * np.cos(a), 30 + 1.3 * radius * np.sin(a)) for a in angles], colour)
    for x, y in ((26, 40), (40, 44), (54, 40), (68, 44), (78, 38), (34, 56), (50, 58), (64, 58), (44, 70), (57, 70)):
        c.ellipse(x, y, 1.8, 3, (24, 16, 16))


def _cake(c: Canvas) -> None:
    c.box(8, 50, 92, 92, (206, 140, 84), 4)
    c.box(8, 64, 92, 71, (250, 220, 226))
    c.ellipse(50, 50, 42, 13, (250, 160, 190))
    for x in range(12, 92, 11):
        c.box(x - 4, 50, x + 5, 58 + x * 7 % 9, (250, 160, 190), 4)
    for x in (26, 50, 74):
        c.box(x - 2, 20, x + 2, 48, (90, 170, 230))
        c.ellipse(x, 14, 3, 6, (255, 190, 40))


def _avocado(c: Canvas) -> None:
    for shrink, colour in ((0, (44, 60, 28)), (4, (112, 156, 50)), (9, (222, 228, 130))):
        c.ellipse(50, 62, 36 - shrink, 35 - shrink, colour)
        c.polygon(
            [
                (50 - 33 + shrink, 52),
                *bezier([(18 + shrink, 54), (34, 6 + shrink), (50, 4 + shrink)]),
                *bezier([(50, 4 + shrink), (66, 6 + shrink), (82 - shrink, 54)]),
            ],
            colour,
        )
    c.ellipse(50, 65, 16, 16, (120, 68, 30))
    c.ellipse(44, 59, 4, 3, (200, 150, 100))


_DRAWERS: dict[str, tuple[_Drawer, float]] = {
    "apple": (_apple, 0.05),
    "avocado": (_avocado, 0.08),
    "banana": (_banana, 0.06),
    "bread": (_bread, 0.10),
    "broccoli": (_broccoli, 0.14),
    "butter": (_butter, 0.03),
    "cake": (_cake, 0.08),
    "carrot": (_carrot, 0.09),
    "cheese": (_cheese, 0.05),
    "chocolate": (_chocolate, 0.05),
    "corn": (_corn, 0.06),
    "cucumber": (_cucumber, 0.10),
    "egg": (_egg, 0.02),
    "fish": (_fish, 0.08),
    "grapes": (_grapes, 0.05),
    "lemon": (_lemon, 0.06),
    "melon": (_melon, 0.06),
    "mushroom": (_mushroom, 0.08),
    "onion": (_onion, 0.06),
    "pepper": (_pepper, 0.05),
    "potato": (_potato, 0.14),
    "pumpkin": (_pumpkin, 0.07),
    "strawberry": (_strawberry, 0.06),
    "tomato": (_tomato, 0.04),
}


@cache
def object_sprite(name: str) -> Image.Image:
    """The object `name` filling a square sprite with transparency."""
    drawer, grain = _DRAWERS[name]
    canvas = Canvas()
    drawer(canvas)
    return canvas.finished(grain, seed=sorted(_DRAWERS).index(name))
