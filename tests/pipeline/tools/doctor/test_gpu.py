"""`mcn doctor --gpu` with processors in the places of GPUs, and with errors and absences of GPUs that are planted."""

import json
import re
from collections.abc import Callable
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cosine

from extractors import calibration
from extractors.networks import NETWORKS
from extractors.video import FrameNetwork
from extractors.weights import Weights
from models.batch_step import BatchStep, StepLosses
from models.clips import ClipInputs
from pipeline.cli import main
from pipeline.tools.doctor import gpu as gpu_check
from pipeline.tools.doctor.gpu import check_gpu, explain_no_gpu, gpu_checks, visible_gpus
from pipeline.tools.doctor.machine import Check, Finding, examine
from pipeline.training import speed
from pipeline.training.settings import TrainSettings

NETWORK, FRAMES = "resnet18", 3
SMALL: dict[str, Any] = {
    "width": 24,
    "batch_videos": 6,
    "clips_per_video": 4,
    "reconstruction_hidden": 8,
    "clusters": 6,
    "learning_rate": 0.0001,
}
OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation for Memory Management"


@pytest.fixture(scope="module", autouse=True)
def _small() -> Any:
    """Weights measured on small pictures, once; few frames, no time for rates; each device has bf16."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "PICTURES", 4)
        patch.setattr(calibration, "PICTURE_SIDE", 64)
        patch.setattr(gpu_check, "random_state", cache(calibration.random_state))
        patch.setattr(gpu_check, "pictures", cache(calibration.pictures))
        patch.setattr(gpu_check, "FRAMES", FRAMES)
        patch.setattr(gpu_check, "RATE_S", 0.0)
        patch.setattr(gpu_check, "has_bf16_arithmetic", lambda device=None: True)
        yield


@pytest.fixture(scope="module")
def checks(_small: None) -> dict[str, Check]:
    """Of two processors in the places of GPUs; what is compared with is computed by now."""
    return checked(gpu_checks(["cpu", "cpu"], NETWORK, small()), "gpu 0 rows fp32", "gpu 0 training")


def small(**other: Any) -> TrainSettings:
    return TrainSettings.flat(manifest="m", out="o", **SMALL | other)


def checked(checks: dict[str, Check], *names: str) -> dict[str, Check]:
    for name in names:
        assert examine(checks[name]).state == "ok"
    return checks


def numbers(pattern: str, finding: Finding) -> list[float]:
    match = re.search(pattern, finding.text)
    assert match is not None, finding
    return [float(number.replace(",", "")) for number in match.groups()]


# What is right


def test_every_gpu_has_its_checks_and_several_have_one_together() -> None:
    parts = ["", " rows fp32", " rows bf16", " extraction", " training"]
    assert list(gpu_checks(["cpu"])) == [f"gpu 0{part}" for part in parts]
    both = [f"gpu {index}{part}" for index in (0, 1) for part in parts]
    assert list(gpu_checks(["cpu", "cpu"])) == [*both, "gpus together"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_rows_are_compared_by_their_least_centred_cosine(precision: str, checks: dict[str, Check]) -> None:
    finding = examine(checks[f"gpu 1 rows {precision}"])
    assert finding.state == "ok" and not finding.mend
    weights = Weights(NETWORK, gpu_check.random_state(NETWORKS[NETWORK], 0), "")
    frames = gpu_check.pictures(1)[:FRAMES]
    rows = FrameNetwork(weights, "full", "fp32", "cpu").features(frames).astype(np.float64)
    others = FrameNetwork(weights, "full", precision, "cpu").features(frames).astype(np.float64)
    mean = rows.mean(axis=0)
    least = min(1 - cosine(row - mean, other - mean) for row, other in zip(rows, others, strict=True))
    assert numbers(r"rows ([\d.]+), at least", finding) == [pytest.approx(least, abs=2e-7)]
    assert (abs(least - 1) < 1e-12) == (precision == "fp32")


def test_frames_a_second_are_those_of_batches_as_extractions(
    checks: dict[str, Check], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []

    def seconds(network: FrameNetwork, frames: np.ndarray, for_s: float) -> float:
        seen.append((network.batch_size, *frames.shape[1:]))
        return 0.004

    monkeypatch.setattr(gpu_check, "input_seconds", seconds)
    finding = examine(checks["gpu 0 extraction"])
    assert finding.state == "ok" and numbers(r"([\d.]+) frames a second, (\d+) at once", finding) == [250, 4]
    assert seen == [(4, 256, 454, 3)]


def test_the_network_is_timed(checks: dict[str, Check]) -> None:
    (rate,) = numbers(r"([\d.,]+) frames a second", examine(checks["gpu 1 extraction"]))
    assert rate > 0


def test_losses_are_compared_in_fp32_and_as_training_runs() -> None:
    alone = gpu_checks(["cpu"], NETWORK, small(precision="bf16"))
    finding = examine(alone["gpu 0 training"])
    assert finding.state == "ok", finding
    first, second, off, others_first, bf16_off = numbers(
        r"fp32 losses ([\d.]+), ([\d.]+), off the processor's by (\S+), at most 0.0001; "
        r"bf16 losses ([\d.]+), [\d.]+, off the processor's by (\S+), at most 0.05",
        finding,
    )
    assert off == 0 and 0 < bf16_off < 0.05 and others_first == pytest.approx(first, rel=0.01)
    assert second < first, "an optimiser's step on the same clips"
    assert numbers(r"([\d.]+) steps a second of (\d+) clips in bf16", finding)[1] == 24


def test_processes_that_train_together_have_the_losses_of_one(checks: dict[str, Check]) -> None:
    """Through the launch of `mcn train`, gloo between them."""
    finding = examine(checks["gpus together"])
    assert finding.state == "ok" and not finding.mend, finding
    first, second, off, rate = numbers(
        r"fp32 losses ([\d.]+), ([\d.]+), off gpu 0's by (\S+), at most 0.0001; (\S+) steps a second of 24 clips by 2",
        finding,
    )
    assert [first, second] == numbers(r"fp32 losses ([\d.]+), ([\d.]+),", examine(checks["gpu 0 training"]))
    assert off < 1e-5 and rate > 0


def test_the_batch_is_one_that_all_gpus_can_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that doesn't answer is not waited for as a training waits."""
    given: list[tuple[int, int, int, int]] = []

    def shared(shape: speed.TrainingShape, clips: int, patience: timedelta) -> tuple[list[float], float]:
        assert patience <= timedelta(minutes=2)
        given.append((shape.settings.devices, shape.settings.batch_videos, shape.clips, clips))
        return speed.first_losses(speed.TrainingShape(small(device="cpu"), 1), clips), 1.0

    monkeypatch.setattr(speed, "shared_steps", shared)
    for count in (3, 4, 5):
        assert examine(gpu_checks(["cpu"] * count, NETWORK, small())["gpus together"]).state == "ok"
    assert given == [(3, 6, 24, 24), (4, 4, 16, 16), (5, 5, 20, 20)]


