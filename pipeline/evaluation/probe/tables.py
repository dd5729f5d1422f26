"""Probe results as tables: factors by space and modality, what nearness means, doses."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.core.tables import Table, percent, percent_interval, signed_percent
from pipeline.evaluation.evaluate import trained_on
from pipeline.evaluation.probe.clips import INPUT
from pipeline.evaluation.probe.context import MEASURES, RATIO

MODALITIES = ("video", "audio", "text")
PROBED = ("factors", "ladder", "sounds")
"""Parts of a result whose entries are probes."""

Entry = Mapping[str, Any]


def shown(space: str) -> str:
    """A space's name, or what stands for the input features."""
    return space if space != INPUT else "input features"


def probes(detail: Mapping[str, Any]) -> list[Entry]:
    """All probes of a result, in the order of its parts."""
    return [entry for part in PROBED for entry in detail[part]]


def tables(detail: Mapping[str, Any]) -> list[Table]:
    """Every table that the result has something for."""
    entries, scheme = probes(detail), detail["scheme"]
    permuted, stands_on = detail["permuted"], trained_on(detail)
    blind = f"{permuted['within']} of {permuted['of']} probes on permuted labels lie within chance's 95 % interval"
    unseen = [entry for entry in entries if entry["unseen"]]
    all_tables = [
        _grid(
            f"Balanced accuracy of linear probes, scheme {scheme}; in percent", entries, _accuracy, (blind, stands_on)
        ),
        _grid(
            "The same over videos that the model has not seen", unseen, lambda e: _accuracy(e["unseen"]), (stands_on,)
        ),
        _grid(
            "Beyond a probe of the input features, where it can be over videos that the model has not seen",
            [entry for entry in entries if entry["space"] != INPUT],
            lambda entry: _signed((entry["unseen"] or entry)["gain"]),
            ("percentage points, paired over videos; below 0: lost; above 0: gained",),
            with_chance=False,
        ),
        _context(detail["context"]),
        *(_dose(curve) for curve in detail["doses"]),
    ]
    return [table for table in all_tables if table.rows]


def _accuracy(entry: Entry) -> str:
    return _interval(entry["accuracy"])


def _interval(score: Mapping[str, float] | None) -> str:
    return "" if score is None else f"{percent(score['value'])} ({percent_interval(score)})"


def _signed(difference: Mapping[str, float] | None) -> str:
    if difference is None:
        return ""
    value, interval = signed_percent(difference)
    return f"{value} ({interval})"


def _grid(
    title: str,
    entries: Sequence[Entry],
    cell: Callable[[Entry], str],
    notes: tuple[str, ...],
    with_chance: bool = True,
) -> Table:
    """A row for each factor and kind of vectors, a column for each modality."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for entry in entries:
        row = rows.setdefault((entry["factor"], entry["space"]), {})
        row[entry["modality"]] = cell(entry)
        row["chance"] = percent(entry["chance"]["value"])
    columns = (*MODALITIES, "chance") if with_chance else MODALITIES
    body = tuple(
        (factor, shown(space), *(row.get(column, "") for column in columns)) for (factor, space), row in rows.items()
    )
    return Table(title, ("factor", "vectors", *columns), body, notes)


def _context(entries: Sequence[Entry]) -> Table:
    def cell(entry: Entry, measure: str) -> str:
        if measure not in entry:
            return ""
        score = entry[measure] if measure == RATIO else entry[measure]["times chance"]
        return f"{score['value']:.2f} ({score['low']:.2f}–{score['high']:.2f})"

    rows = tuple(
        (f"{shown(entry['space'])}, {entry['modality']}", *(cell(entry, m) for m in (*MEASURES, RATIO)))
        for entry in entries
    )
    notes = (
        "same video: without its neighbours in time; same task: in other videos",
        f"{RATIO}: same video within task, over same task",
    )
    title = "What a clip's nearest clips share with it: average precision, times chance"
    return Table(title, ("vectors", *MEASURES, RATIO), rows, notes)


def _dose(curve: Entry) -> Table:
    measures = [name for name in curve["points"][0] if name != "dose"]
    rows = tuple(
        ("none" if point["dose"] is None else f"{point['dose']:g}", *(_interval(point[name]) for name in measures))
        for point in curve["points"]
    )
    notes = [
        f"shift: 1 - cosine to the vector without a dose; recall: R@5, chance {percent(curve['chance'])}; in percent"
    ]
    odd = [name for name, monotone in curve["monotone"].items() if not monotone]
    notes += (
        [f"not monotone within its intervals: {', '.join(odd)}"] if odd else ["all monotone within their intervals"]
    )
    title = f"{curve['modality']} in {curve['space']} under {curve['kind']}, {curve['clips']} clips"
    return Table(title, ("dose", *measures), rows, tuple(notes))
