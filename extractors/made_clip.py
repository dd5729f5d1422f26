"""A short made video with sound, for checks and probes: a textured picture that moves, and a tone in noise."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

FRAME_RATE = 30
SOUND_RATE = 44_100
"""Samples a second of the clip's sound, and of all sound that `mcn sample` makes."""
_SOUND_FRAME = 1024


def write_made_clip(path: Path, seconds: float, width: int = 640, height: int = 360) -> None:
    """H.264 and AAC in MP4, as the download's default format; the same pictures and sound each time.

    360p at 30 fps by default. The picture pans over coloured noise, so that decoding works as hard as on a real one.
    """
    random = np.random.default_rng(0)
    scene = _scene(random, height + 64, width + 256)
    with av.open(str(path), "w", format="mp4") as container:
        options = {"preset": "superfast", "threads": "1", "bf": "0"}
        video = container.add_stream("libx264", rate=FRAME_RATE, options=options)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        audio = container.add_stream("aac", rate=SOUND_RATE, layout="mono")
        frames = max(1, round(seconds * FRAME_RATE))
        for number in range(frames):
            left, top = 2 * number % 256, number % 64
            picture = np.ascontiguousarray(scene[top : top + height, left : left + width])
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FRAME_RATE)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        samples = round(frames / FRAME_RATE * SOUND_RATE)
        tone = np.sin(2 * np.pi * 440 / SOUND_RATE * np.arange(samples)) / 4 + random.normal(0, 0.05, samples)
        for first in range(0, samples, _SOUND_FRAME):
            block = tone[first : first + _SOUND_FRAME].astype(np.float32)
            container.mux(audio.encode(sound_frame(block, first)))
        container.mux(audio.encode(None))


def sound_frame(samples: NDArray[np.float32], first: int) -> av.AudioFrame:
    """Mono samples (n,) at `SOUND_RATE`, the first of them number `first` of the file."""
    frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, first, Fraction(1, SOUND_RATE)
    return frame


def _scene(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Coloured 1/f noise, (height, width, 3) uint8."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = np.inf
    white = np.fft.rfft2(random.standard_normal((3, height, width)))
    noise = np.fft.irfft2(white / frequency, s=(height, width))
    noise = 128 + 50 * noise / noise.std()
    return np.moveaxis(noise.clip(0, 255), 0, 2).astype(np.uint8)
