"""Tables of results: one value, written as plain text, Markdown or LaTeX (booktabs)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.files import write_text
from pipeline.core.formatting import aligned
from pipeline.core.terminal import escaped, one_line
from pipeline.core.video_ids import is_media_name

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "±": r"$\pm$",
    "–": "--",
}


@dataclass(frozen=True)
class Table:
    """Rows of cells as they are shown; the first column is a name, the others figures."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    """Lines below it: what the figures stand on."""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.title!r}: a row of {len(row)} cells under {len(self.columns)} columns")

    def text(self) -> str:
        """Aligned columns for a terminal."""
        table = self._shown(200)
        lines = aligned([table.columns, *table.rows], range(1, len(table.columns)))
        return "\n".join([table.title, *("  " + line for line in [*lines, *table.notes])])

    def _shown(self, longest: int = 2000) -> "Table":
        """The table with each text on one line of at most so many characters, control characters escaped."""

        def shown(texts: Sequence[str]) -> tuple[str, ...]:
            lines = (one_line(text[: longest + 1]) for text in texts)
            return tuple(line if len(line) <= longest else line[: longest - 1] + "…" for line in lines)

        (title,) = shown([self.title])
        return Table(title, shown(self.columns), tuple(map(shown, self.rows)), shown(self.notes))

    def markdown(self) -> str:
        """A Markdown table under its title."""

        def line(cells: Sequence[str]) -> str:
            return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

        table = self._shown()
        rule = "|---|" + "---:|" * (len(self.columns) - 1)
        notes = ["\n" + note.replace("*", "\\*") for note in table.notes]
        return "\n".join([f"**{table.title}**", "", line(table.columns), rule, *map(line, table.rows), *notes]) + "\n"

    def latex(self) -> str:
        """A `table` environment; it needs the package booktabs."""

        def line(cells: Sequence[str]) -> str:
            return "  " + " & ".join(map(_latex, cells)) + r" \\"

        table = self._shown()
        notes = [rf"  \\[2pt] {{\footnotesize {_latex(note)}}}" for note in table.notes]
        return "\n".join(
            [
                r"\begin{table}",
                r"  \centering",
                rf"  \caption{{{_latex(table.title)}}}",
                rf"  \begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}",
                r"  \toprule",
                line(table.columns),
                r"  \midrule",
                *map(line, table.rows),
                r"  \bottomrule",
                r"  \end{tabular}",
                *notes,
                r"\end{table}",
                "",
            ]
        )


_FORMULA_BEGINS = frozenset("=+-@\t\r\n＝＋－＠")


def spreadsheet_cell(value: Any) -> Any:
    """A cell of a csv as no spreadsheet takes for a formula: text that would begin one gets an apostrophe before it.

    Numbers stay numbers, negative ones too, and so do names of videos: nothing in one can be run.
    """
    if not isinstance(value, str):
        return value
    # Python's writer puts no quotes around a carriage return, after which a reader begins another line.
    value = escaped(value.replace("\r", "\n"))
    if not value or value[0] not in _FORMULA_BEGINS or is_media_name(value):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def write_tables(path: Path, tables: Sequence[Table]) -> None:
    """Write `path` with the suffixes .md and .tex: the tables one after another."""
    write_text(path.with_suffix(".md"), "\n".join(table.markdown() for table in tables))
    write_text(path.with_suffix(".tex"), "\n".join(table.latex() for table in tables))


def percent(value: float) -> str:
    """A fraction as a percentage with one digit after the point, without the sign."""
    return f"{100 * value:.1f}"


def percent_interval(score: Mapping[str, float]) -> str:
    """An interval of a fraction, `low` to `high`, as percentages with a dash between."""
    return f"{percent(score['low'])}–{percent(score['high'])}"


def signed_percent(difference: Mapping[str, float]) -> tuple[str, str]:
    """A difference of two fractions in percentage points, with its sign, and its interval from `low` to `high`."""
    # The sum makes of a rounded -0.0 a 0.0.
    value, low, high = (f"{round(100 * difference[name], 1) + 0.0:+.1f}" for name in ("value", "low", "high"))
    return value, f"{low} to {high}"


def _latex(text: str) -> str:
    parts = text.split("->")
    return r"$\rightarrow$".join("".join(_LATEX.get(one, one) for one in part) for part in parts)
