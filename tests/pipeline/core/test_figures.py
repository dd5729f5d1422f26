"""Texts of figures."""

from pathlib import Path

import pytest

from pipeline.core.figures import FigureFiles, shortened
from pipeline.core.tables import Table


@pytest.mark.parametrize(
    ("text", "shown"),
    [("abcdef", "abcdef"), ("abcdefg", "abcde…"), ("a\n b", "a b"), ("a\x1bb", "a\\u00…"), ("", "")],
)
def test_a_text_that_is_too_long_ends_in_an_ellipsis(text: str, shown: str) -> None:
    assert shortened(text, 6) == shown


def test_what_an_earlier_report_has_left_goes_and_nothing_else(tmp_path: Path) -> None:
    table = Table("scores", ("arm", "R@5"), (("shared", "1.0"),))
    FigureFiles(tmp_path, "mcn report study").table("old", table)
    (tmp_path / "notes.tex").write_text("% of a person\n")
    files = FigureFiles(tmp_path, "mcn report study")
    files.table("new", table)
    files.remove_others()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.tex", "notes.tex"]
