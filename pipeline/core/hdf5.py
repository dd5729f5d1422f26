"""HDF5 files, opened: to read, as others may have made them; to write, on a disk that may fill up.

A file may name other files (external links, external storage, virtual datasets), call for code (filters), or state
sizes that it doesn't have. All that is read is opened here, and only if it is plain; no value is read for that. What is
written gives an OSError where HDF5 itself would crash.
"""

import io
import math
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5l, h5o, h5pl, h5s, h5t
from numpy.typing import NDArray

_MOST_ATTRIBUTES = 16
_MOST_OBJECTS = 4096
_DEEPEST = 3

# A filter that HDF5 doesn't have is code, which it would look for in these folders, and load.
while h5pl.size():
    h5pl.remove(0)


class LayoutError(Exception):
    """Why a file isn't opened: missing, no HDF5 file, or not laid out as expected. Callers name file and cure."""


@dataclass(frozen=True)
class DatasetLayout:
    """What a dataset must be. It is contiguous, or chunked where `chunked` allows that; it has no filter."""

    dtype: str
    """numpy's, with the byte order; `S`: fixed-length ASCII of any length, zero-padded."""
    shape: tuple[int, ...] = ()
    """Of one entry; the dataset has any number of them."""
    chunked: bool = False


Attributes = Mapping[str, str | int]
"""Of the file's root, by name."""
Layout = Mapping[str, DatasetLayout]
"""By the dataset's path."""


@dataclass(frozen=True)
class Contents:
    """What a file that is as it should be holds."""

    attributes: Attributes
    lengths: Mapping[str, int]
    """Number of entries of each dataset expected."""
    version: tuple[int, ...]
    """Another one once the file is changed, or another in its place."""


@dataclass(frozen=True)
class PlainFile:
    """An open file that is as it should be."""

    hdf5: h5py.File
    contents: Contents

    def values(self, name: str) -> NDArray[Any]:
        """All of a dataset that is expected; several times faster for a small one than `hdf5[name][:]`."""
        dataset = h5d.open(self.hdf5.id, name.encode())
        values: NDArray[Any] = np.empty(dataset.shape, dataset.dtype)
        if values.size:
            dataset.read(h5s.ALL, h5s.ALL, values)
        return values


def read_hdf5(
    path: Path,
    layout: Callable[[Attributes, frozenset[str]], Layout],
    others_allowed: bool = False,
    known: Contents | None = None,
) -> PlainFile:
    """Open a file that holds the datasets of `layout` and no others, each of its type and within the file.

    `layout` is called with the root's attributes, which are texts and integers, and the paths of all datasets; its
    LayoutError, KeyError, TypeError and ValueError say that they are none of such a file. With `others_allowed`, what
    isn't expected may be there, and isn't followed. A file that is still what it was found to be, `known`, isn't looked
    through again. Raises LayoutError.
    """
    file = _open(path)
    try:
        status = os.fstat(file.id.get_vfd_handle())
        version = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if known is None or known.version != version:
            attributes = _attributes(file)
            found = dict(_objects(file.id, others_allowed))
            expected = _expected(layout, attributes, frozenset(found))
            _compare_names(found, expected, others_allowed)
            known = Contents(attributes, _lengths(found, expected, status.st_size), version)
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, OverflowError, MemoryError) as error:
        file.close()
        raise LayoutError(f"damaged ({_first_line(error)})") from None
    except BaseException:
        file.close()
        raise
    return PlainFile(file, known)


def read_attributes(path: Path) -> Attributes:
    """The attributes of a file's root; nothing else is looked at. Raises LayoutError."""
    with _open(path) as file:
        try:
            return _attributes(file)
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, MemoryError) as error:
            raise LayoutError(f"damaged ({_first_line(error)})") from None


def shown(name: str) -> str:
    """A name out of a file as it may be printed."""
    return ascii(name)[1:-1][:80]


def _open(path: Path) -> h5py.File:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise LayoutError("not a regular file")
        file = h5py.File(path, "r", driver="sec2", locking=False)
    except FileNotFoundError:
        raise LayoutError("no such file") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise LayoutError(f"not a whole HDF5 file ({_first_line(error)})") from None
    if file.userblock_size:
        file.close()
        raise LayoutError("something stands before its HDF5 content")
    return file


def _first_line(error: Exception) -> str:
    return shown((str(error).splitlines() or [""])[0] or type(error).__name__)


