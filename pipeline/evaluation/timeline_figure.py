"""A video's steps on a time line, as SVG: when each is truly done, the segment found for it, the one second chosen."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_LABELS, _TRACK = 230, 560
"""Widths of the names and of the time line, in pixels."""
_ROW, _TOP = 26, 18
_SHORTEST_TICKS = 40
"""Pixels between the numbers of the time axis, at least."""
_TRUE = 'fill="#fff" stroke="#222"'
_FOUND = 'fill="#2a6fb0"'
_SECOND = 'stroke="#c03000" stroke-width="2"'


def timeline(video: Mapping[str, Any]) -> str:
    """The drawing of one entry of `videos` in localization.json: a row for each step, time from left to right.

    White with an outline: true segments. Blue, below: the segment found. A red stroke: the middle of the step's one
    second. Each says in words, as its title, what it is. All text in it is escaped.
    """
    seconds, steps = video["seconds"], video["steps"]
    height = _TOP + _ROW * len(steps) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LABELS + _TRACK + 10} {height}" role="img" '
        f'width="{_LABELS + _TRACK + 10}" font-family="sans-serif" font-size="12">',
        f"<title>Steps of video {escape(video['video_id'])} over {seconds} s</title>",
        *_axis(seconds, _TOP + _ROW * len(steps)),
    ]
    for place, step in enumerate(steps):
        top = _TOP + _ROW * place
        parts += [
            f'<text x="{_LABELS - 8}" y="{top + 15}" text-anchor="end">{escape(_shortened(step["text"]))}</text>',
            *(_bar(span, seconds, top + 2, 9, _TRUE, "true") for span in step["true"]),
        ]
        if step["found"] is not None:
            parts.append(_bar(step["found"], seconds, top + 12, 9, _FOUND, "found"))
        if step["second"] is not None:
            x = _x(step["second"] + 0.5, seconds)
            parts.append(
                f'<line class="second" x1="{x}" x2="{x}" y1="{top}" y2="{top + 23}" {_SECOND}>'
                f"<title>chosen: second {step['second']}</title></line>"
            )
    return "".join([*parts, "</svg>"])


def spread(videos: Sequence[Mapping[str, Any]], shown: int = 3) -> list[Mapping[str, Any]]:
    """`shown` of the videos, or all if there are fewer, spread evenly over the list."""
    return [videos[place * len(videos) // shown] for place in range(shown)] if len(videos) > shown else list(videos)


def _axis(seconds: int, bottom: int) -> list[str]:
    fits = max(1, _TRACK // _SHORTEST_TICKS)
    every = next(step for step in _round_numbers() if seconds / step <= fits)
    parts = []
    for second in range(0, seconds + 1, every):
        x = _x(second, seconds)
        parts.append(f'<line x1="{x}" x2="{x}" y1="{_TOP - 6}" y2="{bottom + 4}" stroke="#ddd"/>')
        parts.append(f'<text x="{x}" y="{bottom + 17}" text-anchor="middle" fill="#555">{second} s</text>')
    return parts


def _round_numbers() -> Sequence[int]:
    return [digit * 10**power for power in range(7) for digit in (1, 2, 5)]


def _bar(span: Sequence[float], seconds: int, y: int, height: int, style: str, kind: str) -> str:
    # A true segment may reach past the video's end.
    start, end = min(span[0], seconds), min(span[1], seconds)
    left, right = _x(start, seconds), _x(end, seconds)
    return (
        f'<rect class="{kind}" x="{left}" y="{y}" width="{max(1.0, right - left):.2f}" height="{height}" {style}>'
        f"<title>{kind}: {span[0]:g} to {span[1]:g} s</title></rect>"
    )


def _x(second: float, seconds: int) -> float:
    return round(_LABELS + _TRACK * second / seconds, 2)


def _shortened(text: str, longest: int = 34) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
