"""Digests of weight files that were read before, so that a job can begin without PyTorch.

They lie in the folder of caches, a small file each. A file that has changed since, by size, times or place, is read
anew; workers check what they compute with in any case.
"""

import hashlib
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from extractors.cache_folder import cache_folder


def known_digest(network: str, path: Path) -> str | None:
    """sha256 of the tensors in a file of `network`'s weights, if that file was read here before."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads(_record(network, path).read_text(encoding="utf-8"))
        if record["file"] == _state_of(path):
            return str(record["digest"])
    return None


def remember_digest(network: str, path: Path, digest: str) -> None:
    """Keep it for `known_digest`; where the folder of caches can't be written, nothing is kept."""
    record = _record(network, path)
    with suppress(OSError):
        content = json.dumps({"network": network, "path": str(path), "file": _state_of(path), "digest": digest})
        record.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=record.parent, prefix=".", delete=False) as aside:
            aside.write(content)
        os.replace(aside.name, record)


def _record(network: str, path: Path) -> Path:
    name = hashlib.sha256(f"{network}\0{path.resolve()}".encode("utf-8", "surrogateescape")).hexdigest()
    return cache_folder() / "digests" / f"{name[:32]}.json"


def _state_of(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
