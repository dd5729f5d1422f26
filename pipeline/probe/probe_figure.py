"""Factor x scheme x space: how well each factor is told from each space, one panel a space and modality."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from pipeline.files import write_aside, write_text
from pipeline.probe.clip_vectors import INPUT
from pipeline.probe.probe_tables import MODALITIES, probes

COLUMNS = (
    *("result", "scheme", "space", "modality", "factor", "accuracy", "low", "high", "unseen", "unseen_low"),
    *("unseen_high", "chance", "chance_low", "chance_high", "input"),
)
"""Of the csv: accuracies as fractions; `unseen` over videos that the model wasn't trained on, where there are such."""

_COLOUR, _UNSEEN, _INPUT, _CHANCE = "#0072B2", "#D55E00", "#222222", "#DDDDDD"
_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "font.family": "sans-serif",
    "svg.hashsalt": "mcn",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "text.parse_math": False,
}

Point = dict[str, Any]


def draw_probes(details: Sequence[Mapping[str, Any]], path: Path, command: str) -> None:
    """Write the figure as `path` with the suffixes .svg and .pdf, and its figures as .csv below a line of `command`.

    `details`: the `detail` of one or several probe.json. Panels stand side by side for each scheme and space, below one
    another for each modality; models of one scheme share panels. Filled dots: accuracy with its 95 % interval; hollow
    ones: over videos that the model hasn't seen; strokes: the input features; grey: chance's interval. The same results
    give the same files. InputError when they can't be written.
    """
    points = list(_points(details))
    write_text(path.with_suffix(".csv"), _csv(points, command))
    with matplotlib.rc_context(_STYLE):
        figure = _figure(points)
        for kind, metadata in (("svg", {"Date": None}), ("pdf", {"CreationDate": None})):
            described = metadata | {"Description" if kind == "svg" else "Subject": command}
            with write_aside(path.with_suffix(f".{kind}")) as aside, open(aside, "wb") as file:
                figure.savefig(file, format=kind, metadata=described)


def _points(details: Sequence[Mapping[str, Any]]) -> Iterator[Point]:
    for number, detail in enumerate(details):
        entries = probes(detail)
        inputs = {(e["factor"], e["modality"]): e["accuracy"]["value"] for e in entries if e["space"] == INPUT}
        for entry in entries:
            if entry["space"] == INPUT:
                continue
            unseen = entry["unseen"]["accuracy"] if entry["unseen"] else None
            yield {
                "result": number,
                "scheme": detail["scheme"],
                **{name: entry[name] for name in ("space", "modality", "factor")},
                "accuracy": entry["accuracy"]["value"],
                **{name: entry["accuracy"][name] for name in ("low", "high")},
                "unseen": unseen and unseen["value"],
                "unseen_low": unseen and unseen["low"],
                "unseen_high": unseen and unseen["high"],
                "chance": entry["chance"]["value"],
                "chance_low": entry["chance"]["low"],
                "chance_high": entry["chance"]["high"],
                "input": inputs[entry["factor"], entry["modality"]],
            }


def _csv(points: Sequence[Point], command: str) -> str:
    text = io.StringIO()
    text.write(f"# {command}\n")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(points)
    return text.getvalue()


def _figure(points: Sequence[Point]) -> Figure:
    factors = list(dict.fromkeys(point["factor"] for point in points))
    columns = list(dict.fromkeys((point["scheme"], point["space"]) for point in points))
    rows = [modality for modality in MODALITIES if any(point["modality"] == modality for point in points)]
    size = (1.6 + 1.9 * max(1, len(columns)), 1.3 + max(1, len(rows)) * (0.45 + 0.2 * len(factors)))
    figure = Figure(figsize=size, layout="constrained")
    if not points:
        return figure
    panels = figure.subplots(len(rows), len(columns), sharex=True, sharey=True, squeeze=False)
    for line, modality in zip(panels, rows, strict=True):
        for axes, (scheme, space) in zip(line, columns, strict=True):
            held = [p for p in points if (p["scheme"], p["space"], p["modality"]) == (scheme, space, modality)]
            _panel(axes, held, factors)
            axes.set_title(f"{scheme}: {space}, {modality}" if held else "", fontsize=8)
    for column in panels.T:
        lowest = [axes for axes in column if axes.axison][-1]
        lowest.tick_params(labelbottom=True)
        lowest.set_xlabel("balanced accuracy, %")
    figure.legend(handles=_legend(points), loc="outside lower center", frameon=False)
    return figure


def _legend(points: Sequence[Point]) -> list[Artist]:
    def line(label: str, **style: Any) -> Line2D:
        return Line2D([], [], label=label, markersize=4, **style)

    handles: list[Artist] = [line("all videos", color=_COLOUR, marker="o", linewidth=0.8)]
    if any(point["unseen"] is not None for point in points):
        label = "videos that the model has not seen"
        handles.append(line(label, color=_UNSEEN, marker="o", markerfacecolor="white", linewidth=0.8))
    handles.append(line("input features, all videos", color=_INPUT, marker="|", linestyle="none"))
    return [*handles, Patch(color=_CHANCE, label="chance, 95 %")]


def _panel(axes: Axes, points: Sequence[Point], factors: Sequence[str]) -> None:
    if not points:
        axes.set_axis_off()
        return
    results = sorted({point["result"] for point in points})
    for point in points:
        place = factors.index(point["factor"])
        # Models of one scheme stand a little below one another.
        y = place + 0.5 * ((results.index(point["result"]) + 1) / (len(results) + 1) - 0.5)
        chance = [100 * point["chance_low"], 100 * point["chance_high"]]
        axes.fill_betweenx([place - 0.38, place + 0.38], *chance, color=_CHANCE, linewidth=0)
        if point["unseen"] is not None:
            unseen = [100 * point["unseen_low"], 100 * point["unseen_high"]]
            axes.plot(unseen, [y + 0.2] * 2, color=_UNSEEN, linewidth=0.8)
            axes.plot(100 * point["unseen"], y + 0.2, "o", color=_UNSEEN, markersize=3, markerfacecolor="white")
        axes.plot([100 * point["low"], 100 * point["high"]], [y, y], color=_COLOUR, linewidth=0.8)
        axes.plot(100 * point["accuracy"], y, "o", color=_COLOUR, markersize=3)
        axes.plot(100 * point["input"], place, "|", color=_INPUT, markersize=8)
    axes.set_yticks(range(len(factors)), factors)
    axes.set_ylim(len(factors) - 0.5, -0.5)
    axes.set_xlim(0, 101)
