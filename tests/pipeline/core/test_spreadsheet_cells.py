"""Text that others wrote is run by no spreadsheet; numbers and names of videos stay what they are."""

import csv
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from pipeline.core.figures import Drawing, is_of_a_report, write_drawing
from pipeline.core.tables import spreadsheet_cell

RUN = ["=1+1", "+cmd|' /C calc'!A0", "-2+3+cmd|x", "@SUM(A1)", "\t=1", "\r=1", "-SUM(A1)", "＝1+1", '=HYPERLINK("http://x")']


@pytest.mark.parametrize("text", RUN)
def test_what_would_be_run_begins_with_an_apostrophe(text: str) -> None:
    assert spreadsheet_cell(text) == f"'{text}".replace("\r", "\n")


@pytest.mark.parametrize("value", [-1.5, -3, np.float32(-2), "-1.5", "-1e-05", "+3", "-bcdefghijk", "a=b", "", None])
def test_what_is_run_by_none_stays(value: object) -> None:
    assert spreadsheet_cell(value) == value and type(spreadsheet_cell(value)) is type(value)


def test_a_figures_numbers_hold_no_formula(tmp_path: Path) -> None:
    rows = [(text, -0.5, "-0.5") for text in RUN]
    command = "mcn report '/data/a,=1+1,b'"
    write_drawing(tmp_path / "steps", Drawing(Figure(), ("=step", "value", "text"), rows), "", command, (".csv",))
    with open(tmp_path / "steps.csv", newline="", encoding="utf-8") as file:
        cells = [cell for line in csv.reader(file) for cell in line]
    assert not [cell for cell in cells if cell[:1] in tuple("=+@\t\r") or cell[:2] in ("-2", "-S")]
    assert cells.count("-0.5") == 2 * len(RUN) and is_of_a_report(tmp_path / "steps.csv")
