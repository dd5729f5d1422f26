from collections import deque
from copy import deepcopy

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from models import kmeans
from models.kmeans import ClusterQueue, assign, cosine_kmeans, first_half_of_each_video
from models.settings import ClusterSettings

PUBLISHED = ClusterSettings(
    clusters=3,
    spread_start=False,
    reseed_dead=False,
    labels_before_update=True,
    queue_rows=8,
    queue_only_when_full=True,
    refit_every=3,
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


def slow_kmeans(data: np.ndarray, start: np.ndarray, settings: ClusterSettings) -> tuple[np.ndarray, list[int], int]:
    """One row and one cluster at a time, and no way out but the tolerance: centroids, labels, rounds."""
    unit = np.array([x / max(np.linalg.norm(x), 1e-12) for x in data])
    rows = unit if settings.spherical else data
    centroids, rounds = start, 0
    while rounds < settings.iterations:
        rounds += 1
        labels = slow_cosine_assignment(data, centroids)
        updated = np.zeros_like(start)
        for k in range(len(start)):
            members = [x for x, label in zip(rows, labels, strict=True) if label == k]
            updated[k] = np.mean(members, axis=0) if members else 0
            if settings.spherical:
                updated[k] /= max(np.linalg.norm(updated[k]), 1e-12)
        if settings.reseed_dead:
            seeds: list[np.ndarray] = []
            means = updated.copy()
            for k in sorted(set(range(len(start))) - set(labels)):
                likeness = []
                for x, label in zip(unit, labels, strict=True):
                    own = x @ means[label] / max(np.linalg.norm(means[label]), 1e-12)
                    likeness.append(max([own, *(x @ seed for seed in seeds)]) if x.any() else np.inf)
                row = int(np.argmin(likeness))
                seeds.append(unit[row])
                updated[k] = rows[row]
        change = ((updated - centroids) ** 2).sum()
        centroids = updated
        if change <= settings.tolerance:
            break
    return centroids, labels if settings.labels_before_update else slow_cosine_assignment(data, centroids), rounds


def slow_inertia(unit: np.ndarray, labels: np.ndarray) -> float:
    """What scikit-learn calls inertia: squared distances from unit rows to the mean of their cluster."""
    return sum(((unit[labels == k] - unit[labels == k].mean(axis=0)) ** 2).sum() for k in np.unique(labels))


def test_assignment_equals_brute_force() -> None:
    data, centroids = normal(200, 6), normal(7, 6, seed=1)
    centroids[3] = 0  # a dead centroid, as published
    assert assign(data, centroids).tolist() == slow_cosine_assignment(data.numpy(), centroids.numpy())


def test_assignment_is_the_same_over_several_blocks_of_rows() -> None:
    data, centroids = normal(20_000, 2), normal(5, 2, seed=1)
    cosines = torch.nn.functional.cosine_similarity(data.unsqueeze(1), centroids.unsqueeze(0), dim=2)
    assert torch.equal(assign(data, centroids), cosines.argmax(dim=1))


@pytest.mark.parametrize("rounds", [1, 2, 100])
@pytest.mark.parametrize("tolerance", [1e-4, 0.3])
@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("reseed_dead", [False, True])
@pytest.mark.parametrize("labels_before_update", [False, True])
def test_every_option_of_a_fit_equals_the_slow_formula(
    rounds: int, tolerance: float, spherical: bool, reseed_dead: bool, labels_before_update: bool
) -> None:
    data, start = normal(60, 4).abs(), normal(6, 4, seed=2).abs()
    data[7] = 0
    start[3:5] *= -1  # opposite to all rows: two dead clusters
    settings = ClusterSettings(
        clusters=6,
        iterations=rounds,
        tolerance=tolerance,
        spherical=spherical,
        reseed_dead=reseed_dead,
        labels_before_update=labels_before_update,
    )
    fit = cosine_kmeans(data, settings, torch.Generator(), start)
    centroids, labels, _ = slow_kmeans(data.numpy(), start.numpy(), settings)
    np.testing.assert_allclose(fit.centroids, centroids, atol=1e-12)
    assert fit.labels.tolist() == labels
    assert fit.centroids.any(dim=1).all() == reseed_dead


def test_a_fit_ends_when_no_label_changed_with_the_published_result(monkeypatch: pytest.MonkeyPatch) -> None:
    data, start = normal(300, 4), normal(5, 4, seed=2)
    calls: list[int] = []
    monkeypatch.setattr(kmeans, "assign", lambda rows, centroids: (calls.append(1), assign(rows, centroids))[1])
    for before in (False, True):
        settings = ClusterSettings(clusters=5, tolerance=0.0, labels_before_update=before)
        calls.clear()
        fit = cosine_kmeans(data, settings, torch.Generator(), start)
        centroids, labels, rounds = slow_kmeans(data.numpy(), start.numpy(), settings)
        np.testing.assert_allclose(fit.centroids, centroids, atol=1e-12)
        assert fit.labels.tolist() == labels
        assert 3 < len(calls) == rounds < 100


def test_both_ways_of_adding_up_a_clusters_rows_agree() -> None:
    rows, numbers = normal(500, 9).float(), torch.randint(7, (500,), generator=torch.Generator().manual_seed(1))
    numbers[numbers == 3] = 4
    sums = []
    for add in (kmeans._add_rows, kmeans._add_product):
        total = torch.ones(7, 9)
        add(total, rows, numbers)
        sums.append(total)
    expected = np.ones((7, 9))
    for row, number in zip(rows.double().numpy(), numbers.tolist(), strict=True):
        expected[number] += row
    for total in sums:
        np.testing.assert_allclose(total, expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(total[3], torch.ones(9))


def test_on_a_processor_sums_do_not_depend_on_its_threads() -> None:
    data, labels = normal(9000, 64).float(), torch.arange(9000) % 16
    threads, means = torch.get_num_threads(), []
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            means.append(kmeans._means(data, labels, ClusterSettings(clusters=16))[0])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(means[0], means[1]) and torch.equal(means[1], means[2])


def test_labels_belong_to_the_centroids_that_are_returned(generator: torch.Generator) -> None:
    data, start = normal(60, 4), normal(3, 4, seed=2)
    after = cosine_kmeans(data, ClusterSettings(clusters=3, iterations=1), generator, start)
    before = cosine_kmeans(data, ClusterSettings(clusters=3, iterations=1, labels_before_update=True), generator, start)
    assert torch.equal(after.centroids, before.centroids)
    assert torch.equal(after.labels, assign(data, after.centroids))
    assert torch.equal(before.labels, assign(data, start))
    assert not torch.equal(after.labels, before.labels)


@pytest.fixture(scope="module")
def mixture() -> np.ndarray:
    """Unit rows around 24 directions that overlap."""
    noise = normal(1500, 16) * 0.3
    directions = torch.nn.functional.normalize(normal(24, 16, seed=1), dim=1)
    numbers = torch.randint(24, (1500,), generator=torch.Generator().manual_seed(2))
    unit: np.ndarray = torch.nn.functional.normalize(directions[numbers] + noise, dim=1).numpy()
    return unit


@pytest.mark.parametrize("spherical", [False, True])
def test_from_the_same_start_the_inertia_is_scikit_learns(mixture: np.ndarray, spherical: bool) -> None:
    ours, theirs = [], []
    for seed in range(5):
        start = mixture[np.random.default_rng(seed).choice(len(mixture), 24, replace=False)]
        settings = ClusterSettings(clusters=24, spherical=spherical)
        fit = cosine_kmeans(torch.from_numpy(mixture), settings, torch.Generator(), torch.from_numpy(start))
        ours.append(slow_inertia(mixture, fit.labels.numpy()))
        theirs.append(KMeans(24, init=start, n_init=1, tol=0).fit(mixture).inertia_)
        if spherical:
            np.testing.assert_allclose(fit.centroids.norm(dim=1), 1, atol=1e-12)
    assert np.mean(ours) <= 1.02 * np.mean(theirs)
    assert min(ours) <= 1.02 * min(theirs)


@pytest.mark.parametrize("spherical", [False, True])
def test_the_best_of_five_starts_has_scikit_learns_inertia_of_its_best_of_five(
    mixture: np.ndarray, spherical: bool
) -> None:
    settings = ClusterSettings(clusters=24, spherical=spherical)
    fits = [cosine_kmeans(torch.from_numpy(mixture), settings, torch.Generator().manual_seed(s)) for s in range(5)]
    ours = min(slow_inertia(mixture, fit.labels.numpy()) for fit in fits)
    assert ours <= 1.02 * KMeans(24, n_init=5, random_state=0).fit(mixture).inertia_


def test_lengths_count_in_published_means_alone(generator: torch.Generator) -> None:
    data, start = normal(200, 4), normal(3, 4, seed=2)
    lengths = 1 + 9 * torch.rand(200, 1, dtype=torch.float64, generator=generator)
    for spherical in (False, True):
        settings = ClusterSettings(clusters=3, spherical=spherical)
        short, long = (cosine_kmeans(x, settings, generator, start) for x in (data, data * lengths))
        assert torch.equal(short.labels, long.labels) == spherical


def test_a_spread_start_finds_groups_that_rows_at_random_miss() -> None:
    data, numbers = groups(40, 30, 40, 0.01)
    for spread_start in (True, False):
        found = []
        for seed in range(4):
            settings = ClusterSettings(clusters=40, spread_start=spread_start)
            labels = cosine_kmeans(data, settings, torch.Generator().manual_seed(seed)).labels
            # Groups that lie in one cluster with another group are lost.
            pairs = set(zip(labels.tolist(), numbers.tolist(), strict=True))
            found.append(len({label for label, _ in pairs}) == len(pairs) == 40)
        assert found == [spread_start] * 4


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


@pytest.mark.parametrize("spread_start", [False, True])
def test_starting_points_are_different_rows_drawn_by_the_generator(spread_start: bool) -> None:
    data = torch.cat((normal(12, 4), torch.zeros(4, 4)))
    settings = ClusterSettings(clusters=12, iterations=1, spread_start=spread_start)
    fits = [cosine_kmeans(data, settings, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    # Twelve clusters of twelve usable rows: each row must be the start of one, or a cluster would have two.
    assert sorted(fits[0].labels[:12].tolist()) == list(range(12))
    assert torch.equal(fits[0].labels, fits[1].labels)
    assert not torch.equal(fits[0].labels, fits[2].labels)


@pytest.mark.parametrize("spread_start", [False, True])
@pytest.mark.parametrize("rows", [30, 300])
def test_no_starting_point_is_drawn_twice_even_of_equal_rows(spread_start: bool, rows: int) -> None:
    # All rows have one direction, and a length of their own, by which the starting points tell whence they are.
    data = torch.ones(rows, 2) * torch.arange(1.0, rows + 1).unsqueeze(1)
    drawn = kmeans._draw_rows(data, 20, 16 if spread_start else 1, torch.Generator().manual_seed(0))
    start = kmeans._spread(drawn, 20, torch.Generator().manual_seed(0)) if spread_start else drawn
    assert len(start) == len(start.unique(dim=0)) == 20
    assert set(start[:, 0].tolist()) <= set(data[:, 0].tolist())


def test_a_spread_start_is_spread_as_greedy_k_means_plus_plus() -> None:
    """The odds are squared distances: of one far row and many near ones, the far one comes second, nearly always."""
    near = torch.tensor([1.0, 0.0, 0.0]) + 0.001 * normal(200, 3).float()
    data = torch.cat((near, torch.tensor([[0.0, 5.0, 0.0]])))
    seconds = []
    for seed in range(20):
        start = kmeans._spread(data, 2, torch.Generator().manual_seed(seed))
        assert torch.equal(start[0], data[0])
        seconds.append(start[1].tolist() == [0, 5, 0])
    assert all(seconds)


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
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` is "):
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
            centroids, labels, _ = slow_kmeans(data, centroids, PUBLISHED)
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


def test_the_queue_holds_what_there_is_of_the_clips_that_enter_it_in_their_order(generator: torch.Generator) -> None:
    """By hand: clip n of a batch of six is (batch, n, 1); absent ones come as zeros, as `Embeddings.joint` has them."""
    queue = ClusterQueue(3, ClusterSettings(clusters=2, queue_rows=5, refit_every=1)).double()
    present = torch.tensor([True, False, True, True, True, False])
    queued = torch.tensor([True, True, False, True, False, True])
    held = []
    for batch, entering in ((1, [0, 3]), (2, [0, 3]), (3, [0, 3])):
        joint = torch.tensor([[batch, clip, 1] for clip in range(6)], dtype=torch.float64)
        joint[~present] = 0
        queue.step(joint, present, generator, queued)
        held += [[float(batch), float(clip), 1.0] for clip in entering]
        # The sixth row takes the place of the first.
        wanted = held[:5] if len(held) <= 5 else held[5:] + held[len(held) - 5 : 5]
        assert queue.rows[: int(queue.filled)].tolist() == wanted
    assert (int(queue.filled), int(queue.cursor)) == (5, 1)
    queue.step(joint, present, generator)
    # Without `queued` all that are there enter: four more, from the second place on.
    assert queue.rows[1:].tolist() == [[3.0, float(clip), 1.0] for clip in (0, 2, 3, 4)]


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
