"""What is found of steps, worked by hand and second by second; averages over videos and tasks."""

import numpy as np
import pytest

from pipeline.evaluation.lists import Step, StepList, true_seconds
from pipeline.metrics.localization import (
    FIGURES,
    Alignment,
    Found,
    Scores,
    VideoFigures,
    find_steps,
    gather,
    localization_metrics,
    paired_differences,
    video_figures,
)


def steps_of(*segments: tuple[tuple[float, float], ...]) -> StepList:
    return StepList("v", "t", tuple(Step(n, f"step {n}", spans) for n, spans in enumerate(segments)))


def test_a_second_is_true_where_a_segment_touches_it() -> None:
    steps = steps_of(((0.9, 2.0), (4.0, 4.1)), ((1.5, 2.5),), (), ((5.0, 9.0),), ((7.0, 8.0),))
    truth = true_seconds(steps, 6)
    assert [np.flatnonzero(column).tolist() for column in truth.T] == [[0, 1, 4], [1, 2], [], [5], []]


def test_worked_by_hand() -> None:
    """Six seconds; step 0 in seconds 0 and 1, step 1 in 3, step 2 left out of the video, step 3 past its end."""
    steps = steps_of(((0.0, 2.0),), ((3.2, 3.9),), (), ((6.0, 7.0),))
    truth = true_seconds(steps, 6)
    found = Found(
        chosen=np.array([1, 2, 3, 5]),
        best=np.array([0, 1, 1, 1, 2, 3]),
        segments=np.array([[1, 4], [3, 4], [4, 5], [-1, -1]]),
    )
    figures = video_figures(found, truth, steps.present)
    # Step 0's second is true, step 1's is not, step 2 doesn't count, step 3 can't be.
    assert (int(figures.hits), figures.present) == (1, 3)
    # True pairs: (0, 0), (1, 0), (3, 1), and one for step 3; seconds 0 and 3 are right.
    assert figures.unordered == pytest.approx(2 / 4)
    # Step 0: common second 1; seconds 0, 1, 2, 3 either; 3 found. Step 1: the very second. Step 3: nothing found.
    assert figures.iou == pytest.approx((1 / 4 + 1 + 0) / 3)
    assert figures.iod == pytest.approx((1 / 3 + 1 + 0) / 3)


def test_figures_equal_a_count_second_by_second() -> None:
    generator = np.random.default_rng(6)
    for _ in range(60):
        seconds, count = int(generator.integers(1, 13)), int(generator.integers(1, 6))
        spans = []
        for _ in range(count):
            starts = np.sort(generator.uniform(0, seconds + 2, int(generator.integers(0, 3))))
            spans.append(tuple((float(start), float(start + generator.uniform(0.1, 4))) for start in starts))
        spans[0] = spans[0] or ((0.5, 1.0),)
        steps = steps_of(*spans)
        found = find_steps(generator.normal(size=(seconds, count)), Alignment(0.5, 2.0))
        figures = video_figures(found, true_seconds(steps, seconds), steps.present)

        present = [n for n in range(count) if spans[n]]
        true = {
            n: {t for t in range(seconds) for start, end in spans[n] if int(start) <= t < int(np.ceil(end))}
            for n in present
        }
        laid = {n: set(range(*found.segments[n])) for n in present}
        laid = {n: found_seconds - {-1} for n, found_seconds in laid.items()}
        assert int(figures.hits) == sum(int(found.chosen[n]) in true[n] for n in present)
        pairs = [(t, n) for n in present for t in true[n]]
        missed = sum(not true[n] for n in present)
        right = sum(found.best[t] == n for t, n in pairs)
        assert figures.unordered == pytest.approx(right / (len(pairs) + missed))
        ratios = [(len(true[n] & laid[n]), len(true[n] | laid[n]), len(laid[n])) for n in present]
        assert figures.iou == pytest.approx(np.mean([both / either if either else 0 for both, either, _ in ratios]))
        assert figures.iod == pytest.approx(np.mean([both / length if length else 0 for both, _, length in ratios]))


def test_several_matrices_at_once_are_those_one_by_one() -> None:
    steps = steps_of(((1.0, 3.0),), ((2.5, 6.0),), ())
    truth = true_seconds(steps, 7)
    many = np.random.default_rng(8).normal(size=(9, 7, 3))
    alignment = Alignment(1.0, 2.0)
    together = video_figures(find_steps(many, alignment), truth, steps.present)
    for place, matrix in enumerate(many):
        alone = video_figures(find_steps(matrix, alignment), truth, steps.present)
        for name in ("hits", "unordered", "iou", "iod"):
            assert getattr(together, name)[place] == pytest.approx(getattr(alone, name))


