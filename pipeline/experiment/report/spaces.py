"""Spaces drawn: the evaluated clips as vectors, a map of them by modality and by step, how far modalities lie apart."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn import functional

from extractors.text import words
from models.kmeans import assign
from pipeline.clips.cutting import ClipFeatures
from pipeline.core.errors import InputError
from pipeline.core.figures import COLOURS, MODALITY_COLOURS, Drawing, drawing_style, shortened
from pipeline.core.lists import csv_lines
from pipeline.core.provenance import recorded_path
from pipeline.core.reporting import RunSummary
from pipeline.core.tables import Table
from pipeline.evaluation.lists import LabelledClip, clips_digest, clips_of_split, cut_out, read_clips
from pipeline.experiment.report.results import Model
from pipeline.experiment.report.score_figures import WIDTH
from pipeline.training.checkpoint import TrainedModel, load_checkpoint, open_trained

MOST_CLIPS = 1500
"""Embedded at most, drawn from all by the seed."""
MOST_CLASSES = 12
"""Steps that have a colour of their own; the others share one."""
OTHER = "(all others)"
CLASS_COLUMN = "action"
MODALITIES = ("video", "audio", "text")


@dataclass(frozen=True)
class SpaceVectors:
    """One space. N clips."""

    name: str
    vectors: dict[str, Tensor]
    """Modality -> (N, D) fp32 of length 1; rows of clips without it are zero."""
    joint: Tensor
    """(N, D): the mean of a clip's present vectors as they are, which training clusters."""
    centroids: Tensor | None
    """(K, D), or None where training made no clusters."""

    def clusters(self) -> Tensor:
        """(N,) int64: each clip's cluster, by cosine as in training. ValueError without centroids."""
        if self.centroids is None:
            raise ValueError(f"space {self.name} has no clusters")
        return assign(self.joint, self.centroids)


@dataclass(frozen=True)
class EmbeddedClips:
    """The clips in their order, and their vectors in each space."""

    clips: tuple[LabelledClip, ...]
    classes: tuple[str, ...]
    """Of each clip, its step's class: its action where the list names one, or else its text."""
    of: int
    """Clips that were evaluated, of which these are a sample."""
    present: dict[str, Tensor]
    """Modality -> (N,) bool."""
    spaces: tuple[SpaceVectors, ...]

    def videos(self) -> list[str]:
        """Ids, sorted. The page names them all, since what is drawn of a video must be found when it is forgotten."""
        return sorted({clip.clip.video_id for clip in self.clips})

    def drawn_classes(self) -> tuple[str, ...]:
        """The classes, all but the `MOST_CLASSES` commonest as `OTHER`."""
        counts = sorted(Counter(self.classes).items(), key=lambda item: (-item[1], item[0]))
        kept = {name for name, _ in counts[:MOST_CLASSES]}
        return tuple(name if name in kept else OTHER for name in self.classes)


def embed_evaluated(model: Model, seed: int) -> EmbeddedClips:
    """The clips that `mcn evaluate retrieval` asked the model about, `MOST_CLIPS` of them at most.

    InputError where the checkpoint, the data set or the list of clips is gone, or isn't what was evaluated.
    """
    measured = model.retrieval["detail"]
    asked = measured["settings"]
    source = recorded_path(asked["clips"], asked["checkpoint"], model.folder)
    manifest = asked["manifest"] and recorded_path(asked["manifest"], asked["checkpoint"], model.folder)
    trained = open_trained(model.folder, manifest)
    everything = read_clips(source, "text")
    _, first = next(csv_lines(source, (), free=("text",)))
    named = read_clips(source, CLASS_COLUMN) if CLASS_COLUMN in first else everything
    evaluated = clips_of_split(everything, trained, asked["split"], source, RunSummary("report"))
    if trained.digest != measured["inputs"]["checkpoint"] or clips_digest(evaluated) != measured["clips digest"]:
        raise InputError(f"{model.folder}: the model or the clips are others than were evaluated; evaluate it again")
    class_of = {id(clip): one.label for clip, one in zip(everything, named, strict=True)}
    chosen = _sampled(evaluated, seed)
    present, spaces = _vectors(trained, chosen)
    chosen_classes = tuple(class_of[id(clip)] for clip in chosen)
    return EmbeddedClips(tuple(chosen), chosen_classes, len(evaluated), present, spaces)


