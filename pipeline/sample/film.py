"""One video's media file: drawn frames and sound as H.264 and AAC in MP4, the same bytes from the same story."""

import math
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

from extractors.made_clip import SOUND_RATE, sound_frame
from pipeline.core.files import write_aside
from pipeline.sample.canvas import HIGHER, WIDER, Colour, background
from pipeline.sample.objects import object_sprite
from pipeline.sample.procedures import ABSENT
from pipeline.sample.sound import Soundtrack
from pipeline.sample.story import FRAME_RATE, Segment, VideoStory
from pipeline.sample.tools import host_sprite, tool_sprite

OBJECT_SHARE = 0.66
"""Side of a step's object as a share of the frame's short side; a filler's lies smaller."""
RESTING_SHARE = 0.34
TOOL_SHARE = 0.60
HOSTS = 12
_SIZE_STEP = 4
_ANGLE_STEP = 4


@lru_cache(maxsize=600)
def _scaled(kind: str, name: str, width: int, height: int, angle: int, mirrored: bool) -> Image.Image:
    sprite = object_sprite(name) if kind == "object" else tool_sprite(name)
    if mirrored:
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    sprite = sprite.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return sprite.rotate(angle, Image.Resampling.BILINEAR, expand=True) if angle else sprite


class SegmentScene:
    """Draws one segment of a video; all that varies by chance is drawn from `random` at the start."""

    def __init__(self, segment: Segment, width: int, height: int, host: int, random: np.random.Generator) -> None:
        self.segment = segment
        self.size = (width, height)
        self._unit = min(width, height)
        self._backdrop = background(segment.background, width, height)
        self._host = host
        self._phase = float(random.uniform(0, 1))
        self._beats = float(random.uniform(1.6, 2.4))
        self._scale = float(random.uniform(0.93, 1.07))
        self._mirrored = bool(random.random() < 0.5)
        self._shift = random.uniform(-0.04, 0.04, 2)
        self._camera = random.uniform(0.2, 0.8, 2)
        self._specks = random.uniform(0, 1, (26, 3))

    def frame(self, seconds: float) -> Image.Image:
        """The RGB frame at `seconds` from the segment's start."""
        self._progress = min(1.0, seconds / (self.segment.end - self.segment.start))
        self._turn = 2 * math.pi * (self._phase + seconds * self._beats)
        self._seconds = seconds
        image = self._view(seconds)
        self._canvas, self._draw = image, ImageDraw.Draw(image)
        if self.segment.kind == "step":
            getattr(self, f"_{self.segment.action}")()
        elif self.segment.kind == "talk":
            self._talk()
        elif self.segment.object != ABSENT:
            self._object(0.5 + 0.9 * (0.5 - self._progress), 0.72, RESTING_SHARE)
        return image

    def _view(self, seconds: float) -> Image.Image:
        width, height = self.size
        room_x, room_y = width * (WIDER - 1), height * (HIGHER - 1)
        sway = 0.02 * math.sin(2.1 * seconds + 6 * self._phase)
        across = self._progress if self.segment.kind == "pan" else self._camera[0] + sway
        if self.segment.kind == "scene":
            across = 0.3 * self._camera[0] + 0.35 * self._progress
        left, top = int(room_x * across), int(room_y * min(1.0, max(0.0, self._camera[1] + sway)))
        return self._backdrop.crop((left, top, left + width, top + height))

    def _paste(self, sprite: Image.Image, x: float, y: float) -> None:
        """Paste centred at (x, y), shares of the frame's sides; mirrored segments are mirrored as a whole."""
        x = 1 - x if self._mirrored else x
        left = int(x * self.size[0] - sprite.width / 2)
        self._canvas.paste(sprite, (left, int(y * self.size[1] - sprite.height / 2)), sprite)

    def _sprite(self, kind: str, name: str, share: float, squash: float = 1.0, angle: float = 0.0) -> Image.Image:
        side = self._unit * share * self._scale
        width = round(side * (2 - squash) / _SIZE_STEP) * _SIZE_STEP
        height = round(side * squash / _SIZE_STEP) * _SIZE_STEP
        signed = -angle if self._mirrored else angle
        return _scaled(kind, name, width, height, round(signed / _ANGLE_STEP) * _ANGLE_STEP, self._mirrored)

    def _object(self, x: float, y: float, share: float = OBJECT_SHARE, squash: float = 1.0) -> None:
        sprite = self._sprite("object", self.segment.object, share, squash)
        self._shadow(x + self._shift[0], y + self._shift[1] + share * squash * self._unit / self.size[1] * 0.46, share)
        self._paste(sprite, x + self._shift[0], y + self._shift[1])

    def _shadow(self, x: float, y: float, share: float) -> None:
        x = (1 - x if self._mirrored else x) * self.size[0]
        across, down = share * self._unit * 0.42, share * self._unit * 0.07
        box = (x - across, y * self.size[1] - down, x + across, y * self.size[1] + down)
        self._draw.ellipse(box, fill=(60, 52, 48))

    def _tool(self, x: float, y: float, angle: float = 0.0, share: float = TOOL_SHARE) -> None:
        # Positions are meant for the wide frame; on a narrow one the tool keeps its distance from the object.
        spread = min(1.0, self._unit / self.size[0] * 16 / 9)
        x = 0.44 + (x - 0.44) * spread if self.size[0] > self._unit else 0.44 + (x - 0.44) * 1.3
        y = 0.58 + (y - 0.58) * self._unit / self.size[1]
        sprite = self._sprite("tool", self.segment.action, share, 1.0, angle)
        self._paste(sprite, x + self._shift[0], y + self._shift[1])

    def _fall(self, colour: Colour, size: float, count: int, top: float, bottom: float, spread: float = 0.22) -> None:
        """Specks that fall round the object again and again."""
        radius = max(1.0, size * self._unit)
        centre = 1 - 0.44 - self._shift[0] if self._mirrored else 0.44 + self._shift[0]
        for across, start, speed in self._specks[:count]:
            fallen = (start + self._seconds * (0.8 + speed)) % 1
            x = centre * self.size[0] + (across - 0.5) * 2 * spread * self._unit
            y = (0.58 + self._shift[1]) * self.size[1] + (top + fallen * (bottom - top)) * self._unit
            self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)

    def _talk(self) -> None:
        mouth = int(self._seconds * 7 + self._phase * 3) % 3 if self.segment.text else 0
        side = round(self._unit * 0.86)
        sprite = host_sprite(self._host, mouth).resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
        bob = 0.006 * math.sin(3 * self._seconds)
        self._paste(sprite, 0.40, 1 - side / 2 / self.size[1] + 0.02 + bob)
        if self.segment.object != ABSENT:
            self._object(0.78, 0.80, RESTING_SHARE * 0.9)

    def _chop(self) -> None:
        gap = 0.03 + 0.10 * self._progress
        whole = self._sprite("object", self.segment.object, OBJECT_SHARE)
        half = whole.width // 2
        self._shadow(0.44 + self._shift[0], 0.58 + self._shift[1] + 0.3 * self._unit / self.size[1], OBJECT_SHARE)
        for side, left, right in ((-1, 0, half), (1, half, whole.width)):
            part = whole.crop((left, 0, right, whole.height))
            offset = side * (gap * self._unit + part.width) / 2 / self.size[0] * (-1 if self._mirrored else 1)
            self._paste(part, 0.44 + self._shift[0] + offset, 0.58 + self._shift[1])
        self._tool(0.56, 0.30 + 0.16 * abs(math.sin(self._turn)), 18)

    def _peel(self) -> None:
        self._object(0.44, 0.58)
        stroke = math.sin(self._turn)
        self._tool(0.60 + 0.06 * stroke, 0.42 + 0.14 * stroke, 40)
        self._fall((210, 160, 90), 0.016, 8, 0.1, 0.42, 0.3)

    def _grate(self) -> None:
        self._tool(0.66, 0.46, -6, 0.86)
        self._object(0.40, 0.56 + 0.07 * math.sin(self._turn))
        self._fall((250, 226, 150), 0.010, 24, 0.2, 0.42, 0.4)

    def _whisk(self) -> None:
        self._object(0.44, 0.62)
        self._tool(
            0.46 + 0.09 * math.cos(self._turn), 0.36 + 0.04 * math.sin(self._turn), 24 * math.cos(self._turn), 0.72
        )

    def _fry(self) -> None:
        self._tool(0.48, 0.60, 0, 1.02)
        self._object(0.42, 0.57 - 0.03 * abs(math.sin(self._turn)), OBJECT_SHARE * 0.86)
        self._fall((236, 236, 236), 0.020, 9, 0.0, -0.6, 0.3)

    def _wash(self) -> None:
        self._object(0.44, 0.64)
        self._tool(0.56, 0.28, 0, 0.72)
        self._fall((120, 196, 250), 0.014, 26, -0.15, 0.45, 0.34)

    def _brush(self) -> None:
        self._object(0.44, 0.60)
        stroke = math.sin(self._turn)
        self._tool(0.50 + 0.12 * stroke, 0.38, -20 + 22 * stroke)

    def _roll(self) -> None:
        self._object(0.44, 0.62, squash=1 - 0.22 * self._progress)
        self._tool(0.46 + 0.12 * math.sin(self._turn), 0.40, 8, 0.92)

    def _mash(self) -> None:
        push = abs(math.sin(self._turn))
        self._object(0.44, 0.62, squash=1 - 0.10 * push - 0.14 * self._progress)
        self._tool(0.48, 0.26 + 0.12 * push, 0, 0.72)

    def _salt(self) -> None:
        self._object(0.44, 0.62)
        self._fall((255, 255, 255), 0.010, 26, -0.3, 0.2, 0.2)
        self._tool(0.50, 0.26 + 0.04 * math.sin(2 * self._turn), 20 + 10 * math.sin(2 * self._turn), 0.52)

    def _lift(self) -> None:
        height = 0.05 * math.sin(self._turn / 2)
        self._object(0.44, 0.60 + height)
        self._tool(0.44, 0.38 + height * self.size[1] / self._unit, 0, 0.78)

    def _glaze(self) -> None:
        self._object(0.44, 0.62)
        self._fall((96, 48, 20), 0.020, 26, -0.22, 0.2, 0.05)
        self._tool(0.62, 0.26 + 0.02 * math.sin(self._turn), 44, 0.58)


