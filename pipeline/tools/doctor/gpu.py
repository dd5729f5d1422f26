"""`mcn doctor --gpu`: whether GPUs give the processor's rows and losses, and how fast they extract and train."""

import gc
import math
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import cached_property, partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from extractors.calibration import pictures, random_state
from extractors.networks import NETWORKS
from extractors.precision import Precision, has_bf16_arithmetic, resolve_precision
from extractors.video import FrameNetwork, usual_batch
from extractors.weights import Weights
from pipeline.core.provenance import processor
from pipeline.extraction.settings import ExtractSettings
from pipeline.extraction.speed import input_seconds
from pipeline.tools.doctor.machine import GIB, Check, Finding
from pipeline.training.settings import TrainSettings

if TYPE_CHECKING:  # its libraries take as long to load as PyTorch: they are loaded by the checks that need them
    from pipeline.training.speed import TrainingShape

LEAST_COSINE: dict[Precision, float] = {"fp32": 0.999999, "bf16": 0.995}
"""Of a row with the processor's in fp32, both less the mean of the processor's rows. ResNet152 with random weights that
are rounded to TF32 is below the first (0.999994); on a processor in bf16 it has 0.9993."""
LARGEST_DIFFERENCE: dict[Precision, float] = {"fp32": 1e-4, "bf16": 0.05}
"""Of a loss from the processor's in fp32, relative to that. On a processor bf16 makes 0.012, the order of sums 1e-7."""
FRAMES = 8
"""Made pictures whose rows are compared."""
COMPARED_VIDEOS = 4
"""Whose clips make the batch of which losses are compared; with more GPUs as many as those are."""
RATE_S = 3.0
PATIENCE = timedelta(minutes=2)
"""How long GPUs that train together wait for one another."""
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
_LEAVE_OUT = "don't use it: CUDA_VISIBLE_DEVICES leaves it out"
_ONE_ALONE = "train with --devices 1; NCCL_DEBUG=INFO shows how the GPUs talk"
_MAKE_ROOM = "end what else holds the GPU's memory, which nvidia-smi lists"


def check_gpu() -> Finding:
    """Which GPUs torch sees, and that each can multiply. None is no problem; a driver without a device is one."""
    gpus = visible_gpus()
    if not gpus:
        unseen = explain_no_gpu()
        if NVIDIA_DRIVER.exists():
            return Finding("warning", f"a driver is here, yet {unseen.text}", unseen.mend)
        return Finding("ok", "none: all stages run on the processor")
    for index, gpu in enumerate(gpus):
        one = torch.ones(64, 64, device=gpu)
        if float((one @ one).sum()) != 64.0**3:
            return Finding("problem", f"GPU {index} multiplies wrongly", _LEAVE_OUT)
    return Finding("ok", f"{', '.join(map(_name_and_memory, gpus))}; mcn doctor --gpu tries their work")


