"""Probes drawn: how well each factor is told from each space, and dose curves of vectors and recall."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from pipeline.core.figures import COLOURS, GRID, INK, Drawing, drawing_style
from pipeline.evaluation.probe.clips import INPUT
from pipeline.evaluation.probe.dose_curves import SHIFT
from pipeline.evaluation.probe.tables import MODALITIES, probes

PROBE_COLUMNS = (
    *("result", "model", "space", "modality", "factor", "accuracy", "low", "high", "unseen", "unseen_low"),
    *("unseen_high", "chance", "chance_low", "chance_high", "input"),
)
"""Of the numbers: accuracies as fractions; `unseen` over videos that the model wasn't trained on, if there are such."""

_COLOUR, _UNSEEN, _INPUT, _CHANCE = COLOURS[0], COLOURS[1], INK, GRID

Point = dict[str, Any]
Result = tuple[str, Mapping[str, Any]]
"""What a model is called, and the `detail` of its probe.json."""


def probe_drawing(results: Sequence[Result]) -> Drawing:
    """The probes of one or several models.

    Panels stand side by side for each name and space, below one another for each modality; models of one name share
    panels. Filled dots: accuracy with its 95 % interval; hollow ones: over videos that the model hasn't seen; strokes:
    the input features; grey: chance's interval.
    """
    points = list(_points(results))
    with drawing_style():
        figure = _figure(points)
    return Drawing(figure, PROBE_COLUMNS, [[point[column] for column in PROBE_COLUMNS] for point in points])


def _points(results: Sequence[Result]) -> Iterator[Point]:
    for number, (name, detail) in enumerate(results):
        entries = probes(detail)
        inputs = {(e["factor"], e["modality"]): e["accuracy"]["value"] for e in entries if e["space"] == INPUT}
        for entry in entries:
            if entry["space"] == INPUT:
                continue
            unseen = entry["unseen"]["accuracy"] if entry["unseen"] else None
            yield {
                "result": number,
                "model": name,
                **{key: entry[key] for key in ("space", "modality", "factor")},
                "accuracy": entry["accuracy"]["value"],
                **{key: entry["accuracy"][key] for key in ("low", "high")},
                "unseen": unseen and unseen["value"],
                "unseen_low": unseen and unseen["low"],
                "unseen_high": unseen and unseen["high"],
                "chance": entry["chance"]["value"],
                "chance_low": entry["chance"]["low"],
                "chance_high": entry["chance"]["high"],
                "input": inputs[entry["factor"], entry["modality"]],
            }


def _figure(points: Sequence[Point]) -> Figure:
    factors = list(dict.fromkeys(point["factor"] for point in points))
    columns = list(dict.fromkeys((point["model"], point["space"]) for point in points))
    rows = [modality for modality in MODALITIES if any(point["modality"] == modality for point in points)]
    size = (1.6 + 1.9 * max(1, len(columns)), 1.3 + max(1, len(rows)) * (0.45 + 0.2 * len(factors)))
    figure = Figure(figsize=size, layout="constrained")
    if not points:
        return figure
    panels = figure.subplots(len(rows), len(columns), sharex=True, sharey=True, squeeze=False)
    for line, modality in zip(panels, rows, strict=True):
        for axes, (name, space) in zip(line, columns, strict=True):
            panel_points = [p for p in points if (p["model"], p["space"], p["modality"]) == (name, space, modality)]
            _probe_panel(axes, panel_points, factors)
            axes.set_title(f"{name}: {space}, {modality}" if panel_points else "", fontsize=8)
    for column in panels.T:
        lowest = [axes for axes in column if axes.axison][-1]
        lowest.tick_params(labelbottom=True)
        lowest.set_xlabel("balanced accuracy, %")
    figure.legend(handles=_probe_legend(points), loc="outside lower center", frameon=False)
    return figure


