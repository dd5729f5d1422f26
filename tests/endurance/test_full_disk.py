"""A disk that fills up in any stage: one line, nothing lost; with room again, the same bytes."""

import contextlib
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.endurance,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk"),
]

STAGES = ("sample", "download", "extract", "freeze", "train", "evaluate retrieval")
ROOM = (0, 40_000, 1_500_000)
"""Bytes that are left when a stage begins."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 300 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, room: int) -> Path:
    """Take all but `room` bytes."""
    state = os.statvfs(folder)
    filler = folder / "filler"
    # Those that write meanwhile may have taken some of it.
    with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
        left = max(0, state.f_bavail * state.f_frsize - room)
        while left > 0:
            left -= file.write(b"x" * min(left, 1 << 20))
    return filler


def ready(run: Any, undisturbed: Any) -> Any:
    """The run with weights that are made already, on another disk: so that this one fills up later, in workers too."""
    weights = run.out / "dataset" / "weights"
    weights.parent.mkdir(parents=True)
    weights.symlink_to(undisturbed.out / "dataset" / "weights")
    return run


@pytest.mark.parametrize(("room", "workers"), [(0, 1), (40_000, 2)])
def test_a_disk_that_fills_up_while_workers_extract(
    undisturbed: Any, make_run: Callable[..., Any], disk: Path, room: int, workers: int
) -> None:
    run = ready(make_run(disk), undisturbed)
    run.settings = run.settings | {"extract": run.settings["extract"] | {"workers": workers}}
    run.complete(STAGES[:2])
    process = run.start(STAGES[:3])
    while process.poll() is None and not list(run.out.glob("dataset/leases/0*.json")):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.02)
    filler = fill(disk, room)
    output, _ = process.communicate(timeout=600)
    filler.unlink()
    assert process.returncode == 2, output
    said = output.partition("== extract\n")[2].splitlines()
    (line,) = (line for line in said if not re.match(r"extract: \d+/\d+ videos, ", line))
    assert line.startswith("mcn: ") and "No space left on device" in line
    run.complete()
    assert run.result() == undisturbed.result()
    assert run.computed_twice() == {}


def test_a_disk_that_is_full_in_each_stage(undisturbed: Any, make_run: Callable[..., Any], disk: Path) -> None:
    run = ready(make_run(disk), undisturbed)
    failures: dict[str, int] = {}
    for number, stage in enumerate(STAGES):
        if number:
            run.complete(STAGES[:number])
        for room in ROOM:
            filler = fill(disk, room)
            process = run.start(STAGES[: number + 1])
            output, _ = process.communicate(timeout=600)
            filler.unlink()
            assert process.returncode in (0, 1, 2), output
            assert "Traceback" not in output, output
            failures[stage] = failures.get(stage, 0) + (process.returncode != 0)
    run.complete()
    assert run.result() == undisturbed.result()
    assert run.computed_twice() == {}
    assert all(failures[stage] for stage in STAGES), failures
