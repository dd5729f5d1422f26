"""Captions, steps and names that were written to harm: the page shows them as text, figures and tables are made."""

import csv
import html
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from pipeline.core.figures import as_pdf, as_svg, drawing_style, shortened
from pipeline.core.tables import Table
from pipeline.experiment.report.report import write_report
from pipeline.experiment.settings import ReportSettings

HARM = (
    "</script><script>alert(1)</script>",
    "</style><style>*{display:none}</style>",
    '"><img src=x onerror=alert(1)>',
    "<!-- ",
    "]]></svg><svg onload=alert(1)>",
    "{{ 7*7 }}{% include '/etc/passwd' %}",
    "javascript:alert(1)",
    "\u202egnp.exe\u2066 ",
    "\x1b[31m\x00\x08\x7f\x9b",
    "$\\frac{$ \\input{/etc/passwd} \\write18{id} % & # _ ^ ~",
    "=HYPERLINK(\"http://x\")",
    "\N{GRINNING FACE} مرحبا 漢字",
    "half a character: \ud83d",
)
UNSAFE = set("\u202e\u2066\ud83d\x1b\x00\x08\x7f\x9b")


class Elements(HTMLParser):
    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]


def harmful(text: str, number: int) -> str:
    return f"{HARM[number % len(HARM)]} {text} {HARM[(number + 5) % len(HARM)]}"


@pytest.fixture
def spoilt(copied: Callable[[], Path]) -> Path:
    """The study, in which every text that anybody said or wrote is harmful, and one has a million letters."""
    folder = copied()
    number = 0

    def spoil(value: Any, name: str = "") -> Any:
        nonlocal number
        if isinstance(value, dict):
            return {key: spoil(inner, key) for key, inner in value.items()}
        if isinstance(value, list):
            return [spoil(inner, name) for inner in value]
        if isinstance(value, str) and name in ("text", "label", "class", "notes"):
            number += 1
            return "long " + "x" * 1_000_000 if number == 3 else harmful(value, number)
        return value

    for path in sorted(folder.glob("runs/*/*.json")):
        path.write_text(json.dumps(spoil(json.loads(path.read_text()))))
    assert number > 50
    return folder


@pytest.mark.slow
def test_a_report_shows_harmful_texts_as_text(spoilt: Path, sketched: None) -> None:
    report = write_report(ReportSettings(spoilt))
    assert report.complete
    source = (spoilt / "report.html").read_text(encoding="utf-8")
    page = Elements(source)
    assert page.tags.count("style") == 1 and not {"script", "b", "img", "iframe"} & set(page.tags)
    assert not [name for name in page.attributes if name.startswith("on")]
    assert source.count("<!--") == 0 and "49" not in re.findall(r"“([^”]*)”", source)
    assert html.escape("{{ 7*7 }}") in source, "some of the texts are shown"
    assert not UNSAFE & set(source), "nothing turns the direction of what follows"
    assert len(source) < 3_000_000, "a text of a million letters is cut"
    csv.field_size_limit(1 << 20)
    for path in (spoilt / "report-figures").glob("*.csv"):
        with open(path, newline="", encoding="utf-8") as file:
            cells = [cell for line in csv.reader(file) for cell in line]
        assert not [cell for cell in cells if cell.startswith(("=", "@", "+", "\t", "\r"))], path


@pytest.mark.parametrize("text", HARM)
def test_figures_take_any_text(text: str) -> None:
    with drawing_style():
        figure = Figure()
        axes = figure.subplots()
        axes.set_title(shortened(text, 56))
        axes.plot([1, 2], [1, 2], label=shortened(text, 18))
        axes.legend()
        drawing = as_svg(figure, text)
        assert as_pdf(figure, text, text).startswith(b"%PDF")
    page = Elements(drawing)
    assert page.tags.count("svg") == 1 and "script" not in page.tags and "img" not in page.tags
    assert not [name for name in page.attributes if name.startswith("on")] and not UNSAFE & set(drawing)


@pytest.mark.parametrize("text", HARM)
def test_tables_take_any_text(text: str) -> None:
    table = Table(text, (text, "score"), ((text, "1"),), (text,))
    latex = table.latex()
    assert "\\input" not in latex and "\\write" not in latex and not re.search(r"(?<!\\)%", latex)
    assert not UNSAFE & set(latex + table.markdown() + table.text())
    assert len(table.markdown().splitlines()) == 7
