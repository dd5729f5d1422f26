"""Where right answers stand among all candidates, in every direction of a scheme: ties are shared fairly.

Scores are made block by block and never kept.
"""

from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.clips import Embeddings
from models.pairing import Scheme

QUERY_BLOCK, CANDIDATE_BLOCK = 2048, 4096
"""Scores made at a time: 32 MiB in fp32."""
_ALIGNED = 256


@dataclass(frozen=True)
class Positions:
    """Where the right candidates stand: of N queries, how many others score higher [N] and how many equally [N]."""

    higher: NDArray[np.int64]
    equal: NDArray[np.int64]
    lost: NDArray[np.bool_] | None = None
    """[N]: queries that find nothing, or whose right candidate isn't there. They stand last and are no hit, however few
    candidates there are."""

    def without(self, lost: NDArray[np.bool_], candidates: int) -> "Positions":
        """The same, but the queries `lost` [N] stand last of all `candidates`, and are no hit."""
        return Positions(np.where(lost, candidates - 1, self.higher), np.where(lost, 0, self.equal), lost)

    def of(self, queries: NDArray[np.int64]) -> "Positions":
        """The positions of these queries, repeated as given."""
        lost = None if self.lost is None else self.lost[queries]
        return Positions(self.higher[queries], self.equal[queries], lost)

    @property
    def rank(self) -> NDArray[np.float64]:
        """Rank from 1; equal scores share the average of their positions."""
        return 1.0 + self.higher + self.equal / 2.0

    def hits(self, cutoff: int) -> NDArray[np.float64]:
        """Probability [N] that the right candidate is among the first `cutoff`, equal scores in random order."""
        return self._found(np.clip((cutoff - self.higher) / (self.equal + 1.0), 0.0, 1.0))

    def published_hits(self, cutoff: int) -> NDArray[np.float64]:
        """How many of the positions that the right score ties for are among the first `cutoff`: more than 1 with ties.

        As the published metrics count (Chen et al.'s metrics.py): constant scores so reach a recall of `cutoff`.
        """
        return self._found(np.clip(cutoff - self.higher, 0, self.equal + 1).astype(np.float64))

    def published_ranks(self) -> NDArray[np.float64]:
        """Every position that a right score ties for, from 1: more than N of them with ties."""
        first = np.repeat(self.higher + 1, self.equal + 1)
        within = np.arange(len(first)) - np.repeat(np.cumsum(self.equal + 1) - (self.equal + 1), self.equal + 1)
        return (first + within).astype(np.float64)

    def _found(self, hits: NDArray[np.float64]) -> NDArray[np.float64]:
        return hits if self.lost is None else np.where(self.lost, 0.0, hits)


def positions(scores: NDArray[np.float64], right: NDArray[np.int64] | None = None) -> Positions:
    """Positions of the columns `right` [N] in their rows of `scores` [N, M] (higher is better); default: the diagonal.

    Scores that are all equal so give chance in every metric. Raises ValueError on NaN, which has no place in an order.
    """
    if scores.ndim != 2 or (right is None and scores.shape[0] != scores.shape[1]):
        raise ValueError(f"expected a square matrix of scores, got shape {scores.shape}")
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN: no rank can be given")
    right = np.arange(len(scores)) if right is None else right
    right_scores = np.take_along_axis(scores, right[:, None], axis=1)
    return Positions((scores > right_scores).sum(axis=1), (scores == right_scores).sum(axis=1) - 1)


@dataclass(frozen=True)
class Side:
    """Queries or candidates: vectors `(N, D)` fp32, and `(N,)` bool, which of them are there."""

    vectors: Tensor
    present: Tensor


def ranked(queries: Side, candidates: Side) -> Positions:
    """Positions of candidate i for query i, of N each, by dot products in fp32, made in blocks.

    A query that isn't there finds its candidate last of all; a candidate that isn't there stands behind those that
    are, equal with its like, and is no hit. Raises ValueError when a score is NaN or overflows.
    """
    present = candidates.present.nonzero().squeeze(1)
    count, absent = len(candidates.present), len(candidates.present) - len(present)
    answerable = (queries.present & candidates.present).nonzero().squeeze(1)
    higher = np.full(count, count - 1, np.int64)
    equal = np.zeros(count, np.int64)
    unseen = (queries.present & ~candidates.present).numpy()
    higher[unseen], equal[unseen] = len(present), absent - 1
    # Of the candidates that are there, which one is asked for.
    index = torch.empty(count, dtype=torch.int64)
    index[present] = torch.arange(len(present))
    above, level = _counts(queries.vectors[answerable], candidates.vectors[present], index[answerable])
    higher[answerable.numpy()], equal[answerable.numpy()] = above.numpy(), level.numpy() - 1
    return Positions(higher, equal, (~queries.present | ~candidates.present).numpy())


