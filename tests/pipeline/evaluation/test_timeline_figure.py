"""The time line: every bar where its seconds are, everything that comes from outside as text."""

from typing import Any
from xml.etree import ElementTree

import pytest

from pipeline.evaluation.timeline_figure import spread, timeline

SVG = "{http://www.w3.org/2000/svg}"


def video(seconds: int = 10, **more: Any) -> dict[str, Any]:
    steps = [
        {"text": "cut <b> & stir", "true": [[1.0, 2.5], [6.0, 7.0]], "found": [1, 4], "second": 2},
        {
            "text": "a step that is described by far too many words to be shown",
            "true": [],
            "found": None,
            "second": None,
        },
        {"text": "serve", "true": [[9.0, 14.0]], "found": [8, 10], "second": 9},
    ]
    return {"video_id": "a<b>&c", "seconds": seconds, "steps": steps} | more


def test_bars_lie_where_their_seconds_are() -> None:
    drawing = ElementTree.fromstring(timeline(video()))
    bars = drawing.findall(f"{SVG}rect")
    numbers = {int(text.text.split()[0]): float(text.get("x", "")) for text in drawing.iter(f"{SVG}text")
               if text.text and text.text.endswith(" s")}  # fmt: skip
    origin, second = numbers[0], (numbers[10] - numbers[0]) / 10

    def spans(kind: str) -> list[tuple[float, float]]:
        found = [(float(bar.get("x", "")), float(bar.get("width", ""))) for bar in bars if bar.get("class") == kind]
        return [((x - origin) / second, (x + width - origin) / second) for x, width in found]

    wanted = [(1.0, 2.5), (6.0, 7.0), (9.0, 10.0)]
    assert [pytest.approx(span, abs=0.01) for span in spans("true")] == wanted, "what is past the end is cut off"
    assert [pytest.approx(span, abs=0.01) for span in spans("found")] == [(1, 4), (8, 10)]
    chosen = [line for line in drawing.iter(f"{SVG}line") if line.get("class") == "second"]
    assert [(float(line.get("x1", "")) - origin) / second for line in chosen] == pytest.approx([2.5, 9.5], abs=0.01)
    rows = {kind: [float(bar.get("y", "")) for bar in bars if bar.get("class") == kind] for kind in ("true", "found")}
    assert rows["true"][0] == rows["true"][1] < rows["found"][0] < rows["true"][2]


def test_names_are_text_and_short() -> None:
    drawing = ElementTree.fromstring(timeline(video()))
    texts = [text.text or "" for text in drawing.iter(f"{SVG}text")]
    assert "cut <b> & stir" in texts and not list(drawing.iter(f"{SVG}b"))
    assert any(text.endswith("…") and len(text) <= 34 for text in texts)
    assert "a<b>&c" in (drawing.findtext(f"{SVG}title") or "")


@pytest.mark.parametrize("seconds", [1, 9, 61, 600, 7200, 40000])
def test_the_axis_has_room_for_its_numbers(seconds: int) -> None:
    drawing = ElementTree.fromstring(timeline(video(seconds, steps=[])))
    places = [float(text.get("x", "")) for text in drawing.iter(f"{SVG}text")]
    gaps = [after - before for before, after in zip(places, places[1:], strict=False)]
    assert len(places) >= 2 and min(gaps) >= 39.9


def test_examples_are_spread_over_the_list() -> None:
    videos = [video(video_id=str(number)) for number in range(14)]
    assert [one["video_id"] for one in spread(videos)] == ["0", "4", "9"]
    assert spread(videos[:3]) == videos[:3] and spread(videos[:1]) == videos[:1] and spread([]) == []
