"""Tables as people and LaTeX read them."""

import re
from pathlib import Path

import pytest

from pipeline.core.tables import Table, percent, signed_percent, write_tables

TABLE = Table("50 % of a_b", ("what", "R@1", "R@5"), (("text -> video", "1.0", "22.5"), ("x|y", "3.0", "")), ("n & m",))


def test_columns_are_aligned_on_a_terminal() -> None:
    title, head, first, second, note = TABLE.text().splitlines()
    assert title == "50 % of a_b" and note.strip() == "n & m"
    assert head.endswith("R@5") and first.endswith("22.5") and len(head) == len(first)
    assert first.index("1.0") == second.index("3.0")


def test_markdown_has_as_many_cells_in_every_line() -> None:
    lines = [line for line in TABLE.markdown().splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {4} and len(lines) == 4


def test_latex_escapes_what_it_would_take_for_its_own() -> None:
    text = TABLE.latex()
    assert r"text $\rightarrow$ video" in text
    assert r"50 \% of a\_b" in text and r"n \& m" in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert [len(re.findall(r"(?<!\\)&", row)) for row in rows] == [2, 2, 2]
    assert r"\begin{tabular}{lrr}" in text


def test_a_crooked_row_is_refused() -> None:
    with pytest.raises(ValueError, match="a row of 1 cells under 2 columns"):
        Table("t", ("a", "b"), (("1",),))


def test_both_kinds_are_written(tmp_path: Path) -> None:
    write_tables(tmp_path / "scores.json", [TABLE, TABLE])
    assert (tmp_path / "scores.md").read_text().count("**50 % of a_b**") == 2
    assert (tmp_path / "scores.tex").read_text().count(r"\end{table}") == 2


def test_fractions_are_shown_as_percentages() -> None:
    assert percent(0.12345) == "12.3"
    assert signed_percent({"value": 0.0312, "low": -0.0001, "high": 0.2}) == ("+3.1", "+0.0 to +20.0")
    assert signed_percent({"value": -0.5, "low": -1.0, "high": -0.25}) == ("-50.0", "-100.0 to -25.0")
