"""HDF5 on a disk that may fill up: an OSError where HDF5 itself would crash."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import h5py


class _ErrorKeepingFile(io.FileIO):
    """A file for HDF5 that never fails: the first error is kept for `close` to raise.

    HDF5 can't close a file whose last writes fail: it keeps it open, and crashes when the process ends.
    """

    _error: OSError | None = None

    def readinto(self, buffer: Any) -> int:
        view, read = memoryview(buffer).cast("B"), 0
        with self._keeping_errors():
            while count := super().readinto(view[read:]):
                read += count
        view[read:] = bytes(len(view) - read)  # what HDF5 reads past the end is zero
        return len(view)

    def write(self, values: Any) -> int:
        view, written = memoryview(values).cast("B"), 0
        with self._keeping_errors():
            while self._error is None and written < len(view):
                written += super().write(view[written:])
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        with self._keeping_errors():
            super().truncate(size)
        return size or 0

    @contextmanager
    def _keeping_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._error = self._error or error

    def close(self) -> None:
        with self._keeping_errors():
            super().close()
        if self._error is not None:
            error, self._error = self._error, None
            raise error


@contextmanager
def write_hdf5(aside: Path, mode: Literal["w", "r+"]) -> Iterator[h5py.File]:
    """An HDF5 file to write to, new or made so before; an error of the disk is an OSError at the end of the block."""
    with _ErrorKeepingFile(aside, {"w": "w+", "r+": "r+"}[mode]) as kept, h5py.File(kept, mode) as file:
        yield file
