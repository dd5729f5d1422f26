"""A small `mcn run` that is disturbed in every way and must end with what an undisturbed one gives.

These tests take minutes each: `make endurance` runs them, `make test` doesn't.
"""

import contextlib
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
import yaml

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("sample", "download", "extract", "freeze", "train", "evaluate retrieval")
RUN: dict[str, Any] = {
    "out": "run",
    "sample": {"videos": 8, "seconds": 16},
    "download": {},
    "extract": {"streams": ["efficientnet-lite0"], "precision": "fp32", "davenet_weights": "random:0", "workers": 2},
    "freeze": {},
    "train": {"preset": "sample", "batch_videos": 4, "epochs": 60, "clusters": 8, "queue_rows": 48},
    "evaluate": {"bootstrap": 50},
}


@dataclass
class Run:
    """`mcn run` in a folder of its own; all paths in it are relative, so that two of them may be compared."""

    folder: Path
    settings: dict[str, Any] = field(default_factory=lambda: RUN)
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def out(self) -> Path:
        return self.folder / "run"

    def start(self, stages: tuple[str, ...] = STAGES) -> "subprocess.Popen[str]":
        """Begin the run, with these stages alone, in a process group of its own."""
        self.folder.mkdir(parents=True, exist_ok=True)
        sections = {stage.split()[0] for stage in stages}
        content = {key: value for key, value in self.settings.items() if key == "out" or key in sections}
        # Beside the folder, which may be a full disk.
        config = self.folder.with_name(f"{self.folder.name}.yaml")
        config.write_text(yaml.safe_dump(content))
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", "run", str(config)],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def complete(self, stages: tuple[str, ...] = STAGES) -> str:
        """Run to the end; returns what it printed."""
        process = self.start(stages)
        output, _ = process.communicate(timeout=900)
        assert process.returncode == 0, output
        return output

    def kill_in(self, stage: str, seconds: float) -> bool:
        """Start, and kill the whole process group `seconds` after `stage` began; False if it ended before that."""
        process = self.start()
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == f"== {stage}":
                break
        drain = threading.Thread(target=process.stdout.read, daemon=True)
        drain.start()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=seconds)
        ended = process.poll() is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        drain.join()
        return not ended

    def seconds_of(self) -> dict[str, float]:
        """Stage -> seconds that it took in a complete run."""
        return {
            stage["stage"]: stage["wall_seconds"]
            for stage in json.loads((self.out / "results.json").read_text())["stages"]
        }

    def result(self) -> dict[str, Any]:
        """All that a run is for: datasets of the shards, receipts' contents, checkpoints, scores."""
        found: dict[str, Any] = {}
        for path in sorted((self.out / "dataset" / "shards").glob("*.h5")):
            with h5py.File(path) as file:
                for group in file.values():
                    for name, dataset in group.items():
                        content = hashlib.sha256(dataset[:].tobytes()).hexdigest()
                        found[f"{path.name}:{group.name}/{name}"] = content
            receipt = json.loads(path.with_suffix(".json").read_text())
            found[f"{path.name} holds"] = (receipt["video_ids"], receipt["left_out"], receipt["content"])
        for path in sorted(self.out.rglob("checkpoint.pt")):
            found[str(path.relative_to(self.out))] = _digest_of_checkpoint(path)
        for path in sorted(self.out.rglob("retrieval.json")):
            found[str(path.relative_to(self.out))] = json.loads(path.read_text())["detail"]["metrics"]
        return found

    def computed_twice(self) -> dict[str, int]:
        """Videos whose extraction the ledger calls done more than once -> how often."""
        done: dict[str, int] = {}
        for path in (self.out / "dataset" / "ledger").glob("extract-*.jsonl"):
            for line in path.read_text(errors="replace").splitlines():
                with contextlib.suppress(ValueError):
                    entry = json.loads(line)
                    if entry["outcome"] == "done":
                        done[entry["video_id"]] = done.get(entry["video_id"], 0) + 1
        return {video_id: times for video_id, times in done.items() if times > 1}


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One run that nothing happened to."""
    run = Run(tmp_path_factory.mktemp("undisturbed"))
    run.complete()
    return run


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Run]:
    """`make_run(folder)`, or with settings of one's own: see `Run`."""
    return Run


@pytest.fixture
def moments(undisturbed: Run) -> Callable[[int], list[tuple[str, float]]]:
    """`moments(n)`: n times (stage, seconds after its beginning), all stages in turn, seeded."""
    seconds = undisturbed.seconds_of()
    generator = random.Random(20)
    return lambda count: [(stage, generator.uniform(0, seconds[stage])) for stage in (STAGES * count)[:count]]


def _digest_of_checkpoint(path: Path) -> str:
    """Of all but where it lies."""
    content = torch.load(path, weights_only=True)
    del content["paths"]
    plain = io.BytesIO()
    torch.save(content, plain)
    return hashlib.sha256(plain.getvalue()).hexdigest()
