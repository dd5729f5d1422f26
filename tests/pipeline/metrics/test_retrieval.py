"""Whole videos found by captions, against loops; ranks, recall and intervals, against counting by hand."""

import itertools
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.metrics.ranking import Side, positions
from pipeline.metrics.retrieval import CUTOFFS, Chance, RetrievalMetrics, full_video
from pipeline.metrics.retrieval import retrieval_metrics as metrics_of_positions

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
    found = full_video(queries, candidates, OWNERS, OWNERS)
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
    found, videos = full_video(side, side, OWNERS, OWNERS), len(set(OWNERS))
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
    found = full_video(Side(queries.vectors, silent), Side(candidates.vectors, dark), OWNERS, OWNERS)
    videos = len(found.video_ids)
    assert found.caption.rank[[0, 1, 11]].tolist() == [videos] * 3 and (found.caption.rank[[3, 4, 5]] == videos).all()
    a, c = found.video_ids.index("a"), found.video_ids.index("c")
    assert found.caption_average.rank[a] == found.caption_average.rank[c] == videos
    for k in CUTOFFS:
        rules = (found.caption_average, found.video_votes[k], found.clip_votes[k])
        assert [where.rank[[a, c]].tolist() for where in rules] == [[videos] * 2] * 3
        # However large the cutoff: there is nothing that could be found.
        assert [where.hits(100)[[a, c]].tolist() for where in rules] == [[0.0] * 2] * 3
    assert found.caption.hits(100).tolist() == [float(i not in (0, 1, 11, 3, 4, 5)) for i in range(len(OWNERS))]
    # b is now asked for by its other caption alone.
    alone = (queries.vectors[2] @ candidates.vectors.T).numpy()
    best = {name: max(alone[i] for i, o in enumerate(OWNERS) if o == name) for name in found.video_ids if name != "c"}
    b = found.video_ids.index("b")
    assert found.caption_average.rank[b] == sum(value > best["b"] for value in best.values()) + 1


def test_scores_without_an_order_are_refused() -> None:
    queries, candidates = sides(1)
    candidates.vectors[3, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        full_video(queries, candidates, OWNERS, OWNERS)


def retrieval_metrics(
    scores: np.ndarray, owners: list[str], draws: int = 2000, seed: int = 0, **more: bool
) -> RetrievalMetrics:
    return metrics_of_positions(positions(scores), owners, draws, seed, **more)


def by_all_orders(row: list[int], right: int) -> tuple[dict[int, float], float]:
    """Recall and rank of candidate `right`, averaged over every order of the candidates that sorts the scores."""
    places = [
        order.index(right) + 1
        for order in itertools.permutations(range(len(row)))
        if all(row[a] >= row[b] for a, b in itertools.pairwise(order))
    ]
    return {k: sum(place <= k for place in places) / len(places) for k in CUTOFFS}, sum(places) / len(places)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6).flatmap(lambda n: st.lists(st.lists(st.integers(0, 3), min_size=n, max_size=n), min_size=n)))
def test_ties_are_worth_the_average_over_all_their_orders(rows: list[list[int]]) -> None:
    rows = rows[: len(rows[0])]
    where = positions(np.array(rows, np.float64))
    for index, row in enumerate(rows):
        recall, rank = by_all_orders(row, index)
        assert where.rank[index] == pytest.approx(rank)
        for k in CUTOFFS:
            assert where.hits(k)[index] == pytest.approx(recall[k])


def test_metrics_of_scores_without_ties_are_the_textbook_ones() -> None:
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(40, 40)) + 1.5 * np.eye(40)
    metrics = retrieval_metrics(scores, [f"v{i // 4}" for i in range(40)], draws=10)
    ranks = [sorted(row, reverse=True).index(row[i]) + 1 for i, row in enumerate(scores.tolist())]
    assert metrics.queries == 40 and metrics.videos == 10
    assert metrics.mean_rank.value == pytest.approx(np.mean(ranks)) and metrics.median_rank.value == np.median(ranks)
    for k in CUTOFFS:
        assert metrics.recall[f"R@{k}"].value == pytest.approx(np.mean([rank <= k for rank in ranks]))
        assert metrics.chance[f"R@{k}"] == k / 40


@pytest.mark.parametrize("value", [0.0, -np.inf, 7.5])
@pytest.mark.parametrize("count", [1, 3, 30])
def test_constant_scores_give_chance_in_every_metric(count: int, value: float) -> None:
    metrics = retrieval_metrics(np.full((count, count), value), [f"v{i % 7}" for i in range(count)], draws=20)
    for name, recall in metrics.recall.items():
        assert recall.value == pytest.approx(metrics.chance[name])
        assert recall.low == pytest.approx(recall.value) == pytest.approx(recall.high)
    assert metrics.mean_rank.value == metrics.median_rank.value == metrics.chance_median_rank == (count + 1) / 2