def _attributes(file: h5py.File) -> Attributes:
    if (count := h5a.get_num_attrs(file.id)) > _MOST_ATTRIBUTES:
        raise LayoutError(f"it has {count} attributes")
    values: dict[str, str | int] = {}
    for name in file.attrs:
        attribute = h5a.open(file.id, name.encode())
        kind = attribute.get_type()
        text = kind.get_class() == h5t.STRING and kind.is_variable_str()
        scalar = attribute.get_space().get_simple_extent_type() == h5s.SCALAR
        if kind.committed() or not scalar or not (text or kind.equal(_type("<i8"))):
            raise LayoutError(f"attribute {shown(name)} is neither a text nor an integer")
        buffer: NDArray[Any] = np.empty((), object if text else np.int64)
        attribute.read(buffer, h5t.py_create(h5py.string_dtype()) if text else None)
        value: Any = buffer[()]
        values[name] = value.decode() if text else int(value)
    return values


def _objects(root: h5g.GroupID, others_allowed: bool) -> Iterator[tuple[str, h5d.DatasetID]]:
    """Path and dataset of every hard link; no other link is followed."""
    groups, objects = [("", root, 0)], 0
    while groups:
        prefix, group, depth = groups.pop()
        objects += group.get_num_objs()
        if objects > _MOST_OBJECTS:
            raise LayoutError(f"it holds more than {_MOST_OBJECTS} objects")
        for link in group:
            name = prefix + link.decode("ascii", "backslashreplace")
            # HDF5 takes a name with a slash for a path, and goes through what stands before it.
            if b"/" in link or group.links.get_info(link).type != h5l.TYPE_HARD:
                if not others_allowed:
                    raise LayoutError(f"{shown(name)} is a link to something else")
                continue
            opened = h5o.open(group, link)
            if isinstance(opened, h5d.DatasetID):
                yield name, opened
            elif isinstance(opened, h5g.GroupID) and depth < _DEEPEST - 1:
                groups.append((f"{name}/", opened, depth + 1))
            elif not others_allowed:
                raise LayoutError(f"{shown(name)} is no dataset")


def _expected(
    layout: Callable[[Attributes, frozenset[str]], Layout], attributes: Attributes, names: frozenset[str]
) -> Layout:
    try:
        return layout(attributes, names)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {_first_line(error)}"
        raise LayoutError(f"its attributes don't describe such a file ({reason})") from None


def _compare_names(found: Iterable[str], expected: Iterable[str], others_allowed: bool) -> None:
    for name in sorted(set(expected) - set(found)):
        raise LayoutError(f"{shown(name)} is missing")
    for name in sorted(set(found) - set(expected)):
        if not others_allowed:
            raise LayoutError(f"{shown(name)} doesn't belong there")


def _lengths(found: Mapping[str, h5d.DatasetID], expected: Layout, file_bytes: int) -> dict[str, int]:
    lengths, total = {}, 0
    for name, wanted in expected.items():
        lengths[name], size = _checked(name, found[name], wanted, file_bytes)
        total += size
    if total > file_bytes:
        raise LayoutError("its datasets overlap")
    return lengths


def _checked(name: str, dataset: h5d.DatasetID, wanted: DatasetLayout, file_bytes: int) -> tuple[int, int]:
    """Number of entries, and bytes, of a dataset that is as it should be."""
    creation = dataset.get_create_plist()
    stored_as = creation.get_layout()
    chunked = stored_as == h5d.CHUNKED and wanted.chunked
    # Before anything is asked of its shape: that of a virtual dataset is looked for in other files.
    if not (chunked or stored_as == h5d.CONTIGUOUS) or creation.get_nfilters() or creation.get_external_count():
        raise LayoutError(f"{name} isn't contiguous and plain")
    kind, shape = dataset.get_type(), dataset.shape
    if kind.committed() or not _is_type(kind, wanted.dtype):
        raise LayoutError(f"{name} isn't of type {wanted.dtype}")
    if len(shape) != 1 + len(wanted.shape) or shape[1:] != wanted.shape:
        entry = ", ".join(map(str, ("n", *wanted.shape)))
        raise LayoutError(f"{name} has the shape {shape}, expected: ({entry})")
    size = math.prod(shape) * kind.get_size()
    stored, offset = dataset.get_storage_size(), None if chunked else dataset.get_offset()
    if max(size, stored) > file_bytes or (offset or 0) + size > file_bytes:
        raise LayoutError(f"{name} has a size beyond that of the file")
    if stored < size or (size and not chunked and offset is None):
        raise LayoutError(f"{name} has room for {size} bytes, of which {stored} are there")
    return int(shape[0]), max(size, stored)


@cache
def _type(dtype: str) -> Any:
    return h5t.py_create(np.dtype(dtype))


def _is_type(kind: Any, dtype: str) -> bool:
    if dtype.startswith("S"):
        return (
            kind.get_class() == h5t.STRING
            and not kind.is_variable_str()
            and kind.get_strpad() == h5t.STR_NULLPAD
            and kind.get_cset() == h5t.CSET_ASCII
        )
    if dtype.startswith("V"):
        return kind.get_class() == h5t.OPAQUE and kind.get_size() == np.dtype(dtype).itemsize
    return bool(kind.equal(_type(dtype)))


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