def _probe_legend(points: Sequence[Point]) -> list[Artist]:
    def line(label: str, **style: Any) -> Line2D:
        return Line2D([], [], label=label, markersize=4, **style)

    handles: list[Artist] = [line("all videos", color=_COLOUR, marker="o", linewidth=0.8)]
    if any(point["unseen"] is not None for point in points):
        label = "videos that the model has not seen"
        handles.append(line(label, color=_UNSEEN, marker="o", markerfacecolor="white", linewidth=0.8))
    handles.append(line("input features, all videos", color=_INPUT, marker="|", linestyle="none"))
    return [*handles, Patch(color=_CHANCE, label="chance, 95 %")]


def _probe_panel(axes: Axes, points: Sequence[Point], factors: Sequence[str]) -> None:
    if not points:
        axes.set_axis_off()
        return
    results = sorted({point["result"] for point in points})
    for point in points:
        row = factors.index(point["factor"])
        # Models of one name stand a little below one another.
        y = row + 0.5 * ((results.index(point["result"]) + 1) / (len(results) + 1) - 0.5)
        chance = [100 * point["chance_low"], 100 * point["chance_high"]]
        axes.fill_betweenx([row - 0.38, row + 0.38], *chance, color=_CHANCE, linewidth=0)
        if point["unseen"] is not None:
            unseen = [100 * point["unseen_low"], 100 * point["unseen_high"]]
            axes.plot(unseen, [y + 0.2] * 2, color=_UNSEEN, linewidth=0.8)
            axes.plot(100 * point["unseen"], y + 0.2, "o", color=_UNSEEN, markersize=3, markerfacecolor="white")
        axes.plot([100 * point["low"], 100 * point["high"]], [y, y], color=_COLOUR, linewidth=0.8)
        axes.plot(100 * point["accuracy"], y, "o", color=_COLOUR, markersize=3)
        axes.plot(100 * point["input"], row, "|", color=_INPUT, markersize=8)
    axes.set_yticks(range(len(factors)), factors)
    axes.set_ylim(len(factors) - 0.5, -0.5)
    axes.set_xlim(0, 101)


DOSE_COLUMNS = ("result", "model", "space", "modality", "kind", "clips", "dose", "measure", "value", "low", "high")
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
    styles = dict(zip(labels, cycle((colour, dash) for dash in _STYLES for colour in COLOURS), strict=False))
    with drawing_style():
        figure = Figure(figsize=(_WIDTH * max(1, len(kinds)), 0.4 + _HEIGHT * rows), layout="constrained")
        if kinds:
            panels = figure.subplots(rows, len(kinds), squeeze=False)
            for column, kind in zip(panels.T, kinds, strict=True):
                own = [line for line in lines if line[2]["kind"] == kind]
                for row, axes in enumerate(column):
                    _dose_panel(axes, own, measures[kind][row : row + 1], kind, styles)
            drawn = [axes.get_legend_handles_labels() for axes in panels.flat]
            handles = {label: handle for shown in drawn for handle, label in zip(*shown, strict=True)}
            figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=2)
    return Drawing(figure, DOSE_COLUMNS, list(_rows(lines)))


def _measures(curves: Sequence[Curve]) -> list[str]:
    """What moves with a dose: the shift, then what is lost to each other modality."""
    names = dict.fromkeys(name for curve in curves for name in curve["monotone"])
    return sorted(names, key=lambda name: (name != SHIFT, name))


def _rows(lines: Sequence[Line]) -> Iterator[tuple[Any, ...]]:
    for number, name, curve in lines:
        origin = (number, name, curve["space"], curve["modality"], curve["kind"], curve["clips"])
        for point in curve["points"]:
            for measure, score in point.items():
                if measure != "dose":
                    dose = "" if point["dose"] is None else point["dose"]
                    yield (*origin, dose, measure, *(score[key] for key in ("value", "low", "high")))


def _label(name: str, curve: Curve) -> str:
    return f"{name}: {curve['space']}"


def _dose_panel(
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
