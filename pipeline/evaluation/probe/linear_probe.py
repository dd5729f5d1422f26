"""Linear probes: what a logistic regression tells of clips from their vectors, trained on other videos.

Shapes: N rows (clips), Q questions asked of each row, K levels of a question, D width.
"""

import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, StratifiedGroupKFold

from pipeline.evaluation.settings import Draws
from pipeline.metrics.intervals import Interval, bootstrap

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
"""Inverse strengths of the L2 penalty that are tried; the largest mean score within the training folds decides."""
WIDEST = 128
"""Vectors wider than this are reduced to so many principal components of the training folds."""
FOLDS, INNER_FOLDS = 5, 3
MOST_LEVELS = 100
CHANCE_DRAWS = 500

Labels = NDArray[np.int64]
Rows = NDArray[np.int64]
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Question:
    """What is asked of N rows: one factor with many levels (Q = 1), or Q words that are there or not."""

    labels: Labels
    """[N, Q], levels from 0 on."""
    levels: tuple[int, ...]
    """For each of the Q questions, how many levels there are."""
    videos: NDArray[Any]
    """[N]: the video of each row. No video is ever on both sides of a split."""
    folds: Labels | None = None
    """[N]: published folds, from 0 on; None to make five."""

    @property
    def chance(self) -> float:
        """Balanced accuracy of a guess that doesn't look: the mean of 1 / levels."""
        return float(np.mean([1 / levels for levels in self.levels]))

    def of(self, rows: NDArray[Any]) -> "Question":
        """The same asked of some of the rows, in folds of their own."""
        return Question(self.labels[rows], self.levels, self.videos[rows])


@dataclass(frozen=True)
class Asked:
    """A question that can be put: which of the rows it is put to, and what was left out."""

    question: Question
    rows: NDArray[np.int64]
    """Indices of the rows given."""
    left_out: int
    """Levels in fewer than two videos, or beyond the `MOST_LEVELS` that most videos have."""


@dataclass(frozen=True)
class Standing:
    """How well a question is answered, over all rows or over some."""

    accuracy: Interval
    """Balanced: the mean over levels of the share of a level's rows that are told rightly."""
    gain: Interval | None
    """Accuracy beyond that of other vectors of the same rows, paired; None where there were none to compare."""
    chance: Interval
    """1 / levels, and where the accuracy of probes that could learn nothing lies, 95 %."""
    rows: int


@dataclass(frozen=True)
class ProbeScores:
    """How well a question is answered from one kind of vectors."""

    overall: Standing
    unseen: Standing | None
    """Over the videos that the model wasn't trained on, where there are two such and others beside them."""
    permuted: tuple[float, ...]
    """Accuracies over all rows of probes trained and scored on permuted labels."""

    def as_json(self) -> dict[str, Any]:
        """The scores as JSON values."""
        chance = self.overall.chance
        return {
            **asdict(self.overall),
            "unseen": None if self.unseen is None else asdict(self.unseen),
            "permuted": list(self.permuted),
            "permuted within chance": sum(chance.low <= value <= chance.high for value in self.permuted),
        }


def question_of(names: Sequence[str], videos: Sequence[str], folds: Sequence[int] | None = None) -> Asked | None:
    """The question which level each row has, an empty name meaning that the row is not asked.

    Levels in fewer than two videos are left out: no probe could learn them from other videos. So are those beyond the
    hundred that most videos have. None where fewer than two levels or videos are left.
    """
    name, video = np.asarray(names), np.asarray(videos)
    known = [level for level in np.unique(name).tolist() if level]
    spread = {level: len(np.unique(video[name == level])) for level in known}
    kept = sorted(level for level in known if spread[level] > 1)
    if len(kept) > MOST_LEVELS:
        kept = sorted(sorted(kept, key=lambda level: (-spread[level], level))[:MOST_LEVELS])
    if len(kept) < 2:
        return None
    rows = np.flatnonzero(np.isin(name, kept))
    labels = np.searchsorted(np.array(kept), name[rows]).astype(np.int64)[:, None]
    given = None if folds is None else np.asarray(folds, np.int64)[rows]
    return Asked(Question(labels, (len(kept),), video[rows], given), rows, len(known) - len(kept))


def balanced_accuracy(labels: Labels, predictions: Labels, levels: int) -> float:
    """Mean over questions of the mean over levels of the share of a level's rows `[N, Q]` that are told rightly.

    Levels without a row are left out of their question's mean. `levels`: the largest number of them.
    """
    questions = labels.shape[1]
    code = (labels + levels * np.arange(questions)).ravel()
    counts = np.bincount(code, minlength=questions * levels).reshape(questions, levels)
    right = np.bincount(code, weights=(labels == predictions).ravel(), minlength=questions * levels).reshape(
        counts.shape
    )
    shares = right / np.maximum(counts, 1)
    return float((shares.sum(axis=1) / (counts > 0).sum(axis=1)).mean())


