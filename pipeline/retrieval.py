"""Text-to-video retrieval: ranks that treat ties fairly, recall, bootstrap intervals over videos."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import Embeddings

CUTOFFS = (1, 5, 10)


@dataclass(frozen=True)
class Interval:
    """A score with its 95 % percentile bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class RetrievalMetrics:
    """Scores of N queries against N candidates, query i's right answer being candidate i.

    Recalls and chance are fractions in [0, 1]; ranks count from 1.
    """

    queries: int
    videos: int
    recall: dict[str, Interval]
    """`R@1`, `R@5`, `R@10`."""
    chance: dict[str, float]
    """The same for scores that say nothing: k / N."""
    median_rank: Interval
    mean_rank: float
    chance_median_rank: float

    def as_json(self) -> dict[str, Any]:
        """The metrics as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Positions:
    """Where the right candidates stand: of N queries, how many others score higher [N] and how many equally [N]."""

    higher: NDArray[np.int64]
    equal: NDArray[np.int64]

    @property
    def rank(self) -> NDArray[np.float64]:
        """Rank from 1; equal scores share the average of their positions."""
        return 1.0 + self.higher + self.equal / 2.0

    def hits(self, cutoff: int) -> NDArray[np.float64]:
        """Probability [N] that the right candidate is among the first `cutoff`, equal scores in random order."""
        return np.clip((cutoff - self.higher) / (self.equal + 1.0), 0.0, 1.0)


def text_to_video_scores(embedded: Sequence[Embeddings], space: str) -> NDArray[np.float64]:
    """Scores [N, N] of N clips' texts (rows) against their videos, video alone: dot products in `space`.

    `embedded`: the clips' embeddings in their order, in one or several batches. A text without a known word finds
    nothing; a clip without a frame is never found: both count as misses.
    """
    found, present = {}, {}
    for modality in ("text", "video"):
        vectors = [part.vectors[space][modality].detach().double().cpu().numpy() for part in embedded]
        found[modality] = np.concatenate(vectors)
        present[modality] = np.concatenate([part.present[modality].cpu().numpy() for part in embedded])
    scores = found["text"] @ found["video"].T
    scores[:, ~present["video"]] = -np.inf
    scores[~present["text"]] = 0.0
    np.fill_diagonal(scores, np.where(present["text"], np.diagonal(scores), -np.inf))
    return scores


def positions(scores: NDArray[np.float64]) -> Positions:
    """Positions of the diagonal entries in their rows of `scores` [N, N] (higher is better).

    Scores that are all equal so give chance in every metric. Raises ValueError on NaN, which has no place in an order.
    """
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1]:
        raise ValueError(f"a square matrix of scores is wanted, not {scores.shape}")
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN: no rank can be given")
    right = np.diagonal(scores)[:, None]
    return Positions((scores > right).sum(axis=1), (scores == right).sum(axis=1) - 1)


def retrieval_metrics(
    scores: NDArray[np.float64], video_ids: Sequence[str], draws: int = 2000, seed: int = 0
) -> RetrievalMetrics:
    """Metrics of a score matrix [N, N] whose query and candidate i belong to video `video_ids[i]`.

    Intervals are percentile bootstraps over videos (clips of one video are not independent): videos are drawn with
    replacement and bring all their queries; the candidates stay the whole set.
    """
    where = positions(np.asarray(scores, np.float64))
    rank = where.rank
    videos, owner = np.unique(np.asarray(video_ids), return_inverse=True)
    generator = np.random.default_rng(seed)
    queries_of = [np.flatnonzero(owner == index) for index in range(len(videos))]
    drawn = generator.integers(len(videos), size=(draws, len(videos)))
    resampled = [np.concatenate([queries_of[index] for index in row]) for row in drawn]

    def interval(values: NDArray[np.float64], statistic: Callable[[NDArray[np.float64]], np.floating[Any]]) -> Interval:
        low, high = np.percentile([statistic(values[chosen]) for chosen in resampled], [2.5, 97.5])
        return Interval(float(statistic(values)), float(low), float(high))

    count = len(rank)
    return RetrievalMetrics(
        queries=count,
        videos=len(videos),
        recall={f"R@{k}": interval(where.hits(k), np.mean) for k in CUTOFFS},
        chance={f"R@{k}": min(1.0, k / count) for k in CUTOFFS},
        median_rank=interval(rank, np.median),
        mean_rank=float(rank.mean()),
        chance_median_rank=(count + 1) / 2,
    )