# What is wrong


def plant_rows(monkeypatch: pytest.MonkeyPatch, change: Callable[[np.ndarray], np.ndarray]) -> None:
    whole = FrameNetwork.features
    monkeypatch.setattr(FrameNetwork, "features", lambda self, frames: change(whole(self, frames)))


@pytest.mark.parametrize(
    ("precision", "change"),
    [
        ("fp32", lambda rows: rows[::-1]),
        ("fp32", lambda rows: rows * np.float32(1.01)),
        ("fp32", lambda rows: rows + np.float32(0.01)),
        ("fp32", lambda rows: np.where(np.arange(len(rows))[:, None] == 1, np.nan, rows)),
        ("bf16", lambda rows: rows[::-1]),
        ("bf16", lambda rows: rows * np.float32(1.2)),
    ],
)
def test_rows_of_another_kind_are_a_problem(
    precision: str,
    change: Callable[[np.ndarray], np.ndarray],
    checks: dict[str, Check],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant_rows(monkeypatch, change)
    finding = examine(checks[f"gpu 1 rows {precision}"])
    assert finding.state == "problem" and "less than 0.99" in finding.text
    assert ("--precision fp32" in finding.mend) is (precision == "bf16")


def test_bf16_is_not_tried_where_there_is_none(checks: dict[str, Check], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "has_bf16_arithmetic", lambda device=None: False)
    plant_rows(monkeypatch, lambda rows: rows * np.nan)
    finding = examine(checks["gpu 0 rows bf16"])
    assert finding.state == "ok" and "not tried" in finding.text


def negated_gradients(step: BatchStep, losses: StepLosses) -> StepLosses:
    for parameter in step.model.parameters():
        if parameter.grad is not None:
            parameter.grad.neg_()
    return losses


def nan_after_the_first_step(step: BatchStep, losses: StepLosses) -> StepLosses:
    for parameter in step.model.parameters():
        parameter.grad = None if parameter.grad is None else parameter.grad * torch.nan
    return losses


def losses_of_another_arithmetic(step: BatchStep, losses: StepLosses) -> StepLosses:
    return StepLosses({name: term * 1.001 for name, term in losses.terms.items()}, losses.weights, {})


@pytest.mark.parametrize("fault", [negated_gradients, nan_after_the_first_step, losses_of_another_arithmetic])
def test_losses_of_another_kind_are_a_problem(
    fault: Callable[[BatchStep, StepLosses], StepLosses], checks: dict[str, Check], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = BatchStep.backward

    def backward(self: BatchStep, clips: ClipInputs, *given: Any) -> StepLosses:
        return fault(self, whole(self, clips, *given))

    monkeypatch.setattr(BatchStep, "backward", backward)
    finding = examine(checks["gpu 1 training"])
    assert finding.state == "problem" and "CUDA_VISIBLE_DEVICES" in finding.mend
    assert re.search(r"fp32 losses [\d.nan, ]+, off the processor's by \S+, more than 0.0001", finding.text)


def test_losses_of_all_that_are_not_those_of_one_are_a_problem(
    checks: dict[str, Check], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "shared_steps", lambda *given: ([1.0, 2.0], 3.0))
    finding = examine(checks["gpus together"])
    assert finding.state == "problem" and "more than 0.0001" in finding.text and "--devices 1" in finding.mend


# Out of memory, and errors of the device


def out_of_memory_above(largest: int, size_of: Callable[..., int], result: float, sizes: list[int]) -> Any:
    """A measurement that needs memory for its size."""

    def measure(*given: Any) -> float:
        sizes.append(size_of(*given))
        if sizes[-1] > largest:
            raise torch.OutOfMemoryError(OUT_OF_MEMORY)
        return result

    return measure


def test_half_the_frames_are_taken_where_memory_runs_out(
    checks: dict[str, Check], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    measure = out_of_memory_above(2, lambda network, *given: network.batch_size, 0.01, sizes)
    monkeypatch.setattr(gpu_check, "input_seconds", measure)
    finding = examine(checks["gpu 0 extraction"])
    assert sizes == [4, 2] and finding.state == "problem"
    assert "100.0 frames a second, 2 at once: 4, as mcn extract has them, don't fit" in finding.text
    assert "nvidia-smi" in finding.mend


def test_half_the_clips_are_taken_where_memory_runs_out(
    checks: dict[str, Check], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(speed, "steps_per_s", out_of_memory_above(12, lambda shape, clips: clips, 7.0, sizes))
    finding = examine(checks["gpu 0 training"])
    assert sizes == [24, 12] and finding.state == "warning"
    assert "7.00 steps a second of 12 clips" in finding.text and "24 at once don't fit" in finding.text
    assert "--chunk-clips 6" in finding.mend


@pytest.mark.parametrize("name", ["gpu 0 rows fp32", "gpu 1 extraction", "gpu 0 training", "gpus together"])
@pytest.mark.parametrize(
    ("error", "text", "mend"),
    [
        (torch.OutOfMemoryError(OUT_OF_MEMORY), "CUDA out of memory. Tried to allocate 2.00 GiB.", "nvidia-smi"),
        (MemoryError(), "MemoryError", "nvidia-smi"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling x"), "CUBLAS_STATUS_ALLOC", "nvidia-smi"),
        (
            RuntimeError("CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors"),
            "CUDA error: no kernel image is available for execution on the device",
            "build of PyTorch",
        ),
        (RuntimeError("CUDA error: an illegal memory access\nCompile with"), "CUDA error: an illegal", "dmesg"),
        (
            torch.multiprocessing.ProcessRaisedException(
                "\n\n-- Process 1 terminated with the following error:\nTraceback (most recent call last):\n"
                "torch.OutOfMemoryError: CUDA out of memory.\n", 1, 2
            ),
            "torch.OutOfMemoryError: CUDA out of memory.",
            "nvidia-smi",
        ),
    ],
    ids=["torch's", "Python's", "cuBLAS's", "no kernel", "another", "another process's"],
)  # fmt: skip
def test_an_error_of_the_device_is_one_line(
    name: str,
    error: Exception,
    text: str,
    mend: str,
    checks: dict[str, Check],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*given: object, **named: object) -> None:
        raise error

    monkeypatch.setattr(FrameNetwork, "features", fail)
    for function in ("first_losses", "steps_per_s", "shared_steps"):
        monkeypatch.setattr(speed, function, fail)
    finding = examine(checks[name])
    mend = "--devices 1" if mend == "dmesg" and name == "gpus together" else mend
    assert finding.state == "problem" and text in finding.text and mend in finding.mend
    assert "\n" not in finding.text and "Traceback" not in finding.text


# Where there is none


TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by downloading "
    "and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx Alternatively, go to: "
    "https://pytorch.org to install a PyTorch version that has been compiled with your version of the CUDA driver."
)
NO_DRIVER = "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU"
NONE = "No CUDA GPUs are available"


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes PyTorch see no GPU for a reason, with CUDA_VISIBLE_DEVICES and versions that are given."""

    def make(reason: str = NONE, shown: str | None = None, cuda: str | None = "13.0", smi: str | None = None) -> None:
        def refuse() -> None:
            raise RuntimeError(reason)

        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.cuda, "init", refuse)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(gpu_check.shutil, "which", lambda name: smi)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if shown is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)

    return make


def test_a_build_without_cuda_is_told_with_what_installs_the_other(
    without: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    without(cuda=None, shown="")
    versions = {"torch": "2.11.0+cpu", "torchvision": "0.26.0+cpu", "torchaudio": "2.11.0+cpu"}
    monkeypatch.setattr(gpu_check.metadata, "version", versions.__getitem__)
    finding = explain_no_gpu()
    assert finding.state == "problem" and "build without CUDA" in finding.text
    assert finding.mend.endswith("pip install torch==2.11.0 torchvision==0.26.0 torchaudio==2.11.0")


def test_a_driver_that_is_too_old_is_told_in_pytorchs_words(without: Callable[..., None]) -> None:
    without(TOO_OLD)
    finding = explain_no_gpu()
    assert "The NVIDIA driver on your system is too old (found version 11040)" in finding.text
    assert "update the driver" in finding.mend and "CUDA 13.0" in finding.mend and "http" not in finding.text


@pytest.mark.parametrize(("shown", "reason"), [("", NONE), ("-1", NO_DRIVER), (" ", NONE), ("7", NONE)])
def test_gpus_that_are_hidden_are_told(shown: str, reason: str, without: Callable[..., None]) -> None:
    without(reason, shown)
    finding = explain_no_gpu()
    assert f"CUDA_VISIBLE_DEVICES is {shown!r}" in finding.text and "unset it" in finding.mend


@pytest.mark.parametrize(("shown", "reason"), [(None, NONE), (None, NO_DRIVER), ("0", NO_DRIVER), ("0", TOO_OLD)])
def test_other_absences_are_not_put_down_to_the_variable(
    shown: str | None, reason: str, without: Callable[..., None]
) -> None:
    without(reason, shown)
    assert reason.split(". Please")[0] in explain_no_gpu().text


@pytest.mark.parametrize(("smi", "words"), [(None, "isn't here either"), ("/usr/bin/nvidia-smi", "lists one")])
def test_nvidia_smi_is_named(smi: str | None, words: str, without: Callable[..., None]) -> None:
    without(NO_DRIVER, smi=smi)
    finding = explain_no_gpu()
    assert words in finding.mend and finding.text.endswith("it says: Found no NVIDIA driver on your system")


def test_a_warning_of_an_old_driver_is_kept_from_the_terminal(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    def warn() -> bool:
        import warnings

        warnings.warn(f"CUDA initialization: {TOO_OLD}", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", warn)
    assert visible_gpus() == [] and not recwarn.list


def test_an_absent_gpu_is_no_problem_but_an_unseen_one_is_told(
    tmp_path: Path, without: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    without(TOO_OLD)
    monkeypatch.setattr(gpu_check, "NVIDIA_DRIVER", tmp_path / "none")
    assert check_gpu().state == "ok"
    monkeypatch.setattr(gpu_check, "NVIDIA_DRIVER", tmp_path)
    finding = check_gpu()
    assert finding.state == "warning" and "too old" in finding.text and "update the driver" in finding.mend


# A GPU's name


@pytest.mark.parametrize(
    ("module", "version"),
    [
        ("UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023", "535.104.05"),
        ("UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder@U22)", "580.65.06"),
        (None, "unknown"),
    ],
)
def test_a_gpu_is_described(
    module: str | None, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "version"
    if module is not None:
        file.write_text(f"NVRM version: NVIDIA {module}\nGCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1)\n")
    monkeypatch.setattr(gpu_check, "NVIDIA_DRIVER", file)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda gpu: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda gpu: f"NVIDIA H200 of {gpu}")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (139 * 2**30, 140 * 2**30))
    assert visible_gpus() == ["cuda:0", "cuda:1"]
    finding = examine(gpu_checks(visible_gpus())["gpu 1"])
    assert finding.state == "ok" and "NVIDIA H200 of cuda:1 (139 of 140 GiB free)" in finding.text, finding
    assert f"driver {version}, PyTorch {torch.__version__}, CUDA {torch.version.cuda}" in finding.text


# The command


def test_without_a_gpu_the_command_prints_one_line_and_ends_with_1(
    tmp_path: Path, without: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    without(NO_DRIVER)
    out = tmp_path / "doctor.json"
    assert main(["doctor", "--gpu", "--out", str(out)]) == 1
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0].startswith("problem  gpu              no GPU: PyTorch sees none; it says: Found")
    assert not printed.err and printed.out.splitlines()[1].startswith("doctor: 0 checks done, 1 failed")
    written = json.loads(out.read_text())
    assert not written["complete"] and [each["check"] for each in written["detail"]["findings"]] == ["gpu"]


def test_the_command_tries_what_pytorch_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.tools.doctor.gpu.visible_gpus", lambda: ["cpu"])
    monkeypatch.setattr(
        "pipeline.tools.doctor.gpu.gpu_checks", partial(gpu_checks, network=NETWORK, training=small())
    )
    assert main(["doctor", "--gpu", "--out", str(tmp_path / "doctor.json")]) == 0
    findings = json.loads((tmp_path / "doctor.json").read_text())["detail"]["findings"]
    assert [each["check"] for each in findings] == list(gpu_checks(["cpu"]))
    assert "a processor in a GPU's place" in capsys.readouterr().out.splitlines()[0]
