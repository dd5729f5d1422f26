"""A sample of a few videos, what one machine makes of it, and `mcn` as a process that can be disturbed."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import psutil
import pytest

from beam_jobs.flink_jar import make_flink_jar

from .flink_cluster import FlinkCluster

REPOSITORY = Path(__file__).resolve().parents[2]
JARS = REPOSITORY / "build" / "flink"
WITHIN_S = 900.0

QUICKLY = "--streams efficientnet-lite0 --precision fp32 --weights random:0 --davenet-weights random:0".split()
QUICKLY += ["--shard-size", "0.1"]
"""Of an extraction: one small network, a shard a video."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            # Beam's clusters want Java, the others programs of the system: a command each.
            endures = item.get_closest_marker("endurance") is not None
            if not endures:
                item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.timeout((12 if endures else 3) * WITHIN_S))


@dataclass
class Work:
    """`mcn`, on a sample of a few videos."""

    folder: Path
    videos: int = 4

    @property
    def sample(self) -> Path:
        return self.folder / "sample"

    @property
    def media(self) -> Path:
        """Downloaded by this machine alone."""
        return self.folder / "media"

    @property
    def dataset(self) -> Path:
        """Extracted by this machine alone."""
        return self.folder / "dataset"

    def start(self, *words: object) -> subprocess.Popen[str]:
        """`mcn` of these words."""
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)}
        command = [sys.executable, "-m", "pipeline.cli", *map(str, words)]
        return subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def make_sample(self) -> None:
        """Make the sample."""
        assert ended(self.start("sample", "--videos", self.videos, "--seconds", 16, "--out", self.sample)) == (0, [])

    def download(self, out: Path, *flags: str, ids: Path | None = None) -> subprocess.Popen[str]:
        """Start a download of the sample's list or of another; ten ids of the sample's are dead."""
        site = ["--site", "sample", "--sample", self.sample]
        ids = ids or self.sample / "HowTo100M_v1.csv"
        return self.start("download", "--ids", ids, *site, "--out", out, *flags)

    def extract(self, out: Path, *flags: str, media: Path | None = None) -> subprocess.Popen[str]:
        """Start an extraction, by default of `media`."""
        given = ["--media", media or self.media, "--captions", self.sample / "caption.json"]
        return self.start("extract", *given, *QUICKLY, "--out", out, *flags)


def ended(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    """Exit status of `mcn`, and what it said on stderr but its progress and what it took over from the killed."""
    _, said = process.communicate(timeout=WITHIN_S)
    return process.returncode, [
        line for line in said.splitlines() if not re.search(" videos, |: taken over from ", line)
    ]


def holder(dataset: Path, process: subprocess.Popen[str], but: int = 0) -> psutil.Process:
    """The process that works on a plan of the data set, waited for; another one than number `but`."""
    begin = time.monotonic()
    while time.monotonic() - begin < WITHIN_S:
        assert process.poll() is None, process.communicate()
        for path in dataset.glob("leases/0*.json"):
            with contextlib.suppress(OSError, ValueError, psutil.NoSuchProcess):
                pid = json.loads(path.read_text())["pid"]
                if pid != but:
                    return psutil.Process(pid)
        time.sleep(0.02)
    raise TimeoutError(f"nobody works on {dataset}")


def contents(dataset: Path) -> dict[str, Any]:
    """Shard and name -> dtype, shape and bytes of each dataset and all attributes, but those that tell when and where
    it was made."""
    found: dict[str, Any] = {}
    for path in sorted((dataset / "shards").glob("*.h5")):
        with h5py.File(path) as file:

            def visit(name: str, item: Any, shard: str = path.name) -> None:
                for key, value in item.attrs.items():
                    if key not in ("circumstance", "digest"):
                        found[f"{shard}:{name}@{key}"] = repr(value)
                if isinstance(item, h5py.Dataset):
                    found[f"{shard}:{name}"] = (str(item.dtype), item.shape, item[()].tobytes())

            visit("", file)
            file.visititems(visit)
    return found


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """What the cluster's results are compared with is there."""
    work = Work(tmp_path_factory.mktemp("work"))
    work.make_sample()
    assert ended(work.download(work.media)) == (0, [])
    assert ended(work.extract(work.dataset)) == (0, [])
    assert len(list((work.dataset / "shards").glob("*.h5"))) == 4
    return work


@pytest.fixture(scope="session")
def jars() -> Path:
    """Folder of Flink's jars, checked; an error where they can't be had."""
    return make_flink_jar(JARS).parent


@pytest.fixture
def flink(jars: Path, tmp_path: Path) -> Iterator[Callable[..., tuple[FlinkCluster, list[str]]]]:
    """`flink(settings)`: a cluster of two task managers with these settings beside its own, and flags for it.

    Workers are what `mcn-beam-worker` starts. Nothing is left in the end, no process and no temporary file.
    """
    worker = tmp_path / "mcn-beam-worker"
    worker.write_text(
        f'#!/bin/sh\nPYTHONPATH={REPOSITORY} OMP_NUM_THREADS=1 exec {sys.executable} -m beam_jobs.worker_boot "$@"\n'
    )
    worker.chmod(0o755)
    with contextlib.ExitStack() as stack:

        def start(settings: dict[str, Any]) -> tuple[FlinkCluster, list[str]]:
            stack.callback(shutil.rmtree, tmp_path / "flink" / "tmp")
            cluster = stack.enter_context(FlinkCluster(jars, tmp_path / "flink", settings))
            flags = [f"--flink_master={cluster.address}", f"--flink_job_server_jar={jars / 'flink-job-server.jar'}"]
            flags += ["--environment_type=PROCESS", f"--environment_option=process_command={worker}"]
            return cluster, ["--runner=flink", "--parallelism=2", *flags]

        yield start
