"""Linear probes on planted vectors: what is there is found, what isn't gives chance, no video is on both sides."""

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from pipeline.evaluation.probe import linear_probe
from pipeline.evaluation.probe.linear_probe import LinearProbe, Question, balanced_accuracy, question_of
from pipeline.evaluation.settings import Draws

DRAWS = Draws(bootstrap=100, permutations=4, seed=0)
LEVELS, VIDEOS, ROWS = 4, 20, 12


def planted(seed: int = 0, width: int = 24, noise: float = 1.0) -> tuple[Any, np.ndarray, list[str]]:
    """Levels in runs of three rows, as in a video, and vectors that hold them beneath noise."""
    random = np.random.default_rng(seed)
    names = np.repeat(random.integers(0, LEVELS, (VIDEOS, ROWS // 3)), 3, axis=1).ravel()
    codes = random.normal(size=(LEVELS, width))
    vectors = (codes[names] + noise * random.normal(size=(len(names), width))).astype(np.float32)
    videos = [f"v{place // ROWS:02d}" for place in range(len(names))]
    return question_of([f"level{name}" for name in names], videos), vectors, videos


def test_a_planted_level_is_found_and_noise_is_worth_chance() -> None:
    asked, vectors, _ = planted()
    probe = LinearProbe(asked.question, DRAWS)
    scores, told = probe.scores(vectors)
    assert scores.overall.accuracy.value > 0.9 and scores.overall.chance.value == 1 / LEVELS
    assert scores.overall.accuracy.low > scores.overall.chance.high
    blind = np.random.default_rng(1).normal(size=vectors.shape).astype(np.float32)
    lost, _ = probe.scores(blind, told)
    assert lost.overall.chance.low <= lost.overall.accuracy.value <= lost.overall.chance.high
    assert lost.overall.gain is not None and lost.overall.gain.high < 0
    assert lost.overall.gain.value == pytest.approx(lost.overall.accuracy.value - scores.overall.accuracy.value)


def test_permuted_labels_are_worth_chance() -> None:
    within = of = 0
    for seed in range(6):
        asked, vectors, _ = planted(seed)
        scores, _ = LinearProbe(asked.question, Draws(20, 10, seed)).scores(vectors)
        within += scores.as_json()["permuted within chance"]
        of += len(scores.permuted)
        assert abs(np.mean(scores.permuted) - 1 / LEVELS) < 0.06
        assert 0.05 < scores.overall.chance.high - scores.overall.chance.low < 0.4
    assert of == 60 and within >= 55


def test_no_video_is_on_both_sides() -> None:
    """Vectors that name the video, and labels that go with it: a split within videos would tell them all."""
    videos = np.repeat([f"v{n:02d}" for n in range(VIDEOS)], ROWS)
    names = np.repeat(np.random.default_rng(3).integers(0, 2, VIDEOS), ROWS)
    asked = question_of([f"level{name}" for name in names], videos.tolist())
    assert asked is not None
    vectors = np.repeat(np.eye(VIDEOS, dtype=np.float32), ROWS, axis=0)
    told, _ = LinearProbe(asked.question, DRAWS).answers(vectors)
    assert balanced_accuracy(asked.question.labels, told, 2) < 0.7


def test_published_folds_are_kept() -> None:
    """Which vector stands for which level differs between two folds: neither can be told from the other."""
    random = np.random.default_rng(0)
    folds, labels = np.repeat([1, 2], 60), random.integers(0, 2, 120)
    videos = [f"v{n // 6}" for n in range(120)]
    vectors = np.zeros((120, 4), np.float32)
    vectors[np.arange(120), 2 * (folds - 1) + labels] = 1
    asked = question_of([f"level{label}" for label in labels], videos, folds.tolist())
    mixed = question_of([f"level{label}" for label in labels], videos)
    assert asked is not None and mixed is not None
    apart, _ = LinearProbe(asked.question, DRAWS).answers(vectors)
    together, _ = LinearProbe(mixed.question, DRAWS).answers(vectors)
    assert balanced_accuracy(asked.question.labels, apart, 2) == 0.5
    assert balanced_accuracy(mixed.question.labels, together, 2) == 1.0


def test_wide_vectors_are_reduced_and_keep_what_they_hold() -> None:
    asked, vectors, _ = planted(width=300, noise=2.0)
    scores, _ = LinearProbe(asked.question, DRAWS).scores(vectors)
    assert scores.overall.accuracy.value > 0.9


def test_scores_over_unseen_videos_are_those_of_their_rows() -> None:
    asked, vectors, videos = planted(noise=3.0)
    seen = {f"v{n:02d}" for n in range(12)}
    scores, told = LinearProbe(asked.question, DRAWS, seen).scores(vectors)
    rows = ~np.isin(videos, list(seen))
    wanted = balanced_accuracy_score(asked.question.labels[rows, 0], told[rows, 0])
    assert scores.unseen is not None and scores.unseen.accuracy.value == pytest.approx(wanted)
    assert scores.unseen.rows == 8 * ROWS and scores.overall.rows == VIDEOS * ROWS
    assert 0.3 < wanted < 0.95
    for known in (set(), set(videos)):
        assert LinearProbe(asked.question, DRAWS, known).scores(vectors)[0].unseen is None


def test_words_are_questions_of_their_own() -> None:
    random = np.random.default_rng(2)
    there = random.integers(0, 2, (200, 3))
    vectors = random.normal(size=(200, 8)).astype(np.float32)
    vectors[:, :2] += 4 * there[:, :2]
    videos = np.array([f"v{n // 10}" for n in range(200)])
    question = Question(there, (2, 2, 2), videos)
    told, _ = LinearProbe(question, DRAWS).answers(vectors)
    by_word = [balanced_accuracy_score(there[:, word], told[:, word]) for word in range(3)]
    assert balanced_accuracy(there, told, 2) == pytest.approx(np.mean(by_word))
    assert min(by_word[:2]) > 0.9 and 0.3 < by_word[2] < 0.7 and question.chance == 0.5


@pytest.mark.parametrize("seed", range(5))
def test_balanced_accuracy_is_scikit_learn_s(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels, told = random.integers(0, 5, (60, 2)), random.integers(0, 7, (60, 2))
    labels[labels == 3] = 4  # a level without a row
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what is told need not be a level that is there
        wanted = np.mean([balanced_accuracy_score(labels[:, q], told[:, q]) for q in range(2)])
    assert balanced_accuracy(labels, told, 7) == pytest.approx(wanted)


def test_permutations_move_whole_videos() -> None:
    lengths = [3, 7, 5]
    videos = np.repeat(["a", "b", "c"], lengths)
    order = np.random.default_rng(0).permutation(15)
    permutations = linear_probe._Permutations(videos[order])
    sources, turned = set(), set()
    for seed in range(40):
        rows = permutations.draw(np.random.default_rng(seed))
        for video in "abc":
            own = np.flatnonzero(videos[order] == video)
            given = rows[own]
            (source,) = set(videos[order][given])
            sources.add((video, source))
            # The source's rows in their own order, from any of them on, stretched to the length.
            places = np.flatnonzero(videos[order] == source)
            steps = np.searchsorted(places, given)
            stretched = np.arange(len(own)) * len(places) // len(own)
            assert ((steps - steps[0]) % len(places) == stretched % len(places)).all()
            turned.add((source, int(steps[0])))
    assert len(sources) == 9 and len(turned) == 15


def test_levels_of_one_video_and_beyond_the_most_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["x", "x", "x", "y", "y", "z", "", "w", "w"]
    videos = ["a", "b", "c", "a", "b", "c", "a", "d", "d"]
    asked = question_of(names, videos)
    assert asked is not None and asked.rows.tolist() == [0, 1, 2, 3, 4] and asked.left_out == 2
    assert asked.question.labels[:, 0].tolist() == [0, 0, 0, 1, 1] and asked.question.levels == (2,)
    names[7:] = ["z", "z"]
    monkeypatch.setattr(linear_probe, "MOST_LEVELS", 2)
    fewer = question_of(names, videos)
    assert fewer is not None and fewer.left_out == 1 and 5 not in fewer.rows
    assert question_of(["x", "x", "y"], ["a", "b", "c"]) is None
    assert question_of(["", ""], ["a", "b"]) is None
