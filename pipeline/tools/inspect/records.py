"""What the small files of a data set say: plans, receipts, manifests, tombstones, leases, reports, ledgers."""

import time
from collections import Counter
from pathlib import Path
from typing import Any

from pipeline.core.errors import InputError
from pipeline.core.files import digest_of_json, read_json
from pipeline.core.lease import has_ended, read_lease
from pipeline.core.ledger_scan import split_line
from pipeline.dataset import shard_plans
from pipeline.dataset.folder import FILE as TOMBSTONES
from pipeline.dataset.folder import forgotten, read_description
from pipeline.dataset.freeze import provenances_of
from pipeline.dataset.manifest import read_manifest

Inspected = tuple[str, dict[str, Any]]
"""Kind and facts."""


def inspect_json(path: Path) -> Inspected:
    """Kind and facts of a JSON file, told by its keys. InputError when it is broken or none of this program's."""
    content = read_json(path)
    keys = set(content) if isinstance(content, dict) else set()
    if {"video_ids", "digest", "name"} <= keys:
        return _receipt(path) if "content" in keys else _plan(path)
    if {"splits", "shards", "identity"} <= keys:
        return "manifest", _manifest(path)
    if keys == {"schema", "sha256"} and path.name == TOMBSTONES:
        return "tombstones", {"forgotten videos": len(forgotten(path.parent))}
    if {"stage", "unit", "done", "failed", "detail"} <= keys:
        return _report(path, content)
    if "identity" in keys and path.name == "dataset.json":
        return "data set", dataset_facts(path.parent)
    if "token" in keys and (lease := read_lease(path)) is not None:
        holder, beat = lease
        facts = {"host": str(holder.host), "process": holder.pid, "ended": has_ended(holder), "beats": beat}
        return "lease", facts | {"seconds since the last": round(max(0.0, time.time() - path.stat().st_mtime), 1)}
    if keys == {"ids"} and path.name == "forgetting.json":
        return "journal of mcn forget", {"videos half forgotten": len(content["ids"])}
    raise InputError(f"{path}: a JSON file, but none that this program knows; `mcn inspect --help` lists the kinds")


def _plan(path: Path) -> Inspected:
    plan = shard_plans.read_plan(path.parent, path.stem)
    if not all(isinstance(video_id, str) for video_id in plan.video_ids):
        raise InputError(f"{path}: its video ids are no texts; restore it from a copy")
    dataset = path.parent.parent
    receipt = shard_plans.read_receipt(dataset, plan.name)
    parts = dataset / "parts" / plan.name
    return "plan", {
        "name": plan.name,
        "digest": plan.digest,
        "videos": len(plan.video_ids),
        "in the order of the ids' sha256": list(plan.video_ids) == sorted(plan.video_ids, key=shard_plans.hash_order),
        "shard": "closed" if shard_plans.shard_path(dataset, plan.name).exists() else "open",
        "stored in it": len(receipt.video_ids) if receipt is not None else None,
        "parts": len(list(parts.glob("[!.]*.h5"))) if parts.is_dir() else 0,
        "video ids": list(plan.video_ids),
    }


def _receipt(path: Path) -> Inspected:
    receipt = shard_plans.read_receipt(path.parent.parent, path.stem)
    if receipt is None or path.parent.name != "shards":
        # Out of its place, too, its digest tells whether it is whole.
        content = read_json(path)
        digest = content.pop("digest")
        if digest != digest_of_json(content) or path.parent.name == "shards":
            raise InputError(f"{path}: its digest doesn't match: changed or cut; `mcn verify --repair` makes it anew")
        raise InputError(f"{path}: a receipt outside of DATASET/shards/; inspect it where it belongs")
    shard = shard_plans.shard_path(path.parent.parent, receipt.name)
    size = shard.stat().st_size if shard.exists() else None
    return "receipt", {
        "name": receipt.name,
        "plan": receipt.plan,
        "content": receipt.content,
        "videos": len(receipt.video_ids),
        "left out": dict(Counter(receipt.left_out.values()).most_common()),
        "seconds": receipt.seconds,
        "bytes": receipt.bytes,
        "shard": "gone" if size is None else "there" if size == receipt.bytes else f"of another size: {size} bytes",
        "circumstance": receipt.circumstance,
        "video ids": list(receipt.video_ids),
        "videos left out": receipt.left_out,
    }


