"""What all evaluations of a model have in common: a model opened, scores found again or made, tables, results on disk.

A new evaluation is a module that calls `evaluate`, its settings, and a line in the table of commands.
"""

import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.core.config import as_plain
from pipeline.core.errors import InputError
from pipeline.core.files import read_json, sha256_of_file
from pipeline.core.lists import open_list
from pipeline.core.provenance import provenance
from pipeline.core.reporting import RunSummary
from pipeline.core.tables import Table, write_tables
from pipeline.evaluation.settings import EvaluationSettings
from pipeline.training.checkpoint import TrainedModel, open_trained

Detail = Mapping[str, Any]
"""`detail` of an evaluation's JSON file."""


def evaluate(
    report: RunSummary,
    settings: EvaluationSettings,
    file: str,
    inputs: Mapping[str, Any],
    measure: Callable[[TrainedModel], Mapping[str, Any]],
    tables: Callable[[Detail], list[Table]],
    text: Callable[[Detail], str] | None = None,
) -> RunSummary:
    """Evaluate a model, unless `file` in the folder `out` holds results of the same inputs, and print them.

    `inputs`: JSON values that the results follow from, beside model, data, split, bootstrap and seed. `measure` makes
    what `detail` holds of its own and counts in `report`. The tables are written beside `file`; `text` says what is
    printed (default: the tables). The file is written last: where it is, all is there.
    """
    path = settings.out / file
    model = open_trained(settings.checkpoint, settings.manifest)
    inputs = {
        "checkpoint": model.digest,
        "manifest": model.dataset.manifest.digest,
        **{name: getattr(settings, name) for name in ("split", "bootstrap", "seed")},
        **inputs,
    }
    if not _restored(report, path, inputs):
        _tell_replaced(path, inputs)
        report.detail = {
            **measure(model),
            **model.provenance(),
            "inputs": inputs,
            "circumstance": provenance("cpu"),
            "settings": as_plain(settings),
        }
        write_tables(path, tables(report.detail))
        report.finish().publish(path)
    print("\n".join(table.text() for table in tables(report.detail)) if text is None else text(report.detail))
    return report


def _tell_replaced(path: Path, inputs: Mapping[str, Any]) -> None:
    """Say that results of other inputs, which lie at `path`, will be replaced. Made again, they are the same."""
    before = read_json(path) if path.exists() else None
    detail = before.get("detail") if isinstance(before, dict) else None
    held = detail.get("inputs") if isinstance(detail, dict) else None
    if isinstance(held, dict) and (other := sorted(name for name in inputs if held.get(name) != inputs[name])):
        print(f"{path}: held results of another {', '.join(other)}; they are replaced", file=sys.stderr)


def _restored(report: RunSummary, path: Path, inputs: Mapping[str, Any]) -> bool:
    """Whether `path` holds results of the same inputs, with their tables beside it: `report` then has them."""
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


def read_detail(path: Path, stage: str, keys: Collection[str] = ()) -> dict[str, Any]:
    """The `detail` of another model's results; InputError unless `path` is of `stage` and has these keys."""
    content = read_json(path)
    detail = content.get("detail") if isinstance(content, dict) and content.get("stage") == stage else None
    if not isinstance(detail, dict) or not detail.keys() >= set(keys):
        raise InputError(f"{path}: not a {stage.split()[-1]}.json of `mcn {stage}`")
    return detail


def digest_of(path: Path | None, expected: str) -> str:
    """sha256 of a text that results follow from; "" for one that isn't given. InputError as `open_list` raises it."""
    if path is None:
        return ""
    with open_list(path, expected):
        return sha256_of_file(path)


@contextmanager
def scores_of(checkpoint: Path) -> Iterator[None]:
    """A ValueError in here, of scores that hold NaN or infinity, becomes an InputError about the model."""
    try:
        yield
    except ValueError as error:
        raise InputError(f"{checkpoint}: {error}; the model is broken, train it again") from None


def trained_on(detail: Detail) -> str:
    """A table's note: the data that the model was trained on."""
    trained = detail["trained on"]
    return f"trained on {trained['videos']} videos of manifest {trained['name']}, digest {trained['digest'][:12]}"
