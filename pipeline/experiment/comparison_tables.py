"""The comparison as tables, with the words that must stand beside them."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.core.tables import Table, percent, signed_percent
from pipeline.experiment.settings import ENDPOINT

_NONE = "–"
TITLES = {"width": "Every space of equal width", "parameters": "Models of an equal number of parameters"}


def comparison_tables(detail: Mapping[str, Any]) -> list[Table]:
    """Two tables for each of `width` and `parameters` that was asked for: scores, and differences."""
    found = []
    for equal, arms in detail["tables"].items():
        found.append(_scores(equal, arms, detail))
        if any(arm["differences"] for arm in arms.values()):
            found.append(_differences(equal, arms, detail))
    return found


def about_the_data(detail: Mapping[str, Any]) -> str:
    """What the figures stand on: the first thing a reader must know."""
    manifest, data = detail["manifest"], detail["data"]
    counts = (
        f"{data['training videos']} training videos of manifest {manifest['name']}, digest {manifest['digest'][:12]}"
    )
    if data["made"]:
        return (
            f"Made data: {counts}, drawn and spoken by `mcn sample`. They show that the method finds what was "
            "planted in them. They say nothing about HowTo100M."
        )
    return f"Data: {counts}; features of {', '.join(data['streams'])}."


def _scores(equal: str, arms: Mapping[str, Any], detail: Mapping[str, Any]) -> Table:
    columns = ("arm", "width", "parameters", "R@1", "R@5", "R@10", "median rank", "localization recall")
    rows = []
    for name, arm in arms.items():
        median = _NONE if arm["median rank"] is None else f"{arm['median rank']:.1f}"
        cells = [_mean(arm["scores"].get(measure)) for measure in ("R@1", "R@5", "R@10")]
        rows.append(
            (name, str(arm["width"]), f"{arm['parameters']:,}", *cells, median, _mean(arm["scores"].get("recall")))
        )
    chance = detail["chance"]
    middle, recall = f"{chance['median rank']:.1f}", percent(chance["recall"]) if "recall" in chance else _NONE
    rows.append(("chance", "", "", *(percent(chance[name]) for name in ("R@1", "R@5", "R@10")), middle, recall))
    notes = (about_the_data(detail), f"Percent; mean ± standard deviation over seeds {_listed(detail['seeds'])}.")
    return Table(f"{TITLES[equal]}: text -> video (video alone), and steps in time", columns, tuple(rows), notes)


def _differences(equal: str, arms: Mapping[str, Any], detail: Mapping[str, Any]) -> Table:
    columns = ("arm", f"{ENDPOINT} more", "95 %", "p, corrected", "localization more", "95 %")
    rows = []
    for name, arm in arms.items():
        if not arm["differences"]:
            continue
        primary, second = arm["differences"].get(ENDPOINT), arm["differences"].get("recall")
        p = probability(arm["corrected p"]) if "corrected p" in arm else _NONE
        rows.append((name, *_difference(primary), p, *_difference(second)))
    notes = (
        f"Percentage points more than {detail['reference']}, paired by video and seed; intervals over both.",
        f"Primary endpoint, fixed beforehand: {ENDPOINT} of text -> video; its p is Holm's over this table's arms.",
    )
    return Table(f"{TITLES[equal]}: differences from {detail['reference']}", columns, tuple(rows), notes)


def probability(p: float, equals: str = "") -> str:
    """For people: three digits, after `equals`; `< 0.001` below."""
    return "< 0.001" if p < 0.001 else f"{equals}{p:.3f}"


def _mean(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return _NONE
    spread = "" if score["seeds_sd"] is None else f" ± {percent(score['seeds_sd'])}"
    return percent(score["value"]) + spread


def _difference(score: Mapping[str, Any] | None) -> tuple[str, str]:
    return (_NONE, "") if score is None else signed_percent(score)


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
