"""Recall and ranks of a retrieval, beside chance; a whole video found by its captions' average score or their votes.

The votes are those of Chen et al.'s video_evaluation.py. The published counts settle ties by position and give a hit to
any video with a vote where fewer than k have one. Here a tie in a vote or between votes is worth the average over its
orders, as everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.metrics.intervals import Interval, bootstrap
from pipeline.metrics.ranking import Positions, Side, none_among, positions, products

CUTOFFS = (1, 5, 10)


@dataclass(frozen=True)
class RetrievalMetrics:
    """Scores of N queries against M candidates, of which one or several are right for each.

    Recalls and chance are fractions in [0, 1]; ranks count from 1.
    """

    queries: int
    videos: int
    recall: dict[str, Interval]
    """`R@1`, `R@5`, `R@10`."""
    chance: dict[str, float]
    """The same for scores that say nothing: k / M where one candidate is right."""
    median_rank: Interval
    mean_rank: Interval
    chance_median_rank: float


def retrieval_metrics(
    where: Positions,
    video_ids: Sequence[str],
    draws: int = 2000,
    seed: int = 0,
    published_ties: bool = False,
    candidates: int = 0,
    right: NDArray[np.int64] | None = None,
) -> RetrievalMetrics:
    """Metrics of N queries whose right candidates stand at `where`; query i belongs to video `video_ids[i]`.

    Intervals are percentile bootstraps over videos (clips of one video are not independent): videos are drawn with
    replacement and bring all their queries; the candidates stay the whole set. `candidates`: their number where it
    isn't N. `right`, [N]: how many of them are right, where it isn't one each. With `published_ties` each tied position
    counts as a hit and as a rank of its own, as published.
    """
    hits = [where.published_hits(k) if published_ties else where.hits(k) for k in CUTOFFS]
    *recalls, mean, median = bootstrap(
        lambda drawn: [*(float(hit[drawn].mean()) for hit in hits), *_ranks(where, drawn, published_ties)],
        video_ids,
        draws,
        seed,
    )
    among = candidates or len(where.higher)
    chance = Chance(among, right)
    return RetrievalMetrics(
        queries=len(where.higher),
        videos=len(set(video_ids)),
        recall={f"R@{k}": recall for k, recall in zip(CUTOFFS, recalls, strict=True)},
        chance={f"R@{k}": chance.recall(k) for k in CUTOFFS},
        median_rank=median,
        mean_rank=mean,
        chance_median_rank=chance.median_rank,
    )


@dataclass(frozen=True)
class Chance:
    """What scores that say nothing give: the best right candidate's place in a random order of all."""

    candidates: int
    right: NDArray[np.int64] | None = None
    """[N]: how many of them are right for each query; None: one each."""

    def recall(self, cutoff: int) -> float:
        """Probability that a right one is among the first `cutoff`, the mean over queries."""
        if self.right is None or (self.right == 1).all():
            return min(1.0, cutoff / self.candidates)
        return float(1.0 - none_among(self.candidates - self.right, self.right, cutoff).mean())

    @property
    def mean_rank(self) -> float:
        """The mean over queries."""
        return float(((self.candidates + 1) / ((1 if self.right is None else self.right) + np.ones(1))).mean())

    @property
    def median_rank(self) -> float:
        """The median of all queries' ranks together: between two where one half of them is at most the lower."""
        if self.right is None or (self.right == 1).all():
            return (self.candidates + 1) / 2
        numbers, queries = np.unique(self.right, return_counts=True)
        left, rank = np.ones(len(numbers)), 0
        while (later := float(left @ queries) / len(self.right)) > 0.5 + _ROUNDING:
            left *= np.maximum(self.candidates - numbers - rank, 0) / (self.candidates - rank)
            rank += 1
        return rank if later < 0.5 - _ROUNDING else rank + 0.5


def _ranks(where: Positions, drawn: NDArray[np.int64], published_ties: bool) -> tuple[float, float]:
    """Mean and median rank."""
    chosen = where.of(drawn)
    ranks = chosen.published_ranks() if published_ties else chosen.rank
    return float(ranks.mean()), float(np.median(ranks))


_ROUNDING = 1e-9

MOST_VIDEOS = 5000
"""With more, the matrices of votes would take gigabytes."""

_ASKED_AT_A_TIME = 256


