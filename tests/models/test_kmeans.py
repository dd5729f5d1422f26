from collections import deque
from copy import deepcopy

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from models import ClusterQueue, ClusterSettings, cosine_kmeans, first_half_of_each_video
from models.kmeans import assign

PUBLISHED = ClusterSettings(
    clusters=3, reseed_dead=False, labels_before_update=True, queue_rows=8, queue_only_when_full=True, refit_every=3
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def groups(count: int, each: int, width: int, spread: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows in tight groups around `count` directions at right angles, of lengths from 1 to 10, shuffled."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.arange(count).repeat_interleave(each)[torch.randperm(count * each, generator=generator)]
    noise = spread * torch.randn(count * each, width, dtype=torch.float64, generator=generator)
    length = 1 + 9 * torch.rand(count * each, 1, dtype=torch.float64, generator=generator)
    return (torch.eye(width, dtype=torch.float64)[numbers] + noise) * length, numbers


def slow_cosine_assignment(data: np.ndarray, centroids: np.ndarray) -> list[int]:
    def cosine(x: np.ndarray, c: np.ndarray) -> float:
        return x @ c / max(np.linalg.norm(x) * np.linalg.norm(c), 1e-12)

    return [int(np.argmax([cosine(x, c) for c in centroids])) for x in data]


def slow_published_kmeans(data: np.ndarray, start: np.ndarray, rounds: int) -> tuple[np.ndarray, list[int]]:
    centroids = start
    for _ in range(rounds):
        labels = slow_cosine_assignment(data, centroids)
        members = [[x for x, label in zip(data, labels, strict=True) if label == k] for k in range(len(start))]
        updated = np.array([np.mean(m, axis=0) if m else np.zeros(data.shape[1]) for m in members])
        change = ((updated - centroids) ** 2).sum()
        centroids = updated
        if change <= 1e-4:
            break
    return centroids, labels


def test_assignment_equals_brute_force() -> None:
    data, centroids = normal(200, 6), normal(7, 6, seed=1)
    centroids[3] = 0  # a dead centroid, as published
    assert assign(data, centroids).tolist() == slow_cosine_assignment(data.numpy(), centroids.numpy())


def test_assignment_is_the_same_over_several_blocks_of_rows() -> None:
    data, centroids = normal(20_000, 2), normal(5, 2, seed=1)
    cosines = torch.nn.functional.cosine_similarity(data.unsqueeze(1), centroids.unsqueeze(0), dim=2)
    assert torch.equal(assign(data, centroids), cosines.argmax(dim=1))


@pytest.mark.parametrize("rounds", [1, 2, 100])
def test_the_published_fit_step_by_step(rounds: int, generator: torch.Generator) -> None:
    data, start = normal(60, 4), normal(3, 4, seed=2)
    settings = ClusterSettings(clusters=3, iterations=rounds, reseed_dead=False, labels_before_update=True)
    fit = cosine_kmeans(data, settings, generator, start)
    centroids, labels = slow_published_kmeans(data.numpy(), start.numpy(), rounds)
    np.testing.assert_allclose(fit.centroids, centroids, atol=1e-12)
    assert fit.labels.tolist() == labels


def test_labels_belong_to_the_centroids_that_are_returned(generator: torch.Generator) -> None:
    data, start = normal(60, 4), normal(3, 4, seed=2)
    after = cosine_kmeans(data, ClusterSettings(clusters=3, iterations=1), generator, start)
    before = cosine_kmeans(data, ClusterSettings(clusters=3, iterations=1, labels_before_update=True), generator, start)
    assert torch.equal(after.centroids, before.centroids)
    assert torch.equal(after.labels, assign(data, after.centroids))
    assert torch.equal(before.labels, assign(data, start))
    assert not torch.equal(after.labels, before.labels)


def test_spherical_clusters_have_scikit_learns_inertia(generator: torch.Generator) -> None:
    data = normal(3000, 8) * (1 + 9 * torch.rand(3000, 1, dtype=torch.float64, generator=generator))
    unit = torch.nn.functional.normalize(data, dim=1).numpy()
    fit = cosine_kmeans(data, ClusterSettings(clusters=12, spherical=True), generator)
    labels = fit.labels.numpy()
    inertia = sum(((unit[labels == k] - unit[labels == k].mean(axis=0)) ** 2).sum() for k in range(12))
    theirs = KMeans(12, init="random", n_init=1, random_state=0).fit(unit).inertia_
    assert inertia <= 1.02 * theirs
    np.testing.assert_allclose(fit.centroids.norm(dim=1), 1, atol=1e-12)


@pytest.mark.parametrize("spherical", [False, True])
def test_planted_groups_are_found_from_a_poor_start(spherical: bool, generator: torch.Generator) -> None:
    data, numbers = groups(4, 25, 16, 0.02)
    # Three of four starting points lie opposite to all data: without new seeds they would never get a row.
    start = torch.cat((data[:1], -torch.ones(3, 16, dtype=torch.float64)))
    fit = cosine_kmeans(data, ClusterSettings(clusters=4, spherical=spherical), generator, start)
    pairs = set(zip(fit.labels.tolist(), numbers.tolist(), strict=True))
    assert len(pairs) == 4 and len({found for found, _ in pairs}) == 4
    dead = cosine_kmeans(data, ClusterSettings(clusters=4, reseed_dead=False), generator, start)
    assert dead.centroids.any(dim=1).tolist() == [True, False, False, False]


def test_new_seeds_are_never_zero_rows(generator: torch.Generator) -> None:
    data = torch.cat((torch.zeros(5, 3, dtype=torch.float64), groups(2, 4, 3, 0.01)[0]))
    start = torch.tensor([[1.0, 1.0, 0.0], [-1.0, -1.0, -1.0]], dtype=torch.float64)
    fit = cosine_kmeans(data, ClusterSettings(clusters=2), generator, start)
    assert fit.centroids.any(dim=1).all()


def test_starting_points_are_different_rows_drawn_by_the_generator() -> None:
    data, settings = torch.cat((normal(12, 4), torch.zeros(4, 4))), ClusterSettings(clusters=12, iterations=1)
    fits = [cosine_kmeans(data, settings, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    # Twelve clusters of twelve usable rows: each row must be the start of one, or a cluster would have two.
    assert sorted(fits[0].labels[:12].tolist()) == list(range(12))
    assert torch.equal(fits[0].labels, fits[1].labels)
    assert not torch.equal(fits[0].labels, fits[2].labels)


def test_too_few_rows_are_refused_with_the_cure(generator: torch.Generator) -> None:
    data = torch.cat((normal(5, 4), torch.zeros(4, 4)))
    with pytest.raises(ValueError, match="at least 6 clips .* and got 5: ask for fewer clusters"):
        cosine_kmeans(data, ClusterSettings(clusters=6), generator)


def test_half_precision_rows_are_clustered_in_single(generator: torch.Generator) -> None:
    data = normal(50, 4).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fit = cosine_kmeans(data, ClusterSettings(clusters=3), generator, data[:3])
    exact = cosine_kmeans(data.float(), ClusterSettings(clusters=3), generator, data[:3].float())
    assert fit.centroids.dtype == torch.float32
    assert torch.equal(fit.centroids, exact.centroids)


@pytest.mark.parametrize(
    "wrong", [{"clusters": 1}, {"iterations": 0}, {"queue_rows": -1}, {"refit_every": 0}], ids=lambda w: next(iter(w))
)
def test_senseless_settings_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is "):
        ClusterSettings(**wrong)


EVERY = torch.ones(6, dtype=torch.bool)
HALF = torch.tensor([True, True, False, True, False, False])


def test_the_published_schedule_batch_by_batch(generator: torch.Generator) -> None:
    queue = ClusterQueue(4, PUBLISHED).double()
    held: deque[np.ndarray] = deque(maxlen=8)
    centroids = None
    for batch in range(10):
        joint = normal(6, 4, seed=batch)
        data = np.concatenate((joint.numpy(), held)) if len(held) == 8 else joint.numpy()
        clusters = queue.step(joint, EVERY, generator, HALF)
        if batch == 0:
            centroids, labels = clusters.centroids.numpy(), clusters.labels.tolist()
        elif batch % 3 == 0:
            centroids, labels = slow_published_kmeans(data, centroids, 100)
        else:
            labels = slow_cosine_assignment(joint.numpy(), centroids)
        np.testing.assert_allclose(clusters.centroids, centroids, atol=1e-10)
        assert clusters.labels.tolist() == labels[:6]
        held.extend(joint[HALF].numpy())
        ours = sorted(queue.rows[queue.rows.any(dim=1)].tolist())
        np.testing.assert_allclose(ours, sorted(row.tolist() for row in held))


def test_a_part_filled_queue_is_used_unless_asked_otherwise(generator: torch.Generator) -> None:
    def second_fit(only_when_full: bool) -> torch.Tensor:
        settings = ClusterSettings(clusters=2, queue_rows=50, queue_only_when_full=only_when_full, refit_every=1)
        queue = ClusterQueue(4, settings).double()
        first = queue.step(normal(6, 4), EVERY, torch.Generator().manual_seed(0)).centroids
        second = queue.step(normal(6, 4, seed=1), EVERY, generator).centroids
        data = normal(6, 4, seed=1) if only_when_full else torch.cat((normal(6, 4, seed=1), normal(6, 4)))
        assert torch.equal(second, cosine_kmeans(data, settings, generator, first).centroids)
        return second

    assert not torch.equal(second_fit(True), second_fit(False))


def test_clips_without_a_joint_feature_get_no_label_and_no_place_in_the_queue(generator: torch.Generator) -> None:
    queue = ClusterQueue(4, ClusterSettings(clusters=2, queue_rows=20, refit_every=2)).double()
    joint = normal(6, 4)
    joint[~HALF] = torch.nan
    for _ in range(2):
        labels = queue.step(joint, HALF, generator).labels
        assert (labels >= 0).tolist() == HALF.tolist()
    assert queue.filled == 6 and queue.rows.isfinite().all()
    centroids = queue.centroids.clone()
    assert queue.step(joint, ~EVERY, generator).labels.tolist() == [-1] * 6
    assert queue.filled == 6
    assert torch.allclose(queue.centroids, centroids, atol=0.1)


def test_a_whole_batch_without_a_feature_leaves_fitted_centroids_alone(generator: torch.Generator) -> None:
    queue = ClusterQueue(4, ClusterSettings(clusters=2, queue_rows=0, refit_every=1)).double()
    with pytest.raises(ValueError, match="got 0"):
        queue.step(normal(6, 4), ~EVERY, generator)
    fitted = queue.step(normal(6, 4), EVERY, generator).centroids
    clusters = queue.step(normal(6, 4), ~EVERY, generator)
    assert torch.equal(clusters.centroids, fitted)
    assert clusters.labels.tolist() == [-1] * 6
    assert queue.filled == 0


def test_a_batch_larger_than_the_queue_fills_it_once(generator: torch.Generator) -> None:
    queue = ClusterQueue(4, ClusterSettings(clusters=2, queue_rows=4)).double()
    joint = normal(6, 4)
    queue.step(joint, EVERY, generator)
    assert torch.equal(queue.rows, joint[:4])


def test_a_saved_queue_goes_on_bit_for_bit(generator: torch.Generator) -> None:
    settings = ClusterSettings(clusters=3, queue_rows=10, refit_every=2)
    queue = ClusterQueue(4, settings)
    for batch in range(3):
        queue.step(normal(6, 4, seed=batch).float(), EVERY, generator)
    resumed = ClusterQueue(4, settings)
    resumed.load_state_dict(deepcopy(queue.state_dict()))
    for batch in range(3, 7):
        joint = normal(6, 4, seed=batch).float()
        ours, theirs = queue.step(joint, EVERY, generator), resumed.step(joint, EVERY, generator)
        assert torch.equal(ours.centroids, theirs.centroids) and torch.equal(ours.labels, theirs.labels)


def test_a_restart_forgets_centroids_and_keeps_the_queue() -> None:
    settings = ClusterSettings(clusters=3, queue_rows=10, refit_every=5)
    queue = ClusterQueue(4, settings).double()
    queue.step(normal(6, 4), EVERY, torch.Generator().manual_seed(0))
    rows = queue.rows[:6].clone()
    queue.restart()
    again = queue.step(normal(6, 4, seed=1), EVERY, torch.Generator().manual_seed(5))
    data = torch.cat((normal(6, 4, seed=1), rows))
    assert torch.equal(again.centroids, cosine_kmeans(data, settings, torch.Generator().manual_seed(5)).centroids)


def test_given_clusters_do_not_change_with_later_batches(generator: torch.Generator) -> None:
    queue = ClusterQueue(4, ClusterSettings(clusters=3, queue_rows=10, refit_every=1)).double()
    first = queue.step(normal(6, 4), EVERY, generator)
    kept = first.centroids.clone()
    queue.step(normal(6, 4, seed=1), EVERY, generator)
    assert torch.equal(first.centroids, kept)


def test_the_first_half_of_each_videos_clips() -> None:
    assert first_half_of_each_video(torch.tensor([5, 5, 5, 5, 2, 2, 9])).tolist() == [1, 1, 0, 0, 1, 0, 1]
    assert first_half_of_each_video(torch.tensor([1, 2, 1, 2, 1])).tolist() == [1, 1, 1, 0, 0]


def test_zero_rows_alone_leave_clusters_without_a_seed(generator: torch.Generator) -> None:
    fit = cosine_kmeans(torch.zeros(4, 3), ClusterSettings(clusters=2), generator, torch.eye(3)[:2])
    assert not fit.centroids.any()
    assert fit.labels.tolist() == [0] * 4
