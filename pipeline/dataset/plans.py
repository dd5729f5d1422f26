"""Shard plans: which videos go into which shard, written before work starts and never changed (docs/data-format.md)."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.core.errors import InputError
from pipeline.core.files import AlreadyThereError, digest_of_json, read_json, write_json
from pipeline.core.records import ShardPlan

SMALL_SET_SHARDS = 8
"""A set too small to fill shards is still cut into this many, so that several workers share it."""


def hash_order(video_id: str) -> str:
    """Sort key of videos in plans: the hexadecimal sha256 of the id, the same everywhere and unrelated to content."""
    return hashlib.sha256(video_id.encode()).hexdigest()


def cut_into_shards(seconds: Mapping[str, float], shard_seconds: float) -> list[tuple[str, ...]]:
    """Cut the videos, in hash order, into runs of about equal duration, each at most about `shard_seconds` long.

    `seconds`: video id -> duration. Sets of few videos are cut into up to SMALL_SET_SHARDS runs.
    """
    order = sorted(seconds, key=hash_order)
    if not order:
        return []
    if not any(seconds.values()):
        seconds = dict.fromkeys(order, 1.0)
    total = sum(seconds.values())
    count = max(int(-(-total // shard_seconds)), min(SMALL_SET_SHARDS, -(-len(order) // 2)))
    shards: list[list[str]] = [[] for _ in range(count)]
    passed = 0.0
    for video_id in order:
        middle = passed + seconds[video_id] / 2
        shards[min(count - 1, int(middle / total * count))].append(video_id)
        passed += seconds[video_id]
    return [tuple(shard) for shard in shards if shard]


def write_plans(folder: Path, shards: Sequence[Sequence[str]]) -> list[str]:
    """Add a plan per shard after those already in `folder`; returns their names."""
    names = []
    number = 1 + max((int(name) for name in plan_names(folder)), default=-1)
    for video_ids in shards:
        name = f"{number:06d}"
        content: dict[str, Any] = {"schema": 1, "name": name, "video_ids": list(video_ids)}
        try:
            write_json(folder / f"{name}.json", content | {"digest": digest_of_json(content)}, exclusive=True)
        except AlreadyThereError:
            raise InputError(f"{folder}: another extraction is planning there; wait for it, then run again") from None
        names.append(name)
        number += 1
    return names


def lease_path(dataset: Path, name: str) -> Path:
    """Where the lease of plan `name` lies."""
    return dataset / "leases" / f"{name}.json"


def plan_names(folder: Path) -> list[str]:
    """Names of the plans in `folder`, in order."""
    if not folder.is_dir():
        return []
    names = (os.path.splitext(entry.name) for entry in os.scandir(folder))
    return sorted(stem for stem, extension in names if extension == ".json" and stem.isdigit())


def read_plan(folder: Path, name: str) -> ShardPlan:
    """Read plan `name`; InputError if it is missing or its digest doesn't match."""
    path = folder / f"{name}.json"
    content = read_json(path)
    digest = content.pop("digest", None) if isinstance(content, dict) else None
    if digest is None or digest != digest_of_json(content):
        raise InputError(f"{path}: its digest doesn't match: the plan was changed; restore it from a copy")
    return ShardPlan(name, tuple(content["video_ids"]), digest)
