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
    """Where the right candidates stand, of N queries. Of several right ones the best counts."""

    higher: NDArray[np.int64]
    """[N]: how many wrong candidates score higher than the best right one."""
    equal: NDArray[np.int64]
    """[N]: how many wrong candidates score as it does."""
    lost: NDArray[np.bool_] | None = None
    """[N]: queries that find nothing, or whose right candidates aren't there. They stand last and are no hit, however
    few candidates there are."""
    right: NDArray[np.int64] | None = None
    """[N]: how many right candidates share the best right score; None: one each."""

    def without(self, lost: NDArray[np.bool_], candidates: int) -> "Positions":
        """The same, of one right candidate each, but the queries `lost` [N] stand last of all `candidates`, and are no
        hit."""
        return Positions(np.where(lost, candidates - 1, self.higher), np.where(lost, 0, self.equal), lost)

    def of(self, queries: NDArray[np.int64]) -> "Positions":
        """The positions of these queries, repeated as given."""
        lost = None if self.lost is None else self.lost[queries]
        right = None if self.right is None else self.right[queries]
        return Positions(self.higher[queries], self.equal[queries], lost, right)

    @property
    def rank(self) -> NDArray[np.float64]:
        """Rank of the best right candidate, from 1; equal scores share the average over their orders."""
        return np.asarray(1.0 + self.higher + self.equal / (self._right + 1.0), np.float64)

    def hits(self, cutoff: int) -> NDArray[np.float64]:
        """Probability [N] that a right candidate is among the first `cutoff`, equal scores in random order."""
        hits = np.clip((cutoff - self.higher) / (self.equal + 1.0), 0.0, 1.0)
        if self.right is not None:
            hits = np.where(self.right == 1, hits, 1.0 - none_among(self.equal, self.right, cutoff - self.higher))
        return self._found(hits)

    def published_hits(self, cutoff: int) -> NDArray[np.float64]:
        """How many of the positions that the right score ties for are among the first `cutoff`: more than 1 with ties.

        As the published metrics count (Chen et al.'s metrics.py): constant scores so reach a recall of `cutoff`.
        """
        return self._found(np.clip(cutoff - self.higher, 0, self.equal + self._right).astype(np.float64))

    def published_ranks(self) -> NDArray[np.float64]:
        """Every position that a right score ties for, from 1: more than N of them with ties."""
        level = self.equal + self._right
        first = np.repeat(self.higher + 1, level)
        within = np.arange(len(first)) - np.repeat(np.cumsum(level) - level, level)
        return (first + within).astype(np.float64)

    @property
    def _right(self) -> NDArray[np.int64]:
        return np.ones_like(self.equal) if self.right is None else self.right

    def _found(self, hits: NDArray[np.float64]) -> NDArray[np.float64]:
        return hits if self.lost is None else np.where(self.lost, 0.0, hits)


def none_among(
    wrong: NDArray[np.int64], right: NDArray[np.int64], drawn: NDArray[np.int64] | int
) -> NDArray[np.float64]:
    """Probability [N] that `drawn` of `wrong` + `right` candidates, drawn without replacement, are all wrong."""
    none = np.ones(len(wrong))
    for before in range(int(np.max(drawn, initial=0))):
        left = np.maximum(wrong - before, 0) / np.maximum(wrong + right - before, 1)
        none *= np.where(before < drawn, left, 1.0)
    return none


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
    clips: Tensor | None = None
    """`(N,)` int64: the clip that each belongs to; None: each its own, in their order. Of a query those candidates are
    right that belong to its clip."""

    @property
    def clip_numbers(self) -> Tensor:
        """`clips`, whether given or not."""
        return torch.arange(len(self.present)) if self.clips is None else self.clips


