"""Retrieval scores as tables: the headline for a terminal, all directions and whole videos for a paper."""

from collections.abc import Mapping
from typing import Any

from pipeline.core.tables import Table, percent
from pipeline.metrics.retrieval_metrics import CUTOFFS

RECALLS = tuple(f"R@{k}" for k in CUTOFFS)


def headline_text(detail: Mapping[str, Any]) -> str:
    """The headline's scores as lines of text, beside chance, with what they stand on."""
    metrics = detail["metrics"]
    head = f"{detail['direction']}, {metrics['queries']} clips of {metrics['videos']} videos"
    lines = [f"{head:<44}{'score':>8}{'95 % interval':>18}{'chance':>9}"]

    def line(name: str, score: Mapping[str, float], chance: float, scale: float, unit: str) -> str:
        value, low, high = (scale * score[key] for key in ("value", "low", "high"))
        return f"  {name:<42}{value:>8.1f}{f'{low:.1f} - {high:.1f}':>18}{scale * chance:>9.1f}{unit}"

    lines += [line(name, metrics["recall"][name], metrics["chance"][name], 100.0, " %") for name in RECALLS]
    lines.append(line("median rank", metrics["median_rank"], metrics["chance_median_rank"], 1.0, ""))
    return "\n".join([*lines, f"  {_stands_on(detail)}"])


def tables(detail: Mapping[str, Any]) -> list[Table]:
    """A table of all directions; and one of whole videos where they were scored."""
    metrics = detail["metrics"]
    notes = [_stands_on(detail)]
    if detail["published ties"]:
        notes.append("Ties are counted as in the published scripts: each tied position is a further hit.")
    columns = ("direction", "space", *RECALLS, "R@5, 95 %", "median rank", "mean rank", "missing")
    rows = [_row(way) for way in detail["directions"]]
    chance = [percent(metrics["chance"][name]) for name in RECALLS]
    middle = f"{metrics['chance_median_rank']:.1f}"
    rows.append(("chance", "", *chance, "", middle, middle, ""))
    starred = not all(way["contrasted"] for way in detail["directions"])
    marked = [*notes, *(["* this pair is not contrasted in training"] if starred else [])]
    marked.append("missing: queries / candidates without the modality")
    title = (
        f"Retrieval, {metrics['queries']} clips of {metrics['videos']} videos, scheme {detail['scheme']}; in percent"
    )
    found = [Table(title, columns, tuple(rows), tuple(marked))]
    if detail["full video"]:
        found.append(_whole_videos(detail, notes))
    return found


def _row(way: Mapping[str, Any]) -> tuple[str, ...]:
    metrics, missing = way["metrics"], way["missing"]
    interval = metrics["recall"]["R@5"]
    return (
        way["direction"] + ("" if way["contrasted"] else " *"),
        way["space"],
        *(percent(metrics["recall"][name]["value"]) for name in RECALLS),
        f"{percent(interval['low'])}–{percent(interval['high'])}",
        f"{metrics['median_rank']['value']:.1f}",
        f"{metrics['mean_rank']['value']:.1f}",
        f"{missing['queries']} / {missing['candidates']}",
    )


def _whole_videos(detail: Mapping[str, Any], notes: list[str]) -> Table:
    whole = detail["full video"]
    rows = []
    for rule in ("one caption", "caption average", "votes for videos", "votes for clips"):
        score = whole[rule]
        median = f"{score['median_rank']['value']:.1f}" if "median_rank" in score else ""
        interval = score["recall"]["R@5"]
        rows.append(
            (
                rule,
                *(percent(score["recall"][name]["value"]) for name in RECALLS),
                f"{percent(interval['low'])}–{percent(interval['high'])}",
                median,
            )
        )
    chance = whole["caption average"]
    by_chance = [percent(chance["chance"][name]) for name in RECALLS]
    rows.append(("chance", *by_chance, "", f"{chance['chance_median_rank']:.1f}"))
    title = f"{detail['direction']}, {whole['videos']} whole videos, scheme {detail['scheme']}; in percent"
    return Table(title, ("rule", *RECALLS, "R@5, 95 %", "median rank"), tuple(rows), tuple(notes))


def _stands_on(detail: Mapping[str, Any]) -> str:
    trained = detail["trained on"]
    return f"trained on {trained['videos']} videos of manifest {trained['name']}, digest {trained['digest'][:12]}"
