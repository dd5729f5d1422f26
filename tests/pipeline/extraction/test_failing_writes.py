"""The n-th write, flush, rename or unlink of a worker fails: nothing is lost, and the next run ends right."""

import importlib.util
import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.core import hdf5
from pipeline.core.errors import InputError, ToolError
from pipeline.dataset import shard_writer

from ...faulty_disk import KINDS, FaultyDisk
from .conftest import Extraction

Disk = Callable[[str, int], FaultyDisk]


@pytest.fixture
def disk(tmp_path: Path, extraction: Extraction, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """`disk(kind, number)`: installed, HDF5's own files included."""
    installed: list[FaultyDisk] = []

    def install(kind: str, number: int) -> FaultyDisk:
        for counts in tmp_path.glob("count.*"):
            counts.unlink()
        installed.append(FaultyDisk(str(tmp_path), str(tmp_path / "count"), kind, number))
        installed[-1].install()
        # Its file class derives from the system's as it was when the module was loaded.
        spec = importlib.util.spec_from_file_location("hdf5_on_a_faulty_disk", hdf5.__file__)
        assert spec is not None and spec.loader is not None
        copy = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(copy)
        monkeypatch.setattr(shard_writer, "write_hdf5", copy.write_hdf5)
        return installed[-1]

    yield install
    for one in installed:
        one.remove()


EVERY = {"write": 24}
"""Of HDF5's writes, which are alike."""


@pytest.mark.parametrize("kind", KINDS)
def test_after_any_operation_that_fails_the_next_run_ends_right(
    extraction: Extraction, disk: Disk, kind: str
) -> None:
    failed = 0
    for number in itertools.count(1, EVERY.get(kind, 1)):
        extraction.begin()
        faulty = disk(kind, number)
        try:
            extraction.run()
        except (InputError, ToolError, OSError) as error:
            assert "\n" not in str(error)
            failed += 1
        finally:
            faulty.remove()
        # What a process held goes with it.
        shutil.rmtree(extraction.settings.out / "leases", ignore_errors=True)
        if faulty.count(kind) < number:
            break
        extraction.nothing_is_lost()
        extraction.ends_right()
    assert failed >= 3

