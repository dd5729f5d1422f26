"""GPUs among processes, on a machine that is made to have some."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from extractors import devices
from extractors.devices import DeviceClaim, gpu_count, local_processes


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its folder of device nodes: of three GPUs, and of what the driver puts beside them."""
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    monkeypatch.setattr(devices, "_NODES", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=f"8f1a-{index}"))
    monkeypatch.setattr(devices.metadata, "version", lambda name: "2.9.1")
    monkeypatch.setattr(devices.tempfile, "gettempdir", lambda: str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("given", "count"),
    [(None, 3), ("2", 1), ("1, 0", 2), ("GPU-8f1a,GPU-77c0", 2), ("0,-1,2", 1), ("", 0)],
)
def test_gpus_are_those_that_cuda_shows(
    machine: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, count: int
) -> None:
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert gpu_count() == count


def test_a_machine_without_a_driver_has_none(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for node in machine.glob("nvidia*"):
        node.unlink()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert gpu_count() == 0
    assert local_processes("auto", 16) == local_processes("cuda:0", 16) == 16


def test_a_pytorch_for_processors_alone_uses_all_cores(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices.metadata, "version", lambda name: "2.9.1+cpu")
    assert local_processes("auto", 16) == 16


@pytest.mark.parametrize(("device", "processes"), [("auto", 3), ("cuda", 3), ("cuda:1", 1), ("cpu", 16)])
def test_there_is_a_process_for_each_gpu_or_for_each_core(machine: Path, device: str, processes: int) -> None:
    assert local_processes(device, 16) == processes


def test_each_claim_has_a_gpu_of_its_own_until_there_are_more_than_gpus(machine: Path) -> None:
    claims = [DeviceClaim("auto") for _ in range(3)]
    assert [str(claim.device) for claim in claims] == ["cuda:0", "cuda:1", "cuda:2"]
    with DeviceClaim("cuda") as fourth:
        assert fourth.device.type == "cuda" and fourth.device.index in (None, 0)
    claims[1].close()
    with DeviceClaim("auto") as again:
        assert str(again.device) == "cuda:1"
    assert str(DeviceClaim("cuda:2").device) == "cuda:2"
    assert str(DeviceClaim("cpu").device) == "cpu"
    for claim in claims:
        claim.close()


def test_the_gpu_of_a_process_that_was_killed_is_free(machine: Path) -> None:
    program = (
        "import os, sys, torch\nfrom pathlib import Path\nfrom extractors import devices\n"
        "devices._NODES = Path(sys.argv[1])\ndevices.tempfile.tempdir = sys.argv[1]\n"
        "torch.cuda.is_available = lambda: True\ntorch.cuda.device_count = lambda: 3\n"
        "from types import SimpleNamespace\n"
        "torch.cuda.get_device_properties = lambda index: SimpleNamespace(uuid=f'8f1a-{index}')\n"
        "print(devices.DeviceClaim('auto').device, flush=True)\n"
        "claim = devices.DeviceClaim('auto')\nprint(claim.device, flush=True)\nsys.stdin.read()\n"
    )
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(machine)],
        cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    # The first claim was let go at once.
    assert [process.stdout.readline().strip() for _ in range(2)] == ["cuda:0", "cuda:0"]
    with DeviceClaim("auto") as other:
        assert str(other.device) == "cuda:1"
    process.kill()
    process.wait()
    with DeviceClaim("auto") as freed:
        assert str(freed.device) == "cuda:0"
