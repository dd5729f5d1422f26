"""MCN's losses: masked margin softmax, cluster and reconstruction terms, and their sum.

Shapes: B clips, D width of a space, K clusters. Every loss is computed in fp32 at least, whatever autocast says: in
bfloat16 the margin of 0.001 vanishes. Under autocast the contrast's gradients are products in bfloat16.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional

from models.clips import Embeddings
from models.kmeans import Clusters, at_least_fp32
from models.pairing import Scheme, builtin_scheme
from models.settings import LossSettings


@dataclass(frozen=True)
class Losses:
    """The total and what it is made of."""

    total: Tensor
    """Scalar with a gradient: the weighted sum of `terms`."""
    terms: dict[str, Tensor]
    """`contrast/SPACE/FIRST-SECOND`, `cluster/SPACE/MODALITY`, `reconstruction/SPACE/MODALITY` -> unweighted scalar."""
    weights: dict[str, float]
    """The weight of each term in the total."""


def mms_loss(
    first: Tensor,
    second: Tensor,
    settings: LossSettings | None = None,
    present: Tensor | None = None,
    video_index: Tensor | None = None,
) -> Tensor:
    """Masked margin softmax (Ilharco et al., 2019) of two modalities, `(B, D)` each: a scalar.

    With S = X Y^T - margin I, the mean over rows of -log softmax(S)_ii, plus the same for S^T. Clips outside `present`,
    `(B,)` bool, leave rows and columns; without any clip the loss is 0. `video_index`, `(B,)` integers, is needed with
    `mask_same_video` (ValueError): equal numbers are clips of one video.
    """
    settings = settings or LossSettings()
    first, second = at_least_fp32(first), at_least_fp32(second)
    if settings.mask_same_video and video_index is None:
        raise ValueError("mask_same_video needs video_index, which says what video each clip is from")
    if present is not None and not present.all():
        first, second = first[present], second[present]
        video_index = None if video_index is None else video_index[present]
    if len(first) == 0:
        return (first.sum() + second.sum()) * 0.0
    halved = torch.is_autocast_enabled(first.device.type)
    with torch.autocast(first.device.type, enabled=False):
        if settings.normalise:
            first, second = functional.normalize(first, dim=1), functional.normalize(second, dim=1)
        similarity = _Product.apply(first, second, halved)
        assert isinstance(similarity, Tensor)
        similarity.diagonal().sub_(settings.margin)
        if settings.temperature != 1:
            similarity = similarity / settings.temperature
        if settings.mask_same_video and video_index is not None:
            same_video = video_index.unsqueeze(0) == video_index.unsqueeze(1)
            similarity = similarity.masked_fill(same_video.fill_diagonal_(False), -torch.inf)
        own = similarity.diagonal()
        # -log softmax of the diagonal, over rows and over columns, without a copy of the transpose.
        axes = {"first": (1,), "second": (0,), "both": (1, 0)}[settings.directions]
        return torch.stack([(similarity.logsumexp(dim=axis) - own).mean() for axis in axes]).sum()


class _Product(torch.autograd.Function):
    """X Y^T, whose gradients are multiplied in bfloat16 where the embeddings come from bfloat16 layers.

    Those layers round the gradients they are given to bfloat16 anyway; the similarities themselves stay as they are.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, first: Tensor, second: Tensor, halved: bool) -> Tensor:
        ctx.save_for_backward(first, second)
        ctx.halved = halved  # type: ignore[attr-defined]
        return first @ second.T

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        first, second = ctx.saved_tensors
        if not ctx.halved:
            return gradient @ second, gradient.T @ first, None
        half = gradient.bfloat16()
        return (half @ second.bfloat16()).to(first.dtype), (half.T @ first.bfloat16()).to(second.dtype), None


def cluster_loss(vectors: Tensor, clusters: Clusters, margin: float, present: Tensor | None = None) -> Tensor:
    """Cross-entropy of one modality's `(B, D)` vectors against their joint features' clusters: a scalar.

    Logits are raw dot products with the centroids, less `margin` at the clip's own cluster. Clips outside `present`,
    and those without a label, are left out; without any clip the loss is 0. No gradient reaches the centroids.
    """
    counted = clusters.labels >= 0
    counted = counted if present is None else counted & present
    vectors, labels = at_least_fp32(vectors), clusters.labels
    if not counted.all():
        vectors, labels = vectors[counted], labels[counted]
    if len(vectors) == 0:
        return vectors.sum() * 0.0
    with torch.autocast(vectors.device.type, enabled=False):
        logits = vectors @ clusters.centroids.detach().to(vectors.dtype).T
        logits = logits - margin * functional.one_hot(labels, logits.shape[1]).to(logits.dtype)
        return functional.cross_entropy(logits, labels)


