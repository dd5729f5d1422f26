"""`mcn verify DATASET`: read all that is stored and check it against its checksums, plans, receipts, manifests."""

import random
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from pipeline.core.errors import InputError
from pipeline.core.lists import left_out_note
from pipeline.core.provenance import usable_cores
from pipeline.core.reporting import RunSummary
from pipeline.core.terminal import one_line
from pipeline.core.video_ids import read_video_ids
from pipeline.dataset.freeze import reasons_of
from pipeline.dataset.shard_plans import Receipt, read_plans
from pipeline.tools.settings import VerifySettings
from pipeline.tools.verify.findings import SHOWN, Findings, examine


def run(settings: VerifySettings) -> RunSummary:
    """Complete when nothing is wrong, or everything was repaired."""
    from pipeline.tools.verify.repair import (  # it brings decoders and networks, which a check does without
        preview,
        repair,
    )

    report = RunSummary("verify", unit="file")
    findings = examine(settings.dataset, settings.workers or usable_cores())
    if settings.dry_run:
        for line in preview(settings.dataset, findings, settings.media):
            print(one_line(line))
        findings.notes.append("nothing was changed")
    elif settings.repair and findings.problems:
        report.notes += repair(settings.dataset, findings, settings.media)
        before = len(findings.problems)
        findings = examine(settings.dataset, settings.workers or usable_cores())
        report.detail["mended"] = before - len(findings.problems)
    if settings.sample and findings.bad_shards:
        findings.notes.append(f"--sample was skipped, since {len(findings.bad_shards)} shards are bad: repair first")
    elif settings.sample:
        _compare(settings, findings)
    report.done = len(findings.receipts)
    report.failed.update(Counter(kind for kind, _ in findings.problems))
    report.notes += findings.notes
    report.detail |= {
        "problems": [{"kind": kind, "problem": line} for kind, line in findings.problems],
        "videos": sum(len(receipt.video_ids) for receipt in findings.receipts),
        "shards": len(findings.receipts),
    }
    if settings.ids is not None:
        report.detail["coverage"] = _coverage(settings.dataset, settings.ids, findings.receipts, report)
    report.complete = not findings.problems
    for kind in dict.fromkeys(kind for kind, _ in findings.problems):
        lines = [line for one, line in findings.problems if one == kind]
        print("\n".join(one_line(f"{kind}: {line}") for line in lines[:SHOWN]))
        if len(lines) > SHOWN:
            where = "" if settings.dry_run else f", see {settings.dataset / 'verify.json'}"
            print(f"{kind}: {len(lines) - SHOWN} more{where}")
    for reason, count in report.detail.get("coverage", {}).items():
        print(f"ids, {reason}: {count}")
    if settings.dry_run:
        report.finish().publish()
        return report
    _publish(report.finish(), settings.dataset / "verify.json")
    if findings.problems and not settings.repair:
        print(f"repair it: mcn verify {settings.dataset} --repair")
    return report


def _publish(report: RunSummary, path: Path) -> None:
    """Print the summary and keep it; a data set that can only be read may be whole all the same."""
    try:
        report.publish(path)
    except InputError as error:
        cause = error.__cause__
        reason = cause.strerror if isinstance(cause, OSError) else error
        print(f"  note: this summary isn't kept as {path}: {reason}")


def _coverage(dataset: Path, ids: Path, receipts: Collection[Receipt], report: RunSummary) -> dict[str, int]:
    """Where each listed id stands: `stored`, or why it isn't; a note of `report` tells of lines passed over."""
    left_out = Counter[str]()
    listed = set(read_video_ids(ids, left_out))
    report.notes += left_out_note(ids, left_out)
    stored = {video_id for receipt in receipts for video_id in receipt.video_ids}
    reasons = {video_id: reason for receipt in receipts for video_id, reason in receipt.left_out.items()}
    absent = listed - stored
    reasons |= reasons_of(dataset / "ledger", "extract", absent - reasons.keys())
    planned = {video_id for plan in read_plans(dataset / "plans") for video_id in plan.video_ids}
    counts: Counter[str] = Counter(stored=len(listed & stored))
    for video_id in absent:
        counts[reasons.get(video_id) or ("in an open plan" if video_id in planned else "never planned")] += 1
    return dict(sorted(counts.items()))


def _compare(settings: VerifySettings, findings: Findings) -> None:
    from pipeline.tools.verify.repair import compare

    stored = [(receipt.name, video_id) for receipt in findings.receipts for video_id in receipt.video_ids]
    chosen = random.Random(settings.seed).sample(stored, min(settings.sample, len(stored)))
    problems, notes = compare(settings.dataset, chosen, settings.media)
    findings.problems += [("sample", problem) for problem in problems]
    findings.notes += notes
