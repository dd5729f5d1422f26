"""Devices, precision and processes of a training run, by Lightning Fabric, and what the processes tell one another."""

import os
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor

from extractors.precision import resolve_device, resolve_precision
from models.batch_step import Communicator, SingleProcess
from pipeline.core.errors import InputError
from pipeline.core.signals import asked_to_stop, stop_file
from pipeline.training.settings import TrainSettings

Result = TypeVar("Result")

PATIENCE = timedelta(hours=12)
"""How long a process waits for the others: one may be copying shards to its disk."""


class FabricCommunicator:
    """The communicator of several processes."""

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self.rank, self.processes = fabric.global_rank, fabric.world_size

    def gather(self, tensor: Tensor) -> Tensor:
        """See `models.Communicator`."""
        # gloo gathers no bool.
        sent = tensor.to(torch.uint8) if tensor.dtype == torch.bool else tensor
        received = self._fabric.all_gather(sent.contiguous())
        assert isinstance(received, Tensor)
        return received.flatten(0, 1).to(tensor.dtype)

    def total(self, tensor: Tensor) -> Tensor:
        """See `models.Communicator`."""
        summed = tensor.clone()
        # Fabric's own waits for all processes before each one.
        torch.distributed.all_reduce(summed)
        return summed

    def first(self, tensor: Tensor) -> Tensor:
        """See `models.Communicator`."""
        # A sum with zeros is exact, and stays on the device, where Fabric's broadcast would pickle.
        return self.total(tensor if self.rank == 0 else torch.zeros_like(tensor))


def communicator_of(fabric: Fabric) -> Communicator:
    """What the processes of `fabric` share a batch through."""
    return FabricCommunicator(fabric) if fabric.world_size > 1 else SingleProcess()


def started_from_outside() -> bool:
    """Whether torchrun or srun has started this process as one of several."""
    # sbatch sets SLURM_NTASKS too, where nothing else has been started yet; the step's number is srun's alone.
    counts = [os.environ.get(name, "") for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS")]
    return any(count.isdigit() and int(count) > 1 for count in counts)


def precision_of(settings: TrainSettings) -> Literal["fp32", "bf16"]:
    """`auto` resolved: bf16 on a GPU that has it.

    On a processor it is fp32: what pays there would have to be timed, and equal runs must be equal.
    """
    device = resolve_device(settings.device)
    if settings.precision == "auto" and device.type != "cuda":
        return "fp32"
    return resolve_precision(settings.precision, device)


def launch(
    settings: TrainSettings, precision: str, work: Callable[..., Result], patience: timedelta = PATIENCE
) -> Result:
    """Run `work(fabric, settings=, stop=)` in every process; returns what process 0 gives.

    `work` is a function of a module, which a process that is started can find. `stop` is a file that comes to be when
    the processes started here are asked to stop; None where each hears the signals itself. A process that waits for the
    others for longer than `patience` fails. InputError when the devices aren't there.
    """
    device = resolve_device(settings.device)
    common: dict[str, Any] = {
        "accelerator": device.type,
        "precision": "bf16-mixed" if precision == "bf16" else "32-true",
        "num_nodes": settings.nodes,
    }
    if settings.devices * settings.nodes == 1:
        chosen = [device.index] if device.type == "cuda" and device.index is not None else 1
        fabric = Fabric(devices=chosen, plugins=[LightningEnvironment()], **common)
        fabric.launch()
        return work(fabric, settings=settings, stop=None)
    if device.type == "cuda" and settings.devices > torch.cuda.device_count():
        raise InputError(f"devices: {settings.devices} are asked for, CUDA has {torch.cuda.device_count()} here")
    if started_from_outside():
        fabric = Fabric(devices=settings.devices, strategy=DDPStrategy(timeout=patience), **common)
        fabric.launch()
        return _run_and_leave(fabric, work, settings=settings, stop=None)
    if settings.nodes > 1:
        raise InputError("nodes: several machines want a process on each: start `mcn train` by torchrun or srun")
    with stop_file(settings.out / ".stop") as stop:
        # Without its own environment Fabric would take a batch job's, in which each process is the only one.
        strategy = DDPStrategy(start_method="spawn", cluster_environment=LightningEnvironment(), timeout=patience)
        fabric = Fabric(devices=settings.devices, strategy=strategy, **common)
        # As arguments of their own they would be walked through for tensors, which frozen dataclasses refuse.
        result: Result = fabric.launch(partial(_run_and_leave, work=work, settings=settings, stop=stop))
        return result


def _run_and_leave(fabric: Fabric, work: Callable[..., Result], **arguments: Any) -> Result:
    """What `work` gives; this process then leaves the group of those that shared it."""
    result = work(fabric, **arguments)
    # While Python ends, a thread of gloo that still holds a tensor would abort it: pytorch/pytorch#179291.
    torch.distributed.destroy_process_group()
    return result


class Agreement:
    """What all processes must decide alike; all ask at the same time and get the same answer."""

    def __init__(self, communicator: Communicator, device: torch.device, stop_file: Path | None) -> None:
        self._communicator, self._device, self._stop_file = communicator, device, stop_file

    def stop_or_save(self, due: bool) -> tuple[bool, bool]:
        """Whether any process was asked to stop; and whether process 0 finds a checkpoint due."""
        stop = asked_to_stop() or (self._stop_file is not None and self._stop_file.exists())
        if self._communicator.processes == 1:
            return stop, due
        agreed = self._communicator.total(
            torch.tensor([stop, due and self._communicator.rank == 0], device=self._device).int()
        )
        return bool(agreed[0]), bool(agreed[1])

    def wait(self) -> None:
        """Until all are here: who leaves earlier may take those with it that still write."""
        if self._communicator.processes > 1:
            self._communicator.total(torch.zeros(1, device=self._device))