def _sampled(clips: list[LabelledClip], seed: int) -> list[LabelledClip]:
    if len(clips) <= MOST_CLIPS:
        return clips
    drawn = np.random.default_rng(seed).choice(len(clips), MOST_CLIPS, replace=False)
    return [clips[index] for index in sorted(drawn.tolist())]


def _vectors(
    trained: TrainedModel, clips: Sequence[LabelledClip]
) -> tuple[dict[str, Tensor], tuple[SpaceVectors, ...]]:
    def cut(clip: LabelledClip) -> ClipFeatures:
        span = clip.clip
        return cut_out(trained, span.video_id, span.start, span.end, words(clip.label), trained.rules)

    # Training clusters the vectors as they come, whatever their length.
    embedded = replace(trained, normalised=False).embed(map(cut, clips))
    queues = load_checkpoint(trained.checkpoint)["queues"]
    present = {m: mask for m in MODALITIES if (mask := embedded.present.get(m)) is not None}
    spaces = []
    for space in trained.network.settings.scheme.spaces:
        fitted = bool(queues.get(f"{space.name}.fitted", False))
        vectors = {
            modality: functional.normalize(part.float(), dim=1).masked_fill(~present[modality].unsqueeze(1), 0.0)
            for modality, part in embedded.vectors[space.name].items()
        }
        joint, _ = embedded.joint(space)
        ordered = {modality: vectors[modality] for modality in MODALITIES if modality in vectors}
        centroids = queues[f"{space.name}.centroids"].float() if fitted else None
        spaces.append(SpaceVectors(space.name, ordered, torch.as_tensor(joint).float(), centroids))
    return present, tuple(spaces)


MOST_DRAWN = 400
"""Clips drawn of each modality; the map itself is fitted on all that were embedded."""
_CLASS_COLOURS = (*(to_hex(colormaps["tab10"](place)) for place in range(10)), "#000000", "#7fd6c2")
_MARKERS = {"video": "o", "audio": "^", "text": "s"}


@dataclass(frozen=True)
class SpaceMap:
    """The first two principal components of a space's vectors."""

    places: dict[str, NDArray[np.float64]]
    """Modality -> [N, 2]; NaN for a clip without it."""
    shares: tuple[float, float]
    """Of the vectors' variance, that each component has."""


def space_map(space: SpaceVectors, present: dict[str, torch.Tensor], seed: int) -> SpaceMap | None:
    """PCA of all vectors of length 1 that are there, modalities together; None where they span no plane."""
    kept = {modality: present[modality].numpy() for modality in space.vectors}
    rows = np.concatenate([vectors.numpy()[kept[name]] for name, vectors in space.vectors.items()]).astype(np.float64)
    if min(rows.shape) < 3 or np.ptp(rows, axis=0).max() == 0:
        return None
    pca = PCA(n_components=2, svd_solver="randomized", random_state=seed).fit(rows)
    places = {}
    for name, vectors in space.vectors.items():
        found = pca.transform(vectors.numpy().astype(np.float64))
        places[name] = np.where(kept[name][:, None], found, np.nan)
    first, second = pca.explained_variance_ratio_.tolist()
    return SpaceMap(places, (first, second))


def map_figure(projection: SpaceMap, clips: EmbeddedClips, class_names: Sequence[str] | None) -> Drawing:
    """The map coloured by modality, or with `class_names`, the name to show for each clip's class, by step."""
    step = -(-len(clips.clips) // MOST_DRAWN)
    drawn = range(0, len(clips.clips), step)
    names = None if class_names is None else [class_names[index] for index in drawn]
    with drawing_style():
        figure = Figure(figsize=(WIDTH, 3.4 if names is None else 3.9), layout="constrained")
        axes = figure.subplots()
        rows = []
        for modality, places in projection.places.items():
            chosen = places[list(drawn)]
            shown = names or [""] * len(chosen)
            colours = {"": MODALITY_COLOURS[modality]} if names is None else _class_colours(names)
            for name, colour in colours.items():
                x, y = chosen[[other == name for other in shown]].T
                marker, label = _MARKERS[modality], name or modality
                axes.scatter(x, y, s=9, linewidths=0, alpha=0.8, color=colour, marker=marker, label=label)
            rows += [
                (modality, name, *point) for name, point in zip(shown, chosen, strict=True) if point[0] == point[0]
            ]
        axes.set_xlabel(f"first component, {100 * projection.shares[0]:.0f} % of the variance")
        axes.set_ylabel(f"second, {100 * projection.shares[1]:.0f} %")
        axes.set_aspect("equal", adjustable="datalim")
        columns = 3 if names is None else 4
        handles, labels = _legend(axes)
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, markerscale=1.5, columnspacing=1.0)
    return Drawing(figure, ("modality", "step", "first", "second"), rows)


