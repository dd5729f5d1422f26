"""Recall and ranks of a retrieval, with bootstrap intervals over videos and what chance would score."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.bootstrap import Interval, bootstrap
from pipeline.metrics.ranking import Positions

CUTOFFS = (1, 5, 10)


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
    mean_rank: Interval
    chance_median_rank: float

    def as_json(self) -> dict[str, Any]:
        """The metrics as JSON values."""
        return asdict(self)


def retrieval_metrics(
    where: Positions,
    video_ids: Sequence[str],
    draws: int = 2000,
    seed: int = 0,
    published_ties: bool = False,
    candidates: int = 0,
) -> RetrievalMetrics:
    """Metrics of N queries whose right candidates stand at `where`; query i belongs to video `video_ids[i]`.

    Intervals are percentile bootstraps over videos (clips of one video are not independent): videos are drawn with
    replacement and bring all their queries; the candidates stay the whole set. `candidates`: their number where it
    isn't N. With `published_ties` each tied position counts as a hit and as a rank of its own, as published.
    """
    hits = [where.published_hits(k) if published_ties else where.hits(k) for k in CUTOFFS]
    *recalls, mean, median = bootstrap(
        lambda drawn: [*(float(hit[drawn].mean()) for hit in hits), *_ranks(where, drawn, published_ties)],
        video_ids,
        draws,
        seed,
    )
    among = candidates or len(where.higher)
    return RetrievalMetrics(
        queries=len(where.higher),
        videos=len(set(video_ids)),
        recall={f"R@{k}": recall for k, recall in zip(CUTOFFS, recalls, strict=True)},
        chance={f"R@{k}": min(1.0, k / among) for k in CUTOFFS},
        median_rank=median,
        mean_rank=mean,
        chance_median_rank=(among + 1) / 2,
    )


def _ranks(where: Positions, drawn: NDArray[np.int64], published_ties: bool) -> tuple[float, float]:
    """Mean and median rank."""
    chosen = where.of(drawn)
    ranks = chosen.published_ranks() if published_ties else chosen.rank
    return float(ranks.mean()), float(np.median(ranks))
