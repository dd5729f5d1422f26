"""The report's figures and tables as files for a paper, each with the command that made it."""

import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.figures import Drawing, as_svg, write_drawing
from pipeline.core.files import write_text
from pipeline.core.tables import Table
from pipeline.tools.forget.references import MADE_BY, is_of_a_report

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
        write_text(self._folder / f"{name}.tex", f"% {MADE_BY}{self._command}\n{table.latex()}")
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
