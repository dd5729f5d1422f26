"""The time line: every bar where its seconds are, everything that comes from outside as text."""

import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from pipeline.evaluation.timeline import COLUMNS, spread, timeline, timeline_rows

SVG = "{http://www.w3.org/2000/svg}"


def video(seconds: int = 10, **more: Any) -> dict[str, Any]:
    steps = [
        {"step": 0, "text": "cut <b> & stir $x^2$", "true": [[1.0, 2.5], [6.0, 7.0]], "found": [1, 4], "second": 2},
        {
            "step": 1,
            "text": "a step that is described by far too many words to be shown in one line of it",
            "true": [],
            "found": None,
            "second": None,
        },
        {"step": 2, "text": "serve", "true": [[9.0, 14.0]], "found": [8, 10], "second": 9},
    ]
    return {"video_id": "a<b>&c", "seconds": seconds, "steps": steps} | more


def numbers(drawing: ElementTree.Element) -> dict[int, float]:
    """Second -> where the axis has it."""
    texts = [text for text in drawing.iter(f"{SVG}text") if re.fullmatch(r"\d+ s", text.text or "")]
    return {int((text.text or "").split()[0]): float(text.get("x", "")) for text in texts}


def bars(drawing: ElementTree.Element, kind: str) -> list[tuple[float, float, float]]:
    """Left, right and top of each part of a kind, in the drawing's units."""
    found = []
    for group in drawing.iter(f"{SVG}g"):
        if re.fullmatch(rf"[0-9a-f]{{8}}-{kind}-\d+-\d+", group.get("id") or ""):
            (path,) = group.iter(f"{SVG}path")
            places = np.array(re.findall(r"-?[\d.]+", path.get("d", "")), float).reshape(-1, 2)
            found.append((places[:, 0].min(), places[:, 0].max(), places[:, 1].min()))
    return found


def test_bars_lie_where_their_seconds_are() -> None:
    drawing = ElementTree.fromstring(timeline(video()))
    axis = numbers(drawing)
    origin, second = axis[0], (axis[10] - axis[0]) / 10

    def spans(kind: str) -> list[tuple[float, float]]:
        return [((left - origin) / second, (right - origin) / second) for left, right, _ in bars(drawing, kind)]

    wanted = [(1.0, 2.5), (6.0, 7.0), (9.0, 10.0)]
    assert [pytest.approx(span, abs=0.01) for span in spans("true")] == wanted, "what is past the end is cut off"
    assert [pytest.approx(span, abs=0.01) for span in spans("found")] == [(1, 4), (8, 10)]
    assert [pytest.approx(span, abs=0.01) for span in spans("second")] == [(2.5, 2.5), (9.5, 9.5)]
    rows = {kind: [top for _, _, top in bars(drawing, kind)] for kind in ("true", "found")}
    assert rows["true"][0] == rows["true"][1] < rows["found"][0] < rows["true"][2]


def test_rows_are_what_is_drawn() -> None:
    rows = timeline_rows(video())
    assert all(len(row) == len(COLUMNS) for row in rows)
    assert [row[3:] for row in rows] == [
        *(("true", 1.0, 2.5), ("true", 6.0, 7.0), ("found", 1, 4), ("second", 2, 3)),
        *(("true", 9.0, 14.0), ("found", 8, 10), ("second", 9, 10)),
    ]


def test_names_are_text_and_short() -> None:
    drawing = ElementTree.fromstring(timeline(video()))
    texts = [text.text or "" for text in drawing.iter(f"{SVG}text")]
    assert "cut <b> & stir $x^2$" in texts and not list(drawing.iter(f"{SVG}b"))
    assert any(text.endswith("…") and len(text) <= 56 for text in texts)
    assert "a<b>&c" in (drawing.findtext(f"{SVG}title") or "")


def test_drawings_of_two_videos_share_no_id_of_a_bar() -> None:
    found = [set(re.findall(r'id="([0-9a-f]{8}-[a-z]+-0-0)"', timeline(video(video_id=name)))) for name in "ab"]
    assert len(found[0]) == len(found[1]) == 3 and not found[0] & found[1]
    assert timeline(video()) == timeline(video())


@pytest.mark.parametrize("seconds", [1, 9, 61, 600, 7200, 40000])
def test_the_axis_has_room_for_its_numbers(seconds: int) -> None:
    axis = numbers(ElementTree.fromstring(timeline(video(seconds, steps=[]))))
    places = list(axis.values())
    # A digit is some 5 units wide at this size.
    room = 5 * (len(str(seconds)) + 2)
    assert len(places) >= 2 and min(np.diff(places)) > room


def test_examples_are_spread_over_the_list() -> None:
    videos = [video(video_id=str(number)) for number in range(14)]
    assert [one["video_id"] for one in spread(videos)] == ["0", "4", "9"]
    assert spread(videos[:3]) == videos[:3] and spread(videos[:1]) == videos[:1] and spread([]) == []
