"""The weights and the batch of a parity case: each array is drawn from its own name and a seed alone.

The same draws are made on the side of the published code, so that both compute on the same numbers.
"""

import math
import zlib

import numpy as np

MEL_BANDS = 40


def _generator(name: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def parameter(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """The tensor called `name` of the published state dict, in float64; a counter is int64 and 0.

    Variances lie in [1, 1.5), scales of batch norms around 1, biases and running means around 0 with deviation 0.1,
    and weights have deviation 1 / sqrt(inputs of one output), which keeps the layers' outputs near 1.
    """
    generator, kind = _generator(name, seed), name.rpartition(".")[2]
    if kind == "num_batches_tracked":
        return np.zeros(shape, dtype=np.int64)
    if kind == "running_var":
        return np.asarray(1 + 0.5 * generator.random(shape))
    normal = generator.standard_normal(shape)
    if kind in ("running_mean", "bias"):
        return np.asarray(0.1 * normal)
    if len(shape) == 1:
        return np.asarray(1 + 0.1 * normal)
    return np.asarray(normal / np.sqrt(math.prod(shape[1:])))


def inputs(
    seed: int, batch: int, video_dim: int, words: int, we_dim: int, frames: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A batch in float64: video, log-mel, each clip's own frames (int64), word vectors.

    Shapes: `(batch, video_dim)` not negative; `(batch, 40, frames)` dB, 0 beyond a clip's own frames, of which there
    are a third to all; `(batch,)`; `(batch, words, we_dim)`, zeros beyond a clip's one to `words` words.
    """
    video = np.abs(_generator("input.video", seed).standard_normal((batch, video_dim)))
    logmel = 20 * _generator("input.audio", seed).standard_normal((batch, MEL_BANDS, frames)) - 40
    own_frames = _generator("input.nframes", seed).integers(frames // 3, frames, size=batch, endpoint=True)
    logmel = np.where((np.arange(frames) < own_frames[:, None])[:, None, :], logmel, 0.0)
    text = _generator("input.text", seed).standard_normal((batch, words, we_dim))
    own_words = _generator("input.nwords", seed).integers(1, words, size=batch, endpoint=True)
    text = np.where((np.arange(words) < own_words[:, None])[:, :, None], text, 0.0)
    return video, logmel, own_frames, text
