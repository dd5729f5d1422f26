"""Ranks out of blocks of scores, against the whole matrix."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.metrics import ranking
from pipeline.metrics.ranking import Side, positions, ranked


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