class LinearProbe:
    """Answers one question from several kinds of vectors of the same rows, by the same folds.

    Five folds by video, or the published ones; rows of all levels are spread over them as evenly as videos allow. In
    each the vectors are standardised, reduced to 128 principal components where they are wider, and told apart by a
    multinomial logistic regression in which every level weighs the same. The strength of its penalty is chosen among
    `STRENGTHS` by three folds within the training videos, again by video.
    """

    def __init__(self, question: Question, draws: Draws, trained_on: Collection[str] = ()) -> None:
        """`trained_on`: videos that the model has seen. ValueError where there are fewer than two videos."""
        self.question, self.draws = question, draws
        self._most = max(question.levels)
        self._splits = _splits(question, FOLDS, draws.seed)
        self._permutations = _Permutations(question.videos)
        unseen = ~np.isin(question.videos, list(trained_on))
        enough = not unseen.all() and len(np.unique(question.videos[unseen])) > 1
        self._unseen = np.flatnonzero(unseen) if enough else None
        if len(self._splits) < 2:
            raise ValueError("a probe needs rows of two videos at least, on two sides of a split")

    def answers(self, vectors: Vectors) -> tuple[Labels, list[float]]:
        """What is told of each row [N, Q] by the fold that hasn't seen its video; and each fold's strength."""
        predictions, strengths = np.zeros_like(self.question.labels), []
        for train, test in self._splits:
            seen, unseen = _projected(vectors[train], vectors[test], self.draws.seed)
            training = self.question.of(train)
            strengths.append(self._strength(seen, training))
            predictions[test] = _fit(seen, training.labels, unseen, strengths[-1])
        return predictions, strengths

    def scores(self, vectors: Vectors, baseline: Labels | None = None) -> tuple[ProbeScores, Labels]:
        """Scores of vectors (N, D) with intervals over videos, and predictions; `baseline`: those of other vectors."""
        predictions, strengths = self.answers(vectors)
        permuted = list(self._permuted(vectors, strengths))
        blind = [answers for _, answers in permuted]
        scores = ProbeScores(
            overall=self._standing(predictions, baseline, blind, np.arange(len(predictions))),
            unseen=None if self._unseen is None else self._standing(predictions, baseline, blind, self._unseen),
            permuted=tuple(balanced_accuracy(labels, answers, self._most) for labels, answers in permuted),
        )
        return scores, predictions

    def _standing(
        self, predictions: Labels, baseline: Labels | None, blind: Sequence[Labels], rows: NDArray[np.int64]
    ) -> Standing:
        labels, most = self.question.labels, self._most

        def statistics(drawn: NDArray[np.int64]) -> list[float]:
            chosen = rows[drawn]
            accuracy = balanced_accuracy(labels[chosen], predictions[chosen], most)
            return (
                [accuracy]
                if baseline is None
                else [accuracy, accuracy - balanced_accuracy(labels[chosen], baseline[chosen], most)]
            )

        intervals = bootstrap(statistics, self.question.videos[rows].tolist(), self.draws.bootstrap, self.draws.seed)
        low, high = self._by_chance(blind, rows)
        return Standing(
            accuracy=intervals[0],
            gain=None if baseline is None else intervals[1],
            chance=Interval(self.question.chance, low, high),
            rows=len(rows),
        )

    def _by_chance(self, blind: Sequence[Labels], rows: NDArray[np.int64]) -> tuple[float, float]:
        """Where the accuracy of such answers as a probe without anything to learn gives lies, 95 %, over `rows`.

        The answers of probes that were trained on permuted labels are compared with labels permuted anew. What row i
        learns from row j, j learns from i: where labels and answers go together in cross-validation hits come in pairs,
        so the variance is twice that of answers which don't know these labels.
        """
        random = np.random.default_rng([self.draws.seed, 1])
        labels = self.question.labels
        accuracies = np.array(
            [
                balanced_accuracy(
                    labels[self._permutations.draw(random)[rows]], blind[draw % len(blind)][rows], self._most
                )
                for draw in range(CHANCE_DRAWS)
            ]
        )
        low, high = np.percentile(accuracies.mean() + np.sqrt(2) * (accuracies - accuracies.mean()), [2.5, 97.5])
        return max(0.0, float(low)), min(1.0, float(high))

    def _permuted(self, vectors: Vectors, strengths: Sequence[float]) -> Iterator[tuple[Labels, Labels]]:
        """Permuted labels, and what a probe that is trained on them tells, in folds of its own unless published.

        The penalty is the true labels' most frequent choice, which these labels don't know.
        """
        random = np.random.default_rng([self.draws.seed, 2])
        strength = max(STRENGTHS, key=strengths.count)
        for _ in range(self.draws.permutations):
            labels = self.question.labels[self._permutations.draw(random)]
            permuted = replace(self.question, labels=labels)
            predictions = np.zeros_like(labels)
            for train, test in _splits(permuted, FOLDS, self.draws.seed):
                seen, unseen = _projected(vectors[train], vectors[test], self.draws.seed)
                predictions[test] = _fit(seen, labels[train], unseen, strength)
            yield labels, predictions

    def _strength(self, vectors: Vectors, training: Question) -> float:
        if len(np.unique(training.videos)) < 2:
            return STRENGTHS[0]
        score = dict.fromkeys(STRENGTHS, 0.0)
        for train, test in _splits(training, INNER_FOLDS, self.draws.seed):
            for strength in STRENGTHS:
                predictions = _fit(vectors[train], training.labels[train], vectors[test], strength)
                score[strength] += balanced_accuracy(training.labels[test], predictions, self._most)
        return max(STRENGTHS, key=score.__getitem__)