def _counts(queries: Tensor, candidates: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """For each query how many candidates score higher than candidate `right` and how many equally, itself included.

    `right` ascends. The right score is read out of the very product that it is compared in: of another one it may
    differ in the last bit, and a candidate wouldn't even equal itself. So queries go in runs whose right candidates
    share a block, and that block is made first.
    """
    above = torch.zeros(len(queries), dtype=torch.int64)
    level = torch.zeros(len(queries), dtype=torch.int64)
    buffer = torch.empty(QUERY_BLOCK * (CANDIDATE_BLOCK + _ALIGNED))
    begins = range(0, len(candidates), CANDIDATE_BLOCK)
    for own in begins:
        first, stop = torch.searchsorted(right, torch.tensor([own, own + CANDIDATE_BLOCK])).tolist()
        for low in range(first, stop, QUERY_BLOCK):
            run = slice(low, min(low + QUERY_BLOCK, stop))
            block, score = queries[run], torch.empty(0)
            for begin in (own, *(begin for begin in begins if begin != own)):
                part = candidates[begin : begin + CANDIDATE_BLOCK]
                scores = products(block, part, buffer)
                if not torch.isfinite(scores.sum()):
                    raise ValueError("scores hold NaN or overflow: no rank can be given")
                if begin == own:
                    score = scores.gather(1, (right[run] - own).unsqueeze(1))
                higher = _true(scores > score)
                above[run] += higher
                level[run] += _true(scores >= score) - higher
    return above, level


def products(queries: Tensor, candidates: Tensor, buffer: Tensor | None = None) -> Tensor:
    """Inner products `(N, M)`, of which equal candidates get equal ones; in `buffer`, where it is given.

    Rows are padded with zeros to a multiple of 256: at the ragged edge of a matrix other instructions add up, in
    another order, and the last bit of a sum depends on it.
    """
    ragged = -len(candidates) % _ALIGNED
    padded = functional.pad(candidates, (0, 0, 0, ragged)) if ragged else candidates
    shape = (len(queries), len(padded))
    out_buffer = torch.empty(shape) if buffer is None else buffer[: shape[0] * shape[1]].view(shape)
    return torch.mm(queries, padded.T, out=out_buffer)[:, : len(candidates)]


def _true(mask: Tensor) -> Tensor:
    """How many in each row of `mask` (N, M) are true: some twenty times faster by bits than torch adds bools."""
    return torch.from_numpy(np.bitwise_count(np.packbits(mask.numpy(), axis=1)).sum(axis=1, dtype=np.int64))


@dataclass(frozen=True)
class Direction:
    """What is asked and what is searched, in one space. Several modalities stand for the sum of their vectors."""

    space: str
    query: tuple[str, ...]
    candidate: tuple[str, ...]
    contrasted: bool
    """Whether training contrasted every modality asked with every one searched, in this space."""

    @property
    def name(self) -> str:
        """For people: `text -> video+audio`."""
        return f"{'+'.join(self.query)} -> {'+'.join(self.candidate)}"

    def queries(self, embedded: Embeddings) -> Side:
        """The vectors asked with."""
        return _side(embedded, self.space, self.query)

    def candidates(self, embedded: Embeddings) -> Side:
        """The vectors searched."""
        return _side(embedded, self.space, self.candidate)


def directions(scheme: Scheme) -> list[Direction]:
    """All directions of a scheme, the headline first: text -> video, video alone, in the space that contrasts them.

    In each space every modality finds each other one, and where it holds all three also the sum of two (the published
    text -> video+audio) and is found by it. A scheme that never contrasts text with video has no headline.
    """
    all_directions = []
    for space in scheme.spaces:
        pairs = {frozenset((pair.first, pair.second)) for pair in space.pairs}
        names: list[str] = [name for name in ("text", "video", "audio") if name in space.modalities]
        sides: list[tuple[tuple[str, ...], tuple[str, ...]]] = [((a,), (b,)) for a, b in permutations(names, 2)]
        if len(names) == 3:
            sides += [(("text",), ("video", "audio")), (("video", "audio"), ("text",))]
        for query, candidate in sides:
            contrasted = all(frozenset((a, b)) in pairs for a in query for b in candidate)
            all_directions.append(Direction(space.name, query, candidate, contrasted))
    return sorted(all_directions, key=lambda direction: not is_headline(direction))


def is_headline(direction: Direction) -> bool:
    """Whether it is the score by which schemes are compared."""
    return (direction.query, direction.candidate, direction.contrasted) == (("text",), ("video",), True)


def _side(embedded: Embeddings, space: str, modalities: tuple[str, ...]) -> Side:
    """The sum of those modalities' vectors that are there; absent where none is."""
    vectors: Tensor | None = None
    present = torch.zeros(len(embedded.present[modalities[0]]), dtype=torch.bool)
    for modality in modalities:
        mask = embedded.present[modality].cpu()
        part = embedded.vectors[space][modality].detach().float().cpu()
        if len(modalities) > 1:
            part = part.masked_fill(~mask.unsqueeze(1), 0.0)
        vectors = part if vectors is None else vectors + part
        present = present | mask
    assert vectors is not None
    return Side(vectors, present)
