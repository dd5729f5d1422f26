"""A pairing scheme as a figure for a paper or a talk: features, heads, spaces, and what is contrasted in them."""

from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, PathPatch
from matplotlib.path import Path as Curve

from pipeline.core.errors import InputError
from pipeline.core.figures import MODALITY_COLOURS, drawing_style
from pipeline.core.files import write_aside
from pipeline.core.formatting import plain
from pipeline.tools.inspect.scheme import SchemeDescription, SpaceDescription

SUFFIXES = (".svg", ".pdf", ".png")

_CONTRAST = "#AA3377"
_NODE_W, _NODE_H, _ROW = 1.3, 0.56, 1.0
_HEAD_W, _HEAD_H = 1.8, 0.5
_COLUMN = 5.2
"""From the left edge of one column's vectors to that of the next."""
_BRACKET = 0.22
_LETTER = 0.14
"""Room for one letter of a space's title."""


@dataclass(frozen=True)
class _Node:
    """A feature or a vector: left edge and middle."""

    x: float
    y: float


def check_drawing(path: Path) -> None:
    """InputError unless `path` ends as a drawing does."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: --draw expects a file name that ends in {', '.join(SUFFIXES)}")


def draw_scheme(scheme: SchemeDescription, path: Path) -> None:
    """Write the figure; its suffix says in which format. InputError when it can't be written there."""
    check_drawing(path)
    with drawing_style():
        figure = _figure(scheme)
        kind = path.suffix.lower().removeprefix(".")
        # No date: the same scheme gives the same file.
        date = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[kind]
        with write_aside(path) as aside, open(aside, "wb") as file:
            figure.savefig(file, format=kind, dpi=200, metadata=date)


def _figure(scheme: SchemeDescription) -> Figure:
    nodes = _nodes(scheme)
    right = max(node.x for node in nodes.values()) + _NODE_W + 1.2
    titles = {space.name: len(_title(space)) * _LETTER for space in scheme.spaces}
    right = max(right, *(node.x + titles[name] for (name, _), node in nodes.items() if name in titles))
    top = max(node.y for node in nodes.values()) + 1.3
    bottom = min(node.y for node in nodes.values()) - 1.2
    figure = Figure(figsize=(0.62 * (right + 0.4), 0.62 * (top - bottom)))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(-0.4, right)
    axes.set_ylim(bottom, top)
    axes.set_axis_off()
    axes.set_aspect("equal")
    for space in scheme.spaces:
        _draw_space(axes, space, nodes)
    for modality, width in scheme.features.items():
        _draw_node(axes, nodes["feature", modality], modality, f"{width:,}", filled=True)
    for space in scheme.spaces:
        for vector in space.vectors:
            start, end = nodes[vector.origin, vector.modality], nodes[space.name, vector.modality]
            shared = vector.head.removeprefix(f"{space.name}/")
            label = vector.through.replace(", ", ",\n")
            label = label if shared == vector.modality else f"the same as\n{shared}'s"
            _draw_way(axes, start, end, vector.modality, label, shared != vector.modality)
            _draw_node(
                axes, end, vector.modality, f"rebuilds {vector.decoder.split('-')[-1]}" if vector.decoder else ""
            )
        _draw_pairs(axes, space, nodes)
    axes.text(
        0,
        top - 0.3,
        f"{plain(scheme.name, 60)}: {scheme.parameters / 1e6:,.1f} M parameters",
        fontsize=10,
        weight="bold",
    )
    contrasted = Line2D([], [], color=_CONTRAST, marker="o", markersize=3, lw=1.5, label="contrasted")
    axes.legend(handles=[contrasted], loc="lower left", frameon=False, borderaxespad=0.2)
    return figure


def _nodes(scheme: SchemeDescription) -> dict[tuple[str, str], _Node]:
    """(`feature` or space, modality) -> where it is drawn: a column for each step from the features."""
    modalities = list(scheme.features)
    origins = {(space.name, v.modality): v.origin for space in scheme.spaces for v in space.vectors}

    def steps(space: str, modality: str) -> int:
        origin = origins[space, modality]
        return 1 if origin == "feature" else 1 + steps(origin, modality)

    depth = {space.name: max(steps(space.name, v.modality) for v in space.vectors) for space in scheme.spaces}
    nodes = {("feature", m): _Node(0.0, -_ROW * row) for row, m in enumerate(modalities)}
    middle = -_ROW * (len(modalities) - 1) / 2
    for step in range(1, max(depth.values()) + 1):
        column = [space for space in scheme.spaces if depth[space.name] == step]
        if len(column) == 1:
            rows = {(column[0].name, v.modality): -_ROW * modalities.index(v.modality) for v in column[0].vectors}
        else:
            # Between two spaces there is room for the name of the lower one.
            length = sum(len(space.vectors) + 1 for space in column) - 2
            y, rows = middle + _ROW * length / 2, {}
            for space in column:
                for vector in sorted(space.vectors, key=lambda v: modalities.index(v.modality)):
                    rows[space.name, vector.modality] = y
                    y -= _ROW
                y -= _ROW
        nodes |= {key: _Node(_COLUMN * step, y) for key, y in rows.items()}
    return nodes


