"""Files that are either whole or absent: written aside, flushed to the disk, renamed.

A rename without fsync may leave an empty file after a power cut; a file without the fsync of its folder may vanish.
"""

import errno
import hashlib
import json
import os
import re
import stat
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, BinaryIO, Self

from pipeline.core.errors import InputError

_NAMES = "EACCES EPERM EROFS ENOSPC EDQUOT ENOENT ENOTDIR EISDIR EEXIST ENAMETOOLONG"
_USERS_TO_MEND = {getattr(errno, name) for name in _NAMES.split()}

ASIDE = ".aside"
"""Suffix of files being written; any file with it may be deleted when no process is at work."""


class AlreadyThereError(Exception):
    """Another process has written this file first; it is whole and was left as it is."""


_fences: ContextVar[tuple[Callable[[], None], ...]] = ContextVar("fences", default=())


@contextmanager
def fenced(check: Callable[[], None]) -> Iterator[None]:
    """Call `check` right before anything that this thread writes or deletes in the block; it raises to prevent that.

    Only what goes through this module is fenced.
    """
    token = _fences.set((*_fences.get(), check))
    try:
        yield
    finally:
        _fences.reset(token)


def check_fences() -> None:
    """Raise what a fence around this call raises."""
    for check in _fences.get():
        check()


def remove(path: Path) -> None:
    """Delete a file, if it is there and no fence forbids it."""
    check_fences()
    path.unlink(missing_ok=True)


def remove_tree(folder: Path) -> None:
    """Delete a folder file by file, each as `remove` does; one that isn't there, or that others fill again, is left."""
    for parent, folders, names in os.walk(folder, topdown=False):
        for name in names:
            remove(Path(parent, name))
        for path in (*(Path(parent, name) for name in folders), Path(parent)):
            with suppress(OSError):
                path.rmdir()


class Closeable(ABC):
    """What is opened when it is made, for a `with` block that closes it."""

    @abstractmethod
    def close(self) -> None:
        """Give back what is open; a second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@contextmanager
def write_aside(path: Path, exclusive: bool = False) -> Iterator[Path]:
    """Give a path beside `path` to write to; on leaving without an error it is fsynced and renamed to `path`.

    With `exclusive` a file that has come to be there meanwhile is kept, and AlreadyThereError raised. Raises InputError
    when the folder can't be written to or the disk is full, and what a fence raises.
    """
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{ASIDE}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
        check_fences()
        if exclusive:
            _link(aside, path)
        else:
            os.replace(aside, path)
        fsync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        number = _error_number(error)
        if number in _USERS_TO_MEND:
            raise InputError(
                f"{path}: can't be written: {os.strerror(number)}; choose another --out or make room"
            ) from error
        raise
    finally:
        # On a disk mounted read-only this fails too, and would be told in place of what went wrong before.
        with suppress(OSError):
            aside.unlink()


def _error_number(error: OSError | RuntimeError) -> int:
    """The system's number of the error, 0 without one; h5py gives it in the text alone, some of it as RuntimeError."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    match = re.search(r"\berrno = (\d+)", str(error))
    return int(match[1]) if match else 0


def _link(aside: Path, path: Path) -> None:
    """Give `aside` its final name unless that is taken: a link, unlike a rename, never replaces (also over NFS)."""
    try:
        os.link(aside, path)
    except FileExistsError:
        # Over NFS the answer to a link may be lost, and the call sent again meets what it made itself.
        if not os.path.samefile(aside, path):
            raise AlreadyThereError(str(path)) from None


def fsync_folder(folder: Path) -> None:
    """Make renames and new names in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_to_append(path: Path) -> BinaryIO:
    """A regular file to append to, made if there is none, unbuffered. A link, a pipe or a device that lies there under
    its name is never followed or waited for: OSError."""
    # Without O_NONBLOCK a pipe that nobody reads would be waited for.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise OSError(error.errno, "a link or a pipe lies there; remove it", str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file; remove it", str(path))
    return open(descriptor, "ab", buffering=0)


def touch(path: Path) -> None:
    """Make an empty file, or give the one there the time of now; see `open_to_append`."""
    with open_to_append(path) as file:
        os.utime(file.fileno())


def weight_of(folder: Path) -> int:
    """Bytes of all files under `folder`; those that vanish meanwhile count nothing."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.stat(os.path.join(parent, name)).st_size
    return total


def write_text(path: Path, text: str, exclusive: bool = False) -> None:
    """Write `text` as UTF-8 so that `path` is whole or unchanged; see `write_aside`."""
    with write_aside(path, exclusive) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, exclusive: bool = False) -> None:
    """Write `value` as indented JSON with sorted keys; NaN is refused (ValueError). See `write_aside`."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n", exclusive)


LARGEST_JSON = 1 << 29
"""Bytes; a manifest of a million ids has 16 MB."""


def read_json(path: Path) -> Any:
    """Read one JSON value; InputError if the file is missing, broken, too large, or a pipe or device."""
    try:
        status = path.stat()
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise InputError(f"{path}: not a regular file")
        if status.st_size > LARGEST_JSON:
            raise InputError(f"{path}: too large for a file of this program")
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # the latter for brackets a thousand deep
        raise InputError(f"{path}: not a JSON file: {error}; delete it or restore it from a copy") from None


def sha256_of_file(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def digest_of_json(value: Any) -> str:
    """Hexadecimal sha256 of a value's canonical JSON (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
