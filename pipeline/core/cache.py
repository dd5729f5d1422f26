"""A folder on this machine for copies of what lies at addresses: within a budget, whole or absent, shared by processes.

A file in use is held by a lock of its process (flock), which ends with the process: nobody deletes it until then. When
the budget asks for room, what was used longest ago goes first.
"""

import fcntl
import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from extractors.cache_folder import FOLDER
from pipeline.core.errors import InputError
from pipeline.core.files import ASIDE, Closeable
from pipeline.core.formatting import size as size_text

GIB = 2**30
_LOCK = ".lock"


class NoRoomError(Exception):
    """What is in use leaves no room within the budget now."""


class FileCache(Closeable):
    """The files of one process's use; `close` lets go of them. InputError where the folder can't be used."""

    def __init__(self, folder: Path, budget_gib: float) -> None:
        self.folder, self._budget = folder, int(budget_gib * GIB)
        self._held: dict[str, tuple[Path, int]] = {}
        with self._told():
            folder.mkdir(parents=True, exist_ok=True)
            with self._alone():
                pass

    def get(self, key: str, name: str, size: int, fill: Callable[[Path], None]) -> Path:
        """A file of this name for `key`, held until `release(key)`: the one there, or one of `size` bytes by `fill`.

        `fill` writes a path that it is given. NoRoomError where the files in use leave no room for it; InputError where
        the budget is too small for it alone, or the disk too full.
        """
        if key in self._held:
            return self._held[key][0]
        digest = hashlib.sha256(key.encode()).hexdigest()
        path = self.folder / digest[:2] / digest[2:18] / name
        with self._told():
            lock = _hold(path)
            if lock is None:
                lock = self._fill(path, size, fill)
            self._held[key] = path, lock
            os.utime(path)
        return path

    def _fill(self, path: Path, size: int, fill: Callable[[Path], None]) -> int:
        # Its size stands in its name: what is still being fetched counts whole.
        aside = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex[:8]}.{size}{ASIDE}")
        with self._alone():
            self._make_room(size, path.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(aside, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o666)
            fcntl.flock(lock, fcntl.LOCK_SH)
        try:
            fill(aside)
            os.replace(aside, path)
        except BaseException:
            os.close(lock)
            aside.unlink(missing_ok=True)
            raise
        return lock

    def _make_room(self, size: int, name: str) -> None:
        if size > self._budget:
            raise InputError(
                f"{self.folder}: {name} has {size_text(size)}, the cache may take {size_text(self._budget)}: raise "
                "--cache-size"
            )
        files = sorted(self._files(), key=lambda file: (not file[0].name.endswith(ASIDE), file[2]))
        taken = sum(weight for _, weight, _ in files)
        for path, weight, _ in files:
            if taken + size <= self._budget and not path.name.endswith(ASIDE):
                break
            if _remove_unheld(path):
                taken -= weight
        if taken + size > self._budget:
            raise NoRoomError(str(self.folder))

    def _files(self) -> Iterator[tuple[Path, int, float]]:
        """File, bytes, time of its last use."""
        for parent, _, names in os.walk(self.folder):
            for name in set(names) - {_LOCK}:
                path = Path(parent, name)
                with suppress(OSError, ValueError):
                    status = path.stat()
                    expected = int(name.split(".")[-2]) if name.endswith(ASIDE) else 0
                    yield path, max(status.st_size, expected), status.st_mtime

    def release(self, key: str) -> None:
        """Let go of the file got for `key`, if there is one."""
        if key in self._held:
            os.close(self._held.pop(key)[1])

    @property
    def is_used(self) -> bool:
        """Whether a file is held."""
        return bool(self._held)

    def close(self) -> None:
        """Let go of all files."""
        for key in list(self._held):
            self.release(key)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time makes room."""
        lock = os.open(self.folder / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"{error.filename or self.folder}: {error.strerror}: the cache can't be used; make room, or choose "
                f"another folder by --cache or {FOLDER}"
            ) from error


def _hold(path: Path) -> int | None:
    """A lock on a file that is there, or None."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    fcntl.flock(lock, fcntl.LOCK_SH)
    # Whoever removed it held it for that.
    if os.fstat(lock).st_nlink:
        return lock
    os.close(lock)
    return None


def _remove_unheld(path: Path) -> bool:
    """Delete a file unless a process holds it; whether it is gone."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    with suppress(OSError):
        path.parent.rmdir()
    return True
