"""An arm's loss terms over its training: the mean over seeds, and the band between the lowest and the highest."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pipeline.core.figures import COLOURS, Drawing, drawing_style

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
    tables = []
    for path in paths:
        with open(path, encoding="utf-8", newline="") as file:
            tables.append(list(csv.DictReader(file)))
    epochs = min(map(len, tables))
    return {name: np.array([[float(row[name]) for row in table[:epochs]] for table in tables]) for name in tables[0][0]}


def kinds_of(curves: Curves) -> list[str]:
    """The kinds of terms there are, in the order of `KINDS`."""
    there = {name.split("/")[0] for name in curves}
    return [kind for kind in KINDS if kind in there]


def learning_curve_figure(curves: Curves, kind: str) -> Drawing:
    """The terms of one kind, a line each."""
    terms = [name for name in curves if name.split("/")[0] == kind and not name.endswith("rank")]
    epochs = curves["epoch"][0].astype(int)
    with drawing_style():
        figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        axes = figure.subplots()
        for place, name in enumerate(terms):
            colour, dash = COLOURS[place % len(COLOURS)], _DASHES[place // len(COLOURS) % len(_DASHES)]
            values = curves[name]
            label = "/".join(name.split("/")[1:])
            axes.plot(epochs, values.mean(axis=0), color=colour, linestyle=dash, label=label)
            if len(values) > 1:
                axes.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2, linewidth=0)
        axes.set_title(KINDS[kind], loc="left")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(bottom=min(0.0, min(float(curves[name].min()) for name in terms)))
        if kind != "total":
            figure.legend(loc="outside lower center", ncols=2, columnspacing=1.0)
    rows = [
        (int(epoch), name, values[:, place].mean(), values[:, place].min(), values[:, place].max())
        for name, values in ((name, curves[name]) for name in terms)
        for place, epoch in enumerate(epochs)
    ]
    return Drawing(figure, ("epoch", "term", "mean", "low", "high"), rows)
