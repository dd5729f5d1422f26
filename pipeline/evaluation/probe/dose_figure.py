"""Dose curves drawn: how far vectors move and how much recall is lost, a line for each model and space."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.core.figures import COLOURS, Drawing, drawing_style
from pipeline.evaluation.probe.dose_curves import SHIFT
from pipeline.evaluation.probe.figures import Result

COLUMNS = ("result", "model", "space", "modality", "kind", "clips", "dose", "measure", "value", "low", "high")
"""Of the numbers; an empty dose is none. All measures are fractions, a shift is 1 - cosine."""

_STYLES = ("-", "--", ":", "-.")
_WIDTH, _HEIGHT = 4.2, 2.1
"""Inches: of a column, so wide that 8 pt can still be read on a phone, and of a row."""

Curve = Mapping[str, Any]
Line = tuple[int, str, Curve]
"""Number of the result, name of its model, curve."""


def dose_drawing(results: Sequence[Result]) -> Drawing:
    """The dose curves of one or several models: a column for each kind of dose, a row for each measure.

    Bands are 95 % intervals over videos; all curves of a column are of the same doses, the smallest on the left. A
    model's space looks alike everywhere, and so do models of one name.
    """
    lines = [(number, name, curve) for number, (name, detail) in enumerate(results) for curve in detail["doses"]]
    kinds = list(dict.fromkeys(curve["kind"] for _, _, curve in lines))
    measures = {kind: _measures([curve for _, _, curve in lines if curve["kind"] == kind]) for kind in kinds}
    rows = max(map(len, measures.values()), default=1)
    labels = dict.fromkeys(_label(name, curve) for _, name, curve in lines)
    styles = {label: _style(place) for place, label in enumerate(labels)}
    with drawing_style():
        figure = Figure(figsize=(_WIDTH * max(1, len(kinds)), 0.4 + _HEIGHT * rows), layout="constrained")
        if kinds:
            panels = figure.subplots(rows, len(kinds), squeeze=False)
            for column, kind in zip(panels.T, kinds, strict=True):
                own = [line for line in lines if line[2]["kind"] == kind]
                for row, axes in enumerate(column):
                    _panel(axes, own, measures[kind][row : row + 1], kind, styles)
            _legend(figure, panels.ravel().tolist())
    return Drawing(figure, COLUMNS, list(_rows(lines)))


def _measures(curves: Sequence[Curve]) -> list[str]:
    """What moves with a dose: the shift, then what is lost to each other modality."""
    found = dict.fromkeys(name for curve in curves for name in curve["monotone"])
    return sorted(found, key=lambda name: (name != SHIFT, name))


def _rows(lines: Sequence[Line]) -> Iterator[tuple[Any, ...]]:
    for number, name, curve in lines:
        place = (number, name, curve["space"], curve["modality"], curve["kind"], curve["clips"])
        for point in curve["points"]:
            for measure, score in point.items():
                if measure != "dose":
                    dose = "" if point["dose"] is None else point["dose"]
                    yield (*place, dose, measure, *(score[key] for key in ("value", "low", "high")))


def _label(name: str, curve: Curve) -> str:
    return f"{name}: {curve['space']}"


def _style(place: int) -> tuple[str, str]:
    """Colour and kind of line."""
    return COLOURS[place % len(COLOURS)], _STYLES[place // len(COLOURS) % len(_STYLES)]


def _panel(
    axes: Axes, lines: Sequence[Line], measures: Sequence[str], kind: str, styles: Mapping[str, tuple[str, str]]
) -> None:
    """One measure; nothing where a column has fewer of them than another."""
    if not measures:
        axes.set_axis_off()
        return
    (measure,) = measures
    for _, name, curve in lines:
        if measure not in curve["monotone"]:
            continue
        scores = [point[measure] for point in curve["points"]]
        value, low, high = ([100 * score[key] for score in scores] for key in ("value", "low", "high"))
        colour, style = styles[_label(name, curve)]
        doses = range(len(scores))
        axes.fill_between(doses, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(doses, value, style, color=colour, marker="o", markersize=3, label=_label(name, curve))
    points = lines[0][2]["points"]
    axes.set_xticks(range(len(points)), ["none" if point["dose"] is None else f"{point['dose']:g}" for point in points])
    axes.set_xlabel(kind)
    axes.set_ylabel("shift, %" if measure == SHIFT else f"R@5 {measure}, points")
    axes.set_title(f"{lines[0][2]['modality']}: {measure}", loc="left")


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    handles = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles[label] = handle
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=2)
