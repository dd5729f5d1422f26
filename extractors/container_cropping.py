"""Cropping that a container asks for, PixelCrop of Matroska or clap of MP4; FFmpeg's libraries leave it undone."""

import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from extractors.media_file import MediaFile

_HEAD_BYTES = 2**20
_MATROSKA_TRACKS = (0x18538067, 0x1654AE6B)
_TRACK_ENTRY, _TRACK_TYPE, _VIDEO = 0xAE, 0x83, 0xE0
_PIXEL_CROP = {0x54CC: "left", 0x54DD: "right", 0x54BB: "top", 0x54AA: "bottom"}
_SAMPLE_ENTRY_BYTES = 78
"""Fixed fields of an MP4's visual sample entry, before its boxes."""


class Cropping(NamedTuple):
    """Pixels cut off the stored frame."""

    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0

    def fits(self, width: int, height: int) -> bool:
        """Whether something is left of a frame of this size."""
        return min(self) >= 0 and self.left + self.right < width and self.top + self.bottom < height

    def apply(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(height, width, 3) to what is left of it."""
        height, width = frame.shape[:2]
        return frame[self.top : height - self.bottom, self.left : width - self.right]


def container_cropping(file: MediaFile, container: str, track: int) -> Cropping | None:
    """That of the file's `track`-th video track, None where nothing is cut off.

    `container` is FFmpeg's name of the format. What can't be read is no cropping: whether it is media, FFmpeg says.
    """
    reader = {"matroska,webm": _matroska, "mov,mp4,m4a,3gp,3g2,mj2": _mp4}.get(container)
    if reader is None:
        return None
    try:
        croppings = list(reader(file))
    except (struct.error, ValueError, ZeroDivisionError, IndexError, EOFError):
        return None
    crop = croppings[track] if track < len(croppings) else Cropping()
    return crop if any(crop) and min(crop) >= 0 else None


def _matroska(file: MediaFile) -> Iterator[Cropping]:
    """One for each video track, in the file's order."""
    span = (0, file.size)
    for wanted in _MATROSKA_TRACKS:
        span = next((body for name, body in _elements(file, *span) if name == wanted), (0, 0))
    if span[1] - span[0] > _HEAD_BYTES:
        return
    for name, entry in _elements(file, *span):
        fields = dict(_elements(file, *entry)) if name == _TRACK_ENTRY else {}
        if _TRACK_TYPE in fields and _number(file, fields[_TRACK_TYPE]) == 1:
            video = _elements(file, *fields[_VIDEO]) if _VIDEO in fields else iter(())
            yield Cropping(**{_PIXEL_CROP[name]: _number(file, body) for name, body in video if name in _PIXEL_CROP})


def _elements(file: MediaFile, start: int, end: int) -> Iterator[tuple[int, tuple[int, int]]]:
    """(id, (start, end) of its body) of EBML elements within a span of the file."""
    while start < end:
        name, start = _variable_length(file, start, keep_marker=True)
        size, start = _variable_length(file, start, keep_marker=False)
        body_end = end if size is None else min(start + size, end)
        yield cast(int, name), (start, body_end)
        start = body_end


def _variable_length(file: MediaFile, start: int, keep_marker: bool) -> tuple[int | None, int]:
    """An EBML number and where it ends; None for the size "unknown"."""
    first = _read(file, start, 1)[0]
    length = 9 - first.bit_length()
    if length > 8:
        raise ValueError("not an EBML number")
    value = int.from_bytes(_read(file, start, length), "big")
    if keep_marker:
        return value, start + length
    value -= 1 << 7 * length
    return None if value == (1 << 7 * length) - 1 else value, start + length


def _number(file: MediaFile, span: tuple[int, int]) -> int:
    if span[1] - span[0] > 8:
        raise ValueError("not an EBML integer")
    return int.from_bytes(_read(file, span[0], span[1] - span[0]), "big")


def _mp4(file: MediaFile) -> Iterator[Cropping]:
    """One for each video track, in the file's order."""
    for track in _boxes(file, _inside(file, (0, file.size), b"moov"), b"trak"):
        media = _inside(file, track, b"mdia")
        if _read(file, _inside(file, media, b"hdlr")[0] + 8, 4) != b"vide":
            continue
        table = _inside(file, _inside(file, media, b"minf"), b"stbl")
        description = _inside(file, table, b"stsd")
        entry = _inside(file, (description[0] + 8, description[1]), None)
        width, height = struct.unpack(">HH", _read(file, entry[0] + 24, 4))
        aperture = _inside(file, (entry[0] + _SAMPLE_ENTRY_BYTES, entry[1]), b"clap")
        yield _clean_aperture(_read(file, aperture[0], 32), width, height) if any(aperture) else Cropping()


def _clean_aperture(data: bytes, width: int, height: int) -> Cropping:
    """ISO 14496-12, 12.1.4.3: the aperture's size and its centre, counted from the frame's, as fractions."""
    values = struct.unpack(">IIIIiIiI", data)
    clean_width, clean_height, x, y = (Fraction(*values[place : place + 2]) for place in (0, 2, 4, 6))
    left, top = int(x + (width - clean_width) / 2), int(y + (height - clean_height) / 2)
    return Cropping(left, int(width - left - clean_width), top, int(height - top - clean_height))


def _inside(file: MediaFile, span: tuple[int, int], name: bytes | None) -> tuple[int, int]:
    """The first of `_boxes`, or an empty span."""
    return next(_boxes(file, span, name), (0, 0))


def _boxes(file: MediaFile, span: tuple[int, int], wanted: bytes | None) -> Iterator[tuple[int, int]]:
    """(start, end) of the bodies of a span's ISO boxes, those of type `wanted` or all."""
    start, end = span
    while start + 8 <= end:
        size, name = struct.unpack(">I4s", _read(file, start, 8))
        body = start + 8
        if size == 1:
            size, body = struct.unpack(">Q", _read(file, body, 8))[0], body + 8
        box_end = end if size == 0 else start + size
        if not body <= box_end <= end:
            return
        if wanted in (None, name):
            yield body, box_end
        start = box_end


def _read(file: MediaFile, start: int, count: int) -> bytes:
    file.seek(start)
    data = file.read(count)
    if data is None or len(data) < count:
        raise EOFError
    return data