def ranked(queries: Side, candidates: Side) -> Positions:
    """Positions of each query's best right candidate, N queries among M candidates, by dot products in fp32, in blocks.

    Of the right candidates those that are there count. A query that isn't there finds all of its own last of all; right
    candidates of which none is there stand behind those that are, equal with their like, and are no hit. Raises
    ValueError when a score is NaN or overflows, and for a query without a right candidate.
    """
    clips, count = queries.clip_numbers, len(candidates.present)
    all_clips = candidates.clip_numbers.sort().values
    right = (torch.searchsorted(all_clips, clips, right=True) - torch.searchsorted(all_clips, clips)).numpy()
    if (right == 0).any():
        raise ValueError("every query needs a candidate of its own clip")
    present = candidates.present.nonzero().squeeze(1)
    present = present[candidates.clip_numbers[present].argsort(stable=True)]
    shown = candidates.clip_numbers[present]
    # Of the candidates that are there, in the order of their clips, those from `first` to before `stop` are right.
    first, stop = torch.searchsorted(shown, clips), torch.searchsorted(shown, clips, right=True)
    found = (queries.present & (first < stop)).numpy()
    higher, equal = count - right, np.zeros(len(clips), np.int64)
    unseen = queries.present.numpy() & ~found
    higher[unseen], equal[unseen] = len(present), count - len(present) - right[unseen]
    answerable = torch.from_numpy(found).nonzero().squeeze(1)
    answerable = answerable[first[answerable].argsort(stable=True)]
    spans = (first[answerable], stop[answerable])
    above, level, best = _counts(queries.vectors[answerable], candidates.vectors[present], *spans)
    rows = answerable.numpy()
    higher[rows], equal[rows] = above.numpy(), (level - best).numpy()
    if (right == 1).all():
        return Positions(higher, equal, ~found)
    right[rows] = best.numpy()
    return Positions(higher, equal, ~found, right)


def _counts(queries: Tensor, candidates: Tensor, first: Tensor, stop: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each query how many candidates score higher than the best of `first` to `stop`, how many equally, and how
    many of these are among them.

    Both ascend. The best score is read out of the very products that it is compared in: of another one it may differ in
    the last bit, and a candidate wouldn't even equal itself. So queries go in runs whose right candidates begin in the
    same block, and the blocks that hold them are made first.
    """
    above = torch.zeros(len(queries), dtype=torch.int64)
    level, best = torch.zeros_like(above), torch.zeros_like(above)
    buffer = torch.empty(QUERY_BLOCK * (CANDIDATE_BLOCK + _ALIGNED))

    def made(block: Tensor, begin: int) -> Tensor:
        scores = products(block, candidates[begin : begin + CANDIDATE_BLOCK], buffer)
        if not torch.isfinite(scores.sum()):
            raise ValueError("scores hold NaN or overflow: no rank can be given")
        return scores

    begins = range(0, len(candidates), CANDIDATE_BLOCK)
    for own in begins:
        low, high = torch.searchsorted(first, torch.tensor([own, own + CANDIDATE_BLOCK])).tolist()
        for begun in range(low, high, QUERY_BLOCK):
            run = slice(begun, min(begun + QUERY_BLOCK, high))
            block, scores, rights = queries[run], torch.empty(0), []
            holding = [begin for begin in begins if own <= begin < int(stop[run].max())]
            for begin in holding:
                scores = made(block, begin)
                rights.append(_within(scores, first[run] - begin, stop[run] - begin))
            right = torch.cat(rights, dim=1)
            score = right.amax(dim=1, keepdim=True)
            best[run] = (right == score).sum(dim=1)
            # The last block made still stands in the buffer.
            for begin in (holding[-1], *(begin for begin in begins if begin != holding[-1])):
                scores = scores if begin == holding[-1] else made(block, begin)
                higher = _true(scores > score)
                above[run] += higher
                level[run] += _true(scores >= score) - higher
    return above, level, best


def _within(scores: Tensor, first: Tensor, stop: Tensor) -> Tensor:
    """The scores `(N, L)` of each row's columns from `first` to before `stop`, as far as there are; -inf after them."""
    first, stop = first.clamp(min=0), stop.clamp(max=scores.shape[1])
    places = first.unsqueeze(1) + torch.arange(max(1, int((stop - first).max())))
    inside = places < stop.unsqueeze(1)
    return scores.gather(1, places.clamp(max=scores.shape[1] - 1)).masked_fill_(~inside, -torch.inf)


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