class _Permutations:
    """Draws of labels permuted between videos, as indices of rows: what neighbouring rows share stays shared.

    Each video gets another's labels in their order, stretched to its own length and turned by a random number of rows,
    so that nothing follows from a row's place in its video either.
    """

    def __init__(self, videos: NDArray[Any]) -> None:
        _, self._video = np.unique(videos, return_inverse=True)
        order = np.argsort(self._video, kind="stable")
        self._order, self._lengths = order, np.bincount(self._video)
        self._starts = np.cumsum(self._lengths) - self._lengths
        self._index = np.empty(len(order), np.int64)
        self._index[order] = np.arange(len(order)) - self._starts[self._video[order]]

    def draw(self, random: np.random.Generator) -> NDArray[np.int64]:
        """[N]: for each row, the row whose labels it gets."""
        source = random.permutation(len(self._lengths))[self._video]
        turned = random.integers(0, self._lengths)[source]
        length = self._lengths[source]
        index = (self._index * length // self._lengths[self._video] + turned) % length
        return self._order[self._starts[source] + index]


def _splits(question: Question, folds: int, seed: int) -> list[tuple[Rows, Rows]]:
    """(training, test) rows of each fold: the published ones, or at most `folds` with levels spread evenly over them.

    All rows of a video are in one fold. Of several questions it is a row's levels together that are spread. Fewer than
    two folds where there are fewer than two videos.
    """
    if question.folds is not None:
        return list(PredefinedSplit(question.folds).split())
    folds = min(folds, len(np.unique(question.videos)))
    if folds < 2:
        return []
    level = np.unique(question.labels, axis=0, return_inverse=True)[1].ravel()
    if np.bincount(level).max() < folds:
        level = np.zeros_like(level)  # too few rows to spread anything but themselves
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")
        splits = splitter.split(level, level, question.videos)
        return [(train, test) for train, test in splits if len(train) and len(test)]


def _projected(train: Vectors, test: Vectors, seed: int) -> tuple[Vectors, Vectors]:
    """Both sides standardised and reduced by what the training side is like."""
    mean, deviation = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    scale = np.where(deviation > 1e-6 * np.maximum(np.abs(mean), 1e-30), deviation, 1.0)
    seen, unseen = (((side - mean) / scale).astype(np.float32) for side in (train, test))
    parts = min(WIDEST, len(seen) - 1)
    if seen.shape[1] <= WIDEST or parts < 1:
        return seen, unseen
    reduction = PCA(parts, svd_solver="randomized", random_state=seed).fit(seen)
    seen, unseen = reduction.transform(seen), reduction.transform(unseen)
    # One scale for all, so that a strength means the same however wide the vectors were.
    spread = max(float(np.sqrt(seen.var(axis=0).mean())), 1e-12)
    return (seen / spread).astype(np.float32), (unseen / spread).astype(np.float32)


def _fit(train: Vectors, labels: Labels, test: Vectors, strength: float) -> Labels:
    """What is told of the test rows (M, Q)."""
    predictions = np.zeros((len(test), labels.shape[1]), np.int64)
    for question, column in enumerate(labels.T):
        if len(np.unique(column)) < 2:
            predictions[:, question] = column[0]
            continue
        # Newton's steps are the fastest for two levels, and their Hessian too large for many.
        solver = "newton-cholesky" if len(np.unique(column)) == 2 else "lbfgs"
        regression = LogisticRegression(C=strength, class_weight="balanced", tol=1e-3, max_iter=100, solver=solver)
        with warnings.catch_warnings():
            # Where levels are told apart perfectly a weak penalty never converges; the answers don't change any more.
            warnings.simplefilter("ignore", ConvergenceWarning)
            predictions[:, question] = regression.fit(train, column).predict(test)
    return predictions
