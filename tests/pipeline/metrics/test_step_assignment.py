"""The ordered assignment against every assignment there is."""

from itertools import combinations

import numpy as np
import pytest

from pipeline.metrics.alignment import assign_steps


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


def test_worked_by_hand() -> None:
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


def test_several_matrices_at_once_are_those_one_by_one() -> None:
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
    with pytest.raises(ValueError, match=r"\[..., seconds, steps\] are wanted"):
        assign_steps(np.zeros(3))