def test_a_video_without_a_present_step_has_no_recall() -> None:
    steps = steps_of((), ())
    with pytest.raises(ValueError, match="no recall"):
        video_figures(find_steps(np.zeros((4, 2)), Alignment(1, 5)), true_seconds(steps, 4), steps.present)


def figures_of(hits: int, present: int, unordered: float = 0.0, iou: float = 0.0, iod: float = 0.0) -> VideoFigures:
    return VideoFigures(np.array(hits), present, np.array(unordered), np.array(iou), np.array(iod))


def test_means_over_a_tasks_videos_then_over_tasks_and_pooled() -> None:
    scores = gather(
        [figures_of(1, 1, 1.0, 0.2, 0.4), figures_of(1, 9, 0.0, 0.4, 0.8), figures_of(2, 4, 0.5, 0.6, 0.9)],
        ["fish", "fish", "cake"],
    )
    found = dict(zip(FIGURES, scores.averages(np.arange(3)), strict=True))
    assert found["recall"] == pytest.approx(((1 + 1 / 9) / 2 + 1 / 2) / 2)
    assert found["pooled recall"] == pytest.approx((2 / 10 + 2 / 4) / 2)
    assert found["unordered recall"] == pytest.approx((0.5 + 0.5) / 2)
    assert found["IoU"] == pytest.approx((0.3 + 0.6) / 2) and found["IoD"] == pytest.approx((0.6 + 0.9) / 2)
    # A draw without a video of `cake` averages over the tasks it has.
    assert scores.averages(np.array([0, 1, 1]))[0] == pytest.approx((1 + 1 / 9 + 1 / 9) / 3)


def test_intervals_are_over_videos_and_chance_is_a_mean_over_draws() -> None:
    generator = np.random.default_rng(1)
    ids = [f"v{n}" for n in range(40)]
    tasks = ["a", "b"] * 20
    figures = [figures_of(int(generator.integers(0, 5)), 4) for _ in ids]
    chance = [gather([figures_of(hits, 4) for _ in ids], tasks) for hits in (0, 1, 4)]
    metrics = localization_metrics(gather(figures, tasks), chance, ids, 400, 3)
    assert (metrics.videos, metrics.tasks, metrics.steps) == (40, 2, 160)
    assert metrics.chance["recall"] == pytest.approx((0 + 1 / 4 + 1) / 3)
    recall = metrics.figures["recall"]
    # Against the normal approximation of a mean of 40.
    spread = np.std([int(one.hits) / 4 for one in figures]) / np.sqrt(40)
    assert recall.value == pytest.approx(np.mean([int(one.hits) / 4 for one in figures]))
    assert (recall.low, recall.high) == pytest.approx(
        (recall.value - 1.96 * spread, recall.value + 1.96 * spread), abs=0.02
    )


def test_a_paired_interval_sees_a_difference_that_two_intervals_hide() -> None:
    """Every video's recall is an eighth better, while videos differ far more among each other."""
    ids, tasks = [f"v{n}" for n in range(30)], ["a", "b", "c"] * 10
    theirs = [figures_of(n % 8, 8) for n in range(30)]
    mine = [figures_of(n % 8 + 1, 8) for n in range(30)]
    found = paired_differences(gather(mine, tasks), gather(theirs, tasks), ids, 200, 0)["recall"]
    assert (found.value, found.low, found.high) == pytest.approx((0.125, 0.125, 0.125))
    apart = [localization_metrics(gather(one, tasks), [gather(one, tasks)], ids, 200, 0) for one in (mine, theirs)]
    assert apart[0].figures["recall"].low < apart[1].figures["recall"].high


def test_random_scores_of_one_step_come_to_its_share_of_the_video() -> None:
    """One step in 3 of 12 seconds: chance is 1 / 4 for its one second."""
    steps = steps_of(((2.0, 5.0),))
    many = np.random.default_rng(5).normal(size=(4000, 12, 1))
    figures = video_figures(find_steps(many, Alignment(1.0, 3.0)), true_seconds(steps, 12), steps.present)
    chance = [Scores.averages(gather([figures], ["t"], draw), np.arange(1))[0] for draw in range(4000)]
    assert np.mean(chance) == pytest.approx(0.25, abs=0.03)
