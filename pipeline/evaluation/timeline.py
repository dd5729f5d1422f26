"""A video's steps on a time line: when each is truly done, the segment found for it, the one second chosen."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pipeline.core.figures import COLOURS, GRID, INK, as_svg, drawing_style, shortened

COLUMNS = ("video_id", "step", "text", "kind", "start", "end")
"""Of the figures that a time line draws."""

_WIDTH, _ROW, _AXIS = 4.2, 0.44, 0.45
"""Inches: the drawing's width, a step's height, the height of the time axis."""
_NAME, _TRUE, _FOUND = 0.27, 0.38, 0.64
"""Where in its row, 1 high, a step's name ends and its two bars begin."""
_BAR = 0.22
_STYLES: dict[str, dict[str, Any]] = {
    "true": {"facecolor": "white", "edgecolor": INK},
    "found": {"facecolor": COLOURS[0], "edgecolor": COLOURS[0]},
}
_SECOND = "#c03000"


def timeline(video: Mapping[str, Any]) -> str:
    """The drawing of one entry of `videos` in localization.json as an SVG text; see `timeline_figure`."""
    return as_svg(timeline_figure(video), f"Steps of video {video['video_id']} over {video['seconds']} s")


def timeline_figure(video: Mapping[str, Any]) -> Figure:
    """One entry of `videos` in localization.json: a row for each step, time in seconds from left to right.

    White with an outline: true segments, cut off at the video's end. Blue, below: the segment found. A red stroke: the
    middle of the step's one second. In the SVG each is a group whose id ends in its kind, row and number.
    """
    seconds, steps = video["seconds"], video["steps"]
    # Several time lines stand in one page, where an id may occur once.
    mark = hashlib.sha256(repr((video["video_id"], steps)).encode()).hexdigest()[:8]
    with drawing_style():
        figure = Figure(figsize=(_WIDTH, _ROW * len(steps) + _AXIS), layout="constrained")
        axes = figure.subplots()
        _axis(axes, seconds, len(steps))
        for row, step in enumerate(steps):
            axes.text(0, row + _NAME, shortened(step["text"], 56), ha="left", va="baseline")
            for number, (start, end) in enumerate(step["true"]):
                span = (min(start, seconds), min(end, seconds))
                _bar(axes, span, row + _TRUE, "true", f"{mark}-true-{row}-{number}")
            if step["found"] is not None:
                _bar(axes, step["found"], row + _FOUND, "found", f"{mark}-found-{row}-0")
            if step["second"] is not None:
                middle = step["second"] + 0.5
                (stroke,) = axes.plot([middle, middle], [row + _TRUE - 0.04, row + _FOUND + _BAR + 0.04])
                stroke.set(color=_SECOND, linewidth=2, gid=f"{mark}-second-{row}-0")
    return figure


def timeline_rows(video: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """What `timeline_figure` draws, as rows under `COLUMNS`; times in seconds."""
    rows: list[tuple[Any, ...]] = []
    for step in video["steps"]:
        spans = [("true", *span) for span in step["true"]]
        if step["found"] is not None:
            spans.append(("found", *step["found"]))
        if step["second"] is not None:
            spans.append(("second", step["second"], step["second"] + 1))
        rows += [(video["video_id"], step["step"], step["text"], *span) for span in spans]
    return rows


def spread(videos: Sequence[Mapping[str, Any]], shown: int = 3) -> list[Mapping[str, Any]]:
    """`shown` of the videos, or all if there are fewer, spread evenly over the list."""
    return [videos[index * len(videos) // shown] for index in range(shown)] if len(videos) > shown else list(videos)


def _axis(axes: Axes, seconds: int, rows: int) -> None:
    axes.set_xlim(0, seconds)
    axes.set_ylim(max(rows, 0.1), 0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda second, _: f"{second:g} s"))
    axes.grid(axis="x", color=GRID)
    axes.set_axisbelow(True)


def _bar(axes: Axes, span: Sequence[float], top: float, kind: str, gid: str) -> None:
    # A line keeps a segment wholly past the video's end to be seen.
    axes.add_patch(
        Rectangle((span[0], top), span[1] - span[0], _BAR, linewidth=0.8, gid=gid, clip_on=False, **_STYLES[kind])
    )
