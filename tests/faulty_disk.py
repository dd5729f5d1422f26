"""A disk on which one operation fails: the n-th write, flush, rename or unlink under a folder, in whichever process.

Installed by `FaultyDisk.install`; in every Python of a run by a `sitecustomize` that calls `install_from_environment`.
Only Python's own writes are seen, HDF5's among them; what a C library writes itself is seen when it is flushed.
"""

import builtins
import errno
import io
import json
import os
from collections.abc import Callable
from typing import Any

KINDS = ("write", "fsync", "rename", "unlink")
STAGE_LINE = "== "
"""What `mcn run` prints before a stage's name."""
VARIABLE = "FAULTY_DISK"

_open_file, _os_open, _os_write, _lseek, _close = io.open, os.open, os.write, os.lseek, os.close


class FaultyDisk:
    """The `number`-th operation of `kind` under `folder` fails with EIO, or ENOSPC when `number` is even.

    `counts`: prefix of the files by which all processes count together.
    """

    def __init__(self, folder: str, counts: str, kind: str, number: int) -> None:
        self.folder, self.counts, self.kind, self.number = os.path.realpath(folder), counts, kind, number
        self._undo: list[tuple[Any, str, Any]] = []

    def count(self, kind: str) -> int:
        """How many operations of the kind there were so far."""
        path = f"{self.counts}.{kind}"
        return os.path.getsize(path) if os.path.exists(path) else 0

    def within(self, place: Any, directory: int | None = None) -> bool:
        """Whether a path, or an open descriptor, is under the folder."""
        try:
            if isinstance(place, int):
                path = os.readlink(f"/proc/self/fd/{place}")
            else:
                start = "" if directory is None else os.readlink(f"/proc/self/fd/{directory}")
                path = os.path.abspath(os.path.join(start, os.fspath(place)))
        except (OSError, TypeError):
            return False
        return isinstance(path, str) and (path + "/").startswith(self.folder + "/")

    def meet(self, kind: str, place: Any) -> None:
        """Count one operation; OSError if it is the one that fails."""
        descriptor = _os_open(f"{self.counts}.{kind}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        _os_write(descriptor, b".")
        number = _lseek(descriptor, 0, os.SEEK_CUR)
        _close(descriptor)
        if (kind, number) == (self.kind, self.number):
            code = errno.EIO if number % 2 else errno.ENOSPC
            raise OSError(code, os.strerror(code), str(place))

    def install(self) -> None:
        """Take the place of the system's functions."""

        def guarded(kind: str, whole: Callable[..., Any]) -> Callable[..., Any]:
            def call(place: Any, *more: Any, **named: Any) -> Any:
                descriptor = place.fileno() if hasattr(place, "fileno") else place
                directory = named.get("dir_fd", named.get("src_dir_fd"))
                if self.within(descriptor, directory):
                    self.meet(kind, place)
                return whole(place, *more, **named)

            return call

        for name, kind in (
            ("write", "write"), ("fsync", "fsync"), ("replace", "rename"), ("rename", "rename"), ("link", "rename"),
            ("unlink", "unlink"), ("remove", "unlink"),
        ):  # fmt: skip
            self._replace(os, name, guarded(kind, getattr(os, name)))
        disk, whole_file = self, io.FileIO

        class FaultyFile(whole_file):  # type: ignore[misc, valid-type]
            def write(self, values: Any) -> int:
                disk.meet("write", self.name)
                return super().write(values)

        class GuardedFile(FaultyFile):
            """For those that make a FileIO themselves, of any file."""

            def write(self, values: Any) -> int:
                return super().write(values) if disk.within(self.fileno()) else whole_file.write(self, values)

        def guarded_open(file: Any, mode: str = "r", buffering: int = -1, *more: Any, **named: Any) -> Any:
            if not set(mode) & set("wax+") or isinstance(file, int) or not disk.within(file):
                return _open_file(file, mode, buffering, *more, **named)
            raw = FaultyFile(file, mode.replace("b", "").replace("t", ""))
            if "b" in mode:
                if buffering == 0:
                    return raw
                return io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            return io.TextIOWrapper(io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw), *more, **named)

        self._replace(io, "FileIO", GuardedFile)
        for module in (builtins, io):
            self._replace(module, "open", guarded_open)

    def _replace(self, owner: Any, name: str, function: Any) -> None:
        self._undo.append((owner, name, getattr(owner, name)))
        setattr(owner, name, function)

    def note_stages(self) -> None:
        """Write to `counts`.STAGE, as JSON, how many operations of each kind there were when `mcn run` began it."""
        whole = builtins.print

        def noting(*values: Any, **named: Any) -> None:
            if values and str(values[0]).startswith(STAGE_LINE):
                with _open_file(f"{self.counts}.{str(values[0]).removeprefix(STAGE_LINE)}", "w") as file:
                    json.dump({kind: self.count(kind) for kind in KINDS}, file)
            whole(*values, **named)

        self._replace(builtins, "print", noting)

    def remove(self) -> None:
        """Give the system's functions their places back."""
        while self._undo:
            owner, name, whole = self._undo.pop()
            setattr(owner, name, whole)


def install_from_environment() -> None:
    """As the variable says: folder, prefix of counts, kind and number, a line each."""
    if given := os.environ.get(VARIABLE):
        folder, counts, kind, number = given.split("\n")
        disk = FaultyDisk(folder, counts, kind, int(number))
        disk.install()
        disk.note_stages()
