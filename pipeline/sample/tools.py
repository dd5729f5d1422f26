"""The 12 tools, one for each action: what tells the action in a single frame."""

from collections.abc import Callable
from functools import cache

from PIL import Image

from pipeline.sample.canvas import Canvas, Colour, bezier

STEEL: Colour = (196, 204, 212)
DARK_STEEL: Colour = (120, 130, 142)
BLACK: Colour = (34, 34, 40)

_Drawer = Callable[[Canvas], None]


def _knife(c: Canvas) -> None:
    c.polygon([(30, 36), *bezier([(30, 66), (8, 66), (1, 40)]), (2, 36)], STEEL)
    c.polygon([(2, 36), (66, 36), (66, 66), *bezier([(66, 66), (20, 70), (2, 36)])], STEEL)
    c.line([(6, 40), (64, 40)], 1.2, DARK_STEEL)
    c.box(64, 34, 99, 50, BLACK, 4)
    for x in (72, 82, 92):
        c.ellipse(x, 42, 2, 2, STEEL)


def _peeler(c: Canvas) -> None:
    c.box(42, 40, 58, 99, (30, 140, 200), 7)
    for x in (18, 78):
        c.line([(50, 44), (x, 30), (x, 10)], 6, (30, 140, 200))
    c.box(14, 8, 84, 22, STEEL, 2)
    c.box(22, 13, 76, 16, BLACK, 1)


def _grater(c: Canvas) -> None:
    c.curve([(32, 18), (34, -4), (66, -4), (68, 18)], 6, (200, 40, 40))
    c.polygon([(30, 14), (70, 14), (86, 98), (14, 98)], STEEL)
    for row in range(8):
        for column in range(6):
            x = 50 + (column - 2.5) * (6.5 + row * 0.9) + row % 2 * 3
            c.ellipse(x, 24 + row * 9.2, 2.6, 2.0, (52, 58, 66))


def _whisk(c: Canvas) -> None:
    c.box(44, 0, 56, 42, (230, 70, 120), 5)
    for reach in (-46, -30, -12, 12, 30, 46):
        c.curve([(50, 40), (50 + reach, 62), (50 + reach, 98), (50, 98)], 2.6, STEEL)
    c.box(42, 38, 58, 44, DARK_STEEL, 2)


def _pan(c: Canvas) -> None:
    c.box(80, 44, 100, 54, BLACK, 4)
    c.ellipse(43, 50, 43, 43, (24, 24, 28))
    c.ellipse(43, 50, 37, 37, (62, 62, 70))
    c.ellipse(43, 50, 30, 30, (74, 74, 84))


def _tap(c: Canvas) -> None:
    c.line([(92, 2), (92, 30), (50, 30), (34, 30)], 17, STEEL)
    c.box(24, 24, 42, 52, STEEL, 4)
    c.box(20, 50, 46, 58, DARK_STEEL, 2)
    c.line([(72, 10), (72, 24)], 6, DARK_STEEL)
    c.box(54, 4, 90, 13, (220, 60, 50), 4)
    for x in (24, 30, 36, 42):
        c.line([(x, 58), (x - 1, 99)], 4, (150, 210, 250))


def _brush(c: Canvas) -> None:
    c.box(42, 0, 58, 50, (220, 60, 40), 7)
    c.box(28, 46, 72, 62, (226, 184, 60), 3)
    for x in range(30, 72, 4):
        c.line([(x, 62), (x + (x - 50) * 0.25, 97)], 3.4, (110, 62, 30) if x % 8 else (70, 38, 18))


def _pin(c: Canvas) -> None:
    c.box(0, 44, 100, 57, (150, 84, 40), 6)
    c.box(16, 33, 84, 68, (222, 176, 116), 6)
    for y in (40, 47, 54, 61):
        c.curve([(18, y), (40, y + 3), (60, y - 3), (82, y)], 0.9, (184, 132, 76))


