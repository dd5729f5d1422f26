"""Tables of results: one value, written as plain text, Markdown or LaTeX (booktabs)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.files import write_text
from pipeline.core.formatting import aligned
from pipeline.core.terminal import one_line

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
        cells = [[one_line(cell) for cell in row] for row in (self.columns, *self.rows)]
        shown = aligned(cells, range(1, len(self.columns)))
        notes = ("  " + one_line(note) for note in self.notes)
        return "\n".join([one_line(self.title), *("  " + line for line in shown), *notes])

    def markdown(self) -> str:
        """A Markdown table under its title."""

        def line(cells: Sequence[str]) -> str:
            return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

        rule = "|---|" + "---:|" * (len(self.columns) - 1)
        notes = ["\n" + note.replace("*", "\\*") for note in self.notes]
        return "\n".join([f"**{self.title}**", "", line(self.columns), rule, *map(line, self.rows), *notes]) + "\n"

    def latex(self) -> str:
        """A `table` environment; it needs the package booktabs."""

        def line(cells: Sequence[str]) -> str:
            return "  " + " & ".join(map(_latex, cells)) + r" \\"

        notes = [rf"  \\[2pt] {{\footnotesize {_latex(note)}}}" for note in self.notes]
        return "\n".join(
            [
                r"\begin{table}",
                r"  \centering",
                rf"  \caption{{{_latex(self.title)}}}",
                rf"  \begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}",
                r"  \toprule",
                line(self.columns),
                r"  \midrule",
                *map(line, self.rows),
                r"  \bottomrule",
                r"  \end{tabular}",
                *notes,
                r"\end{table}",
                "",
            ]
        )


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
