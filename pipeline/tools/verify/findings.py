"""What is wrong with a data set: every file against its own checksums, its plan, its receipt and the manifests."""

from collections import Counter
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from extractors.text import vectors_digest
from pipeline.core.errors import InputError
from pipeline.core.ledger import read_ledger
from pipeline.core.provenance import usable_cores
from pipeline.core.records import ShardPlan
from pipeline.core.reporting import Progress
from pipeline.dataset import shard_plans
from pipeline.dataset.caption_store import FILE as CAPTIONS
from pipeline.dataset.caption_store import CaptionStore
from pipeline.dataset.folder import read_description
from pipeline.dataset.freeze import provenances_of
from pipeline.dataset.manifest import read_manifest
from pipeline.dataset.shard_check import ShardChecker
from pipeline.dataset.shard_reader import FeatureFile
from pipeline.dataset.word_vectors import read_vectors

SHOWN = 3
"""Problems of a kind that are printed; all are in the report's file."""


@dataclass
class Findings:
    """What is wrong with a data set, and what `--repair` needs to know of it."""

    problems: list[tuple[str, str]] = field(default_factory=list)
    """(kind, line)."""
    bad_shards: dict[str, str] = field(default_factory=dict)
    """Shard -> its first problem."""
    bad_parts: list[Path] = field(default_factory=list)
    bad_receipts: list[str] = field(default_factory=list)
    receipts: list[shard_plans.Receipt] = field(default_factory=list)
    """Of the sound shards."""
    notes: list[str] = field(default_factory=list)

    def shard(self, name: str, line: str) -> None:
        """Note a shard that can't be used."""
        self.problems.append(("shard", line))
        self.bad_shards.setdefault(name, line)


def examine(dataset: Path, workers: int) -> Findings:
    """Read all of a data set. InputError when there is none."""
    findings = Findings()
    plans = _plans(dataset, findings)
    names = sorted({*shard_plans.closed_names(dataset), *shard_plans.receipt_names(dataset)})
    _check_files(dataset, names, sorted((dataset / "parts").glob("*/*.h5")), plans, findings, workers)
    _duplicates(findings)
    _beside(dataset, findings)
    _manifests(dataset, findings)
    return findings


def check_shards(dataset: Path, names: Collection[str], parts: Collection[Path] = ()) -> Findings:
    """What is wrong with these shards, with their receipts and with these parts."""
    findings = Findings()
    plans = {name: shard_plans.read_plan(dataset / "plans", name) for name in names}
    closed = {*shard_plans.closed_names(dataset), *shard_plans.receipt_names(dataset)}
    existing = [part for part in parts if part.exists()]
    _check_files(dataset, [name for name in names if name in closed], existing, plans, findings, usable_cores())
    return findings


def _check_files(
    dataset: Path,
    names: list[str],
    parts: list[Path],
    plans: dict[str, ShardPlan],
    findings: Findings,
    workers: int,
) -> None:
    """Note what is wrong with each file in itself, and with a shard as that of its plan and receipt."""
    identity = read_description(dataset)["identity"]
    checked = _checked([*(shard_plans.shard_path(dataset, name) for name in names), *parts], workers)
    for name in names:
        problems = next(checked)
        for problem in problems[:SHOWN]:
            findings.shard(name, problem)
        if not problems:
            _shard(dataset, name, plans.get(name), identity, findings)
    for part, problems in zip(parts, checked, strict=True):
        if not problems:
            with FeatureFile(part) as file:
                problems = [] if file.identity == identity else [f"{part}: its Identity isn't the data set's"]
        if problems:
            findings.problems.append(("part", problems[0]))
            findings.bad_parts.append(part)


