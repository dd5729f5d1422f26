"""The results of an evaluation on disk: found again when nothing that they follow from has changed, written last."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.core.errors import InputError
from pipeline.core.files import read_json, sha256_of_file
from pipeline.core.reporting import RunSummary
from pipeline.core.tables import Table, write_tables


def digest_of(path: Path | None, what: str) -> str:
    """sha256 of a file that results follow from; "" for one that isn't given. InputError when it isn't there."""
    if path is None:
        return ""
    if not path.is_file():
        raise InputError(f"{path}: no such file; {what} is wanted")
    return sha256_of_file(path)


def found_again(report: RunSummary, path: Path, inputs: Mapping[str, Any]) -> bool:
    """Whether `path` holds results of the same inputs, which `report` then tells, and its tables lie beside it."""
    before = read_json(path) if path.exists() else None
    detail = before.get("detail") if isinstance(before, dict) else None
    if not isinstance(before, dict) or not isinstance(detail, dict) or detail.get("inputs") != inputs:
        return False
    if not all(path.with_suffix(suffix).exists() for suffix in (".md", ".tex")):
        return False
    report.detail, report.notes, report.skipped = detail, before["notes"], before["done"]
    report.failed.update(before["failed"])
    report.finish().publish()
    return True


def publish(report: RunSummary, path: Path, tables: Sequence[Table]) -> None:
    """Write the tables, then the results: where these are, all is there."""
    write_tables(path, tables)
    report.finish().publish(path)
