"""Power cuts: what was written in the last second without fsync is cut short or empty when the machine is back."""

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.endurance, pytest.mark.timeout(3600)]

CUTS = 20

# Loaded by every Python of the run: notes which file was flushed to the disk, and when.
WATCHER = """
import os, time
_fsync = os.fsync
def fsync(descriptor):
    _fsync(descriptor)
    descriptor = descriptor if isinstance(descriptor, int) else descriptor.fileno()
    log = os.open(os.environ["FSYNC_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.write(log, f"{os.fstat(descriptor).st_ino} {time.time_ns()}\\n".encode())
    os.close(log)
os.fsync = fsync
"""


def flushed(log: Path) -> dict[int, int]:
    """Inode -> time of its last fsync."""
    lines = log.read_text().split("\n") if log.exists() else []
    return {int(inode): int(when) for inode, _, when in (line.partition(" ") for line in lines if line)}


def cut_power(folder: Path, log: Path, generator: random.Random) -> list[str]:
    """Truncate at random, or empty, every file touched in the last second that was not flushed since."""
    lost, known, now = [], flushed(log), time.time_ns()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        state = path.stat()
        if now - state.st_mtime_ns < 1e9 and known.get(state.st_ino, 0) < state.st_mtime_ns:
            os.truncate(path, generator.choice([0, generator.randrange(state.st_size + 1)]))
            lost.append(str(path.relative_to(folder)))
    return lost


def test_twenty_power_cuts_cost_no_finished_work(
    undisturbed: Any, make_run: Callable[..., Any], moments: Callable[[int], list[tuple[str, float]]], tmp_path: Path
) -> None:
    wanted = undisturbed.result()
    (tmp_path / "watcher").mkdir()
    (tmp_path / "watcher" / "sitecustomize.py").write_text(WATCHER)
    log = tmp_path / "fsync.log"
    paths = os.pathsep.join([str(tmp_path / "watcher"), str(Path(__file__).resolve().parents[2])])
    generator = random.Random(21)
    lost: list[str] = []
    plan = moments(CUTS)
    stages = len({stage for stage, _ in plan})
    for start in range(0, CUTS, stages):
        run = make_run(tmp_path / str(start), environment={"PYTHONPATH": paths, "FSYNC_LOG": str(log)})
        for stage, seconds in plan[start : start + stages]:
            run.kill_in(stage, seconds)
            lost += cut_power(run.out, log, generator)
        run.complete()
        assert run.result() == wanted
        assert run.computed_twice() == {}
    print(f"{len(lost)} files lost their last second, e.g. {lost[:8]}")
    assert lost, "the cuts must have hit files being written"
