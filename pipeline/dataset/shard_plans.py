"""Shard plans, written before work starts and never changed, and receipts of closed shards (docs/data-format.md).

A receipt follows from shard, plan and ledger: one that is missing (a kill came just after the shard was closed) is made
anew.
"""

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.core.errors import InputError
from pipeline.core.files import AlreadyThereError, digest_of_json, read_json, write_json
from pipeline.core.records import ShardPlan
from pipeline.core.video_ids import is_media_name
from pipeline.dataset.shard_reader import FeatureFile

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


def next_number(folder: Path) -> int:
    """Number of the next plan in `folder`."""
    return 1 + max((int(name) for name in plan_names(folder)), default=-1)


def write_plans(folder: Path, shards: Sequence[Sequence[str]], first: int | None = None) -> list[str]:
    """Add a plan per shard after those already in `folder`; returns their names.

    `first`: what `next_number` said before it was looked what is to be planned. InputError where another process has
    planned since: the same videos, perhaps.
    """
    names = []
    for number, video_ids in enumerate(shards, next_number(folder) if first is None else first):
        name = f"{number:06d}"
        content: dict[str, Any] = {"schema": 1, "name": name, "video_ids": list(video_ids)}
        try:
            write_json(folder / f"{name}.json", content | {"digest": digest_of_json(content)}, exclusive=True)
        except AlreadyThereError:
            raise InputError(f"{folder}: another extraction is planning there; wait for it, then run again") from None
        names.append(name)
    return names


def lease_path(dataset: Path, name: str) -> Path:
    """Where the lease of plan `name` lies."""
    return dataset / "leases" / f"{name}.json"


def plan_names(folder: Path) -> list[str]:
    """Names of the plans in `folder`, in order."""
    return _numbered(folder, ".json")


def _numbered(folder: Path, suffix: str) -> list[str]:
    names = map(os.path.splitext, os.listdir(folder) if folder.is_dir() else ())
    return sorted(stem for stem, extension in names if extension == suffix and stem.isdigit())


def read_plan(folder: Path, name: str) -> ShardPlan:
    """Read plan `name`; InputError if it is missing, its digest doesn't match or its ids can't name videos."""
    path = folder / f"{name}.json"
    content = read_json(path)
    digest = content.pop("digest", None) if isinstance(content, dict) else None
    if digest is None or digest != digest_of_json(content):
        raise InputError(f"{path}: its digest doesn't match: the plan was changed; restore it from a copy")
    video_ids = content.get("video_ids")
    if content.get("name") != name or not _are_ids(video_ids) or len(set(video_ids)) < len(video_ids):
        raise InputError(f"{path}: not the plan {name}, or one whose ids can't name videos; restore it from a copy")
    return ShardPlan(name, tuple(video_ids), digest)


def _are_ids(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) and is_media_name(value) for value in values)


def read_plans(folder: Path) -> Iterator[ShardPlan]:
    """The plans in `folder`, in order, one at a time; InputError as for `read_plan`."""
    return (read_plan(folder, name) for name in plan_names(folder))


def open_ids(dataset: Path) -> set[str]:
    """Ids in the plans whose shards aren't closed."""
    closed = set(closed_names(dataset))
    names = (name for name in plan_names(dataset / "plans") if name not in closed)
    return {video_id for name in names for video_id in read_plan(dataset / "plans", name).video_ids}


SCHEMA = 1


@dataclass(frozen=True)
class Receipt:
    """What a closed shard holds."""

    name: str
    plan: str
    """Digest of its plan."""
    video_ids: tuple[str, ...]
    """Videos in the shard, in its order."""
    left_out: dict[str, str]
    """Planned videos that gave no features: id -> reason, as in the ledger."""
    content: str
    """Content digest of the shard (docs/data-format.md): equal for equal datasets, whoever computed them."""
    bytes: int
    """Size of the shard's file."""
    seconds: float
    """Seconds of video in it."""
    circumstance: dict[str, Any] = field(default_factory=dict)
    """That of the process that closed the shard."""


def receipt_path(dataset: Path, name: str) -> Path:
    """Where shard `name`'s receipt lies."""
    return dataset / "shards" / f"{name}.json"


