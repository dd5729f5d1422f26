"""k-means by cosine, and the queue of joint features it runs on (Chen et al., 2021).

Shapes: N rows, B clips, D width of a space, K clusters, Q rows of the queue. All arithmetic is fp32 at least.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

_BLOCK = 8192


@dataclass(frozen=True)
class ClusterSettings:
    """Options of k-means and of its queue; the defaults are the mended ones, each docstring says what was published."""

    clusters: int = 256
    """Number of clusters."""
    iterations: int = 100
    """Most rounds of one fit."""
    tolerance: float = 1e-4
    """A fit ends when the centroids' squared changes sum up to no more than this."""
    spherical: bool = False
    """Centroids are unit means of unit rows. Published: off, plain means, so that long vectors weigh more."""
    reseed_dead: bool = True
    """A cluster without rows restarts at a row far from its own centroid. Published: off, it becomes a zero vector."""
    labels_before_update: bool = False
    """A fit's labels are those before its last centroid update, as published; else they belong to its centroids."""
    queue_rows: int = 40_960
    """Joint features kept from earlier batches; 0 for none. Published: 20 batches of 2048."""
    queue_only_when_full: bool = False
    """Fit on the batch alone until the queue is full, as published; else on what the queue holds."""
    refit_every: int = 20
    """Fit every this many batches; between fits, clips are assigned to the centroids at hand."""

    def __post_init__(self) -> None:
        least = {"clusters": 2, "iterations": 1, "queue_rows": 0, "refit_every": 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least {bound}")


@dataclass(frozen=True)
class Clusters:
    """Centroids `(K, D)` and each clip's cluster, `(B,)` int64, with -1 for a clip without a joint feature."""

    centroids: Tensor
    labels: Tensor


def assign(data: Tensor, centroids: Tensor) -> Tensor:
    """The number of the centroid nearest by cosine, `(N,)` int64; of equals, the first. A zero row gets 0."""
    # Argmax over centroids doesn't change with a row's length, so only the centroids are normalised.
    directions = functional.normalize(_precise(centroids), dim=1)
    with torch.autocast(data.device.type, enabled=False):
        blocks = [(_precise(block) @ directions.T).argmax(dim=1) for block in data.split(_BLOCK)]
    return torch.cat(blocks)


@torch.no_grad()
def cosine_kmeans(
    data: Tensor, settings: ClusterSettings, generator: torch.Generator, start: Tensor | None = None
) -> Clusters:
    """Cluster the rows of `(N, D)`, from `start`, `(K, D)`, or from K different rows drawn with `generator`.

    Without a start, raises ValueError when fewer than K rows have a direction (are not zero).
    """
    data = _precise(data)
    centroids = _draw_rows(data, settings.clusters, generator) if start is None else start.to(data)
    for _ in range(settings.iterations):
        labels = assign(data, centroids)
        updated, sizes = _means(data, labels, settings)
        if settings.reseed_dead:
            updated = _reseeded(data, labels, updated, sizes, settings)
        change = (updated - centroids).square().sum()
        centroids = updated
        if change <= settings.tolerance:
            break
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
        oldest. Raises ValueError when a first fit has too few clips.
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


def _draw_rows(data: Tensor, count: int, generator: torch.Generator) -> Tensor:
    usable = data.any(dim=1).nonzero().squeeze(1)
    if len(usable) < count:
        raise ValueError(
            f"k-means needs at least {count} clips with a joint feature for {count} clusters and got {len(usable)}: "
            "ask for fewer clusters or for larger batches"
        )
    drawn = torch.randperm(len(usable), generator=generator, device=generator.device)[:count]
    return data[usable[drawn.to(usable.device)]]


def _means(data: Tensor, labels: Tensor, settings: ClusterSettings) -> tuple[Tensor, Tensor]:
    """Each cluster's mean row (unit mean of unit rows where spherical), zeros for none, and its number of rows."""
    total = data.new_zeros(settings.clusters, data.shape[1])
    with torch.autocast(data.device.type, enabled=False):
        for block, numbers in zip(data.split(_BLOCK), labels.split(_BLOCK), strict=True):
            rows = functional.normalize(block, dim=1) if settings.spherical else block
            # A product and not index_add: on a GPU the latter's order, so its rounding, changes from run to run.
            total += functional.one_hot(numbers, settings.clusters).to(rows.dtype).T @ rows
    sizes = labels.bincount(minlength=settings.clusters)
    means = total / sizes.clamp(min=1).unsqueeze(1)
    return (functional.normalize(means, dim=1) if settings.spherical else means), sizes


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


def _precise(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
