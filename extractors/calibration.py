"""Random weights that behave: seeded, their batch-norm statistics measured once on made pictures, clips or log-mels.

An uncalibrated random ResNet152 reaches 1e8 and gives every frame the same row; a calibrated one is chaotic: noise of
1/255 moves a row as far as the next second does. With the last batch-norm scale of each residual block at 0.1 the
network is nearly linear over its depth, and neither happens. Networks without a batch norm (transformers, ConvNeXt,
VGG) keep the initial values that their library draws for them, which need no measuring.
Such weights prove plumbing; they know nothing.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

from extractors.feature_format import LOGMEL_FPS, LOUDEST_DB, SILENCE_DB
from extractors.network import ClipShape, Network
from extractors.precision import one_thread
from models.settings import MEL_BANDS

RESIDUAL_SCALE = 0.1
PICTURES = 32
PICTURE_SIDE = 192
CLIPS = 4
CLIP_FRAMES = 16
LOGMELS = 16
LOGMEL_FRAMES = 512


def random_state(entry: Network, seed: int) -> dict[str, Tensor]:
    """State dict of a network drawn from `seed`, calibrated in fp32 on one thread, so that it repeats bit by bit.

    One pass over one batch, if there is a batch norm: each normalises by the statistics of that batch and keeps them.
    """
    norms = nn.BatchNorm2d, nn.BatchNorm3d
    with torch.random.fork_rng(devices=[]), one_thread(), torch.inference_mode():
        torch.manual_seed(seed)
        network = entry.build().eval()
        for module in network.modules():
            if isinstance(last_norm := getattr(module, entry.last_norm, None), nn.BatchNorm2d):
                nn.init.constant_(last_norm.weight, RESIDUAL_SCALE)
            if isinstance(module, norms):
                module.momentum = 1.0
                module.train()
        if any(isinstance(module, norms) for module in network.modules()):
            entry.feature_map(network, _batch(entry, seed))
    return {name: value.clone() for name, value in network.state_dict().items()}


def _batch(entry: Network, seed: int) -> Tensor:
    if not entry.pixel_mean:
        return torch.from_numpy(logmels(seed))
    pixels = torch.from_numpy(pictures(seed)).permute(0, 3, 1, 2).float()
    mean = torch.tensor(entry.pixel_mean).view(3, 1, 1)
    batch = (pixels - mean) / torch.tensor(entry.pixel_deviation).view(3, 1, 1)
    if entry.clip is not None:
        return _moving(batch[:CLIPS], entry.clip)
    size = entry.picture.cut if entry.picture is not None else entry.side
    return interpolate(batch, size=size, mode="bilinear") if size else batch


def _moving(batch: Tensor, clip: ClipShape) -> Tensor:
    """Clips (B, 3, T, side, side) over which pictures (B, 3, H, W) pass by, two pixels a frame."""
    still = interpolate(batch, size=clip.side, mode="bilinear")
    return torch.stack([still.roll(2 * frame, dims=3) for frame in range(min(clip.frames, CLIP_FRAMES))], dim=2)


def pictures(seed: int) -> NDArray[np.uint8]:
    """Made pictures, shape (32, 192, 192, 3): coloured 1/f noise, as natural pictures have, with drawn shapes on it."""
    random = np.random.default_rng([seed, 0])
    return np.stack([_picture(random) for _ in range(PICTURES)])


def _picture(random: np.random.Generator) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[:PICTURE_SIDE, :PICTURE_SIDE]
    frequency = np.hypot(np.fft.fftfreq(PICTURE_SIDE)[:, None], np.fft.rfftfreq(PICTURE_SIDE))
    frequency[0, 0] = np.inf
    white = np.fft.rfft2(random.standard_normal((3, PICTURE_SIDE, PICTURE_SIDE)))
    noise = white / frequency ** random.uniform(0.8, 1.6)
    channels = np.fft.irfft2(noise, s=(PICTURE_SIDE, PICTURE_SIDE))
    channels /= channels.std(axis=(1, 2), keepdims=True)
    colours = np.eye(3) * random.uniform(0.2, 1.0) + random.uniform(0.3, 1.0)
    picture = random.uniform(60, 190, 3) + random.uniform(15, 45) * np.einsum("ij,jhw->hwi", colours, channels)
    for _ in range(random.integers(2, 9)):
        y, x = random.uniform(0, PICTURE_SIDE, 2)
        height, width = random.uniform(PICTURE_SIDE / 16, PICTURE_SIDE / 3, 2)
        down, across = np.abs(rows - y) / height, np.abs(columns - x) / width
        inside = np.hypot(down, across) < 1 if random.random() < 0.5 else np.maximum(down, across) < 1
        picture[inside] = random.uniform(0, 255, 3) + 0.2 * (picture[inside] - 128)
    whole: NDArray[np.uint8] = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    return whole


def logmels(seed: int) -> NDArray[np.float32]:
    """Made log-mels in dB, shape (16, 40, 512), in [-80, 0] with 0 the loudest: tilted spectra, syllables, pauses."""
    random = np.random.default_rng([seed, 1])
    time = np.arange(LOGMEL_FRAMES) / LOGMEL_FPS
    band = np.linspace(0, 1, MEL_BANDS)
    made = np.empty((LOGMELS, MEL_BANDS, LOGMEL_FRAMES))
    for logmel in made:
        tilt = -random.uniform(10, 35) * band
        formants = sum(
            random.uniform(5, 15) * np.exp(-((band[:, None] - centre - 0.1 * np.sin(rate * time)) ** 2) / 0.005)
            for centre, rate in zip(random.uniform(0.1, 0.9, 3), random.uniform(1, 6, 3), strict=True)
        )
        syllables = 12 * np.sin(2 * np.pi * random.uniform(2, 6) * time + random.uniform(0, 2 * np.pi))
        noise = 5 * random.standard_normal((MEL_BANDS, LOGMEL_FRAMES))
        logmel[:] = -20 + tilt[:, None] + formants + syllables + noise
        pause = random.integers(0, LOGMEL_FRAMES - 64)
        logmel[:, pause : pause + 64] -= random.uniform(20, 60)
        logmel -= logmel.max()
    return np.clip(made, SILENCE_DB, LOUDEST_DB).astype(np.float32)