def shard_path(dataset: Path, name: str) -> Path:
    """Where shard `name` lies."""
    return dataset / "shards" / f"{name}.h5"


def closed_names(dataset: Path) -> list[str]:
    """Names of the closed shards, in order."""
    return _numbered(dataset / "shards", ".h5")


def receipt_names(dataset: Path) -> list[str]:
    """Names of the receipts, in order; one without its shard stands for a shard that is gone."""
    return _numbered(dataset / "shards", ".json")


def make_receipt(dataset: Path, name: str, reasons: Mapping[str, str]) -> Receipt:
    """Write and return the receipt of a closed shard; see `derive_receipt`."""
    receipt = derive_receipt(dataset, name, reasons)
    _write(dataset, receipt)
    return receipt


def derive_receipt(dataset: Path, name: str, reasons: Mapping[str, str]) -> Receipt:
    """The receipt that a closed shard should have; `reasons`: id -> why it failed, for planned videos not in it."""
    path = shard_path(dataset, name)
    plan = read_plan(dataset / "plans", name)
    with FeatureFile(path) as file:
        if file.plan != plan.digest:
            raise InputError(f"{path}: not the shard of plan {name}; see `mcn verify {dataset} --repair`")
        video_ids = tuple(file.video_ids)
        held = set(video_ids)
        return Receipt(
            name,
            plan.digest,
            video_ids,
            {i: reasons.get(i) or "unknown" for i in plan.video_ids if i not in held},
            file.content_digest(),
            path.stat().st_size,
            round(sum(file.durations()), 3),
            file.provenance,
        )


def write_receipt(dataset: Path, name: str, plan: str, left_out: dict[str, str]) -> None:
    """A receipt of a shard that is to be made anew: says which videos stay out of it."""
    _write(dataset, Receipt(name, plan, (), left_out, "", 0, 0.0))


def _write(dataset: Path, receipt: Receipt) -> None:
    content = {"schema": SCHEMA} | asdict(receipt)
    write_json(receipt_path(dataset, receipt.name), content | {"digest": digest_of_json(content)})


def read_receipt(dataset: Path, name: str) -> Receipt | None:
    """The receipt of shard `name`, or None if there is none that is whole."""
    try:
        content = read_json(receipt_path(dataset, name))
        digest = content.pop("digest")
        schema = content.pop("schema")
        if schema != SCHEMA or digest != digest_of_json({"schema": schema} | content):
            return None
        video_ids, left_out = content["video_ids"], content["left_out"]
        if content["name"] != name or not (_are_ids(video_ids) and _are_ids(list(left_out))):
            return None
        receipt = Receipt(**content | {"video_ids": tuple(video_ids)})
        texts = (receipt.plan, receipt.content, *left_out.values())
        numbers = isinstance(receipt.bytes, int) and isinstance(receipt.seconds, int | float)
        sound = numbers and all(isinstance(text, str) for text in texts) and isinstance(receipt.circumstance, dict)
        return receipt if sound and math.isfinite(receipt.seconds) else None
    except (InputError, KeyError, TypeError, AttributeError, ValueError, OverflowError):
        return None


def whole_receipts(dataset: Path, names: Iterable[str]) -> list[Receipt]:
    """The receipts of these shards, those that are missing or broken passed over; nothing is written."""
    return [receipt for name in names if (receipt := read_receipt(dataset, name)) is not None]


def receipts(
    dataset: Path, reasons: Callable[[], Mapping[str, str]], unreadable: dict[str, str] | None = None
) -> Iterator[Receipt]:
    """The receipts of all closed shards in order; missing ones are made, with `reasons()` as in `make_receipt`.

    A shard that can't be read is an InputError, or, with `unreadable`, is left out and its name -> error kept there.
    """
    for name in closed_names(dataset):
        receipt = read_receipt(dataset, name)
        if receipt is None:
            try:
                receipt = make_receipt(dataset, name, reasons())
            except InputError as error:
                if unreadable is None:
                    raise
                unreadable[name] = str(error)
                continue
        yield receipt
