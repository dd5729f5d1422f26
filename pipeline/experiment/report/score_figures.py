"""Each arm's scores with intervals and seeds, their differences from the reference's, and its loss over training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pipeline.core.figures import COLOURS, GRID, MUTED, Drawing, drawing_style, shortened
from pipeline.core.lists import csv_lines
from pipeline.experiment.report.results import Study

WIDTH = 4.2
"""Inches: so wide that 8 pt can still be read on a phone."""


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
        for row, (name, score) in enumerate(shown):
            _interval(axes, row, score)
            rows.append((name, "mean", *(100 * score[key] for key in ("value", "low", "high"))))
            for seed, value in _of_seeds(study, table, name, measure):
                axes.plot([100 * value], [row - 0.22], marker="|", color=MUTED, markersize=6)
                rows.append((name, f"seed {seed}", 100 * value, "", ""))
        chance = study.detail["chance"].get(measure)
        if chance is not None:
            axes.axvline(100 * chance, color=MUTED, linestyle="--", linewidth=1)
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
        for row, (_, score) in enumerate(shown):
            _interval(axes, row, score)
        axes.axvline(0, color=MUTED, linestyle="--", linewidth=1)
        low, high = axes.get_xlim()
        axes.set_xlim(max(low, -101), min(high, 101))
        axes.set_xlabel(f"percentage points more than {study.detail['reference']}")
    rows = [(name, *(100 * score[key] for key in ("value", "low", "high"))) for name, score in shown]
    return Drawing(figure, ("arm", "points", "low", "high"), rows)


def _of_seeds(study: Study, table: str, arm: str, measure: str) -> list[tuple[int, float]]:
    by_seed = []
    for model in study.models:
        if model.arm == arm and table in model.equal:
            report = model.localization if measure == "recall" else model.retrieval
            assert report is not None
            metrics = report["detail"]["metrics"]
            scores = metrics["figures"] if measure == "recall" else metrics["recall"]
            by_seed.append((model.seed, scores[measure]["value"]))
    return by_seed


def _rows_of(names: Sequence[str], title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, 0.8 + 0.32 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left")
    axes.set_yticks(range(len(names)), [shortened(name, 28) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", color=GRID)
    axes.set_axisbelow(True)
    return figure, axes


def _interval(axes: Axes, row: int, score: Mapping[str, float]) -> None:
    axes.plot([100 * score["low"], 100 * score["high"]], [row, row], color=COLOURS[0], linewidth=2)
    axes.plot([100 * score["value"]], [row], marker="o", color=COLOURS[0], markersize=5)


KINDS = {
    "total": "the whole loss",
    "contrast": "contrast (L_MMS), a line a pair",
    "cluster": "clusters (L_Cluster)",
    "reconstruction": "reconstruction (L_Reconstruct)",
    "heldout": "recall on held-out clips during training",
}
"""Kind of a term, the first part of its name in metrics.csv -> what it is."""
_WIDTH, _HEIGHT = 3.9, 2.7
_DASHES = ("-", "--", ":", "-.")

Curves = dict[str, NDArray[np.float64]]


def read_curves(paths: Sequence[Path]) -> Curves:
    """Column of metrics.csv -> [seeds, epochs], of files that have the same columns; shorter ones cut the others."""
    tables = [[row for _, row in csv_lines(path, ("epoch",))] for path in paths]
    epochs = min(map(len, tables))
    return {name: np.array([[float(row[name]) for row in table[:epochs]] for table in tables]) for name in tables[0][0]}


def kinds_of(curves: Curves) -> dict[str, list[str]]:
    """Kind -> its terms, for the kinds of `KINDS` that there are, in that order; ranks, of another scale, left out."""
    kinds: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for name in curves:
        kind = name.split("/")[0]
        if kind in kinds and not name.endswith("rank"):
            kinds[kind].append(name)
    return {kind: terms for kind, terms in kinds.items() if terms}


def learning_curve_figure(curves: Curves, panels: Mapping[str, Sequence[str]]) -> Drawing:
    """A panel for each title, with a line a term: the mean over seeds, in a band from the lowest to the highest."""
    epochs = curves["epoch"][0].astype(int)
    with drawing_style():
        figure = Figure(figsize=(_WIDTH * len(panels), _HEIGHT), layout="constrained")
        parts: Sequence[FigureBase] = [figure]
        if len(panels) > 1:
            parts = figure.subfigures(1, len(panels), squeeze=False)[0].tolist()
        for part, (title, terms) in zip(parts, panels.items(), strict=True):
            _curves_panel(part, curves, title, terms)
    rows = [
        (int(epoch), name, values[:, index].mean(), values[:, index].min(), values[:, index].max())
        for name, values in ((name, curves[name]) for terms in panels.values() for name in terms)
        for index, epoch in enumerate(epochs)
    ]
    return Drawing(figure, ("epoch", "term", "mean", "low", "high"), rows)


def _curves_panel(part: FigureBase, curves: Curves, title: str, terms: Sequence[str]) -> None:
    axes = part.subplots()
    epochs = curves["epoch"][0].astype(int)
    for index, name in enumerate(terms):
        colour, dash = COLOURS[index % len(COLOURS)], _DASHES[index // len(COLOURS) % len(_DASHES)]
        values = curves[name]
        axes.plot(epochs, values.mean(axis=0), color=colour, linestyle=dash, label=name.partition("/")[2])
        if len(values) > 1:
            axes.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2, linewidth=0)
    axes.set_title(title, loc="left")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=min(0.0, min(float(curves[name].min()) for name in terms)))
    if any("/" in name for name in terms):
        part.legend(loc="outside lower center", ncols=2, columnspacing=1.0)
