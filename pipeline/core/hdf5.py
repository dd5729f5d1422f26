"""HDF5 on a disk that may fill up: an error that can be told, where HDF5 itself would crash."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import h5py


class _Held(io.RawIOBase):
    """A file for HDF5 that never fails: the first error is kept for `close` to raise.

    HDF5 can't close a file whose last writes fail: it keeps it open, and crashes when the process ends.
    """

    def __init__(self, path: Path, mode: str) -> None:
        self._file = io.FileIO(path, mode)
        self._error: OSError | None = None

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        view, read = memoryview(buffer).cast("B"), 0
        with self._held():
            while count := self._file.readinto(view[read:]):
                read += count
        view[read:] = bytes(len(view) - read)  # what HDF5 reads past the end is zero
        return len(view)

    def write(self, values: Any) -> int:
        view, written = memoryview(values).cast("B"), 0
        with self._held():
            while self._error is None and written < len(view):
                written += self._file.write(view[written:])
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        with self._held():
            self._file.truncate(size)
        return size or 0

    @contextmanager
    def _held(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._error = self._error or error

    def close(self) -> None:
        with self._held():
            self._file.close()
        super().close()
        if self._error is not None:
            error, self._error = self._error, None
            raise error


@contextmanager
def write_hdf5(aside: Path, mode: Literal["w", "r+"]) -> Iterator[h5py.File]:
    """An HDF5 file to write to, new or made so before; an error of the disk is an OSError at the end of the block."""
    with _Held(aside, {"w": "w+", "r+": "r+"}[mode]) as held, h5py.File(held, mode) as file:
        yield file
