"""Small pictures of what was on screen."""

import base64
import io
from pathlib import Path

import av

SIZE = (200, 150)
"""Width and height, at most."""


def frame_jpeg(path: Path, seconds: float) -> bytes:
    """The frame on screen `seconds` after the start, as a JPEG of at most 200x150; empty when it can't be had."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.time_base is not None
            container.seek(max(0, int(seconds / stream.time_base)), stream=stream)
            shown = None
            for frame in container.decode(stream):
                shown = frame
                if frame.time is not None and frame.time >= seconds:
                    break
            if shown is None:
                return b""
            image = shown.to_image()
    except (av.FFmpegError, OSError, IndexError):
        return b""
    image.thumbnail(SIZE)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def thumbnail(path: Path, seconds: float) -> str:
    """The frame on screen `seconds` after the start, as a JPEG data URL of at most 200x150; "" when it can't be had."""
    picture = frame_jpeg(path, seconds)
    return "data:image/jpeg;base64," + base64.b64encode(picture).decode() if picture else ""
