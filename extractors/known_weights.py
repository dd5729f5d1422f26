"""Digests of weight files that were read before, so that a job can begin without PyTorch.

They lie in the folder of caches, a small file each. A file that has changed since, by size, times or place, is read
anew, and so is any by other versions of what reads it; workers check what they compute with in any case.
"""

import hashlib
import json
import os
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from extractors.cache_folder import cache_folder

FileState = list[int]
_READERS = ("mcn", "torch", "torchvision", "timm")
"""Packages that say which tensors a file gives."""


def known_digest(network: str, path: Path) -> str | None:
    """sha256 of the tensors in a file of `network`'s weights, if that file was read here before."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads(_record(network, path).read_text(encoding="utf-8"))
        if record["file"] == file_state(path) != [] and record["read_by"] == _versions():
            return str(record["digest"])
    return None


def remember_digest(network: str, path: Path, digest: str, before: FileState) -> None:
    """Keep it for `known_digest`, as that of the file in the state that it had `before` it was read.

    Where the folder of caches can't be written, nothing is kept.
    """
    record = _record(network, path)
    aside = record.with_name(f".{record.name}.{os.getpid()}.aside")
    with suppress(OSError):
        content = {"network": network, "path": str(path), "file": before, "read_by": _versions(), "digest": digest}
        record.parent.mkdir(parents=True, exist_ok=True)
        try:
            aside.write_text(json.dumps(content), encoding="utf-8")
            aside.replace(record)
        finally:
            aside.unlink(missing_ok=True)


def _record(network: str, path: Path) -> Path:
    name = hashlib.sha256(f"{network}\0{path.resolve()}".encode("utf-8", "surrogateescape")).hexdigest()
    return cache_folder() / "digests" / f"{name[:32]}.json"


def file_state(path: Path) -> FileState:
    """What changes with a file's content: size, times and place; empty where there is no file."""
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _versions() -> dict[str, str]:
    versions = {}
    for package in _READERS:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions
