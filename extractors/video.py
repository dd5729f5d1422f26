"""Frames to feature rows: a network of pictures or clips, its view of a frame, its precision and its fixed batch."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate, pad

from extractors.network import ClipShape, PictureShape
from extractors.networks import VIDEO_NETWORKS, check_view, clip_shape, find_network, is_video_network, own_view
from extractors.precision import resolve_device, resolve_precision
from extractors.timeline import VIEW_SIDE, View, view_size
from extractors.weights import Weights

_CPU_BATCH = 4
_CUDA_BATCH = 64
_CUDA_CLIP_FRAMES = 256
_BATCH_NORMS = torch.nn.BatchNorm2d, torch.nn.BatchNorm3d


class FrameNetwork:
    """A video network: of pictures the average of the last feature map or what the classifier is fed, as it comes.

    The view is `full`, the whole frame with short side 224 (454x256 gives 397x224), or `center`, the middle 224x224 of
    that; a network with a `clip` sees clips of frames, and one with a `picture` frames, as its own transform shows
    them, whatever the view. A row depends on its frame or clip alone: every batch has `batch_size` of them, padded with
    black ones, since bf16 rows change with the batch's size; and on a CPU each batch goes through on one thread, as
    many batches at once as torch has threads or `compute_on` says, since rows change with the threads that share one.
    `frames_at_once` frames or clips keep all threads busy. The average over positions is taken in fp32. ValueError for
    a view that the network can't take.
    """

    def __init__(
        self,
        weights: Weights,
        view: View = "full",
        precision: str = "auto",
        device: str = "auto",
        batch_size: int | None = None,
    ) -> None:
        if not is_video_network(weights.network):
            raise ValueError(f"{weights.network} takes no frames: choose a video network, such as {VIDEO_NETWORKS[0]}")
        self._entry = find_network(weights.network)
        self.clip = self._entry.clip
        if not own_view(weights.network):
            view_size((VIEW_SIDE, VIEW_SIDE), view)
            check_view(weights.network, view)
        self.name = weights.network
        self.width = self._entry.width
        self.weights_digest = weights.digest
        self.view = view
        self.device = resolve_device(device)
        self.precision = resolve_precision(precision, self.device)
        on_cpu = self.device.type == "cpu"
        self.batch_size = batch_size or usual_batch(self.name, self.device)
        self._pool = ThreadPoolExecutor()
        self.compute_on(torch.get_num_threads() if on_cpu else 1)
        self._format = torch.channels_last if self.clip is None else torch.contiguous_format
        network = weights.module().to(self.device, memory_format=self._format)  # type: ignore[call-overload]
        if self.precision == "bf16":
            _make_bf16(network)
        self._network = network
        channels = (3, 1, 1) if self.clip is None else (3, 1, 1, 1)
        self._mean = torch.tensor(self._entry.pixel_mean, device=self.device).view(channels)
        self._deviation = torch.tensor(self._entry.pixel_deviation, device=self.device).view(channels)

    def compute_on(self, threads: int) -> None:
        """Take so many batches at once from now on; of a processor, a core for each. Rows stay the same to the bit."""
        self._pool.shutdown()
        self.frames_at_once = self.batch_size * threads
        self._pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))

    def features(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """RGB frames (n, H, W, 3), any n, or clips (n, T, H, W, 3) of the network's T, to rows (n, `width`).

        Raises ValueError for frames of another shape or type. Rows may hold NaN or values too large to be stored:
        frames of several videos share a call, and only whoever stores a video can refuse that one alone.
        """
        clip = () if self.clip is None else (self.clip.frames,)
        fits = frames.ndim == 4 + len(clip) and frames.shape[1:-3] == clip and frames.shape[-1] == 3
        if frames.dtype != np.uint8 or not fits:
            expected = ", ".join(["n", *map(str, clip), "H", "W", "3"])
            raise ValueError(f"{self.name} takes uint8 frames ({expected}), not {frames.dtype} of shape {frames.shape}")
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
            pixels = torch.from_numpy(batch).to(self.device)
            seen = self._seen(pixels)
            dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
            pictures = ((seen - self._mean) / self._deviation).to(dtype, memory_format=self._format)
            mapped = self._entry.feature_map(self._network, pictures).float()
            pooled = mapped.mean(dim=(2, 3)) if mapped.ndim == 4 else mapped
            rows: NDArray[np.float32] = pooled[: len(frames)].cpu().numpy()
        return rows

    def _seen(self, pixels: Tensor) -> Tensor:
        if self.clip is not None:
            return clip_view_of(pixels, self.clip)
        if self._entry.picture is not None:
            return picture_view_of(pixels, self._entry.picture, self._mean.round())
        return view_of(pixels, self.view)


def usual_batch(network: str, device: torch.device) -> int:
    """Frames, or clips of them, that a video network takes at a time on `device`, unless it is told otherwise."""
    clip, on_cpu = clip_shape(network), device.type == "cpu"
    if clip is None:
        return _CPU_BATCH if on_cpu else _CUDA_BATCH
    return 1 if on_cpu else max(1, _CUDA_CLIP_FRAMES // clip.frames)


def _make_bf16(network: torch.nn.Module) -> None:
    """All numbers but those of batch norms, which keep their fp32 statistics and give back the type they are fed."""
    for module in network.modules():
        if isinstance(module, _BATCH_NORMS):
            continue
        if isinstance(module, torch.nn.AvgPool3d):  # torch averages no bf16 over three dimensions on a processor
            module.register_forward_pre_hook(lambda module, given: (given[0].float(),))
            module.register_forward_hook(lambda module, given, averaged: averaged.to(torch.bfloat16))
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(torch.bfloat16)
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point():
                setattr(module, name, buffer.to(torch.bfloat16))


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


def clip_view_of(clips: Tensor, shape: ClipShape) -> Tensor:
    """What a video network sees: clips (B, T, H, W, 3) as bytes to (B, 3, T, side, side), float32 in 0..255.

    Resized by bilinear interpolation without antialiasing, as its publisher does, but never rounded back to bytes.
    """
    pictures = clips.flatten(0, 1).permute(0, 3, 1, 2).float()
    height, width = pictures.shape[2:]
    size = shape.resize
    if len(size) == 1:
        size = size[0] * height // min(height, width), size[0] * width // min(height, width)
    if (height, width) != size:
        pictures = interpolate(pictures, size=size, mode="bilinear")
    top, left = (round((whole - shape.side) / 2) for whole in size)
    cut = pictures[:, :, top : top + shape.side, left : left + shape.side]
    return cut.unflatten(0, clips.shape[:2]).transpose(1, 2)


def picture_view_of(frames: Tensor, shape: PictureShape, border: Tensor) -> Tensor:
    """What a network of such pictures sees: frames (B, H, W, 3) as bytes to (B, 3, h, w), float32 in 0..255.

    As its publisher's transform, but never rounded back to bytes. `border`: colour (3, 1, 1) of what a frame lacks.
    """
    pictures = frames.permute(0, 3, 1, 2).float()
    size = shape.resized(*frames.shape[1:3])
    if pictures.shape[2:] != size:
        # Bicubic interpolation goes beyond black and white; pictures of bytes, as it was trained on, don't.
        pictures = interpolate(pictures, size=size, mode=shape.interpolation, antialias=True).clamp(0, 255)
    lacking = [max(0, cut - side) for cut, side in zip(shape.cut, size, strict=True)]
    if any(lacking):
        edges = [edge for missing in reversed(lacking) for edge in (missing // 2, missing - missing // 2)]
        pictures = pad(pictures - border, edges) + border
    top, left = (round((side - cut) / 2) for side, cut in zip(pictures.shape[2:], shape.cut, strict=True))
    return pictures[:, :, top : top + shape.cut[0], left : left + shape.cut[1]]
