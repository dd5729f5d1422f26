"""Log-mel to audio features: DaveNet over a whole recording, and its steps averaged beside the video's rows."""

import numpy as np
import torch
from numpy.typing import NDArray

from extractors.feature_format import LOGMEL_FPS
from extractors.precision import check_storable, one_thread, resolve_device
from extractors.timeline import check_feature_fps
from extractors.weights import Weights
from models.davenet import RECEPTIVE_FRAMES, output_steps
from models.settings import AUDIO_WIDTH, MEL_BANDS, STRIDE

STEP_S = STRIDE / LOGMEL_FPS
CHUNK_STEPS = 512

_HALO_STEPS = -(-RECEPTIVE_FRAMES // STRIDE)
_STEP_MICROSECONDS = round(STEP_S * 1e6)


class AudioNetwork:
    """DaveNet in fp32: 1024-d every 160 ms, non-negative."""

    name = "davenet"

    def __init__(self, weights: Weights, device: str = "auto") -> None:
        if weights.network != self.name:
            raise ValueError(f"the audio network is {self.name}; these are weights of {weights.network}")
        self.width = AUDIO_WIDTH
        self.weights_digest = weights.digest
        self.device = resolve_device(device)
        self._network = weights.module().to(self.device)

    def steps(
        self, logmel: NDArray[np.float16] | NDArray[np.float32], chunk_steps: int = CHUNK_STEPS
    ) -> NDArray[np.float32]:
        """Log-mel (F, 40) in dB of a whole recording to (ceil(F / 16), 1024).

        Chunks of `chunk_steps` (82 s) overlap by the receptive field, so that together they equal one pass over the
        whole; on a CPU each goes through on one thread, so that the bits are the same whoever runs it.
        Give it the log-mel as it is stored (float16): then the stored one gives the stored rows. Raises ValueError for
        another shape, for NaN, and for steps beyond +-65504, which the store can't hold.
        """
        if logmel.ndim != 2 or logmel.shape[1] != MEL_BANDS or not bool(np.isfinite(logmel).all()):
            raise ValueError(
                f"DaveNet takes finite log-mel (frames, {MEL_BANDS}), not {logmel.dtype} of shape {logmel.shape}"
            )
        total = output_steps(len(logmel))
        steps = np.empty((total, self.width), dtype=np.float32)
        exact = torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False)
        with torch.inference_mode(), one_thread(), exact:
            for first in range(0, total, chunk_steps):
                last = min(first + chunk_steps, total)
                begin = max(first - _HALO_STEPS, 0)
                chunk = np.ascontiguousarray(logmel[begin * STRIDE : (last + _HALO_STEPS) * STRIDE].T, dtype=np.float32)
                output = self._network(torch.from_numpy(chunk).unsqueeze(0).to(self.device))[0]
                steps[first:last] = output[:, first - begin : last - begin].T.cpu().numpy()
        check_storable(self.name, self.weights_digest, steps)
        return steps


def feature_rows(
    steps: NDArray[np.float32], start: float, rows: int, feature_fps: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Steps (S, D) averaged into (rows, D) and a mask (rows,).

    Row j is the mean of the steps whose time lies in [j / feature_fps, (j + 1) / feature_fps); a row without any is
    zero and its mask False. Times are compared in whole microseconds, so that 0.16 * 25 is 4 seconds.
    """
    check_feature_fps(feature_fps)
    microseconds = round(start * 1_000_000) + np.arange(len(steps), dtype=np.int64) * _STEP_MICROSECONDS
    row = microseconds * feature_fps // 1_000_000
    inside = (row >= 0) & (row < rows)
    sums = np.zeros((rows, steps.shape[1]), dtype=np.float64)
    np.add.at(sums, row[inside], steps[inside])
    counts = np.bincount(row[inside], minlength=rows)
    means = sums / np.maximum(counts, 1)[:, None]
    return means.astype(np.float32), counts > 0
