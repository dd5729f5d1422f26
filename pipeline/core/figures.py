"""Figures as vector drawings: SVG for a page; PDF, CSV and LaTeX for a paper, each with the command that made it.

The same figure gives the same bytes.
"""

import csv
import io
import re
import warnings
from codecs import BOM_UTF16_BE
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from pipeline.core.files import write_aside, write_text
from pipeline.core.tables import Table, spreadsheet_cell
from pipeline.core.terminal import escaped

_BY_REPORT = b"mcn report "

MADE_BY = "made by: "
"""In the first line of a figure's numbers and of a table for a paper, before the command."""


matplotlib.use("Agg")

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, which colour-blind readers can tell apart."""
MODALITY_COLOURS = dict(zip(("video", "audio", "text"), COLOURS, strict=False))
INK, MUTED, GRID = "#222222", "#888888", "#dddddd"
"""Of outlines and marks, of what is beside the point, of lines and bands behind."""

_METADATA = re.compile(r"\s*<metadata>.*?</metadata>", re.DOTALL)
_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    # Ids of a drawing's parts are otherwise random.
    "svg.hashsalt": "mcn",
    # Text stays text: small, searchable, read out.
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    # A caption with two dollar signs is no formula.
    "text.parse_math": False,
}


_TITLE = 200
"""Characters of a figure's title."""


@dataclass(frozen=True)
class Drawing:
    """A figure, and the numbers that it draws."""

    figure: Figure
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]


@contextmanager
def drawing_style() -> Iterator[None]:
    """Within it figures are made and saved in the project's style."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # The reader's browser has the characters that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def shortened(text: str, longest: int) -> str:
    """The text on one line, its control characters escaped, with an ellipsis where it is longer than `longest`."""
    text = escaped(" ".join(text[: 100 * longest].split()))
    return text if len(text) <= longest else text[: longest - 1] + "…"


def lay_out(figure: Figure) -> None:
    """Place the figure's parts once for all, where it will be saved more than once: it takes as long as the saving."""
    with drawing_style():
        figure.draw_without_rendering()
    figure.set_layout_engine("none")


def as_svg(figure: Figure, title: str) -> str:
    """An `<svg>` element whose title is `title`; all text in it is escaped."""
    buffer = io.StringIO()
    with drawing_style():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Title": shortened(title, _TITLE)})
    text = buffer.getvalue()
    # The title is given twice, once in RDF, which no browser reads.
    text = _METADATA.sub("", text[text.index("<svg") :], count=1)
    # Else a screen reader would spell every number of the axes.
    return text.replace("<svg ", '<svg role="img" ', 1)


def as_pdf(figure: Figure, title: str, command: str) -> bytes:
    """A PDF whose subject is the command that made it."""
    buffer = io.BytesIO()
    about = {"CreationDate": None, "Title": shortened(title, _TITLE), "Subject": escaped(command)}
    with drawing_style():
        figure.savefig(buffer, format="pdf", metadata=about)
    return buffer.getvalue()


def write_drawing(path: Path, drawing: Drawing, title: str, command: str, suffixes: Iterable[str]) -> None:
    """Write the drawing as `path` with these suffixes, of .svg, .pdf and .csv; the last has its numbers.

    Each but the SVG names the command that made it. InputError when they can't be written.
    """
    lay_out(drawing.figure)
    for suffix in suffixes:
        with write_aside(path.with_name(path.name + suffix)) as aside:
            if suffix == ".pdf":
                aside.write_bytes(as_pdf(drawing.figure, title, command))
            elif suffix == ".svg":
                aside.write_text(as_svg(drawing.figure, title), encoding="utf-8")
            else:
                aside.write_text(_as_csv(drawing, command), encoding="utf-8")


def _as_csv(drawing: Drawing, command: str) -> str:
    text = io.StringIO()
    # A spreadsheet takes what follows a comma for a cell.
    text.write(f"# {MADE_BY}{escaped(re.sub(',(?=[=+@-])', ', ', command))}\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows(map(spreadsheet_cell, row) for row in (drawing.columns, *drawing.rows))
    return text.getvalue()


_KINDS = (".pdf", ".csv")


@dataclass(frozen=True)
class Shown:
    """A figure or table as the page shows it."""

    title: str
    files: str
    """What a paper takes it from: names in the folder beside the report."""
    svg: str = ""
    table: Table | None = None


class FigureFiles:
    """Writes figures as PDF and CSV, tables as .tex, into one folder."""

    def __init__(self, folder: Path, command: str) -> None:
        self._folder, self._command = folder, command
        self._written: set[str] = set()

    @property
    def count(self) -> int:
        """Files written."""
        return len(self._written)

    def figure(self, name: str, title: str, drawing: Drawing) -> Shown:
        """Write `name`.pdf and `name`.csv; its SVG is for the page."""
        name = self._free(name)
        write_drawing(self._folder / name, drawing, title, self._command, _KINDS)
        return Shown(title, self._noted(name, *_KINDS), as_svg(drawing.figure, title))

    def table(self, name: str, table: Table) -> Shown:
        """Write `name`.tex."""
        name = self._free(name)
        write_text(self._folder / f"{name}.tex", f"% {MADE_BY}{escaped(self._command)}\n{table.latex()}")
        return Shown(table.title, self._noted(name, ".tex"), table=table)

    def remove_others(self) -> None:
        """Delete what an earlier report has left here and this one lacks; nothing that isn't a report's."""
        for path in sorted(self._folder.glob("*")):
            if path.name not in self._written and is_of_a_report(path):
                path.unlink()

    def _free(self, name: str) -> str:
        plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        stems = {written.rsplit(".", 1)[0] for written in self._written}
        return next(tried for tried in (plain, *(f"{plain}-{n}" for n in range(2, 10_000))) if tried not in stems)

    def _noted(self, name: str, *suffixes: str) -> str:
        self._written.update(f"{name}{suffix}" for suffix in suffixes)
        return ", ".join((f"{name}{suffixes[0]}", *suffixes[1:]))


def is_of_a_report(path: Path) -> bool:
    """Whether a study's report has put this figure or table (.csv, .tex, .pdf) there, by what stands in it."""
    if path.suffix not in (".csv", ".tex", ".pdf") or not path.is_file():
        return False
    content = path.read_bytes()
    if path.suffix == ".pdf":
        # matplotlib writes a PDF's description as plain text, or if it is not of Latin letters alone, as UTF-16.
        subjects = (_BY_REPORT, BOM_UTF16_BE + _BY_REPORT.decode().encode("utf-16-be"))
        return content.startswith(b"%PDF") and any(b"/Subject (" + subject in content for subject in subjects)
    return content.split(b"\n", 1)[0][2:].startswith(MADE_BY.encode() + _BY_REPORT)
