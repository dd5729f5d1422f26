"""One batch's loss and its gradients, in bounded memory and over any number of processes.

The contrast and the clusters need the embeddings of a whole batch, the gradients need every layer's activations, and
4096 clips' activations don't fit everywhere. Gradient caching (Gao et al., 2021) parts the two: pass one embeds the
batch chunk by chunk and keeps the embeddings alone; the loss gives a gradient for each of them; pass two embeds each
chunk again and hands it its embeddings' gradients. Reconstruction is a sum over clips, so it is done in pass two. The
gradients are those of the whole batch, to rounding. A batch of one chunk is embedded once.

Processes that share a batch embed their own clips, and each computes the loss of all of them.

Shapes: B clips of this process, N clips of all processes, D width of a space.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from models.clips import ClipInputs, Embeddings, concatenate
from models.davenet import running_statistics_held
from models.kmeans import ClusterQueue, Clusters, at_least_fp32, first_half_of_each_video
from models.losses import cluster_terms, contrastive_terms, reconstruction_terms, term_weights, total_loss
from models.mcn import MCN
from models.settings import LossSettings

_BUCKET = 1 << 24
"""Gradient values that are summed over the processes at once."""


class Communicator(Protocol):
    """What processes that share a batch tell one another; every process calls the same methods in the same order."""

    rank: int
    processes: int

    def gather(self, tensor: Tensor) -> Tensor:
        """`(B, ...)` of each process -> `(N, ...)`, in the order of their ranks; no gradient passes."""
        ...

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all processes."""
        ...

    def first(self, tensor: Tensor) -> Tensor:
        """Process 0's tensor."""
        ...


class SingleProcess:
    """The communicator of a single process."""

    rank, processes = 0, 1

    def gather(self, tensor: Tensor) -> Tensor:
        """The tensor itself, as are the others."""
        return tensor

    total = first = gather


@dataclass(frozen=True)
class StepLosses:
    """What a batch cost. All tensors are detached scalars, equal in every process."""

    terms: dict[str, Tensor]
    """Unweighted terms by name: `contrast/SPACE/FIRST-SECOND`, `cluster/SPACE/MODALITY`, `reconstruction/...`."""
    weights: dict[str, float]
    """The weight of each in the total."""
    gradient_norms: dict[str, Tensor]
    """The L2 norm of each weighted term's gradient for the batch's embeddings, all spaces and modalities together."""

    @property
    def total(self) -> Tensor:
        """The weighted sum: what the gradients are of."""
        return torch.stack([self.weights[name] * term.double() for name, term in self.terms.items()]).sum()

    def gradient_shares(self) -> dict[str, Tensor]:
        """Each term's part in the sum of the norms; 0 where no gradient is left at all."""
        whole = torch.stack(list(self.gradient_norms.values())).sum().clamp(min=torch.finfo(torch.float32).tiny)
        return {name: norm / whole for name, norm in self.gradient_norms.items()}


