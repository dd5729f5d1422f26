"""What is wrong with a data set: files against checksums, plans, receipts and manifests, rows against new ones."""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.text import vectors_digest
from pipeline.core.errors import InputError
from pipeline.core.ledger import read_ledger
from pipeline.core.provenance import usable_cores
from pipeline.core.records import ShardPlan, VideoFeatures
from pipeline.core.reporting import Progress
from pipeline.dataset import shard_plans
from pipeline.dataset.caption_store import FILE as CAPTIONS
from pipeline.dataset.caption_store import CaptionStore
from pipeline.dataset.folder import read_description
from pipeline.dataset.freeze import provenances_of
from pipeline.dataset.manifest import read_manifest
from pipeline.dataset.shard_check import ShardChecker
from pipeline.dataset.shard_reader import Array, FeatureFile, columns
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


@dataclass(frozen=True)
class Tolerance:
    """How far a stored row may lie from the same row computed on another machine: it agrees by either figure."""

    cosine: float
    """Least centred cosine: of the two rows, less the mean of the video's stored rows, which all its rows share."""
    difference: float
    """Largest difference of a value, as a share of the largest in the two rows. In a still scene rows lie so near to
    the mean that rounding alone decides their centred cosine."""

    def __str__(self) -> str:
        return f"centred cosine at least {self.cosine:g}, or every value within {self.difference:.2g} of the largest"


TOLERANCES = {"fp32": Tolerance(0.99999, 2**-9), "bf16": Tolerance(0.998, 2**-5)}
"""Precision of a network -> tolerance of its rows; the log-mel, computed in fp64, is held to that of fp32.

Measured by `benchmarks/rounding.py` on three clips of the made sample, by an Intel Xeon with AVX-512 and AMX beside the
same one without them, on 1, 2 and 4 threads and in batches of 1 and 4 (docs/data-format.md has the figures). fp32 rows
came within 1 - 4e-8 and 0.0007: single values that float16 rounds to its next number. The tolerance is that of all
values doing so, two steps of 2^-10 and the cosine that one leaves of a row at 0.22 of its length from the mean. bf16
rows came within 1 - 3.0e-4 and 0.009, and the next second's within 1 - 7.6e-3 and 0.062 at the nearest: the tolerance
is between, 2.5 times the rounding's angle and 3.5 times its difference.
"""

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Comparison:
    """A stored video beside the same one computed anew."""

    equal: bool
    """To the bit; the decoder's name is no matter."""
    differences: list[str]
    """What differs and may not, ready to be printed."""
    difference: float
    """The largest of a value, as in `Tolerance`."""
    cosine: float
    """The least centred cosine of a row whose values are off by more than the tolerance has it; 1.0 for none."""


def compare_video(stored: VideoFeatures, anew: VideoFeatures, precisions: Mapping[str, str], exact: bool) -> Comparison:
    """`precisions`: name of rows (streams, `davenet`, `logmel`) -> that of their network. `exact`: all bits must agree.

    Whatever holds no such rows (masks, times, texts, numbers of rows) must be equal in any case.
    """
    differing, of_rows = [], []
    difference, cosine, equal = 0.0, 1.0, True
    again = columns(anew)
    for name, values in columns(stored).items():
        other = again[name]
        if name == "decoder" or (values.shape == other.shape and values.tobytes() == other.tobytes()):
            continue
        equal = False
        if name not in precisions or values.shape != other.shape:
            differing.append(name)
            continue
        tolerance = TOLERANCES[precisions[name]]
        off, cosines = deviations(values, other, centre_of(values))
        large = off > tolerance.difference
        difference = max(difference, float(off.max()))
        cosine = min(cosine, float(cosines[large].min(initial=1.0)))
        changed = (values.view(np.uint16) != other.view(np.uint16)).any(axis=1)
        unlike = np.flatnonzero(changed if exact else large & (cosines < tolerance.cosine))
        if len(unlike):
            row = int(unlike[cosines[unlike].argmin()])
            more = f" and {len(unlike) - 1} more of its rows" if len(unlike) > 1 else ""
            expected = "equal bits" if exact else str(tolerance)
            of_rows.append(
                f"row {row} of {name}{more}: centred cosine {cosine_text(cosines[row])}, a value off by {off[row]:.2g} "
                f"of the largest; expected: {expected}"
            )
    return Comparison(equal, [*([", ".join(differing)] if differing else []), *of_rows], difference, cosine)


def cosine_text(cosine: float) -> str:
    """A cosine with as many digits as tell it from 1."""
    from_one = max(1 - cosine, 1e-15)
    return f"{cosine:.{max(4, 1 - math.floor(math.log10(from_one)))}f}"


def centre_of(rows: Array) -> NDArray[np.float64]:
    """The mean (D,) of a video's rows (R, D), those of nothing but zeros aside: they are masked."""
    shown = rows.any(axis=1)
    return rows[shown].mean(axis=0, dtype=np.float64) if shown.any() else np.zeros(rows.shape[1])


def deviations(rows: Array, others: Array, centre: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Largest difference and centred cosine of each of (R, D) and its twin, (R,) both; see `Tolerance`.

    A row that is the centre itself has cosine 0.
    """
    off, cosines = np.zeros(len(rows)), np.zeros(len(rows))
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        block = slice(first, first + _ROWS_AT_ONCE)
        a, b = rows[block].astype(np.float64), others[block].astype(np.float64)
        largest = np.maximum(np.abs(a).max(axis=1), np.abs(b).max(axis=1))
        off[block] = np.abs(a - b).max(axis=1) / np.where(largest == 0, 1.0, largest)
        a, b = a - centre, b - centre
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        cosines[block] = (a * b).sum(axis=1) / np.where(lengths == 0, 1.0, lengths)
    return off, cosines
