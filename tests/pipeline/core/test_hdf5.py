"""HDF5 on a full disk; what is written where there is room."""

import errno
import importlib.util
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipeline.core import hdf5
from pipeline.core.hdf5 import write_hdf5

FULL = """
import sys
from pathlib import Path
import numpy as np
from pipeline.core.hdf5 import write_hdf5
try:
    with write_hdf5(Path("/dev/full"), "w") as file:
        file["small"] = np.arange(10)
        rows = file.create_dataset("rows", (3000, 512), "<f2")
        for first in range(0, 3000, 100):
            rows[first : first + 100] = 1
except OSError as error:
    sys.exit(40 + error.errno)
"""


def test_what_is_written_is_what_h5py_reads(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    rows, small = generator.normal(size=(700, 96)).astype("<f2"), generator.integers(0, 9, 1000)
    with write_hdf5(tmp_path / "x.h5", "w") as file:
        file.attrs["text"] = "a" * 5000
        file["group/small"] = small
        stored = file.create_dataset("rows", rows.shape, rows.dtype)
        pieces = file.create_dataset("pieces", (1000,), "<f8")
        for first in range(0, 700, 100):
            stored[first : first + 100] = rows[first : first + 100]
        for place in range(0, 1000, 2):  # what lies between is never written: zero
            pieces[place] = small[place]
    with write_hdf5(tmp_path / "x.h5", "r+") as file:
        file.attrs["digest"] = "b" * 64
    with h5py.File(tmp_path / "x.h5", "r", locking=False) as file:
        assert file["rows"][:].tobytes() == rows.tobytes() and file["group/small"][:].tolist() == small.tolist()
        assert file["pieces"][::2].tolist() == small[::2].tolist() and not file["pieces"][1::2].any()
        assert (file.attrs["text"], file.attrs["digest"]) == ("a" * 5000, "b" * 64)


def test_a_full_disk_is_told_and_the_process_goes_on_and_ends_well() -> None:
    ended = subprocess.run([sys.executable, "-c", FULL], cwd=Path(__file__).parents[3], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (40 + errno.ENOSPC, "")


CUT_OFF = """
import resource, sys
from pathlib import Path
import numpy as np
from pipeline.core.hdf5 import write_hdf5

path = Path(sys.argv[1])
def write():
    with write_hdf5(path, "w") as file:
        file.attrs["name"] = "x"
        file["first"] = np.arange(3000)
        file["last"] = np.arange(50_000)
write()
size = path.stat().st_size
told = []
for least in (1, 1000, 100_001, 300_000, size - 3000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - least, resource.RLIM_INFINITY))
    try:
        write()
    except OSError as error:
        told.append(error.errno)
print(*told)
"""


def test_a_write_that_takes_part_of_what_it_is_given_is_gone_on_with_or_told(tmp_path: Path) -> None:
    """At a limit the system first writes what fits, without an error."""
    command = [sys.executable, "-c", CUT_OFF, str(tmp_path / "x.h5")]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == ([str(errno.EFBIG)] * 5, "")


def test_a_system_that_takes_half_of_each_write_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class HalfFile(io.FileIO):
        def write(self, values: Any) -> int:
            view = memoryview(values).cast("B")
            return super().write(view[: max(1, len(view) // 2)])

    monkeypatch.setattr(io, "FileIO", HalfFile)
    # Its file class derives from the system's as it was when the module was loaded.
    spec = importlib.util.spec_from_file_location("hdf5_on_half_files", hdf5.__file__)
    assert spec is not None and spec.loader is not None
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    for name, write in (("half.h5", copy.write_hdf5), ("whole.h5", write_hdf5)):
        with write(tmp_path / name, "w") as file:
            file["rows"] = np.arange(5000)
            file.attrs["text"] = "a" * 900
    assert (tmp_path / "half.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


GAPS = """
import sys
from pathlib import Path
import numpy as np
from pipeline.core.hdf5 import write_hdf5

with write_hdf5(Path(sys.argv[1]), "w") as file:
    pieces = file.create_dataset("pieces", (40_000,), "<f8")
    for place in range(0, 40_000, 5000):
        pieces[place] = 1
    print(pieces[:].sum())
"""


def test_what_was_never_written_is_zero_whatever_the_memory_held(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    command = [sys.executable, "-c", GAPS, str(path)]
    filled = {**os.environ, "MALLOC_PERTURB_": "165", "PYTHONMALLOC": "malloc"}
    done = subprocess.run(command, cwd=Path(__file__).parents[3], env=filled, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("8.0\n", "")
    with h5py.File(path, "r", locking=False) as file:
        assert np.flatnonzero(file["pieces"][:]).tolist() == list(range(0, 40_000, 5000))


def test_an_error_of_the_writer_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="mine"), write_hdf5(tmp_path / "x.h5", "w"):
        raise KeyError("mine")
