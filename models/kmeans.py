"""k-means by cosine, and the queue of joint features it runs on (Chen et al., 2021).

Shapes: N rows, B clips, D width of a space, K clusters, Q rows of the queue. All arithmetic is fp32 at least.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.settings import ClusterSettings

_BLOCK = 8192
_SAMPLE = 16
"""Rows a cluster among which a first fit chooses its starting points, so long as they are `_SAMPLE_ROWS` at most."""
_SAMPLE_ROWS = 8192


class TooFewClipsError(ValueError):
    """A first fit of k-means has fewer clips with a joint feature than clusters."""


@dataclass(frozen=True)
class Clusters:
    """Centroids `(K, D)` and each clip's cluster, `(B,)` int64, with -1 for a clip without a joint feature."""

    centroids: Tensor
    labels: Tensor


def at_least_fp32(x: Tensor) -> Tensor:
    """`x` in fp32 where its own type is less precise."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def assign(data: Tensor, centroids: Tensor) -> Tensor:
    """The number of the centroid nearest by cosine, `(N,)` int64; of equals, any. A zero row gets 0."""
    # Argmax over centroids doesn't change with a row's length, so only the centroids are normalised.
    directions = functional.normalize(at_least_fp32(centroids), dim=1)
    with torch.autocast(data.device.type, enabled=False):
        blocks = [(at_least_fp32(block) @ directions.T).argmax(dim=1) for block in data.split(_BLOCK)]
    return torch.cat(blocks)


@torch.no_grad()
def cosine_kmeans(
    data: Tensor, settings: ClusterSettings, generator: torch.Generator, start: Tensor | None = None
) -> Clusters:
    """Cluster the rows of `(N, D)`, from `start`, `(K, D)`, or from K different rows drawn with `generator`.

    Lloyd's rounds with assignment by cosine. A row's length plays no part in its label, so the inertia is that of unit
    rows: the sum of squared distances between each row over its length and the mean of those in its cluster. On unit
    rows, or with `spherical`, the rounds lower the sum of 1 - cosine (Dhillon & Modha, 2001); as published, with
    lengths in the means, they lower nothing in particular, and end by `tolerance` or `iterations`.

    Without a start, raises TooFewClipsError when fewer than K rows have a direction (are not zero).
    """
    data = at_least_fp32(data)
    if start is None:
        rows = _draw_rows(data, settings.clusters, _SAMPLE if settings.spread_start else 1, generator)
        centroids = _spread(rows, settings.clusters, generator) if settings.spread_start else rows
    else:
        centroids = start.to(data)
    labels: Tensor | None = None
    for _ in range(settings.iterations):
        before, labels = labels, assign(data, centroids)
        # Centroids are a function of the labels alone: with the same ones again, this round's would be last round's.
        if before is not None and torch.equal(before, labels):
            return Clusters(centroids, labels)
        updated, sizes = _means(data, labels, settings)
        if settings.reseed_dead:
            updated = _reseeded(data, labels, updated, sizes, settings)
        change = (updated - centroids).square().sum()
        centroids = updated
        if change <= settings.tolerance:
            break
    assert labels is not None
    return Clusters(centroids, labels if settings.labels_before_update else assign(data, centroids))


class ClusterQueue(nn.Module):
    """One space's centroids and joint features of earlier batches; its state dict is all that a resumed run needs."""

    rows: Tensor
    filled: Tensor
    cursor: Tensor
    centroids: Tensor
    fitted: Tensor
    batches: Tensor

    def __init__(self, width: int, settings: ClusterSettings) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("rows", torch.zeros(settings.queue_rows, width))
        self.register_buffer("filled", torch.tensor(0))
        self.register_buffer("cursor", torch.tensor(0))
        self.register_buffer("centroids", torch.zeros(settings.clusters, width))
        self.register_buffer("fitted", torch.tensor(False))
        self.register_buffer("batches", torch.tensor(0))

    @torch.no_grad()
    def step(
        self, joint: Tensor, present: Tensor, generator: torch.Generator, queued: Tensor | None = None
    ) -> Clusters:
        """Cluster one batch's joint features, `(B, D)` with the `(B,)` bool mask of those that exist, then queue them.

        Every `refit_every` batches k-means runs on the queue (as it was before this batch) and the batch, from the
        centroids at hand; otherwise the batch is only assigned. `queued`, `(B,)` bool, says which clips enter the queue
        (default: all; `first_half_of_each_video` gives the published choice). The queue's newest rows replace its
        oldest. Raises TooFewClipsError when a first fit has too few clips.
        """
        batch = joint[present].to(self.rows.dtype)
        labels = torch.full((len(joint),), -1, dtype=torch.long, device=joint.device)
        usable = self._usable()
        due = int(self.batches) % self.settings.refit_every == 0 and len(batch) + len(usable) > 0
        if due or not self.fitted:
            start = self.centroids if self.fitted else None
            fit = cosine_kmeans(torch.cat((batch, usable)), self.settings, generator, start)
            self.centroids.copy_(fit.centroids)
            self.fitted.fill_(True)
            labels[present] = fit.labels[: len(batch)]
        elif len(batch):
            labels[present] = assign(batch, self.centroids)
        self._push(joint[present if queued is None else present & queued])
        self.batches += 1
        return Clusters(self.centroids.clone(), labels)

    def restart(self) -> None:
        """Forget the centroids, not the queue: the next batch fits anew, as published at the start of every epoch."""
        self.fitted.fill_(False)
        self.batches.zero_()

    def _usable(self) -> Tensor:
        if self.settings.queue_only_when_full and int(self.filled) < self.settings.queue_rows:
            return self.rows[:0]
        return self.rows[: int(self.filled)]

    def _push(self, newest: Tensor) -> None:
        size = self.settings.queue_rows
        newest = newest[:size].to(self.rows.dtype)
        if len(newest) == 0:
            return
        places = (self.cursor + torch.arange(len(newest), device=self.rows.device)) % size
        self.rows[places] = newest
        self.cursor.copy_((self.cursor + len(newest)) % size)
        self.filled.copy_((self.filled + len(newest)).clamp(max=size))