def _class_colours(names: Sequence[str]) -> dict[str, str]:
    known = sorted(set(names) - {OTHER})
    colours = {name: _CLASS_COLOURS[index % len(_CLASS_COLOURS)] for index, name in enumerate(known)}
    return colours | ({OTHER: "#bbbbbb"} if OTHER in names else {})


def _legend(axes: Axes) -> tuple[list[Artist], list[str]]:
    # Each class has a handle for every modality: one is enough.
    handles, labels = axes.get_legend_handles_labels()
    first = {label: handle for handle, label in reversed(list(zip(handles, labels, strict=True)))}
    labels = list(dict.fromkeys(labels))
    return [first[label] for label in labels], [shortened(label, 18) for label in labels]


@dataclass(frozen=True)
class Gap:
    """How two modalities lie to one another in a space."""

    arm: str
    space: str
    pair: str
    distance: float
    """Between their mean vectors, of vectors of length 1: 0 to 2."""
    same: float
    """Mean cosine of the two vectors of one clip."""
    other: float
    """Mean cosine of the vectors of two different clips."""


def modality_gaps(arm: str, clips: EmbeddedClips) -> list[Gap]:
    """For each space and each two modalities, over the clips that have both; none where fewer than two do."""
    gaps = []
    for space in clips.spaces:
        for first, second in combinations(space.vectors, 2):
            both = clips.present[first] & clips.present[second]
            count = int(both.sum())
            if count < 2:
                continue
            one, two = space.vectors[first][both].double(), space.vectors[second][both].double()
            own = float((one * two).sum(dim=1).mean())
            # The sum over all pairs is the product of the sums: no matrix of N x N.
            every = float(one.sum(dim=0) @ two.sum(dim=0))
            gaps.append(
                Gap(
                    arm,
                    space.name,
                    f"{first}-{second}",
                    float((one.mean(dim=0) - two.mean(dim=0)).norm()),
                    own,
                    (every - count * own) / (count * (count - 1)),
                )
            )
    return gaps


def gap_figure(gaps: Sequence[Gap]) -> Drawing:
    """A bar for each arm, space and pair: the distance between the modalities' means."""
    colours = dict(zip(dict.fromkeys(gap.pair for gap in gaps), COLOURS, strict=False))
    with drawing_style():
        figure = Figure(figsize=(WIDTH, 0.8 + 0.22 * len(gaps)), layout="constrained")
        axes = figure.subplots()
        for row, gap in enumerate(gaps):
            axes.barh(row, gap.distance, color=colours[gap.pair], height=0.7)
        axes.set_yticks(
            range(len(gaps)), [f"{shortened(gap.arm, 18)}, {shortened(gap.space, 18)}: {gap.pair}" for gap in gaps]
        )
        axes.set_ylim(len(gaps) - 0.4, -0.6)
        axes.set_xlabel("distance between mean vectors")
    rows = [(gap.arm, gap.space, gap.pair, gap.distance, gap.same, gap.other) for gap in gaps]
    return Drawing(figure, ("arm", "space", "pair", "distance", "cosine, same clip", "cosine, other clip"), rows)


def gap_table(gaps: Sequence[Gap]) -> Table:
    """The gaps, beside how alike the vectors of one clip and of two clips are."""
    rows = tuple(
        (gap.arm, gap.space, gap.pair, f"{gap.distance:.3f}", f"{gap.same:.3f}", f"{gap.other:.3f}") for gap in gaps
    )
    notes = ("Of vectors of length 1: a gap of 0 means equal means, 2 opposite ones. Cosines are means over clips.",)
    return Table(
        "Modality gap", ("arm", "space", "pair", "gap", "cosine, same clip", "cosine, other clips"), rows, notes
    )
