"""GPUs shared out among the processes of a machine: each takes one that no other has; only that loads PyTorch."""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

if TYPE_CHECKING:
    import torch

_NODES = Path("/dev")


def gpu_count() -> int:
    """How many NVIDIA GPUs this process may use, told without PyTorch: the process that only plans loads none.

    None without a driver, and for a PyTorch that was built for processors alone.
    """
    if metadata.version("torch").endswith("+cpu"):
        return 0
    nodes = sum(re.fullmatch(r"nvidia\d+", node.name) is not None for node in _NODES.glob("nvidia*"))
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not nodes or given is None:
        return nodes
    names = [name.strip() for name in given.split(",")]
    # CUDA ignores what follows a name that it doesn't know.
    return next((index for index, name in enumerate(names) if not name or name.startswith("-")), len(names))


def local_processes(device: str, cores: int) -> int:
    """How many processes extract side by side on this machine: one for each GPU, or on a processor one for each core.

    `device` as in `extractors.precision.resolve_device`.
    """
    if device == "cpu":
        return cores
    gpus = gpu_count()
    if ":" in device:
        gpus = min(1, gpus)
    return gpus or cores


class DeviceClaim:
    """The device of one process. Use as a context manager.

    For `auto` and `cuda` it is the first GPU that no other process of this user has claimed, or, if all are taken, the
    first; it is free again when the claim is closed or its process has died. Other names are as they are. Raises
    ValueError as `extractors.precision.resolve_device`.
    """

    def __init__(self, requested: str) -> None:
        import torch

        from extractors.precision import resolve_device

        self._lock: IO[bytes] | None = None
        self.device: torch.device = resolve_device(requested)
        if self.device.type != "cuda" or ":" in requested:
            return
        for index in range(torch.cuda.device_count()):
            # By what the device itself is called: to each job of a batch system its first GPU is number 0.
            if self._take(str(torch.cuda.get_device_properties(index).uuid)):
                self.device = resolve_device(f"cuda:{index}")
                return

    def close(self) -> None:
        """Give the GPU back."""
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _take(self, name: str) -> bool:
        path = Path(tempfile.gettempdir(), f"mcn-gpu-{os.getuid()}-{re.sub(r'[^A-Za-z0-9-]', '_', name)}.lock")
        with suppress(OSError):
            file = open(path, "ab")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.close()
                return False
            self._lock = file
            return True
        return False
