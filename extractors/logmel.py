"""The log-mel front end of DAVEnet, AVLnet and MCN, read in blocks: any length in bounded memory.

The published recipe (librosa): mean of the whole recording off, pre-emphasis 0.97, power spectrum of 25 ms every 10 ms
under a symmetric Hamming window, reflected at the edges, 40 Slaney mel bands from 20 to 8000 Hz, decibels below the
loudest value of the whole recording, floor at -80.
"""

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from extractors.errors import LibraryError
from extractors.feature_format import HOP, SAMPLE_RATE, SILENCE_DB, WINDOW
from extractors.precision import one_thread
from models.settings import MEL_BANDS

LOWEST_HZ, HIGHEST_HZ = 20.0, 8000.0
PRE_EMPHASIS = 0.97
LEAST_POWER = 1e-10
BLOCK_FRAMES = 4096


def log_mel(samples: NDArray[np.int16], block_frames: int = BLOCK_FRAMES) -> NDArray[np.float32]:
    """Log-mel (F, 40) of 16 kHz mono samples (N,), F = 1 + N // 160, in dB: 0 is the loudest value, -80 the floor.

    `samples` may be a memory map: it is read twice, in blocks of `block_frames` frames, which change memory alone.
    Digital silence (every sample the same) is 0 dB everywhere, as published: nothing in it is below its loudest. A
    recording shorter than the window is reflected as often as it takes; one without samples gives (0, 40).
    Raises ValueError unless `samples` is one row of int16, LibraryError as `mel_filters` does.
    """
    if samples.dtype != np.int16 or samples.ndim != 1:
        raise ValueError(f"log-mel takes one row of int16 samples, not {samples.dtype} of shape {samples.shape}")
    if not len(samples):
        return np.empty((0, MEL_BANDS), dtype=np.float32)
    mean = _mean(samples, block_frames * HOP)
    frames = 1 + len(samples) // HOP
    # fp64, so that the size of a block doesn't reach the digits that are kept.
    window = torch.hamming_window(WINDOW, periodic=False, dtype=torch.float64)
    filters = mel_filters()
    decibels = np.empty((frames, MEL_BANDS), dtype=np.float32)
    for first in range(0, frames, block_frames):
        last = min(first + block_frames, frames)
        signal = torch.from_numpy(_emphasised(samples, mean, first * HOP - WINDOW // 2, (last - 1) * HOP + WINDOW // 2))
        with one_thread():
            spectrum = torch.stft(signal, WINDOW, HOP, window=window, center=False, return_complex=True)
            power = (spectrum.abs() ** 2).T @ filters
        decibels[first:last] = (10 * torch.log10(power.clamp(min=LEAST_POWER))).numpy()
    decibels -= decibels.max()
    return np.maximum(decibels, SILENCE_DB, out=decibels)


@cache
def mel_filters() -> torch.Tensor:
    """The bank of Slaney's mel filters (WINDOW // 2 + 1, 40) in fp64; not to be written to.

    Raises LibraryError when torchaudio, which computes them, doesn't load beside this torch.
    """
    # Imported here: what needs no log-mel works without it, too.
    try:
        from torchaudio.functional import melscale_fbanks
    except Exception as error:  # OSError for a symbol, RuntimeError for another CUDA, ImportError where it is missing
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise LibraryError(
            f"torchaudio doesn't load beside torch {torch.__version__} ({reason}); install torch, torchvision and "
            "torchaudio again, from one index and in the releases that this package requires"
        ) from None
    return melscale_fbanks(
        WINDOW // 2 + 1, LOWEST_HZ, HIGHEST_HZ, MEL_BANDS, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
    ).double()


def _mean(samples: NDArray[np.int16], block: int) -> float:
    """Mean of all samples at full scale 1, from an exact sum."""
    total = sum(int(samples[start : start + block].sum(dtype=np.int64)) for start in range(0, len(samples), block))
    return total / len(samples) / 32768


def _emphasised(samples: NDArray[np.int16], mean: float, start: int, end: int) -> NDArray[np.float64]:
    """The pre-emphasised signal over [start, end), reflected (edge sample not repeated) beyond the recording."""
    at = np.abs(np.arange(start, end))
    period = 2 * (len(samples) - 1)
    at = np.minimum(at % period, period - at % period) if period else np.zeros_like(at)
    lowest = max(int(at.min()) - 1, 0)
    centred = samples[lowest : int(at.max()) + 1] / 32768 - mean
    previous = np.where(at > 0, centred[np.maximum(at - 1, 0) - lowest], 0.0)
    emphasised: NDArray[np.float64] = centred[at - lowest] - PRE_EMPHASIS * previous
    return emphasised
