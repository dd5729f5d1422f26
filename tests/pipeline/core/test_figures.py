"""Texts of figures."""

import pytest

from pipeline.core.figures import shortened


@pytest.mark.parametrize(
    ("text", "shown"),
    [("abcdef", "abcdef"), ("abcdefg", "abcde…"), ("a\n b", "a b"), ("a\x1bb", "a\\u00…"), ("", "")],
)
def test_a_text_that_is_too_long_ends_in_an_ellipsis(text: str, shown: str) -> None:
    assert shortened(text, 6) == shown