def _checked(paths: list[Path], workers: int) -> Iterator[list[str]]:
    """Each file's problems, in order, several read at a time, each in a process apart."""
    size = max(1, min(16, -(-len(paths) // workers)))
    batches = [paths[start : start + size] for start in range(0, len(paths), size)]

    def check(batch: list[Path]) -> list[list[str]]:
        with ShardChecker() as checker:
            return [checker.check(path) for path in batch]

    with Progress("verify", len(paths), "file") as progress, ThreadPoolExecutor(workers) as pool:
        for problems in pool.map(check, batches):
            progress.to(progress.count + len(problems))
            yield from problems


def _plans(dataset: Path, findings: Findings) -> dict[str, ShardPlan]:
    plans: dict[str, ShardPlan] = {}
    for name in shard_plans.plan_names(dataset / "plans"):
        try:
            plans[name] = shard_plans.read_plan(dataset / "plans", name)
        except InputError as error:
            findings.problems.append(("plan", str(error)))
    return plans


def _shard(dataset: Path, name: str, plan: ShardPlan | None, identity: dict[str, Any], findings: Findings) -> None:
    """Whether a shard that is sound in itself is the one that belongs here."""
    path = shard_plans.shard_path(dataset, name)
    with FeatureFile(path) as file:
        if file.identity != identity:
            return findings.shard(name, f"{path}: its Identity isn't the data set's")
        ids, content = file.video_ids, file.content_digest()
        if (file.kind, file.name) != ("shard", name) or (plan and file.plan != plan.digest):
            return findings.shard(name, f"{path}: not the shard of plan {name}: another file is in its place")
    if plan is None:
        return
    position = {video_id: index for index, video_id in enumerate(plan.video_ids)}
    positions = [position.get(video_id, -1) for video_id in ids]
    if -1 in positions or positions != sorted(positions):
        return findings.shard(name, f"{path}: its videos aren't those of plan {name}, in that order")
    receipt = shard_plans.read_receipt(dataset, name)
    if receipt is None or receipt.plan != plan.digest:
        findings.problems.append(("receipt", f"{shard_plans.receipt_path(dataset, name)}: missing or changed"))
        findings.bad_receipts.append(name)
    elif (receipt.content, receipt.video_ids) != (content, tuple(ids)):
        findings.shard(name, f"{path}: its content isn't what its receipt says: another file is in its place")
    else:
        findings.receipts.append(receipt)
    return None


def _duplicates(findings: Findings) -> None:
    home: dict[str, str] = {}
    for receipt in findings.receipts:
        for video_id in receipt.video_ids:
            if video_id in home:
                line = f"video {video_id} is in shards {home[video_id]} and {receipt.name}; remove one of the two"
                findings.problems.append(("duplicate", line))
            home.setdefault(video_id, receipt.name)


def _beside(dataset: Path, findings: Findings) -> None:
    """Word vectors, captions, ledger, provenances."""
    expected = read_description(dataset).get("words")
    if expected:
        try:
            if vectors_digest(read_vectors(dataset / "words.kv")) != expected:
                findings.problems.append(
                    ("words", f"{dataset / 'words.kv'}: not the vectors this data set was made with")
                )
        except InputError as error:
            findings.problems.append(("words", str(error)))
    if (dataset / CAPTIONS).exists():
        try:
            for _ in CaptionStore(dataset / CAPTIONS).items():
                pass
        except InputError as error:
            findings.problems.append(("captions", str(error)))
    torn: Counter[str] = Counter()
    for _ in read_ledger(dataset / "ledger", torn=torn):
        pass
    if torn:
        findings.notes.append(f"{torn.total()} ledger lines were torn by a crash and count as not written")
    mix = provenances_of(findings.receipts)
    if len(mix) > 1:
        shown = "; ".join(f"{one['videos']} videos on {one['processor']}, {one['device']}" for one in mix)
        findings.notes.append(f"shards have {len(mix)} different provenances: {shown}")


def _manifests(dataset: Path, findings: Findings) -> None:
    contents = {receipt.name: receipt.content for receipt in findings.receipts}
    for path in sorted((dataset / "manifests").glob("*.json")):
        try:
            manifest = read_manifest(path)
        except InputError as error:
            findings.problems.append(("manifest", str(error)))
            continue
        for name, frozen in manifest.shards.items():
            if name not in contents and name not in findings.bad_shards:
                findings.problems.append(("manifest", f"{path}: its shard {name} is gone"))
            elif name in contents and contents[name] != frozen["content"]:
                findings.problems.append(("manifest", f"{path}: shard {name} isn't the one that was frozen"))