class BatchStep:
    """Computes gradients of `model` for batch after batch; `queues` holds every space's clusters and moves on."""

    def __init__(
        self,
        model: MCN,
        queues: Mapping[str, ClusterQueue],
        settings: LossSettings,
        chunk_clips: int = 0,
        communicator: Communicator | None = None,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """`chunk_clips`: clips embedded at once, 0 for all. `autocast` makes the context in which the model runs.

        With DaveNet inside, a chunk is also the group over which its batch norm takes statistics.
        """
        self.model, self.queues, self.settings = model, queues, settings
        self.chunk_clips, self.communicator, self.autocast = chunk_clips, communicator or SingleProcess(), autocast
        self.scheme = model.settings.scheme
        self.weights = term_weights(self.scheme, settings)

    def backward(self, clips: ClipInputs, video_index: Tensor, generator: torch.Generator) -> StepLosses:
        """Set the gradients of every parameter that has a part in the loss; those there are replaced.

        `video_index`, `(B,)` int64: equal numbers, over all processes, are clips of one video. `generator` draws
        k-means's first centroids: its state must be the same in every process. Where an embedding is NaN or infinite,
        the cluster terms are NaN and the clusters stay. Raises TooFewClipsError when a first fit of k-means has too few
        clips.
        """
        self.model.zero_grad(set_to_none=True)
        norms = [module for module in self.model.modules() if isinstance(module, nn.BatchNorm2d)]
        before = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
        size = self.chunk_clips or len(clips)
        chunks = [clips[first : first + size] for first in range(0, len(clips), size)]
        embedded = self._embed(chunks)
        leaves, terms, gradient_norms = self._whole_batch(embedded, video_index, generator)
        counts = {m: int(mask.sum()) for m, mask in leaves.present.items()}
        errors: dict[str, Tensor] = {}
        squares: dict[str, Tensor] = {}
        row = self.communicator.rank * len(clips)
        for chunk in chunks:
            if len(chunks) > 1:
                with self.autocast():
                    embedded = self.model(chunk)
            self._chunk_backward(embedded, leaves, slice(row, row + len(chunk)), counts, errors, squares)
            row += len(chunk)
        for name, value in errors.items():
            terms[name] = self.communicator.total(value)
            gradient_norms[name] = self.communicator.total(squares[name]).sqrt()
        if self.communicator.processes > 1:
            _add_up_gradients(list(self.model.parameters()), self.communicator)
            for norm, start in zip(norms, before, strict=True):
                _merge_statistics(norm, start, self.communicator)
        return StepLosses(terms, {name: self.weights[name] for name in terms}, gradient_norms)

    def _embed(self, chunks: list[ClipInputs]) -> Embeddings:
        """Pass one. Several chunks leave no graph and no trace in running statistics."""
        if len(chunks) == 1:
            with self.autocast():
                whole: Embeddings = self.model(chunks[0])
            return whole
        with torch.no_grad(), running_statistics_held(self.model), self.autocast():
            return concatenate([self.model(chunk) for chunk in chunks])

    def _whole_batch(
        self, embedded: Embeddings, video_index: Tensor, generator: torch.Generator
    ) -> tuple[Embeddings, dict[str, Tensor], dict[str, Tensor]]:
        """Contrast and clusters of all clips: embeddings that hold their gradients, terms, gradient norms."""
        gather, settings = self.communicator.gather, self.settings
        leaves = embedded.map_vectors(lambda v: gather(at_least_fp32(v.detach())).requires_grad_())
        leaves = Embeddings(leaves.vectors, {m: gather(mask) for m, mask in leaves.present.items()}, {})
        video_index = gather(video_index)
        found: dict[str, Tensor] = {}
        if settings.contrast_weight:
            with self.autocast():  # says how its gradients are multiplied
                found |= contrastive_terms(self.scheme, leaves, settings, video_index)
        terms: dict[str, Tensor] = {}
        if settings.cluster_weight and _are_finite(leaves):
            found |= cluster_terms(self.scheme, leaves, self._clusters(leaves, video_index, generator), settings)
        elif settings.cluster_weight:
            # k-means makes nothing of NaN, and would fail before any term could be looked at.
            names = [name for name in self.weights if name.startswith("cluster/")]
            terms = {name: video_index.new_full((), torch.nan, dtype=torch.float32) for name in names}
        vectors = [v for by_modality in leaves.vectors.values() for v in by_modality.values()]
        gradient_norms = dict(terms)
        for name, term in found.items():
            gradients = torch.autograd.grad(self.weights[name] * term, vectors, allow_unused=True)
            square = term.new_zeros(())
            for vector, gradient in zip(vectors, gradients, strict=True):
                if gradient is not None:
                    vector.grad = gradient if vector.grad is None else vector.grad.add_(gradient)
                    square += gradient.square().sum()
            gradient_norms[name] = square.sqrt()
        return leaves, {name: term.detach() for name, term in found.items()} | terms, gradient_norms

    def _clusters(self, leaves: Embeddings, video_index: Tensor, generator: torch.Generator) -> dict[str, Clusters]:
        queued = first_half_of_each_video(video_index)
        clusters = {}
        for space in self.scheme.spaces:
            queue = self.queues[space.name]
            found = queue.step(*leaves.joint(space), generator, queued)
            # k-means is chaotic: a last bit that differs between two processors would part their centroids for good.
            clusters[space.name] = Clusters(*map(self.communicator.first, (found.centroids, found.labels)))
            queue.centroids.copy_(clusters[space.name].centroids)
        return clusters

    def _chunk_backward(
        self,
        embedded: Embeddings,
        leaves: Embeddings,
        rows: slice,
        counts: Mapping[str, int],
        errors: dict[str, Tensor],
        squares: dict[str, Tensor],
    ) -> None:
        """Pass two of one chunk, which is `rows` of the whole batch; adds to `errors` and `squares` by term."""
        cut = embedded.map_vectors(lambda v: v.detach().requires_grad_())
        cut = Embeddings(cut.vectors, cut.present, _cut(embedded.targets))
        if self.settings.reconstruction_weight:
            with self.autocast():
                found = self.model.reconstruction_errors(cut)
            terms = reconstruction_terms(self.scheme, found, cut.present, counts)
            total_loss(terms, self.weights).backward()
            for name, term in terms.items():
                _, space, modality = name.split("/")
                gradient = cut.vectors[space][modality].grad
                square = term.new_zeros(()) if gradient is None else gradient.to(term.dtype).square().sum()
                errors[name] = errors.get(name, 0.0) + term.detach()
                squares[name] = squares.get(name, 0.0) + square
        roots, gradients = [], []
        for space, by_modality in embedded.vectors.items():
            for modality, vector in by_modality.items():
                of_batch = leaves.vectors[space][modality].grad
                parts = [cut.vectors[space][modality].grad, None if of_batch is None else of_batch[rows]]
                given = [part.to(vector.dtype) for part in parts if part is not None]
                if given:
                    roots.append(vector)
                    gradients.append(given[0] if len(given) == 1 else given[0] + given[1])
        for space, by_modality in embedded.targets.items():
            for modality, target in by_modality.items():
                gradient = cut.targets[space][modality].grad
                if gradient is not None:
                    roots.append(target)
                    gradients.append(gradient)
        torch.autograd.backward(roots, gradients)


def _are_finite(embeddings: Embeddings) -> bool:
    present = embeddings.present
    return all(bool(v[present[m]].isfinite().all()) for by_m in embeddings.vectors.values() for m, v in by_m.items())


def _add_up_gradients(parameters: list[nn.Parameter], communicator: Communicator) -> None:
    """Sum each parameter's gradient over the processes; None stays where no process has one.

    A process whose clips all lack a modality has none for its layers, where others do.
    """
    own = torch.tensor([p.grad is not None for p in parameters], device=parameters[0].device)
    anywhere = communicator.total(own.to(torch.int64)).tolist()
    bucket: list[nn.Parameter] = []
    for parameter in [p for p, holders in zip(parameters, anywhere, strict=True) if holders]:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        bucket.append(parameter)
        if sum(p.numel() for p in bucket) >= _BUCKET:
            _add_up(bucket, communicator)
            bucket = []
    if bucket:
        _add_up(bucket, communicator)


def _add_up(parameters: list[nn.Parameter], communicator: Communicator) -> None:
    gradients = [p.grad for p in parameters if p.grad is not None]
    summed = communicator.total(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, part in zip(gradients, summed.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def _cut(targets: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """The targets apart from their graph, with a gradient of their own where they have one there."""
    return {s: {m: t.detach().requires_grad_(t.requires_grad) for m, t in by_m.items()} for s, by_m in targets.items()}


def _merge_statistics(norm: nn.BatchNorm2d, start: dict[str, Tensor], communicator: Communicator) -> None:
    """Running statistics as if one process had seen the groups of all, in the order of the ranks."""
    assert norm.momentum is not None and norm.num_batches_tracked is not None
    seen = communicator.gather((norm.num_batches_tracked - start["num_batches_tracked"]).unsqueeze(0)).tolist()
    for name in ("running_mean", "running_var"):
        buffer = norm.get_buffer(name)
        merged = start[name]
        # g groups turn x into (1 - momentum)^g x + c: c is what a process's own groups have added.
        for groups, after in zip(seen, communicator.gather(buffer.unsqueeze(0)), strict=True):
            merged = after + (1.0 - norm.momentum) ** groups * (merged - start[name])
        buffer.copy_(merged)
    norm.num_batches_tracked.copy_(start["num_batches_tracked"] + sum(seen))
