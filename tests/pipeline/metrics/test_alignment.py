"""Viterbi segments against every segmentation there is, and the log-probabilities they follow from."""

import math
from itertools import combinations, combinations_with_replacement

import numpy as np
import pytest
from scipy.stats import poisson

from pipeline.metrics.alignment import frame_log_probabilities, log_poisson, segment_steps

Spans = tuple[tuple[int, int], ...]


def segmentations(seconds: int, steps: int) -> list[Spans]:
    """All ways to lay min(T, K) steps of a second or more into T seconds, in order; (-1, -1) for a step left out."""
    found = []
    for of in combinations(range(steps), min(seconds, steps)):
        for bounds in combinations_with_replacement(range(seconds + 1), 2 * len(of)):
            spans = dict(zip(of, zip(bounds[::2], bounds[1::2], strict=True), strict=True))
            if all(start < end for start, end in spans.values()):
                found.append(tuple(spans.get(step, (-1, -1)) for step in range(steps)))
    return found


def log_probability(spans: Spans, log_probabilities: np.ndarray, mean: float) -> float:
    """Of one segmentation, second by second."""
    background = log_probabilities.shape[1] - 1
    labels = [background] * len(log_probabilities)
    total = 0.0
    for step, (start, end) in enumerate(spans):
        labels[max(0, start) : max(0, end)] = [step] * (end - start)
        if end > start:
            total += end - start and (end - start) * math.log(mean) - mean - math.lgamma(end - start + 1)
    return total + sum(row[label] for row, label in zip(log_probabilities, labels, strict=True))


def test_random_cases_equal_brute_force_over_all_segmentations() -> None:
    generator = np.random.default_rng(11)
    fewer = 0
    for case in range(240):
        seconds, steps = int(generator.integers(1, 9)), int(generator.integers(1, 4))
        logits = generator.normal(size=(seconds, steps + 1)) * (0.5, 2.0, 6.0)[case % 3]
        log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        mean = (0.4, 1.0, 2.5, 6.0)[case % 4]
        found = tuple(map(tuple, segment_steps(log_probabilities, mean).tolist()))
        everything = segmentations(seconds, steps)
        assert found in everything
        best = max(log_probability(spans, log_probabilities, mean) for spans in everything)
        assert log_probability(found, log_probabilities, mean) == pytest.approx(best, abs=1e-9)
        fewer += seconds < steps
    assert fewer > 15


def test_any_numbers_will_do_and_the_longest_length_is_not_cut_short() -> None:
    """Not normalised, and so much for the step that it fills the whole video against its model of lengths."""
    rows = np.tile([50.0, 0.0], (40, 1))
    assert segment_steps(rows, 1.0).tolist() == [[0, 40]]
    assert segment_steps(rows - 1000.0, 1.0).tolist() == [[0, 40]]
    start, end = segment_steps(-rows, 5.0)[0]
    assert end - start == 1


def test_worked_by_hand() -> None:
    """Two steps in six seconds, log-odds over the background of +3 or -3; at a mean of 2, P(1) = P(2) > P(3)."""
    gain = np.array([[-3, -3], [3, -3], [3, -3], [-3, -3], [-3, 3], [-3, -3]], float)
    rows = np.concatenate([gain, np.zeros((6, 1))], axis=1)
    assert segment_steps(rows, 2.0).tolist() == [[1, 3], [4, 5]]
    # A second of the background more costs 3, and gains ln(mean / length): ln(20 / 2) = 2.3 < 3 < ln(200 / 6) = 3.5.
    assert segment_steps(rows, 20.0).tolist() == [[1, 3], [4, 5]]
    assert segment_steps(rows[:, [0, 2]], 200.0).tolist() == [[0, 6]]


def test_fewer_seconds_than_steps_and_no_second_at_all() -> None:
    rows = np.log(np.array([[0.1, 0.7, 0.1, 0.1], [0.1, 0.1, 0.2, 0.6]]))
    assert segment_steps(rows, 5.0).tolist() == [[-1, -1], [0, 1], [1, 2]]
    assert segment_steps(np.zeros((0, 3)), 5.0).tolist() == [[-1, -1], [-1, -1]]


def test_several_matrices_at_once_are_those_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    many = frame_log_probabilities(np.random.default_rng(2).normal(size=(3, 2, 30, 4)), 1.0)
    one_by_one = np.array([[segment_steps(matrix, 3.0) for matrix in row] for row in many])
    np.testing.assert_array_equal(segment_steps(many, 3.0), one_by_one)
    monkeypatch.setattr("pipeline.metrics.alignment._MOST_SUMS", 7)
    np.testing.assert_array_equal(segment_steps(many, 3.0), one_by_one)


def test_the_model_of_lengths_is_poissons() -> None:
    lengths = np.arange(1, 50)
    for mean in (0.5, 5.0, 40.0):
        np.testing.assert_allclose(log_poisson(lengths, mean), poisson.logpmf(lengths, mean), atol=1e-12)


def test_log_probabilities_are_of_standardised_scores_and_the_background() -> None:
    scores = np.array([[4.0, 0.0], [0.0, 0.0]])
    # Mean 1, standard deviation sqrt(3): the scores become sqrt(3) and -1 / sqrt(3).
    high, low = math.sqrt(3), -1 / math.sqrt(3)
    first = np.exp([high, low, 1.0]) / np.exp([high, low, 1.0]).sum()
    second = np.exp([low, low, 1.0]) / np.exp([low, low, 1.0]).sum()
    np.testing.assert_allclose(np.exp(frame_log_probabilities(scores, 1.0)), [first, second], rtol=1e-12)


def test_scores_have_no_scale_and_no_zero_of_their_own() -> None:
    scores = np.random.default_rng(4).normal(size=(5, 20, 3))
    wanted = frame_log_probabilities(scores, 0.5)
    np.testing.assert_allclose(frame_log_probabilities(1e6 * scores - 3e6, 0.5), wanted, atol=1e-9)
    np.testing.assert_allclose(np.exp(wanted).sum(axis=-1), 1.0)


@pytest.mark.parametrize("level", [0.0, 0.1, 1e300, -7.0])
def test_scores_that_are_all_equal_say_nothing(level: float) -> None:
    found = frame_log_probabilities(np.full((7, 3), level), 0.0)
    np.testing.assert_allclose(found, np.log(0.25), atol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_has_no_probability_is_refused(bad: float) -> None:
    scores = np.zeros((4, 2))
    scores[0, 0] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        frame_log_probabilities(scores, 1.0)
    with pytest.raises(ValueError, match="finite log-probabilities"):
        segment_steps(scores, 1.0)
    for mean in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="a positive mean length"):
            segment_steps(np.zeros((4, 2)), mean)
