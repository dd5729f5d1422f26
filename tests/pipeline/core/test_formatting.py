"""Numbers, sizes, durations and facts as a person reads them, each worked out by hand."""

import pytest

from pipeline.core.formatting import aligned, count, duration, facts_lines, plain, size


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0"), (7.0, "7"), (0.1234, "0.123"), (99.96, "100"), (100.4, "100"), (1234567, "1,234,567")],
)
def test_a_count_has_thousands_or_three_digits(number: float, shown: str) -> None:
    assert count(number) == shown


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (1500, "1.5 kB"), (123_456, "123 kB"), (2.5e15, "2,500 TB")],
)
def test_a_size_is_in_the_unit_that_fits(number: float, shown: str) -> None:
    assert size(number) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.4, "0 s"), (119.4, "119 s"), (120, "2 min"), (5400, "90 min"), (7200, "2 hours"), (9000, "2.5 hours"),
        (172_799, "48 hours"), (172_800, "2 days"), (10**6, "11.6 days"),
    ],
)  # fmt: skip
def test_a_duration_is_in_the_unit_that_fits(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_a_text_is_one_line_that_is_cut() -> None:
    assert plain("a\n b\tc\x1b[0m") == "a b c\\x1b[0m" and plain("é") == "é"
    assert plain("x" * 10, 10) == "x" * 10 and plain("x" * 11, 10) == "x" * 7 + "..."


def test_columns_end_below_one_another_where_they_hold_numbers() -> None:
    assert aligned([("a", "1", "b"), ("long", "234", "c")], {1}) == ["a       1  b", "long  234  c"]


def test_facts_are_a_line_each_with_the_unit_of_their_name() -> None:
    facts = {
        "bytes": 1500, "seconds of all": 7200.0, "whole": True, "nothing": [], "list": list(range(8)),
        "inner": {"x": 0.5}, "many": [{"a": 1}] * 7,
    }  # fmt: skip
    lines = facts_lines(facts)
    assert lines[:5] == [
        "  bytes           1,500 (1.5 kB)",
        "  seconds of all  7,200 (2 hours)",
        "  whole           yes",
        "  nothing         none",
        "  list            0, 1, 2, 3, 4, 5 and 2 more",
    ]
    assert lines[5:7] == ["  inner", "    x  0.5"]
    assert lines[7:9] == ["  many 1 of 7", "    a  1"] and lines[-2] == "  many 6 of 7"
    assert facts_lines({str(n): n for n in range(62)})[-1] == "  and 2 more: --json has them"
