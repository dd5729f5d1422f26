"""What a report says of a difference."""

from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.experiment.report.methods import answers


def study(value: float, low: float, high: float, p: float) -> Any:
    difference = {"value": value, "low": low, "high": high}
    arms = {"shared": {"differences": {}}, "disjoint": {"differences": {"R@5": difference}, "corrected p": p}}
    return SimpleNamespace(arms=["shared", "disjoint"], detail={"reference": "shared", "tables": {"width": arms}})


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        (
            (0.326, 0.209, 0.444, 0.0002),
            "disjoint has 32.6 points more R@5 than shared (95 % interval +20.9 to +44.4; p <",
        ),
        (
            (-0.1, -0.15, -0.05, 0.04),
            "disjoint has 10.0 points less R@5 than shared (95 % interval -15.0 to -5.0; p = 0.040",
        ),
        (
            (-0.306, -1.188, 0.577, 0.142),
            "no difference in R@5 between disjoint and shared is shown (-30.6, 95 % interval",
        ),
    ],
)
def test_a_difference_is_called_one_only_where_it_is_shown(figures: tuple[float, ...], said: str) -> None:
    (sentence,) = answers(study(*figures))
    assert said in sentence and sentence.startswith("Every space of equal width: ")
