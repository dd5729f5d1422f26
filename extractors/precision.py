"""Which device computes, and in which precision: `auto` settings are resolved here, once, and then written down."""

import logging
import timeit
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from extractors.errors import UnstorableError

logger = logging.getLogger(__name__)

Precision = Literal["bf16", "fp32"]

# torch's names for bf16 arithmetic: x86 tiles, x86 vectors, Arm.
_BF16_ARITHMETIC = ("amx_bf16", "avx512_bf16", "bf16", "arm_bf16", "sve_bf16")
_WORTHWHILE_GAIN = 1.5
_BF16_COMPUTE_CAPABILITY = (8, 0)


def resolve_device(requested: str) -> torch.device:
    """`auto` is CUDA where torch sees it, else the CPU; `cpu`, `cuda` and `cuda:N` are taken as they are.

    Raises ValueError for another name or a CUDA device that isn't there.
    """
    if requested == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(requested)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"device {requested!r} is unknown: choose auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ValueError(f"device {requested!r} is not here, where CUDA has {count} devices: choose cpu or auto")
    return device


def resolve_precision(requested: str, device: torch.device) -> Precision:
    """`auto` is bf16 where the device has bf16 arithmetic that pays, else fp32; `bf16` and `fp32` are taken as given.

    Having the instructions is not enough on a CPU: 3 times faster on Zen 5, but slower than fp32 on an Intel processor
    whose tile unit (AMX) is hidden by a virtual machine. So a product of matrices is timed, which takes 0.1 s.
    Raises ValueError for another name.
    """
    if requested == "bf16":
        return "bf16"
    if requested == "fp32":
        return "fp32"
    if requested != "auto":
        raise ValueError(f"precision {requested!r} is unknown: choose auto, bf16 or fp32")
    if device.type == "cuda":
        return "bf16" if has_bf16_arithmetic(device) else "fp32"
    if not has_bf16_arithmetic():
        return "fp32"
    gain = _seconds(torch.float32) / _seconds(torch.bfloat16)
    logger.info("bf16 is %.1f times as fast as fp32 on this processor", gain)
    return "bf16" if gain >= _WORTHWHILE_GAIN else "fp32"


def has_bf16_arithmetic(device: torch.device | None = None) -> bool:
    """Whether `device`, by default this processor, multiplies bf16 numbers itself."""
    if device is not None and device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= _BF16_COMPUTE_CAPABILITY
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in _BF16_ARITHMETIC)


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes on one thread within: how many share a sum decides its last digits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def check_storable(network: str, weights_digest: str, rows: NDArray[np.float32]) -> None:
    """Raises UnstorableError, naming the network, when features hold NaN or a value beyond +-65504."""
    largest = np.finfo(np.float16).max
    if not bool((np.abs(rows) <= largest).all()):
        raise UnstorableError(
            f"{network} gave NaN or a value beyond {largest:.0f}, which float16 can't hold: its weights "
            f"(sha256 {weights_digest[:12]}) don't suit this input; choose other weights"
        )


def _seconds(dtype: torch.dtype) -> float:
    """Least time of some products, so that other load on the machine doesn't decide."""
    matrix = torch.ones(768, 768, dtype=dtype)
    return min(timeit.repeat(lambda: matrix @ matrix, repeat=6, number=1))