def contrastive_terms(
    scheme: Scheme, embeddings: Embeddings, settings: LossSettings, video_index: Tensor | None = None
) -> dict[str, Tensor]:
    """The contrastive term of every pair, named `contrast/SPACE/FIRST-SECOND`."""
    terms: dict[str, Tensor] = {}
    for space in scheme.spaces:
        vectors = embeddings.vectors[space.name]
        for pair in space.pairs:
            present = embeddings.present[pair.first] & embeddings.present[pair.second]
            loss = mms_loss(vectors[pair.first], vectors[pair.second], settings, present, video_index)
            terms[f"contrast/{space.name}/{pair.name}"] = loss
    return terms


def cluster_terms(
    scheme: Scheme, embeddings: Embeddings, clusters: Mapping[str, Clusters], settings: LossSettings
) -> dict[str, Tensor]:
    """The cluster term of every trained modality, named `cluster/SPACE/MODALITY`; `clusters` holds each space's."""
    return {
        f"cluster/{space.name}/{m}": cluster_loss(
            embeddings.vectors[space.name][m], clusters[space.name], settings.margin, embeddings.present[m]
        )
        for space in scheme.spaces
        for m in space.trained_modalities
    }


def reconstruction_terms(
    scheme: Scheme,
    errors: Mapping[str, Mapping[str, Tensor]],
    present: Mapping[str, Tensor],
    counts: Mapping[str, int] | None = None,
) -> dict[str, Tensor]:
    """The mean reconstruction error of every trained modality's present clips, named `reconstruction/SPACE/MODALITY`.

    `errors` is what `MCN.reconstruction_errors` gives. For a chunk of a batch, `counts` gives the whole batch's number
    of present clips by modality: the chunks' terms then add up to the batch's. Without any clip a term is 0.
    """
    terms: dict[str, Tensor] = {}
    for space in scheme.spaces:
        for m in space.trained_modalities:
            error = errors[space.name][m]
            total = error.masked_fill(~present[m], 0.0).sum()
            count = int(present[m].sum()) if counts is None else counts[m]
            terms[f"reconstruction/{space.name}/{m}"] = total / max(count, 1)
    return terms


def term_weights(scheme: Scheme, settings: LossSettings) -> dict[str, float]:
    """The weight of every term of a scheme, by the term's name."""
    kinds = {"contrast": settings.contrast_weight, "cluster": settings.cluster_weight}
    kinds["reconstruction"] = settings.reconstruction_weight
    names, shared = _term_names(scheme), _term_names(builtin_scheme("shared"))
    if settings.term_weights == "balanced":
        kinds = {kind: weight * len(shared[kind]) / len(names[kind]) for kind, weight in kinds.items()}
    return {name: weight for kind, weight in kinds.items() for name in names[kind]}


def total_loss(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """The weighted sum of terms; every term needs a weight (KeyError), and a weight may lack its term."""
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()


def mcn_losses(
    scheme: Scheme,
    embeddings: Embeddings,
    clusters: Mapping[str, Clusters],
    errors: Mapping[str, Mapping[str, Tensor]],
    settings: LossSettings,
    video_index: Tensor | None = None,
) -> Losses:
    """L_MMS + L_Cluster + L_Reconstruct of one whole batch, with every term by name.

    A kind of term whose weight is 0 is not computed: it has no terms, and its `clusters` or `errors` may be empty.
    """
    terms: dict[str, Tensor] = {}
    if settings.contrast_weight:
        terms |= contrastive_terms(scheme, embeddings, settings, video_index)
    if settings.cluster_weight:
        terms |= cluster_terms(scheme, embeddings, clusters, settings)
    if settings.reconstruction_weight:
        terms |= reconstruction_terms(scheme, errors, embeddings.present)
    every = term_weights(scheme, settings)
    weights = {name: every[name] for name in terms}
    return Losses(total_loss(terms, weights), terms, weights)


def _term_names(scheme: Scheme) -> dict[str, list[str]]:
    trained = [f"{space.name}/{m}" for space in scheme.spaces for m in space.trained_modalities]
    return {
        "contrast": [f"contrast/{space.name}/{pair.name}" for space in scheme.spaces for pair in space.pairs],
        "cluster": [f"cluster/{name}" for name in trained],
        "reconstruction": [f"reconstruction/{name}" for name in trained],
    }
