"""The report's figures and tables as files for a paper, each with the command that made it."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pipeline.files import write_aside, write_text
from pipeline.tables import Table
from pipeline.vector_drawing import as_pdf, as_svg, lay_out

MADE_BY = "made by: "


@dataclass(frozen=True)
class Drawing:
    """A figure, and the numbers that it draws."""

    figure: Figure
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]


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
        lay_out(drawing.figure)
        with write_aside(self._folder / f"{name}.pdf") as aside:
            aside.write_bytes(as_pdf(drawing.figure, title, self._command))
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(drawing.columns)
        writer.writerows(drawing.rows)
        write_text(self._folder / f"{name}.csv", f"# {MADE_BY}{self._command}\n{text.getvalue()}")
        return Shown(title, self._noted(name, ".pdf", ".csv"), as_svg(drawing.figure, title))

    def table(self, name: str, table: Table) -> Shown:
        """Write `name`.tex."""
        name = self._free(name)
        write_text(self._folder / f"{name}.tex", f"% {MADE_BY}{self._command}\n{table.latex()}")
        return Shown(table.title, self._noted(name, ".tex"), table=table)

    def written(self, title: str, svg: str, name: str, *suffixes: str) -> Shown:
        """Take up a figure that another part has written into the folder as `name` with these suffixes."""
        return Shown(title, self._noted(name, *suffixes), svg)

    def remove_others(self) -> None:
        """Delete what an earlier report has left here and this one lacks; nothing that isn't a report's."""
        for path in sorted(self._folder.glob("*")):
            if path.name not in self._written and is_made_by_report(path):
                path.unlink()

    def _free(self, name: str) -> str:
        plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        stems = {written.rsplit(".", 1)[0] for written in self._written}
        return next(tried for tried in (plain, *(f"{plain}-{n}" for n in range(2, 10_000))) if tried not in stems)

    def _noted(self, name: str, *suffixes: str) -> str:
        self._written.update(f"{name}{suffix}" for suffix in suffixes)
        return ", ".join((f"{name}{suffixes[0]}", *suffixes[1:]))


def is_made_by_report(path: Path) -> bool:
    """Whether a report has written this .csv, .tex or .pdf, by what stands in it."""
    if path.suffix not in (".csv", ".tex", ".pdf") or not path.is_file():
        return False
    content = path.read_bytes()
    if path.suffix == ".pdf":
        # matplotlib writes a PDF's description as plain text.
        return content.startswith(b"%PDF") and b"/Subject (mcn report " in content
    return content.split(b"\n", 1)[0][2:].startswith(f"{MADE_BY}mcn report ".encode())
