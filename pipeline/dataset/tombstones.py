"""Tombstones, `DATASET/forgotten.json`: which videos must not come back. Ids are kept as their sha256 alone."""

import hashlib
from collections.abc import Collection
from pathlib import Path

from pipeline.core.errors import InputError
from pipeline.core.files import read_json, write_json
from pipeline.dataset.folder import FORGETTING

FILE = "forgotten.json"
SCHEMA = 1


def forgotten(folder: Path) -> frozenset[str]:
    """The sha256 of every forgotten id of a data set or media folder; empty where nothing was forgotten.

    InputError when the file is there but broken: it must not be taken for empty.
    """
    path = folder / FILE
    if not path.exists():
        return frozenset()
    content = read_json(path)
    hashes = content.get("sha256") if isinstance(content, dict) and content.get("schema") == SCHEMA else None
    if not isinstance(hashes, list) or not all(isinstance(digest, str) for digest in hashes):
        raise InputError(f"{path}: not a list of forgotten videos; restore it from a copy")
    return frozenset(hashes)


def tombstone(video_id: str) -> str:
    """What stands for a forgotten id."""
    return hashlib.sha256(video_id.encode()).hexdigest()


def is_forgotten(video_id: str, hashes: Collection[str]) -> bool:
    """Whether `video_id` is among the tombstones in `hashes`."""
    return bool(hashes) and tombstone(video_id) in hashes


def add_tombstones(folder: Path, video_ids: Collection[str]) -> None:
    """Add the ids to `folder`'s tombstones."""
    hashes = forgotten(folder) | {tombstone(video_id) for video_id in video_ids}
    write_json(folder / FILE, {"schema": SCHEMA, "sha256": sorted(hashes)})


def half_forgotten(dataset: Path) -> frozenset[str]:
    """The ids that an interrupted `mcn forget` has yet to finish with."""
    path = dataset / FORGETTING
    return frozenset(read_json(path)["ids"]) if path.exists() else frozenset()


def kept_out(dataset: Path) -> frozenset[str]:
    """The sha256 of every id that is forgotten or on its way out of the data set."""
    return forgotten(dataset) | {tombstone(video_id) for video_id in half_forgotten(dataset)}
