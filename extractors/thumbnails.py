"""Small pictures of what was on screen."""

import base64
from pathlib import Path

from extractors.decode import Picture
from extractors.decoder_process import shared_decoder
from extractors.errors import MediaError

WIDTH, HEIGHT = 200, 150
"""At most."""


def frame_jpeg(path: Path, seconds: float) -> bytes:
    """The frame on screen `seconds` after the start, as a JPEG of at most 200x150; empty when it can't be had."""
    try:
        picture = shared_decoder().answer(
            "extractors.measure:picture", path, Picture, seconds=seconds, width=WIDTH, height=HEIGHT
        )
    except MediaError:
        return b""
    return picture.jpeg


def thumbnail(path: Path, seconds: float) -> str:
    """The frame on screen `seconds` after the start, as a JPEG data URL of at most 200x150; "" when it can't be had."""
    picture = frame_jpeg(path, seconds)
    return "data:image/jpeg;base64," + base64.b64encode(picture).decode() if picture else ""