def visible_gpus() -> list[str]:
    """PyTorch's names of the GPUs that it can use: `cuda:0`, ..."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a driver that is too old, which `explain_no_gpu` tells
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []


def explain_no_gpu() -> Finding:
    """Why PyTorch sees no GPU."""
    if torch.version.cuda is None:
        names = ("torch", "torchvision", "torchaudio")
        wanted = " ".join(f"{name}=={metadata.version(name).partition('+')[0]}" for name in names)
        mend = f"install the CUDA build: pip uninstall -y {' '.join(names)}, then pip install {wanted}"
        return Finding("problem", f"no GPU: PyTorch {torch.__version__} is a build without CUDA", mend)
    try:
        torch.cuda.init()
        reason = "nothing"
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition(" Please")[0].strip().rstrip(".")
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is not None and (shown.strip()[:1] in ("", "-") or "No CUDA GPUs" in reason):
        text = f"no GPU: CUDA_VISIBLE_DEVICES is {shown!r}, which hides every GPU from PyTorch"
        return Finding("problem", text, "unset it; in a batch job ask for a GPU (SLURM: --gres=gpu:1)")
    text = f"no GPU: PyTorch sees none; it says: {reason}"
    if "too old" in reason:
        mend = f"update the driver, or install a build of PyTorch for it: this one is for CUDA {torch.version.cuda}"
    elif shutil.which("nvidia-smi"):
        mend = "see whether nvidia-smi lists one"
    else:
        mend = "nvidia-smi isn't here either: install a driver, or start the container with its GPUs"
    return Finding("problem", text, mend)


def gpu_checks(
    gpus: Sequence[str], network: str = ExtractSettings.streams[0], training: TrainSettings | None = None
) -> dict[str, Check]:
    """Name -> check of the devices `gpus`, by PyTorch's names; of none there is one, which explains it.

    `network` is the video network, `training` has the settings of the steps that are taken: by default those of
    `mcn extract` and `mcn train`.
    """
    if not gpus:
        return {"gpu": explain_no_gpu}
    trial = _Trial(gpus, network, training or TrainSettings(Path("unused"), Path("unused")))
    checks: dict[str, Check] = {}
    for index, gpu in enumerate(gpus):
        checks[f"gpu {index}"] = partial(_describe, gpu)
        checks[f"gpu {index} rows fp32"] = partial(trial.check_rows, gpu, "fp32")
        checks[f"gpu {index} rows bf16"] = partial(trial.check_rows, gpu, "bf16")
        checks[f"gpu {index} extraction"] = partial(trial.check_extraction, gpu)
        checks[f"gpu {index} training"] = partial(trial.check_training, gpu)
    checks = {name: partial(_in_one_line, check, f"{_LEAVE_OUT}; dmesg may say more") for name, check in checks.items()}
    if len(gpus) > 1:
        checks["gpus together"] = partial(_in_one_line, trial.check_together, _ONE_ALONE)
    return checks


def _describe(gpu: str) -> Finding:
    # PyTorch states the driver's version only where it is too old.
    driver = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", NVIDIA_DRIVER.read_text()) if NVIDIA_DRIVER.exists() else None
    versions = f"PyTorch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    return Finding("ok", f"{_name_and_memory(gpu)}; driver {driver[0] if driver else 'unknown'}, {versions}")


def _name_and_memory(gpu: str) -> str:
    if gpu == "cpu":
        return f"{processor()}, a processor in a GPU's place"
    free, total = torch.cuda.mem_get_info(gpu)
    return f"{torch.cuda.get_device_name(gpu)} ({free / GIB:.0f} of {total / GIB:.0f} GiB free)"


def _in_one_line(check: Check, mend: str) -> Finding:
    """What `check` finds; what fails on the GPU is a problem in one line, with `mend` where no other is known."""
    try:
        return check()
    except Exception as error:  # any fault of driver, libraries and device is what is being looked for
        lines = str(error).strip().splitlines() or [type(error).__name__]
        if _is_out_of_memory(error):
            mend = _MAKE_ROOM
        elif "no kernel image" in str(error):
            mend = "this build of PyTorch isn't made for this GPU: install one that is"
        # Of an error in another process the traceback comes first.
        return Finding("problem", lines[-1] if lines[0].startswith("-- Process") else lines[0], mend)


def _is_out_of_memory(error: Exception) -> bool:
    # cuBLAS and cuDNN have words of their own; another process's error comes as text.
    return isinstance(error, MemoryError) or any(words in str(error) for words in ("out of memory", "ALLOC_FAILED"))


def _halved_once(measure: Callable[[int], float], size: int) -> tuple[float, int]:
    """What `measure` gives for `size`, or for half of it where memory runs out; and for which of them."""
    try:
        return measure(size), size
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
    _free_memory()
    return measure(size // 2), size // 2


def _free_memory() -> None:
    gc.collect()  # an error's frames hold tensors
    torch.cuda.empty_cache()


class _Trial:
    """The product's work on devices; what the processor computes for comparison is computed once."""

    def __init__(self, gpus: Sequence[str], network: str, training: TrainSettings) -> None:
        self._gpus, self._name, self._training = gpus, network, training
        self._clips = -(-COMPARED_VIDEOS // len(gpus)) * len(gpus) * training.clips_per_video

    @cached_property
    def _weights(self) -> Weights:
        return Weights(self._name, random_state(NETWORKS[self._name], 0), "")

    @cached_property
    def _frames(self) -> NDArray[np.uint8]:
        return pictures(1)[:FRAMES]  # others than those by which the weights are calibrated

    @cached_property
    def _rows(self) -> NDArray[np.float32]:
        return self._network("cpu", "fp32").features(self._frames)

    @cached_property
    def _losses(self) -> list[float]:
        return self._losses_on("cpu", "fp32")

    def check_rows(self, gpu: str, precision: Precision) -> Finding:
        """Rows of made frames against the processor's in fp32."""
        if precision == "bf16" and not has_bf16_arithmetic(torch.device(gpu)):
            return Finding("ok", "not tried: the device has no bf16 arithmetic, and precision auto is fp32 there")
        # Less the same mean, so that a factor or a shift of all rows turns them, too.
        mean = self._rows.mean(axis=0, dtype=np.float64)
        wanted, rows = self._rows - mean, self._network(gpu, precision).features(self._frames) - mean
        cosine = ((wanted * rows).sum(1) / np.linalg.norm(wanted, axis=1) / np.linalg.norm(rows, axis=1)).min()
        least = LEAST_COSINE[precision]
        text = f"{self._name}, {FRAMES} frames: least centred cosine with the processor's rows {cosine:.7f}"
        if cosine >= least:
            return Finding("ok", f"{text}, at least {least}")
        otherwise = "extract with --precision fp32" if precision == "bf16" else "see that NVIDIA_TF32_OVERRIDE is unset"
        return Finding("problem", f"{text}, less than {least}", f"{otherwise}, or {_LEAVE_OUT}")

    def check_extraction(self, gpu: str) -> Finding:
        """Frames a second of the network: pixels to the device, rows back."""
        precision, usual = resolve_precision("auto", torch.device(gpu)), usual_batch(self._name, torch.device(gpu))
        frames = np.random.default_rng(0).integers(0, 256, (FRAMES, 256, 454, 3), np.uint8)

        def frame_seconds(size: int) -> float:
            return input_seconds(self._network(gpu, precision, size), frames, RATE_S)

        seconds, batch = _halved_once(frame_seconds, usual)
        text = f"{self._name} in {precision}: {1 / seconds:,.1f} frames a second, {batch} at once"
        if batch < usual:
            return Finding("problem", f"{text}: {usual}, as mcn extract has them, don't fit into memory", _MAKE_ROOM)
        return Finding("ok", text)

    def check_training(self, gpu: str) -> Finding:
        """Losses of two steps against the processor's, in fp32 and as training would run; steps a second."""
        from pipeline.training.distributed import precision_of
        from pipeline.training.speed import steps_per_s

        shape = self._shape(gpu)
        auto = precision_of(shape.settings)
        found = [
            _agreement(self._losses_on(gpu, precision), self._losses, precision, "the processor")
            for precision in dict.fromkeys(("fp32", auto))
        ]
        rate, clips = _halved_once(partial(steps_per_s, shape), shape.clips)
        text = f"{'; '.join(each.text for each in found)}; {rate:.2f} steps a second of {clips} clips in {auto}"
        if any(each.state == "problem" for each in found):
            return Finding("problem", text, _LEAVE_OUT)
        if clips < shape.clips:
            mend = f"train with --chunk-clips {clips // 2}: less memory, the same gradients"
            return Finding("warning", f"{text}: {shape.clips} at once don't fit into memory", mend)
        return Finding("ok", text)

    def check_together(self) -> Finding:
        """Losses of two steps by all devices, a process each, against those by the first one alone."""
        from pipeline.training.speed import shared_steps

        count, device = len(self._gpus), self._gpus[0].partition(":")[0]
        videos = max(1, self._training.batch_videos // count) * count
        _free_memory()
        with tempfile.TemporaryDirectory(prefix="mcn-doctor-") as folder:
            shape = self._shape(device, devices=count, batch_videos=videos, out=Path(folder))
            losses, rate = shared_steps(shape, self._clips, PATIENCE)
        found = _agreement(losses, self._losses_on(self._gpus[0], "fp32"), "fp32", "gpu 0")
        text = f"{found.text}; {rate:.2f} steps a second of {shape.clips} clips by {count} processes"
        return Finding(found.state, text, _ONE_ALONE if found.state == "problem" else "")

    def _network(self, device: str, precision: Precision, batch: int | None = None) -> FrameNetwork:
        return FrameNetwork(self._weights, "full", precision, device, batch)

    def _shape(self, device: str, **other: Any) -> "TrainingShape":
        from pipeline.training.speed import TrainingShape

        return TrainingShape(replace(self._training, device=device, **other), ExtractSettings.feature_fps)

    def _losses_on(self, device: str, precision: Precision) -> list[float]:
        from pipeline.training.speed import first_losses

        return first_losses(self._shape(device, precision=precision), self._clips)


def _agreement(losses: list[float], wanted: list[float], precision: Precision, whose: str) -> Finding:
    finite, largest = all(map(math.isfinite, losses)), LARGEST_DIFFERENCE[precision]
    off = max(abs(a - b) / abs(b) for a, b in zip(losses, wanted, strict=True)) if finite else math.inf
    shown = f"{precision} losses {', '.join(f'{loss:.4f}' for loss in losses)}, off {whose}'s by {off:.0e}"
    if off <= largest:
        return Finding("ok", f"{shown}, at most {largest:g}")
    return Finding("problem", f"{shown}, more than {largest:g}")
