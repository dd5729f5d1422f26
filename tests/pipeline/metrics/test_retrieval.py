"""Whole videos found by their captions, against loops over captions and videos."""

import numpy as np
import pytest
import torch

from pipeline.metrics.ranking import Side
from pipeline.metrics.retrieval import CUTOFFS, full_video

OWNERS = ["b", "a", "b", "c", "c", "c", "d", "e", "f", "f", "g", "a"]


def sides(seed: int, width: int = 5) -> tuple[Side, Side]:
    generator = torch.Generator().manual_seed(seed)
    text, video = torch.randn(2, len(OWNERS), width, generator=generator)
    there = torch.ones(len(OWNERS), dtype=torch.bool)
    return Side(text, there), Side(video, there)


def fair(score: list[float], right: int, cutoff: int) -> float:
    """Chance that `right` is among the first `cutoff` when equal scores stand in any order."""
    higher = sum(value > score[right] + 1e-9 for value in score)
    equal = sum(abs(value - score[right]) <= 1e-9 for value in score)
    return min(1.0, max(0.0, (cutoff - higher) / equal))


@pytest.mark.parametrize("seed", range(4))
def test_averages_and_votes_are_those_of_plain_loops(seed: int) -> None:
    queries, candidates = sides(seed)
    scores = (queries.vectors.double() @ candidates.vectors.double().T).numpy()
    names = sorted(set(OWNERS))
    found = full_video(queries, candidates, OWNERS)
    assert found.video_ids == tuple(names)
    clips = {name: [i for i, owner in enumerate(OWNERS) if owner == name] for name in names}
    best = [[max(row[clip] for clip in clips[name]) for name in names] for row in scores]
    for caption, owner in enumerate(OWNERS):
        wanted = sum(value > best[caption][names.index(owner)] for value in best[caption]) + 1
        assert found.caption.rank[caption] == wanted
    for place, name in enumerate(names):
        mean = [float(np.mean([best[caption][video] for caption in clips[name]])) for video in range(len(names))]
        assert found.caption_average.rank[place] == sum(value > mean[place] for value in mean) + 1
        for k in CUTOFFS:
            by_video, by_clip = [0.0] * len(names), [0.0] * len(names)
            for caption in clips[name]:
                for video in np.argsort(best[caption])[::-1][:k]:
                    by_video[video] += 1
                for clip in np.argsort(scores[caption])[::-1][:k]:
                    by_clip[names.index(OWNERS[clip])] += 1
            assert found.video_votes[k].hits(k)[place] == pytest.approx(fair(by_video, place, k))
            assert found.clip_votes[k].hits(k)[place] == pytest.approx(fair(by_clip, place, k))


def test_constant_scores_give_chance_by_every_rule() -> None:
    side = Side(torch.ones(len(OWNERS), 3), torch.ones(len(OWNERS), dtype=torch.bool))
    found, videos = full_video(side, side, OWNERS), len(set(OWNERS))
    for where in (found.caption, found.caption_average):
        assert where.rank.mean() == (videos + 1) / 2
    for k in CUTOFFS:
        for where in (found.caption, found.caption_average, found.video_votes[k], found.clip_votes[k]):
            assert where.hits(k).mean() == pytest.approx(min(1.0, k / videos))


def test_what_is_not_there_is_never_found_and_never_asks() -> None:
    queries, candidates = sides(0)
    silent, dark = torch.ones(len(OWNERS), dtype=torch.bool), torch.ones(len(OWNERS), dtype=torch.bool)
    silent[[1, 11]] = False  # all captions of a
    silent[0] = False  # one of b's two
    dark[[3, 4, 5]] = False  # all clips of c
    found = full_video(Side(queries.vectors, silent), Side(candidates.vectors, dark), OWNERS)
    videos = len(found.video_ids)
    assert found.caption.rank[[0, 1, 11]].tolist() == [videos] * 3 and (found.caption.rank[[3, 4, 5]] == videos).all()
    a, c = found.video_ids.index("a"), found.video_ids.index("c")
    assert found.caption_average.rank[a] == found.caption_average.rank[c] == videos
    for k in CUTOFFS:
        assert found.video_votes[k].rank[a] == found.clip_votes[k].rank[a] == videos
        assert found.clip_votes[1].hits(1)[c] == 0
    # b is now asked for by its other caption alone.
    alone = (queries.vectors[2] @ candidates.vectors.T).numpy()
    best = {name: max(alone[i] for i, o in enumerate(OWNERS) if o == name) for name in found.video_ids if name != "c"}
    b = found.video_ids.index("b")
    assert found.caption_average.rank[b] == sum(value > best["b"] for value in best.values()) + 1


def test_scores_without_an_order_are_refused() -> None:
    queries, candidates = sides(1)
    candidates.vectors[3, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        full_video(queries, candidates, OWNERS)
