"""A disk that fills up in any stage: one line, nothing lost; with room again, the same bytes."""

import os
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
    with open(filler, "wb") as file:
        left = max(0, state.f_bavail * state.f_frsize - room)
        while left > 0:
            left -= file.write(b"x" * min(left, 1 << 20))
    return filler


def test_a_disk_that_is_full_in_each_stage(undisturbed: Any, make_run: Callable[..., Any], disk: Path) -> None:
    run = make_run(disk)
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