def _draw_space(axes: Axes, space: SpaceDescription, nodes: dict[tuple[str, str], _Node]) -> None:
    own = [nodes[space.name, vector.modality] for vector in space.vectors]
    top, bottom = max(node.y for node in own) + 0.45, min(node.y for node in own) - 0.45
    width = _NODE_W + 0.5 + _BRACKET * len(space.pairs)
    box = FancyBboxPatch(
        (own[0].x - 0.2, bottom), width, top - bottom, boxstyle="round,pad=0.02", fc="#F4F4F4", ec="#777777", zorder=2
    )
    axes.add_patch(box)
    axes.text(own[0].x - 0.2, top + 0.12, _title(space), fontsize=8, weight="bold")


def _title(space: SpaceDescription) -> str:
    return f"space {space.name}, width {space.width:,}"


def _draw_node(axes: Axes, node: _Node, modality: str, below: str, filled: bool = False) -> None:
    colour = MODALITY_COLOURS[modality]
    box = FancyBboxPatch(
        (node.x, node.y - _NODE_H / 2), _NODE_W, _NODE_H, boxstyle="round,pad=0,rounding_size=0.1",
        fc=colour if filled else "white", ec=colour, lw=1.4, zorder=4,
    )  # fmt: skip
    axes.add_patch(box)
    ink = "white" if filled else colour
    middle = node.x + _NODE_W / 2
    axes.text(middle, node.y + (0.1 if below else 0), modality, color=ink, ha="center", va="center", zorder=5)
    axes.text(middle, node.y - 0.14, below, color=ink, ha="center", va="center", fontsize=5.5, zorder=5)


def _draw_way(axes: Axes, start: _Node, end: _Node, modality: str, label: str, shared: bool) -> None:
    """From a vector through a head, drawn close before what it makes."""
    colour = MODALITY_COLOURS[modality]
    head = end.x - 0.75 - _HEAD_W
    box = FancyBboxPatch(
        (head, end.y - _HEAD_H / 2), _HEAD_W, _HEAD_H, boxstyle="square,pad=0", fc="white", ec=colour, lw=0.9,
        ls="--" if shared else "-", zorder=4,
    )  # fmt: skip
    axes.add_patch(box)
    axes.text(head + _HEAD_W / 2, end.y, label, ha="center", va="center", fontsize=6, zorder=5)
    begin, bend = start.x + _NODE_W, (head - start.x - _NODE_W) / 2
    curve = Curve(
        [(begin, start.y), (begin + bend, start.y), (head - bend, end.y), (head, end.y)],
        [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4],
    )
    axes.add_patch(PathPatch(curve, fc="none", ec=colour, lw=1.1, zorder=3))
    arrow = FancyArrowPatch(
        (head + _HEAD_W, end.y), (end.x, end.y), arrowstyle="-|>", mutation_scale=8, shrinkA=0, shrinkB=0,
        color=colour, lw=1.1, zorder=4,
    )  # fmt: skip
    axes.add_patch(arrow)


def _draw_pairs(axes: Axes, space: SpaceDescription, nodes: dict[tuple[str, str], _Node]) -> None:
    for number, (first, second) in enumerate(space.pairs):
        one, other = nodes[space.name, first], nodes[space.name, second]
        # A vector in several pairs has a dot for each, one below the other.
        lift = 0.12 * (number - (len(space.pairs) - 1) / 2)
        x = one.x + _NODE_W + _BRACKET * (number + 0.8)
        edge = one.x + _NODE_W
        ends = (one.y - lift, other.y - lift)
        axes.plot([edge, x, x, edge], [ends[0], ends[0], ends[1], ends[1]], color=_CONTRAST, lw=1.2, zorder=5)
        axes.plot([edge, edge], ends, ls="", marker="o", markersize=2.8, color=_CONTRAST, zorder=6)