def _manifest(path: Path) -> dict[str, Any]:
    manifest = read_manifest(path)
    return {
        "name": manifest.name,
        "digest": manifest.digest,
        "videos": len(manifest.video_ids),
        "splits": _lengths(manifest.splits),
        "left out": _lengths(manifest.left_out),
        "missing": _lengths(manifest.missing),
        "list": manifest.listed,
        "shards": len(manifest.shards),
        "identity": manifest.identity,
        "words": manifest.words,
        "rule": manifest.rule,
        "circumstances": list(manifest.circumstances),
    }


def _lengths(groups: dict[str, tuple[str, ...]]) -> dict[str, int]:
    return {name: len(ids) for name, ids in groups.items()}


def _report(path: Path, content: dict[str, Any]) -> Inspected:
    if not isinstance(content["detail"], dict) or not isinstance(content["failed"], dict):
        raise InputError(f"{path}: a stage's report whose parts aren't what they are called; run the stage again")
    return f"report of {str(content['stage'])[:40]}", content


def dataset_facts(dataset: Path) -> dict[str, Any]:
    """What a data set is made of. InputError when its description is missing or broken."""
    description = read_description(dataset)
    receipts = shard_plans.whole_receipts(dataset, shard_plans.receipt_names(dataset))
    closed = set(shard_plans.closed_names(dataset))
    held = [receipt for receipt in receipts if receipt.name in closed]
    left_out = Counter(reason for receipt in receipts for reason in receipt.left_out.values())
    return {
        "videos in closed shards": sum(len(receipt.video_ids) for receipt in held),
        "seconds in closed shards": round(sum(receipt.seconds for receipt in held), 3),
        "bytes of closed shards": sum(receipt.bytes for receipt in held),
        "left out": dict(left_out.most_common()),
        "plans": len(shard_plans.plan_names(dataset / "plans")),
        "closed shards": len(closed),
        "shards without a receipt": len(closed - {receipt.name for receipt in receipts}),
        "receipts without a shard": len({receipt.name for receipt in receipts} - closed),
        "parts": sum(1 for _ in (dataset / "parts").glob("*/[!.]*.h5")),
        "manifests": sorted(path.stem for path in (dataset / "manifests").glob("*.json")),
        "forgotten videos": len(forgotten(dataset)),
        "identity": description["identity"],
        "identity's digest": digest_of_json(description["identity"]),
        "words": description.get("words"),
        "settings": description.get("settings"),
        "announcements": description.get("announcements"),
        "circumstances": provenances_of(held),
    }


def ledger_facts(files: list[Path], path: Path) -> dict[str, Any]:
    """What a ledger's files say, one line at a time. InputError when not one line is whole."""
    lines, torn = 0, 0
    outcomes: Counter[tuple[bytes, bytes, bytes]] = Counter()
    video_ids: set[bytes] = set()
    first, last, attempts = float("inf"), 0.0, 0
    for file_path in files:
        try:
            with open(file_path, "rb") as file:
                for text in file:
                    line = split_line(text.rstrip(b"\n"))
                    if line is None:
                        torn += bool(text.strip())
                        continue
                    lines += 1
                    video_ids.add(line.video_id)
                    first, last = min(first, line.time), max(last, line.time)
                    attempts = max(attempts, line.attempt)
                    outcomes[line.stage, line.outcome, line.reason] += 1
        except FileNotFoundError:
            continue
        except OSError as error:
            raise InputError(f"{file_path}: can't be read: {error.strerror}") from None
    if not lines:
        raise InputError(f"{path}: no ledger: not one whole line in {len(files)} files; see docs/data-format.md")
    stages: dict[str, dict[str, int]] = {}
    for texts, number in outcomes.most_common():
        stage, outcome, reason = (text.decode("utf-8", "replace") for text in texts)
        stages.setdefault(stage, {})[f"{outcome}, {reason}" if reason else outcome] = number
    return {
        "files": len(files),
        "lines": lines,
        "torn lines": torn,
        "videos": len(video_ids),
        "most attempts at a video": attempts,
        "first line": _clock(first),
        "last line": _clock(last),
        "lines by stage": stages,
        "writers": sorted({path.stem.rpartition("-")[0] for path in files}),
    }


def _clock(seconds: float) -> str:
    """A time as text, UTC; as a number where no calendar has it."""
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
    except (ValueError, OverflowError, OSError):
        return str(seconds)