def first_half_of_each_video(video_index: Tensor) -> Tensor:
    """`(B,)` bool: the first half, rounded up, of each video's clips, as the published queue takes 16 of 32.

    `video_index` is `(B,)`: equal numbers are clips of one video.
    """
    same = video_index.unsqueeze(0) == video_index.unsqueeze(1)
    before = same.tril(diagonal=-1).sum(dim=1)
    return 2 * before < same.sum(dim=1)


def _draw_rows(data: Tensor, clusters: int, each: int, generator: torch.Generator) -> Tensor:
    """`each` rows a cluster, or all where there are fewer, in random order; none twice, none that is zero."""
    usable = data.any(dim=1).nonzero().squeeze(1)
    if len(usable) < clusters:
        raise TooFewClipsError(
            f"k-means needs at least {clusters} clips with a joint feature for {clusters} clusters and got "
            f"{len(usable)}: ask for fewer clusters or for larger batches"
        )
    drawn = torch.randperm(len(usable), generator=generator, device=generator.device)[: each * clusters]
    return data[usable[drawn.to(usable.device)]]


def _spread(rows: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """K different ones of `rows`, `(R, D)` in random order, far apart by cosine.

    Greedy k-means++ (Arthur & Vassilvitskii, 2007): the odds of a row are its squared distance, as unit vectors, to the
    nearest one taken before; of a few such draws the one that leaves the smallest sum of those distances is taken.
    """
    rows = rows[: max(clusters, _SAMPLE_ROWS)]
    directions = functional.normalize(rows, dim=1)
    tries = 2 + int(math.log(clusters))
    taken = torch.zeros(clusters, dtype=torch.long, device=rows.device)
    candidates = taken[:1]  # in random order the first will do
    distances = torch.full((len(rows),), torch.inf, dtype=rows.dtype, device=rows.device)
    with torch.autocast(rows.device.type, enabled=False):
        cosines = directions @ directions.T
        for place in range(clusters):
            if place:
                # In float64, so that no draw rounds up to the end of the sum.
                # And on the CPU, since a GPU's running sum rounds otherwise each time.
                odds = distances.double().cpu().cumsum(dim=0)
                drawn = torch.rand(tries, generator=generator, device=generator.device).to(odds)
                candidates = torch.searchsorted(odds, drawn * odds[-1], right=True).to(rows.device)
            # A row like one taken keeps some odds, so that equal rows can still fill all places.
            found = (2.0 - 2.0 * cosines[candidates]).clamp(min=1e-12).minimum(distances)
            best = found.sum(dim=1).argmin()
            distances, taken[place] = found[best], candidates[best]
            distances[taken[: place + 1]] = 0.0
    return rows[taken]


def _means(data: Tensor, labels: Tensor, settings: ClusterSettings) -> tuple[Tensor, Tensor]:
    """Each cluster's mean row (unit mean of unit rows where spherical), zeros for none, and its number of rows."""
    # On a GPU index_add's order, so its rounding, changes from run to run, and a product is fast. On a CPU it adds row
    # after row, always in their order, in a seventh of the time that the product takes.
    add = _add_rows if data.device.type == "cpu" else _add_product
    total = data.new_zeros(settings.clusters, data.shape[1])
    with torch.autocast(data.device.type, enabled=False):
        for block, numbers in zip(data.split(_BLOCK), labels.split(_BLOCK), strict=True):
            add(total, functional.normalize(block, dim=1) if settings.spherical else block, numbers)
    sizes = labels.bincount(minlength=settings.clusters)
    means = total / sizes.clamp(min=1).unsqueeze(1)
    return (functional.normalize(means, dim=1) if settings.spherical else means), sizes


def _add_rows(total: Tensor, rows: Tensor, numbers: Tensor) -> None:
    """Add each row, `(N, D)`, to the row of `total`, `(K, D)`, that its number, `(N,)`, says."""
    total.index_add_(0, numbers, rows)


def _add_product(total: Tensor, rows: Tensor, numbers: Tensor) -> None:
    """What `_add_rows` does, as a product with the `(N, K)` matrix that has a 1 at each row's number."""
    total += functional.one_hot(numbers, len(total)).to(rows.dtype).T @ rows


def _reseeded(data: Tensor, labels: Tensor, centroids: Tensor, sizes: Tensor, settings: ClusterSettings) -> Tensor:
    """Put each cluster without rows at the row least like its own centroid and the new ones before it."""
    dead = (sizes == 0).nonzero().squeeze(1).tolist()
    if not dead:
        return centroids
    centroids = centroids.clone()
    lengths = data.norm(dim=1)
    directions = functional.normalize(centroids, dim=1)
    with torch.autocast(data.device.type, enabled=False):
        blocks = zip(data.split(_BLOCK), labels.split(_BLOCK), strict=True)
        likeness = torch.cat([(block * directions[numbers]).sum(dim=1) for block, numbers in blocks])
        likeness = likeness / lengths
        likeness[lengths == 0] = torch.inf  # a zero row has no direction: it can't be a centroid
        for cluster in dead:
            row = int(likeness.argmin())
            if likeness[row] == torch.inf:
                break
            direction = data[row] / lengths[row]
            centroids[cluster] = direction if settings.spherical else data[row]
            likeness = torch.maximum(likeness, data @ direction / lengths)
            likeness[lengths == 0] = torch.inf
    return centroids
