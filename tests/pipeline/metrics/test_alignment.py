"""The ordered assignment and Viterbi segments against all there are, and the log-probabilities they follow from."""

import math
from itertools import combinations, combinations_with_replacement

import numpy as np
import pytest
from scipy.stats import poisson

from pipeline.metrics.alignment import assign_steps, frame_log_probabilities, log_poisson, segment_steps

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


def test_segments_worked_by_hand() -> None:
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


def test_several_matrices_at_once_are_segmented_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
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


def best_sum(scores: np.ndarray) -> float:
    """The largest sum over all order-keeping choices of min(T, K) seconds and as many steps."""
    seconds, steps = scores.shape
    pairs = min(seconds, steps)
    return max(
        sum(scores[second, step] for second, step in zip(chosen, of, strict=True))
        for chosen in combinations(range(seconds), pairs)
        for of in combinations(range(steps), pairs)
    )


def cases(count: int) -> list[np.ndarray]:
    """Matrices of 0 to 8 seconds and 1 to 5 steps: some normal, some all negative, some full of ties."""
    generator = np.random.default_rng(7)
    found = []
    for case in range(count):
        shape = generator.integers(0, 9), generator.integers(1, 6)
        normal = generator.normal(size=shape)
        found.append((normal, normal - 10, generator.integers(-1, 2, shape).astype(float))[case % 3])
    return found


def test_a_thousand_random_cases_equal_brute_force() -> None:
    matrices = cases(1000)
    fewer, equal = (sum(np.sign(m.shape[0] - m.shape[1]) == sign for m in matrices) for sign in (-1, 0))
    assert fewer > 150 and equal > 70
    for scores in matrices:
        found = assign_steps(scores)
        placed = np.flatnonzero(found >= 0)
        assert found.shape == scores.shape[1:] and len(placed) == min(scores.shape)
        assert (np.diff(found[placed]) > 0).all() and (found[placed] < len(scores)).all()
        assert set(found[found < 0].tolist()) <= {-1}
        assert scores[found[placed], placed].sum() == pytest.approx(best_sum(scores), abs=1e-12)


def test_an_assignment_worked_by_hand() -> None:
    # The best seconds alone, 2 and 0, are in the wrong order; 1 + 4 beats 5 + 2.
    scores = np.array([[1.0, 9.0], [0.0, 0.0], [5.0, 0.0], [0.0, 2.0], [0.0, 4.0]])
    assert assign_steps(scores).tolist() == [2, 4]
    # As many seconds as steps: each has its own, however bad (the published program gives none here).
    assert assign_steps(np.full((3, 3), -1.0)).tolist() == [0, 1, 2]
    # One second for three steps: the step that fits it best.
    assert assign_steps(np.array([[0.0, 3.0, 1.0]])).tolist() == [-1, 0, -1]
    assert assign_steps(np.zeros((0, 2))).tolist() == [-1, -1] and assign_steps(np.zeros((3, 0))).tolist() == []


def test_of_equal_sums_the_earliest_is_taken() -> None:
    assert assign_steps(np.zeros((6, 3))).tolist() == [0, 1, 2]
    assert assign_steps(np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 2.0], [0.0, 2.0]])).tolist() == [1, 2]


def test_several_matrices_of_scores_at_once_are_assigned_as_one_by_one() -> None:
    generator = np.random.default_rng(3)
    for shape in ((4, 3, 9, 4), (4, 3, 2, 4)):
        many = generator.integers(-2, 3, shape).astype(np.float32)
        one_by_one = [[assign_steps(matrix) for matrix in row] for row in many]
        np.testing.assert_array_equal(assign_steps(many), np.array(one_by_one))


def test_scores_are_left_as_they_were() -> None:
    scores = np.random.default_rng(0).normal(size=(9, 4))
    before = scores.copy()
    assign_steps(scores)
    np.testing.assert_array_equal(scores, before)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("seconds", [2, 5])
def test_what_has_no_place_in_a_sum_is_refused(bad: float, seconds: int) -> None:
    scores = np.zeros((seconds, 3))
    scores[1, 1] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        assign_steps(scores)
    with pytest.raises(ValueError, match=r"expected scores \[..., seconds, steps\]"):
        assign_steps(np.zeros(3))