TICKS = 600
"""Ticks a second of the frames' times."""
_VARIED_INTERVALS = (10, 20, 30, 50)
"""Ticks from frame to frame of the variable-rate video: 60 to 12 frames a second."""

_NEW_DRAWING = 2 * TICKS // FRAME_RATE
"""Ticks before the drawing changes: animated on twos, as drawn films are, which halves the work."""


def frame_ticks(story: VideoStory) -> list[tuple[int, int]]:
    """(time, duration) of every frame in 1/600 s; they fill the video without a gap."""
    end = story.frames * TICKS // FRAME_RATE
    if not story.variable_rate:
        return [(tick, TICKS // FRAME_RATE) for tick in range(0, end, TICKS // FRAME_RATE)]
    random = story.random("frame times")
    # A frame at every cut, so that none stays on into the next segment.
    drawn = np.cumsum(random.choice(_VARIED_INTERVALS, size=end // min(_VARIED_INTERVALS))).tolist()
    cuts = (segment.first * TICKS // FRAME_RATE for segment in story.segments)
    times = sorted({*cuts, *(time for time in drawn if time < end)})
    return list(zip(times, np.diff([*times, end]).tolist(), strict=True))


def _frames(story: VideoStory) -> Iterator[tuple[av.VideoFrame, int]]:
    """Each frame and the tick at which it ends."""
    segments = iter(story.segments)
    scene, drawn_at = None, 0
    for time, duration in frame_ticks(story):
        cut = scene is None or time / TICKS >= scene.segment.end
        if scene is None or cut:
            segment = next(segments)
            random = story.random(f"scene {segment.first}")
            scene = SegmentScene(segment, story.width, story.height, (story.seed + story.index) % HOSTS, random)
        if cut or time - drawn_at >= _NEW_DRAWING:
            picture = av.VideoFrame.from_image(scene.frame(time / TICKS - scene.segment.start))
            frame, drawn_at = picture.reformat(format="yuv420p"), time
        frame.pts, frame.duration, frame.time_base = time, duration, Fraction(1, TICKS)
        yield frame, time + duration


def write_film(story: VideoStory, soundtrack: Soundtrack, path: Path) -> None:
    """Draw and encode one video; `path` appears only when it is whole."""
    with write_aside(path) as aside, av.open(str(aside), "w", format="mp4") as container:
        options = {"preset": "superfast", "crf": "24", "threads": "1"}
        video = container.add_stream("libx264", rate=FRAME_RATE, options=options)
        video.width, video.height, video.pix_fmt = story.width, story.height, "yuv420p"
        video.codec_context.time_base = Fraction(1, TICKS)
        audio = container.add_stream("aac", rate=SOUND_RATE, layout="mono") if story.has_audio else None
        if audio is not None and soundtrack.bit_rate:
            audio.bit_rate = soundtrack.bit_rate
        heard = 0
        for frame, end in _frames(story):
            container.mux(video.encode(frame))
            until = min(len(soundtrack.samples), end * SOUND_RATE // TICKS)
            if audio is not None and (until - heard >= SOUND_RATE // 2 or until == len(soundtrack.samples)):
                container.mux(audio.encode(sound_frame(soundtrack.samples[heard:until], heard)))
                heard = until
        container.mux(video.encode(None))
        if audio is not None:
            container.mux(audio.encode(None))