def test_chance_is_what_random_scores_score() -> None:
    generator = np.random.default_rng(1)
    found = [positions(generator.normal(size=(20, 20))) for _ in range(200)]
    for k in CUTOFFS:
        assert np.mean([where.hits(k).mean() for where in found]) == pytest.approx(k / 20, abs=0.015)


def test_the_worst_score_is_last_and_the_best_first() -> None:
    scores = np.ones((12, 12))
    np.fill_diagonal(scores, -np.inf)
    worst = retrieval_metrics(scores, list("abcdefghijkl"), draws=5)
    assert worst.median_rank.value == 12 and all(recall.value == 0 for recall in worst.recall.values())
    np.fill_diagonal(scores, np.inf)
    best = retrieval_metrics(scores, list("abcdefghijkl"), draws=5)
    assert best.median_rank.value == 1 and all(recall.high == recall.low == 1 for recall in best.recall.values())


def test_nan_and_crooked_matrices_are_refused() -> None:
    scores = np.zeros((3, 3))
    scores[2, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        retrieval_metrics(scores, ["a", "b", "c"])
    with pytest.raises(ValueError, match="square"):
        positions(np.zeros((3, 4)))


def slow_bootstrap(values: list[float], owners: list[str], draws: int, seed: int) -> list[float]:
    """Means over videos drawn with replacement, each bringing all its queries; videos in the order of their names."""
    generator = np.random.default_rng(seed)
    names = sorted(set(owners))
    means = []
    for row in generator.integers(len(names), size=(draws, len(names))).tolist():
        taken = [value for n in row for value, owner in zip(values, owners, strict=True) if owner == names[n]]
        means.append(sum(taken) / len(taken))
    return means


def test_intervals_are_a_bootstrap_over_videos() -> None:
    generator = np.random.default_rng(2)
    owners = [f"video{n}" for n in generator.integers(0, 9, 30)]
    scores = generator.normal(size=(30, 30)) + 2 * np.eye(30)
    metrics = retrieval_metrics(scores, owners, draws=300, seed=11)
    hits = positions(scores).hits(1).tolist()
    low, high = np.percentile(slow_bootstrap(hits, owners, 300, 11), [2.5, 97.5])
    assert (metrics.recall["R@1"].low, metrics.recall["R@1"].high) == pytest.approx((low, high))
    assert low < metrics.recall["R@1"].value < high


def test_intervals_know_that_clips_of_a_video_are_not_independent() -> None:
    # Ten videos of ten clips: all clips of half of the videos are found, none of the others'.
    scores = np.zeros((100, 100))
    np.fill_diagonal(scores, np.where(np.arange(100) // 10 < 5, 1.0, -1.0))
    grouped = retrieval_metrics(scores, [f"v{i // 10}" for i in range(100)], draws=400).recall["R@1"]
    apart = retrieval_metrics(scores, [f"v{i}" for i in range(100)], draws=400).recall["R@1"]
    assert grouped.value == apart.value == 0.5
    # Binomial standard errors of 10 and of 100 draws, times 2 x 1.96.
    assert grouped.high - grouped.low == pytest.approx(3.92 * 0.5 / 10**0.5, abs=0.12)
    assert apart.high - apart.low == pytest.approx(3.92 * 0.5 / 100**0.5, abs=0.04)


def test_the_same_seed_gives_the_same_interval() -> None:
    scores = np.random.default_rng(3).normal(size=(15, 15))
    owners = [f"v{i // 2}" for i in range(15)]
    first, again, other = (asdict(retrieval_metrics(scores, owners, 50, seed)) for seed in (4, 4, 5))
    assert first == again and first != other


def test_published_ties_are_counted_as_the_published_scripts_do() -> None:
    scores = np.random.default_rng(6).integers(0, 4, (30, 30)).astype(float)
    metrics = retrieval_metrics(scores, [f"v{i}" for i in range(30)], draws=5, published_ties=True)
    # Every place in the sorted row whose score equals the right one's is a rank.
    found = np.concatenate([np.flatnonzero(np.sort(-row) == -row[i]) for i, row in enumerate(scores)])
    for k in CUTOFFS:
        assert metrics.recall[f"R@{k}"].value == pytest.approx((found < k).sum() / 30)
    assert metrics.median_rank.value == np.median(found) + 1
    constant = retrieval_metrics(np.zeros((8, 8)), list("abcdefgh"), draws=5, published_ties=True)
    assert constant.recall["R@5"].value == 5.0


def test_a_caption_of_many_asks_for_its_clip_and_the_clip_s_video() -> None:
    """Five captions of three clips of two videos, by plain loops; both kinds of votes and averages."""
    generator = torch.Generator().manual_seed(4)
    text, video = torch.randn(5, 4, generator=generator), torch.randn(3, 4, generator=generator)
    clip_of, owners, clip_owners = [0, 0, 2, 1, 0], ["b", "b", "a", "b", "b"], ["b", "b", "a"]
    here = [torch.ones(n, dtype=torch.bool) for n in (5, 3)]
    found = full_video(Side(text, here[0], torch.tensor(clip_of)), Side(video, here[1]), owners, clip_owners)
    scores = (text.double() @ video.double().T).numpy()
    best = np.stack([scores[:, 2], scores[:, :2].max(axis=1)], axis=1)  # of videos a, b
    own = np.array([1, 1, 0, 1, 1])
    assert found.caption.rank.tolist() == [1 + (row[1 - n] > row[n]) for row, n in zip(best, own, strict=True)]
    means = np.stack([best[own == n].mean(axis=0) for n in (0, 1)])
    assert found.caption_average.rank.tolist() == [1 + (means[n, 1 - n] > means[n, n]) for n in (0, 1)]
    for k in CUTOFFS:
        for n in (0, 1):
            by_video = [float(sum(k >= 2 or row.argmax() == v for row in best[own == n])) for v in (0, 1)]
            by_clip = [0.0, 0.0]
            for row in scores[own == n]:
                for clip in np.argsort(row)[::-1][:k]:
                    by_clip[0 if clip == 2 else 1] += 1
            assert found.video_votes[k].hits(k)[n] == pytest.approx(fair(by_video, n, k))
            assert found.clip_votes[k].hits(k)[n] == pytest.approx(fair(by_clip, n, k))
    with pytest.raises(ValueError, match="every video needs a caption and a clip"):
        full_video(Side(text, here[0]), Side(video, here[1]), owners, ["b", "b", "c"])


def test_votes_that_differ_by_rounding_alone_are_equal() -> None:
    """Ten captions of a say `a or one of nine others`, an eleventh says b: ten tenths of a vote, and a whole one."""
    names = [*"abcdefghijk"]
    owners = ["a"] * 11 + names[1:]
    says = torch.zeros(len(owners), len(names))
    says[:10] = torch.tensor([1.0, 0.0] + [1.0] * 9)
    says[10, 1] = 1.0
    here = [torch.ones(n, dtype=torch.bool) for n in says.shape]
    clip_of = torch.tensor([0] * 11 + list(range(1, 11)))
    found = full_video(Side(says, here[0], clip_of), Side(torch.eye(len(names)), here[1]), owners, names)
    assert sum([0.1] * 10) < 1.0, "what rounding does"
    for votes in (found.video_votes[1], found.clip_votes[1]):
        assert (votes.higher[0], votes.equal[0]) == (0, 10)


def test_chance_counts_videos_where_videos_are_searched_and_captions_where_captions_are() -> None:
    where = positions(np.eye(6))
    owners = ["a", "a", "a", "a", "b", "c"]
    assert metrics_of_positions(where, owners, 5).chance["R@1"] == 1 / 6
    of_videos = metrics_of_positions(where, owners, 5, candidates=3)
    assert of_videos.chance == {"R@1": 1 / 3, "R@5": 1.0, "R@10": 1.0} and of_videos.chance_median_rank == 2


@pytest.mark.parametrize(("candidates", "right"), [(7, [1, 1, 1]), (8, [1]), (12, [3, 1, 8]), (9, [9]), (40, [20] * 2)])
def test_chance_of_several_right_answers_is_that_of_random_orders(candidates: int, right: list[int]) -> None:
    """Every choice of places is as likely: the best of c has rank r in comb(N - r, c - 1) of comb(N, c)."""
    ranks = np.arange(1, candidates + 1)
    of_rank = np.mean([[math.comb(candidates - r, c - 1) / math.comb(candidates, c) for r in ranks] for c in right], 0)
    chance = Chance(candidates, np.array(right))
    assert chance.mean_rank == pytest.approx((ranks * of_rank).sum())
    for k in CUTOFFS:
        assert chance.recall(k) == pytest.approx(of_rank[:k].sum())
    below = np.cumsum(of_rank)
    middle = (ranks[np.argmax(below > 0.5 - 1e-9)] + ranks[np.argmax(below > 0.5 + 1e-9)]) / 2
    assert chance.median_rank == middle


def test_a_video_s_captions_weigh_as_many_as_they_are() -> None:
    """Five captions of one video are found, the one of the other is not."""
    scores = np.eye(6)
    scores[5] = [1, 0, 0, 0, 0, 0]
    metrics = retrieval_metrics(scores, ["a"] * 5 + ["b"], draws=400)
    assert metrics.recall["R@1"].value == pytest.approx(5 / 6)
    # A draw of both videos has 5 of 6, of one alone all or none: and nothing in between.
    assert (metrics.recall["R@1"].low, metrics.recall["R@1"].high) == (0.0, 1.0)
