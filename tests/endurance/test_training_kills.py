"""SIGKILL at random moments of training, with and without processes that read ahead."""

import contextlib
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.training.checkpoint import load_checkpoint

pytestmark = [pytest.mark.endurance, pytest.mark.timeout(3000)]

ROOT = Path(__file__).resolve().parents[2]
KILLS = 10
EPOCHS = 60


def start(manifest: Path, out: Path, workers: int) -> "subprocess.Popen[bytes]":
    flags = ["--preset", "sample", "--batch-videos", "2", "--epochs", str(EPOCHS), "--clusters", "8"]
    flags += ["--queue-rows", "48", "--width", "64", "--save-every", "0.002", "--workers", str(workers)]
    command = [sys.executable, "-m", "pipeline.cli", "train", "--manifest", str(manifest), "--out", str(out), *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)


def steps_of(out: Path) -> tuple[int, int]:
    """Epochs and steps in the checkpoint."""
    content = load_checkpoint(out)
    return content["epoch"], content["step"]


def kill_after(process: "subprocess.Popen[bytes]", out: Path, seconds: float) -> bool:
    """Kill the group `seconds` after training has begun to save; False if it ended before that."""
    checkpoint = out / "checkpoint.pt"
    before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    while process.poll() is None and not (checkpoint.exists() and checkpoint.stat().st_mtime_ns != before):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.02)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=seconds)
    ended = process.poll() is not None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return not ended


@pytest.fixture(scope="module")
def manifest(undisturbed: Any) -> Path:
    return Path(undisturbed.out / "dataset" / "manifests" / "run.json")


@pytest.fixture(scope="module")
def wanted(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The checkpoint of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("wanted")
    assert start(manifest, out, workers=0).wait() == 0
    return load_checkpoint(out)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_killed_at_ten_moments_training_ends_with_the_same_weights(
    manifest: Path, wanted: dict[str, Any], tmp_path: Path, workers: int
) -> None:
    generator = random.Random(workers)
    struck, seen = 0, set()
    for _ in range(KILLS):
        struck += kill_after(start(manifest, tmp_path, workers), tmp_path, generator.uniform(0, 0.4))
        seen.add(steps_of(tmp_path))
    assert start(manifest, tmp_path, workers).wait() == 0
    found = load_checkpoint(tmp_path)
    assert struck >= KILLS - 2 and len(seen) >= KILLS - 2, "nearly all kills must hit a run at work"
    assert any(step for _, step in seen), "some must hit it within an epoch"
    for part in ("model", "queues"):
        for name, tensor in wanted[part].items():
            assert torch.equal(found[part][name], tensor), name
    assert found["history"] == wanted["history"]
