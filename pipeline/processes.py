"""Devices, precision and processes of a training run, by Lightning Fabric, and what the processes tell one another."""

import os
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import torch
from lightning_fabric import Fabric
from torch import Tensor

from extractors.precision import resolve_device, resolve_precision
from models import Alone, Exchange
from pipeline.errors import InputError
from pipeline.stopping import asked_to_stop, stop_file
from pipeline.train_settings import TrainSettings

Result = TypeVar("Result", covariant=True)


class Work(Protocol[Result]):
    """What each process of a run does; a function of a module, which a process that is started can find."""

    def __call__(self, fabric: Fabric, settings: TrainSettings, stop: Path | None) -> Result:
        """`stop`: see `launch`."""
        ...


class FabricExchange:
    """The exchange of several processes."""

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self.rank, self.processes = fabric.global_rank, fabric.world_size

    def gather(self, tensor: Tensor) -> Tensor:
        """See `models.Exchange`."""
        # gloo gathers no bool.
        sent = tensor.to(torch.uint8) if tensor.dtype == torch.bool else tensor
        received = self._fabric.all_gather(sent.contiguous())
        assert isinstance(received, Tensor)
        return received.flatten(0, 1).to(tensor.dtype)

    def total(self, tensor: Tensor) -> Tensor:
        """See `models.Exchange`."""
        summed = self._fabric.all_reduce(tensor.clone(), reduce_op="sum")
        assert isinstance(summed, Tensor)
        return summed

    def first(self, tensor: Tensor) -> Tensor:
        """See `models.Exchange`."""
        # A sum with zeros is exact, and stays on the device, where Fabric's broadcast would pickle.
        return self.total(tensor if self.rank == 0 else torch.zeros_like(tensor))


def exchange_of(fabric: Fabric) -> Exchange:
    """What the processes of `fabric` share a batch through."""
    return FabricExchange(fabric) if fabric.world_size > 1 else Alone()


def started_from_outside() -> bool:
    """Whether torchrun or srun has started this process as one of several."""
    return any(int(os.environ.get(name, "1")) > 1 for name in ("WORLD_SIZE", "SLURM_NTASKS") if _is_number(name))


def _is_number(name: str) -> bool:
    return os.environ.get(name, "").isdigit()


def precision_of(settings: TrainSettings) -> Literal["fp32", "bf16"]:
    """`auto` resolved: bf16 on a GPU that has it.

    On a processor it is fp32: what pays there would have to be timed, and equal runs must be equal.
    """
    device = resolve_device(settings.device)
    if settings.precision == "auto" and device.type != "cuda":
        return "fp32"
    return resolve_precision(settings.precision, device)


def launch(settings: TrainSettings, precision: str, work: Work[Result]) -> Result:
    """Run `work` in every process; returns what process 0 gives.

    `stop` is a file that comes to be when the processes started here are asked to stop; None where each hears the
    signals itself. InputError when the devices aren't there.
    """
    device = resolve_device(settings.device)
    common: dict[str, Any] = {
        "accelerator": device.type,
        "precision": "bf16-mixed" if precision == "bf16" else "32-true",
        "num_nodes": settings.nodes,
    }
    if settings.devices * settings.nodes == 1:
        chosen = [device.index] if device.type == "cuda" and device.index is not None else 1
        fabric = Fabric(devices=chosen, **common)
        fabric.launch()
        return work(fabric, settings=settings, stop=None)
    if device.type == "cuda" and settings.devices > torch.cuda.device_count():
        raise InputError(f"devices: {settings.devices} are asked for, CUDA has {torch.cuda.device_count()} here")
    if started_from_outside():
        fabric = Fabric(devices=settings.devices, strategy="ddp", **common)
        fabric.launch()
        return work(fabric, settings=settings, stop=None)
    if settings.nodes > 1:
        raise InputError("nodes: several machines want a process on each: start `mcn train` by torchrun or srun")
    with stop_file(settings.out / ".stop") as stop:
        fabric = Fabric(devices=settings.devices, strategy="ddp_spawn", **common)
        # As arguments of their own they would be walked through for tensors, which frozen dataclasses refuse.
        result: Result = fabric.launch(partial(work, settings=settings, stop=stop))
        return result


class StopSign:
    """Whether any process was asked to stop; all processes ask at the same time and get the same answer."""

    def __init__(self, exchange: Exchange, device: torch.device, file: Path | None) -> None:
        self._exchange, self._device, self._file = exchange, device, file

    def up(self) -> bool:
        """Asked after every step."""
        asked = asked_to_stop() or (self._file is not None and self._file.exists())
        if self._exchange.processes == 1:
            return asked
        return bool(self._exchange.total(torch.tensor(int(asked), device=self._device)) > 0)
