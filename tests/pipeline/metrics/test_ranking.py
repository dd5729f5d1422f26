"""Ranks out of blocks of scores, against the whole matrix."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.metrics import ranking
from pipeline.metrics.ranking import Positions, Side, positions, ranked


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 45), st.integers(0, 2**31), st.sampled_from([(1, 1), (3, 7), (5, 5), (64, 4)]))
def test_blocks_give_the_positions_of_the_whole_matrix(count: int, seed: int, blocks: tuple[int, int]) -> None:
    generator = np.random.default_rng(seed)
    # Small whole numbers: sums are exact in fp32, and ties abound.
    query, candidate = generator.integers(-2, 3, (2, count, 3)).astype(np.float32)
    asked, there = generator.random((2, count)) < 0.8
    scores = (query @ candidate.T).astype(np.float64)
    scores[:, ~there] = -np.inf
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "QUERY_BLOCK", blocks[0])
        patch.setattr(ranking, "CANDIDATE_BLOCK", blocks[1])
        found = ranked(
            Side(torch.from_numpy(query), torch.from_numpy(asked)),
            Side(torch.from_numpy(candidate), torch.from_numpy(there)),
        )
    for index, row in enumerate(scores):
        others = np.delete(row, index)
        higher, equal = int((others > row[index]).sum()), int((others == row[index]).sum())
        # A query that isn't there finds nothing: its candidate stands last.
        wanted = (higher, equal) if asked[index] else (count - 1, 0)
        assert (found.higher[index], found.equal[index]) == wanted


def test_what_finds_nothing_is_no_hit_however_few_candidates_there_are() -> None:
    vectors = torch.eye(4)
    asked, there = torch.tensor([True, False, True, True]), torch.tensor([True, True, False, False])
    found = ranked(Side(vectors, asked), Side(vectors, there))
    assert found.hits(10).tolist() == [1.0, 0.0, 0.0, 0.0] == found.published_hits(10).tolist()
    assert found.rank.tolist() == [1.0, 4.0, 3.5, 3.5]


@pytest.mark.parametrize(("count", "width"), [(97, 300), (1000, 1024), (4097, 1024), (4100, 300), (5001, 100)])
def test_equal_candidates_tie_at_any_size(count: int, width: int) -> None:
    vector = torch.randn(1, width, generator=torch.Generator().manual_seed(1))
    side = Side(vector.expand(count, -1).contiguous(), torch.ones(count, dtype=torch.bool))
    found = ranked(side, side)
    assert (found.higher == 0).all() and (found.equal == count - 1).all()


def test_a_candidate_equals_itself_and_its_copies_in_other_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "QUERY_BLOCK", 16)
    monkeypatch.setattr(ranking, "CANDIDATE_BLOCK", 32)
    vectors = torch.randn(1, 300, generator=torch.Generator().manual_seed(0)).expand(96, -1).contiguous()
    side = Side(vectors, torch.ones(96, dtype=torch.bool))
    found = ranked(side, side)
    assert (found.higher == 0).all() and (found.equal == 95).all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e38])
def test_scores_without_an_order_are_refused(value: float) -> None:
    vectors = torch.ones(4, 8)
    vectors[2] = value
    side = Side(vectors, torch.ones(4, dtype=torch.bool))
    with pytest.raises(ValueError, match="NaN or overflow"):
        ranked(side, side)


def test_positions_of_right_answers_off_the_diagonal() -> None:
    scores = np.array([[3.0, 1.0, 3.0], [0.0, 2.0, 5.0], [1.0, 1.0, 1.0], [4.0, 0.0, 2.0]])
    where = positions(scores, np.array([2, 0, 1, 0]))
    assert where.rank.tolist() == [1.5, 3.0, 2.0, 1.0]
    assert where.hits(1).tolist() == pytest.approx([0.5, 0.0, 1 / 3, 1.0])


def best_of_all_orders(scores: np.ndarray, right: set[int], cutoff: int) -> tuple[float, float]:
    """Rank and hit of the best right candidate, averaged over every order that sorts the scores."""
    places = [
        1 + min(place for place, candidate in enumerate(order) if candidate in right)
        for order in itertools.permutations(range(len(scores)))
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]
    return float(np.mean(places)), float(np.mean([place <= cutoff for place in places]))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 2), min_size=3, max_size=6),
    st.lists(st.integers(0, 2), min_size=6, max_size=6),
    st.integers(1, 4),
)
def test_of_several_right_candidates_the_best_counts(values: list[int], clips: list[int], cutoff: int) -> None:
    clips = clips[: len(values)]
    asked = sorted(set(clips))
    found = ranked(
        Side(torch.ones(len(asked), 1), torch.ones(len(asked), dtype=torch.bool), torch.tensor(asked)),
        Side(torch.tensor(values).float()[:, None], torch.ones(len(values), dtype=torch.bool), torch.tensor(clips)),
    )
    for index, clip in enumerate(asked):
        right = {candidate for candidate, of in enumerate(clips) if of == clip}
        rank, hit = best_of_all_orders(np.array(values), right, cutoff)
        assert found.rank[index] == pytest.approx(rank) and found.hits(cutoff)[index] == pytest.approx(hit)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(0, 30),
    st.booleans(),
    st.integers(0, 2**31),
    st.sampled_from([(1, 1), (3, 7), (5, 5), (64, 4)]),
    st.sampled_from([0.3, 0.8]),
)
def test_captions_and_clips_find_each_other_as_in_the_whole_matrix(
    clips: int, more: int, to_text: bool, seed: int, blocks: tuple[int, int], share: float
) -> None:
    """Each clip has a caption at least, in any order; from clips to captions with `to_text`, else the other way."""
    generator = np.random.default_rng(seed)
    clip_of = generator.permutation([*range(clips), *generator.integers(0, clips, more)])
    captions = len(clip_of)
    text = generator.integers(-2, 3, (captions, 3)).astype(np.float32)
    video = generator.integers(-2, 3, (clips, 3)).astype(np.float32)
    told, shown = generator.random(captions) < share, generator.random(clips) < 0.8
    sides = [
        Side(torch.from_numpy(text), torch.from_numpy(told), torch.from_numpy(clip_of)),
        Side(torch.from_numpy(video), torch.from_numpy(shown)),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "QUERY_BLOCK", blocks[0])
        patch.setattr(ranking, "CANDIDATE_BLOCK", blocks[1])
        found = ranked(*reversed(sides)) if to_text else ranked(*sides)
    scores = (video @ text.T if to_text else text @ video.T).astype(np.float64)
    asked, there = (shown, told) if to_text else (told, shown)
    rights = clip_of[None] == np.arange(clips)[:, None] if to_text else clip_of[:, None] == np.arange(clips)[None]
    scores[:, ~there] = -np.inf
    for index, (row, right) in enumerate(zip(scores, rights, strict=True)):
        best = row[right].max()
        higher, equal = int((row[~right] > best).sum()), int((row[~right] == best).sum())
        level = int((row[right] == best).sum())
        # A query that isn't there finds all its own last.
        wanted = (higher, equal) if asked[index] else (int((~right).sum()), 0)
        assert (found.higher[index], found.equal[index]) == wanted
        lost = not asked[index] or best == -np.inf
        assert found.lost is not None and found.lost[index] == lost
        assert found.rank[index] == pytest.approx(1 + wanted[0] + wanted[1] / (level + 1))
        for k in (1, 3, 10):
            drawn = max(0, k - higher)
            none = math.comb(equal, drawn) / math.comb(equal + level, drawn) if drawn <= equal + level else 0.0
            assert found.hits(k)[index] == pytest.approx(0.0 if lost else 1.0 - none)


def test_a_drawn_query_keeps_all_that_is_known_of_it() -> None:
    where = Positions(np.array([0, 2, 1]), np.array([3, 0, 1]), np.array([False, True, False]), np.array([2, 1, 3]))
    drawn = where.of(np.array([2, 0, 0]))
    assert drawn.rank.tolist() == [where.rank[2], where.rank[0], where.rank[0]] == [2.25, 2.0, 2.0]
    assert drawn.hits(2).tolist() == pytest.approx([0.75, 0.7, 0.7])
    # Every place that a right score ties for: 1 to 5, 3 alone, 2 to 5.
    assert where.published_ranks().tolist() == [1, 2, 3, 4, 5, 3, 2, 3, 4, 5]
    assert where.published_hits(3).tolist() == [3, 0, 2]


def test_a_query_of_a_clip_that_nobody_has_is_refused() -> None:
    here = torch.ones(2, dtype=torch.bool)
    with pytest.raises(ValueError, match="needs a candidate of its own clip"):
        ranked(Side(torch.ones(2, 1), here, torch.tensor([0, 2])), Side(torch.ones(2, 1), here))
