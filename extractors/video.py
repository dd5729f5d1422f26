"""Frames to feature rows: a picture network, its view of the frame, its precision and its fixed batch."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from extractors.networks import FRAME_NETWORKS, NETWORKS
from extractors.precision import resolve_device, resolve_precision
from extractors.timeline import VIEW_SIDE, View, view_size
from extractors.weights import Weights

_CPU_BATCH = 4
_CUDA_BATCH = 64


class FrameNetwork:
    """ResNet152 (2048-d) or EfficientNet-Lite0 (1280-d): the global average of the last feature map, as it comes.

    The view is `full`, the whole frame with short side 224 (454x256 gives 397x224), or `center`, the middle 224x224 of
    that. A row depends on its frame alone: every batch has `batch_size` frames, padded with black ones, since bf16 rows
    change with the batch's size; and on a CPU each batch goes through on one thread, as many batches at once as torch
    has threads, since rows change with the number of threads that share a batch. `frames_at_once` frames keep
    all threads busy. The average over positions is taken in fp32.
    """

    def __init__(
        self,
        weights: Weights,
        view: View = "full",
        precision: str = "auto",
        device: str = "auto",
        batch_size: int | None = None,
    ) -> None:
        if weights.network not in FRAME_NETWORKS:
            raise ValueError(f"{weights.network} takes no frames: choose one of {', '.join(FRAME_NETWORKS)}")
        view_size((VIEW_SIDE, VIEW_SIDE), view)
        self._entry = NETWORKS[weights.network]
        self.name = weights.network
        self.width = self._entry.width
        self.weights_digest = weights.digest
        self.view = view
        self.device = resolve_device(device)
        self.precision = resolve_precision(precision, self.device)
        on_cpu = self.device.type == "cpu"
        self.batch_size = batch_size or (_CPU_BATCH if on_cpu else _CUDA_BATCH)
        threads = torch.get_num_threads() if on_cpu else 1
        self.frames_at_once = self.batch_size * threads
        self._pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        network = weights.module().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.precision == "bf16":
            for module in network.modules():
                # Batch norms keep their fp32 statistics and give back the type they are fed.
                if isinstance(module, torch.nn.Conv2d):
                    module.to(torch.bfloat16)
        self._network = network
        self._mean = torch.tensor(self._entry.pixel_mean, device=self.device).view(3, 1, 1)
        self._deviation = torch.tensor(self._entry.pixel_deviation, device=self.device).view(3, 1, 1)

    def features(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """RGB frames (n, H, W, 3), any n, to rows (n, `width`).

        Raises ValueError for frames of another shape or type. Rows may hold NaN or values too large to be stored:
        frames of several videos share a call, and only whoever stores a video can refuse that one alone.
        """
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
            raise ValueError(f"{self.name} takes uint8 frames (n, H, W, 3), not {frames.dtype} of shape {frames.shape}")
        starts = range(0, len(frames), self.batch_size)
        threads = torch.get_num_threads()
        try:
            batches = self._pool.map(self._batch, (frames[start : start + self.batch_size] for start in starts))
            rows = np.concatenate([np.empty((0, self.width), dtype=np.float32), *batches])
        finally:
            # A thread of the pool that limits itself to one also limits every thread that is yet to come.
            torch.set_num_threads(threads)
        return rows

    def _batch(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        batch = np.zeros((self.batch_size, *frames.shape[1:]), dtype=np.uint8)
        batch[: len(frames)] = frames
        # TF32 would halve the digits of what is called fp32, and a search for the fastest kernel may end differently.
        with torch.inference_mode(), torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False):
            pictures = (view_of(torch.from_numpy(batch).to(self.device), self.view) - self._mean) / self._deviation
            dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
            pictures = pictures.to(dtype, memory_format=torch.channels_last)
            mapped = self._entry.feature_map(self._network, pictures)
            rows: NDArray[np.float32] = mapped.float().mean(dim=(2, 3))[: len(frames)].cpu().numpy()
        return rows


def view_of(frames: Tensor, view: View) -> Tensor:
    """What the network sees: frames (B, H, W, 3) as bytes to pictures (B, 3, h, w), float32 in 0..255.

    Resized by antialiased bilinear interpolation of floating-point values, never rounded back to bytes.
    """
    pictures = frames.permute(0, 3, 1, 2).float()
    width, height = view_size((frames.shape[2], frames.shape[1]), "full")
    if pictures.shape[2:] != (height, width):
        pictures = interpolate(pictures, size=(height, width), mode="bilinear", antialias=True)
    if view == "full":
        return pictures
    top, left = (round((size - VIEW_SIDE) / 2) for size in pictures.shape[2:])
    return pictures[:, :, top : top + VIEW_SIDE, left : left + VIEW_SIDE]