def _masher(c: Canvas) -> None:
    c.box(34, 0, 66, 13, (40, 40, 46), 6)
    c.line([(50, 12), (50, 52)], 7, STEEL)
    c.line([(50, 50), (20, 66), (16, 80)], 6, STEEL)
    c.line([(50, 50), (80, 66), (84, 80)], 6, STEEL)
    c.box(6, 78, 94, 96, DARK_STEEL, 4)
    for x in range(14, 92, 13):
        c.box(x - 3, 82, x + 4, 92, (40, 44, 52), 2)


def _shaker(c: Canvas) -> None:
    c.polygon([(24, 66), (76, 66), (88, 6), (12, 6)], (224, 238, 248))
    c.polygon([(22, 46), (78, 46), (86, 8), (14, 8)], (255, 255, 255))
    c.box(20, 62, 80, 84, (80, 90, 200), 4)
    c.ellipse(50, 85, 30, 11, (80, 90, 200))
    for x, y in ((38, 88), (50, 91), (62, 88), (50, 85)):
        c.ellipse(x, y, 2.4, 2, BLACK)


def _tongs(c: Canvas) -> None:
    for side in (-1, 1):
        c.curve([(50, 4), (50 + side * 34, 30), (50 + side * 50, 54), (50 + side * 26, 88)], 8, STEEL)
        c.ellipse(50 + side * 26, 89, 8, 10, (60, 190, 120), side * 30)
    c.box(40, 0, 60, 12, (60, 190, 120), 4)


def _jug(c: Canvas) -> None:
    c.curve([(74, 14), (110, 20), (96, 66), (74, 62)], 7, (250, 250, 252))
    c.polygon([(20, 8), (80, 8), (76, 76), (28, 76)], (250, 250, 252))
    c.polygon([(20, 8), (2, 4), (26, 34)], (250, 250, 252))
    for y, colour in ((30, (40, 110, 200)), (42, (230, 120, 40)), (54, (40, 110, 200))):
        c.box(26, y, 77, y + 6, colour)


TOOL_OF_ACTION: dict[str, _Drawer] = {
    "chop": _knife,
    "peel": _peeler,
    "grate": _grater,
    "whisk": _whisk,
    "fry": _pan,
    "wash": _tap,
    "brush": _brush,
    "roll": _pin,
    "mash": _masher,
    "salt": _shaker,
    "lift": _tongs,
    "glaze": _jug,
}


@cache
def tool_sprite(action: str) -> Image.Image:
    """The tool of `action` in a square sprite with transparency."""
    canvas = Canvas()
    TOOL_OF_ACTION[action](canvas)
    return canvas.finished(0.03, seed=100 + list(TOOL_OF_ACTION).index(action))


@cache
def host_sprite(look: int, mouth: int) -> Image.Image:
    """Head and shoulders of one of several hosts, the mouth open by `mouth` of 0 to 2."""
    skin: Colour = ((236, 196, 164), (198, 146, 108), (140, 96, 66), (250, 216, 190))[look % 4]
    hair: Colour = ((50, 34, 24), (150, 96, 40), (30, 30, 36), (190, 190, 196), (120, 40, 24))[look % 5]
    shirt: Colour = ((70, 110, 180), (60, 150, 110), (210, 180, 70))[look % 3]
    c = Canvas()
    c.ellipse(50, 104, 46, 34, shirt)
    c.box(42, 60, 58, 80, skin, 4)
    c.ellipse(50, 34, 28, 30, hair)
    c.ellipse(50, 42, 23, 28, skin)
    c.ellipse(50, 18, 24, 9, hair)
    for x in (41, 59):
        c.ellipse(x, 40, 3.6, 2.6, (255, 255, 255))
        c.ellipse(x, 40, 1.6, 1.8, (30, 30, 40))
        c.line([(x - 4, 34), (x + 4, 34)], 1.6, hair)
    c.curve([(50, 42), (46, 52), (51, 52)], 1.2, (120, 80, 60))
    c.ellipse(50, 59, 7, 1.2 + 2 * mouth, (150, 50, 50))
    return c.finished(0.03)
