"""Each arm's scores with their intervals and seeds, and how they differ from the reference's."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.core.figures import COLOURS, Drawing, drawing_style, shortened
from pipeline.experiment.report.results import Study

WIDTH = 4.2
"""Inches: so wide that 8 pt can still be read on a phone."""
_CHANCE, _SEED = "#888888", "#777777"


def has_scores(study: Study, table: str, measure: str) -> bool:
    """Whether any arm of the table has this score."""
    return any(measure in arm["scores"] for arm in study.detail["tables"][table].values())


def score_figure(study: Study, table: str, measure: str, title: str) -> Drawing:
    """A row an arm: its mean with the 95 % interval, a small stroke for each seed, chance as a dashed line; percent."""
    arms = study.detail["tables"][table]
    shown = [(name, arm["scores"][measure]) for name, arm in arms.items() if measure in arm["scores"]]
    rows: list[tuple[Any, ...]] = []
    with drawing_style():
        figure, axes = _rows_of([name for name, _ in shown], title)
        for place, (name, score) in enumerate(shown):
            _interval(axes, place, score)
            rows.append((name, "mean", *(100 * score[key] for key in ("value", "low", "high"))))
            for seed, value in _of_seeds(study, table, name, measure):
                axes.plot([100 * value], [place - 0.22], marker="|", color=_SEED, markersize=6)
                rows.append((name, f"seed {seed}", 100 * value, "", ""))
        chance = study.detail["chance"].get(measure)
        if chance is not None:
            axes.axvline(100 * chance, color=_CHANCE, linestyle="--", linewidth=1)
            rows.append(("chance", "mean", 100 * chance, "", ""))
        # Intervals that know no bounds of the score: what is past them is no score, though published ties may pass 100.
        axes.set_xlim(-1, max(101, *(100 * score["value"] + 1 for _, score in shown)))
        axes.set_xlabel("percent; dashed: chance")
    return Drawing(figure, ("arm", "of", "percent", "low", "high"), rows)


def difference_figure(study: Study, table: str, measure: str, title: str) -> Drawing:
    """A row an arm: how much more it scores than the reference, with the 95 % interval; percentage points."""
    arms = study.detail["tables"][table]
    shown = [(name, arm["differences"][measure]) for name, arm in arms.items() if measure in arm["differences"]]
    with drawing_style():
        figure, axes = _rows_of([name for name, _ in shown], title)
        for place, (_, score) in enumerate(shown):
            _interval(axes, place, score)
        axes.axvline(0, color=_CHANCE, linestyle="--", linewidth=1)
        low, high = axes.get_xlim()
        axes.set_xlim(max(low, -101), min(high, 101))
        axes.set_xlabel(f"percentage points more than {study.detail['reference']}")
    rows = [(name, *(100 * score[key] for key in ("value", "low", "high"))) for name, score in shown]
    return Drawing(figure, ("arm", "points", "low", "high"), rows)


def _of_seeds(study: Study, table: str, arm: str, measure: str) -> list[tuple[int, float]]:
    found = []
    for model in study.models:
        if model.arm == arm and table in model.equal:
            report = model.localization if measure == "recall" else model.retrieval
            assert report is not None
            metrics = report["detail"]["metrics"]
            scores = metrics["figures"] if measure == "recall" else metrics["recall"]
            found.append((model.seed, scores[measure]["value"]))
    return found


def _rows_of(names: Sequence[str], title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, 0.8 + 0.32 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left")
    axes.set_yticks(range(len(names)), [shortened(name, 28) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", color="#dddddd")
    axes.set_axisbelow(True)
    return figure, axes


def _interval(axes: Axes, place: int, score: Mapping[str, float]) -> None:
    axes.plot([100 * score["low"], 100 * score["high"]], [place, place], color=COLOURS[0], linewidth=2)
    axes.plot([100 * score["value"]], [place], marker="o", color=COLOURS[0], markersize=5)
