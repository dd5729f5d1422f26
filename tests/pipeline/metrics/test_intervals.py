"""Intervals and corrections, against simulated studies whose truth is known, scipy and hand-worked numbers."""

import numpy as np
import pytest
from scipy import stats

from pipeline.metrics.intervals import crossed_mean, holm


def study(generator: np.random.Generator, seeds: int, videos: int, spread: tuple[float, float, float]) -> np.ndarray:
    """Values [seeds, videos] with mean 0 and effects of seeds, videos and what is left."""
    of_seeds, of_videos, rest = spread
    values = of_seeds * generator.normal(size=(seeds, 1)) + of_videos * generator.normal(size=(1, videos))
    return np.asarray(values + rest * generator.normal(size=(seeds, videos)))


@pytest.mark.parametrize(
    ("seeds", "videos", "spread"),
    [
        (3, 26, (0.1, 1, 1)),
        (3, 26, (0.3, 1, 1)),
        (3, 26, (0.5, 1, 1)),
        (3, 14, (0.2, 1, 1)),
        (3, 200, (0.1, 1, 1)),
        (5, 26, (0.3, 1, 1)),
        (5, 26, (1, 1, 1)),
        (5, 26, (1, 0, 1)),
        (1, 26, (0, 1, 1)),
    ],
)
def test_intervals_cover_the_truth_as_often_as_they_say(
    seeds: int, videos: int, spread: tuple[float, float, float]
) -> None:
    generator = np.random.default_rng(0)
    found = [crossed_mean(study(generator, seeds, videos, spread)) for _ in range(1000)]
    covered = np.mean([one.low <= 0 <= one.high for one in found])
    assert 0.93 <= covered <= 0.97
    # An interval excludes 0 just where its p-value is below 5 %.
    assert all((one.p < 0.05) == (one.low > 0 or one.high < 0) for one in found)


def test_one_seed_is_student_s_interval() -> None:
    values = np.random.default_rng(1).normal(0.4, 1, 30)
    found = crossed_mean(values[None])
    test = stats.ttest_1samp(values, 0)
    assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval()))
    assert found.p == pytest.approx(test.pvalue) and found.seeds_sd is None


def test_with_many_videos_it_is_student_s_interval_over_seeds() -> None:
    generator = np.random.default_rng(2)
    values = study(generator, 4, 20_000, (1.0, 0.01, 0.01))
    found, test = crossed_mean(values), stats.ttest_1samp(values.mean(axis=1), 0)
    assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval()), rel=1e-3)
    assert found.seeds_sd == pytest.approx(values.mean(axis=1).std(ddof=1))


def test_a_table_worked_by_hand() -> None:
    # Means by seed 2 and 4, by video 1 and 5; what is left is 1 everywhere, in turn above and below.
    found = crossed_mean(np.array([[1.0, 3.0], [1.0, 7.0]]))
    # MS_seeds = 2 * 2, MS_videos = 2 * 8, MS_rest = 4: variance (4 + 16 - 4) / 4; degrees 16^2 / (4^2 + 16^2 + 4^2).
    half = stats.t.ppf(0.975, 1.0) * 2
    assert (found.value, found.low, found.high) == pytest.approx((3.0, 3 - half, 3 + half))


def slow_crossed(table: np.ndarray) -> tuple[float, float]:
    """Variance of the mean and its degrees of freedom, out of sums of squares one cell at a time."""
    seeds, videos = table.shape
    mean = sum(table[s, v] for s in range(seeds) for v in range(videos)) / (seeds * videos)
    row = [sum(table[s]) / videos for s in range(seeds)]
    column = [sum(table[:, v]) / seeds for v in range(videos)]
    ms_seeds = videos * sum((r - mean) ** 2 for r in row) / (seeds - 1)
    ms_videos = seeds * sum((c - mean) ** 2 for c in column) / (videos - 1)
    left = sum((table[s, v] - row[s] - column[v] + mean) ** 2 for s in range(seeds) for v in range(videos))
    ms_rest = left / ((seeds - 1) * (videos - 1))
    both = ms_seeds + ms_videos - ms_rest
    if both <= max(ms_seeds, ms_videos):
        return max(ms_seeds, ms_videos) / table.size, seeds - 1 if ms_seeds > ms_videos else videos - 1
    terms = ms_seeds**2 / (seeds - 1) + ms_videos**2 / (videos - 1) + ms_rest**2 / ((seeds - 1) * (videos - 1))
    return both / table.size, both**2 / terms


@pytest.mark.parametrize(
    ("spread", "case"),
    [((1, 1, 0.5), "both"), ((0.2, 1, 0.3), "both"), ((0, 1, 3), "videos"), ((1, 0, 3), "seeds")],
)
def test_variance_and_degrees_are_those_of_the_sums_of_squares(spread: tuple[float, float, float], case: str) -> None:
    """With unlike numbers of seeds and videos, so that no degrees are 1 and none are alike."""
    generator, seen = np.random.default_rng(4), 0
    for _ in range(40):
        table = study(generator, 4, 7, spread) + 0.3
        variance, degrees = slow_crossed(table)
        alone = {3: "seeds", 6: "videos"}.get(degrees, "both")
        seen += alone == case
        found, error = crossed_mean(table), variance**0.5
        half = stats.t.ppf(0.975, degrees) * error
        assert (found.low, found.high) == pytest.approx((table.mean() - half, table.mean() + half))
        assert found.p == pytest.approx(2 * stats.t.sf(abs(table.mean()) / error, degrees))
        assert degrees > 1.5
    assert seen >= 5, "the case was among them"


def test_degrees_of_freedom_are_one_at_least() -> None:
    # Effects of +-1 of seeds and of videos, and +-0.9 of what is left: mean squares 4, 4 and 3.24.
    table = np.array([[2.9, -0.9], [-0.9, -1.1]])
    both = 4 + 4 - 3.24
    assert both > 4 and both**2 / (4**2 + 4**2 + 3.24**2) < 0.6
    half = stats.t.ppf(0.975, 1.0) * (both / 4) ** 0.5
    assert (crossed_mean(table).low, crossed_mean(table).high) == pytest.approx((-half, half))


def test_constant_differences_have_no_width() -> None:
    assert crossed_mean(np.zeros((3, 5))).p == 1.0
    found = crossed_mean(np.full((3, 5), 0.25))
    assert (found.low, found.value, found.high, found.p) == (0.25, 0.25, 0.25, 0.0)


@pytest.mark.parametrize("values", [np.zeros((3, 1)), np.zeros(4), np.array([[0.0, np.nan], [0.0, 1.0]])])
def test_too_little_and_nan_are_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="at least 2 videos"):
        crossed_mean(values)


def test_the_correction_holds_its_level() -> None:
    generator = np.random.default_rng(3)
    false = 0
    for _ in range(1000):
        values = study(generator, 3, 26, (0.2, 1, 1))
        # Four comparisons with the same reference: their differences share its noise.
        p = [crossed_mean(values - study(generator, 3, 26, (0.2, 1, 1))).p for _ in range(4)]
        false += min(holm(p)) < 0.05
    assert false / 1000 <= 0.06


def test_corrected_p_values_are_holm_s() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([0.2]) == [0.2] and holm([]) == []