@dataclass(frozen=True)
class FullVideo:
    """Where the right videos stand, by several rules. V videos, N captions."""

    video_ids: tuple[str, ...]
    """[V], ascending."""
    caption: Positions
    """[N]: one caption asks; a video scores what its best clip does."""
    caption_average: Positions
    """[V]: all captions of a video ask; a video scores the mean over them of what its best clip does."""
    video_votes: dict[int, Positions]
    """Cutoff k -> [V]: each caption votes for its k best videos."""
    clip_votes: dict[int, Positions]
    """Cutoff k -> [V]: each caption gives its k best clips' videos a vote a clip."""


def full_video(queries: Side, candidates: Side, owners: Sequence[str], clip_owners: Sequence[str]) -> FullVideo:
    """Rank whole videos by their captions; caption i belongs to video `owners[i]`, clip j to `clip_owners[j]`.

    A caption that isn't there says nothing: alone it finds its video last of all, and it casts no vote. A clip that
    isn't there is never found; a video of which no clip is there stands behind those that have one, equal with its
    like, and is no hit. Raises ValueError when a score is NaN or overflows, and unless each video has both.
    """
    names, owner = np.unique(np.asarray(owners), return_inverse=True)
    shown, clip_owner = np.unique(np.asarray(clip_owners), return_inverse=True)
    if not np.array_equal(names, shown):
        raise ValueError("every video needs a caption and a clip")
    videos, captions = len(names), len(owner)
    asked_by, owner_of = torch.from_numpy(owner), torch.from_numpy(clip_owner)
    means = torch.zeros(videos, videos, dtype=torch.float64)
    votes = {kind: {k: torch.zeros(videos, videos, dtype=torch.float64) for k in CUTOFFS} for kind in ("video", "clip")}
    higher, equal = np.full(captions, videos - 1, np.int64), np.zeros(captions, np.int64)
    present = queries.present.nonzero().squeeze(1)
    for block in present.split(_ASKED_AT_A_TIME):
        scores = products(queries.vectors[block], candidates.vectors)
        if not torch.isfinite(scores.sum()):
            raise ValueError("scores hold NaN or overflow: no rank can be given")
        scores[:, ~candidates.present] = -torch.inf
        best = torch.full((len(block), videos), -torch.inf)
        best.scatter_reduce_(1, owner_of.expand(len(block), -1), scores, "amax")
        own = asked_by[block]
        right = best.gather(1, own.unsqueeze(1))
        higher[block.numpy()] = (best > right).sum(dim=1).numpy()
        equal[block.numpy()] = (best == right).sum(dim=1).numpy() - 1
        # A video without a clip that is there has no score; the worst there is keeps sums finite, and it last.
        means.index_add_(0, own, best.clamp(min=torch.finfo(torch.float32).min).double())
        for k in CUTOFFS:
            votes["video"][k].index_add_(0, own, _among_best(best, k))
            chosen = torch.zeros(len(block), videos, dtype=torch.float64)
            chosen.index_add_(1, owner_of, _among_best(scores, k))
            votes["clip"][k].index_add_(0, own, chosen)
    heard, seen = np.zeros(videos, np.bool_), np.zeros(videos, np.bool_)
    heard[owner[queries.present.numpy()]] = True
    seen[clip_owner[candidates.present.numpy()]] = True
    silent = ~queries.present.numpy()
    return FullVideo(
        tuple(names.tolist()),
        replace(Positions(higher, equal).without(silent, videos), lost=silent | ~seen[owner]),
        _standing(means, heard, seen),
        {k: _standing(votes["video"][k], heard, seen) for k in CUTOFFS},
        {k: _standing(votes["clip"][k], heard, seen) for k in CUTOFFS},
    )


def _among_best(scores: Tensor, k: int) -> Tensor:
    """Probability (N, M), float64, that each is among the `k` best of its row, equal scores in random order."""
    k = min(k, scores.shape[1])
    edge = scores.topk(k, dim=1).values[:, -1:]
    above, level = scores > edge, scores == edge
    left = (k - above.sum(dim=1, keepdim=True)).double() / level.sum(dim=1, keepdim=True)
    return torch.where(above, 1.0, torch.where(level & (scores > -torch.inf), left, 0.0)).double()


def _standing(scores: Tensor, heard: NDArray[np.bool_], seen: NDArray[np.bool_]) -> Positions:
    """Positions of the diagonal; a video of which no caption is `heard`, or no clip `seen`, comes last and is lost."""
    standing: NDArray[np.float64] = scores.numpy()
    # Votes are sums of fractions, in an order of their own: what differs by rounding alone is equal.
    standing = np.round(standing, 9)
    standing[:, ~seen] = -np.inf
    where = positions(standing).without(~heard, len(standing))
    return replace(where, lost=~heard | ~seen)
