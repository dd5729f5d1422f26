"""Spaces drawn: a map of the clips by modality and by step, and how far apart the modalities lie."""

from collections.abc import Sequence
from dataclasses import dataclass
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

from pipeline.core.figures import COLOURS, MODALITY_COLOURS, Drawing, drawing_style, shortened
from pipeline.core.tables import Table
from pipeline.experiment.report.embedded_clips import OTHER, EmbeddedClips, SpaceVectors
from pipeline.experiment.report.score_figures import WIDTH

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


def map_figure(found: SpaceMap, clips: EmbeddedClips, class_names: Sequence[str] | None) -> Drawing:
    """The map coloured by modality, or with `class_names`, the name to show for each clip's class, by step."""
    step = -(-len(clips.clips) // MOST_DRAWN)
    drawn = range(0, len(clips.clips), step)
    names = None if class_names is None else [class_names[place] for place in drawn]
    with drawing_style():
        figure = Figure(figsize=(WIDTH, 3.4 if names is None else 3.9), layout="constrained")
        axes = figure.subplots()
        rows = []
        for modality, places in found.places.items():
            chosen = places[list(drawn)]
            if names is None:
                _dots(axes, chosen, MODALITY_COLOURS[modality], _MARKERS[modality], modality)
            else:
                _by_class(axes, chosen, names, _MARKERS[modality])
            shown = names or [""] * len(chosen)
            rows += [
                (modality, name, *place) for name, place in zip(shown, chosen, strict=True) if place[0] == place[0]
            ]
        axes.set_xlabel(f"first component, {100 * found.shares[0]:.0f} % of the variance")
        axes.set_ylabel(f"second, {100 * found.shares[1]:.0f} %")
        axes.set_aspect("equal", adjustable="datalim")
        columns = 3 if names is None else 4
        handles, labels = _legend(axes)
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, markerscale=1.5, columnspacing=1.0)
    return Drawing(figure, ("modality", "step", "first", "second"), rows)


def _by_class(axes: Axes, places: NDArray[np.float64], names: Sequence[str], marker: str) -> None:
    for name, colour in _class_colours(names).items():
        own = places[[shown == name for shown in names]]
        _dots(axes, own, colour, marker, name)


def _dots(axes: Axes, places: NDArray[np.float64], colour: str, marker: str, label: str) -> None:
    axes.scatter(places[:, 0], places[:, 1], s=9, linewidths=0, alpha=0.8, color=colour, marker=marker, label=label)


def _class_colours(names: Sequence[str]) -> dict[str, str]:
    known = sorted(set(names) - {OTHER})
    return {name: _CLASS_COLOURS[place % len(_CLASS_COLOURS)] for place, name in enumerate(known)} | (
        {OTHER: "#bbbbbb"} if OTHER in names else {}
    )


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
    found = []
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
            found.append(
                Gap(
                    arm,
                    space.name,
                    f"{first}-{second}",
                    float((one.mean(dim=0) - two.mean(dim=0)).norm()),
                    own,
                    (every - count * own) / (count * (count - 1)),
                )
            )
    return found


def gap_figure(gaps: Sequence[Gap]) -> Drawing:
    """A bar for each arm, space and pair: the distance between the modalities' means."""
    colours = dict(zip(dict.fromkeys(gap.pair for gap in gaps), COLOURS, strict=False))
    with drawing_style():
        figure = Figure(figsize=(WIDTH, 0.8 + 0.22 * len(gaps)), layout="constrained")
        axes = figure.subplots()
        for place, gap in enumerate(gaps):
            axes.barh(place, gap.distance, color=colours[gap.pair], height=0.7)
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
