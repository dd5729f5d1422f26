"""What a space's clusters hold: how many clips, of which step, with which words; and their nearest clips."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sklearn.metrics import adjusted_mutual_info_score
from torch.nn import functional

from extractors.text import words
from pipeline.core.tables import Table, percent
from pipeline.evaluation.lists import LabelledClip
from pipeline.experiment.report.methods import ShownNames
from pipeline.experiment.report.spaces import EmbeddedClips, SpaceVectors

SHOWN = 8
"""Clusters, the largest first."""
WORDS = 5
NEAREST = 2
"""Clips whose frames are shown."""
_LEAST = 2
"""Clips of a cluster that must say a word."""


@dataclass(frozen=True)
class Cluster:
    """One cluster and the clips nearest to its centroid among all centroids."""

    number: int
    size: int
    """Clips."""
    step: str
    """The commonest class among them; of equally common ones, the first by name."""
    share: float
    """Of the clips that are of this class."""
    words: tuple[str, ...]
    """By lift: how much commoner among the cluster's clips than among all, those that are; said in two of its clips at
    least."""
    nearest: tuple[LabelledClip, ...]
    """The clips nearest to the centroid, by cosine."""


@dataclass(frozen=True)
class Clusters:
    """Of one space."""

    space: str
    number: int
    """Clusters there are."""
    used: int
    """Those that have any of the clips."""
    agreement: float
    """Adjusted mutual information with the steps' classes: 1 the same groups, 0 as by chance."""
    largest: tuple[Cluster, ...]


def cluster_contents(space: SpaceVectors, clips: EmbeddedClips) -> Clusters | None:
    """The contents of a space's clusters; None where training made none. Clips that lack every modality are in none."""
    if space.centroids is None:
        return None
    likeness = functional.normalize(space.joint, dim=1) @ functional.normalize(space.centroids, dim=1).T
    labels = space.clusters().tolist()
    present = [index for index, row in enumerate(space.joint) if bool(row.any())]
    members: dict[int, list[int]] = {}
    for index in present:
        members.setdefault(labels[index], []).append(index)
    words_of = [frozenset(words(clip.label)) for clip in clips.clips]
    everywhere = Counter(word for index in present for word in words_of[index])
    ordered = sorted(members.items(), key=lambda item: (-len(item[1]), item[0]))
    largest = []
    for number, own in ordered[:SHOWN]:
        steps = sorted(Counter(clips.classes[index] for index in own).items(), key=lambda item: (-item[1], item[0]))
        nearest = sorted(own, key=lambda index: (-float(likeness[index, number]), index))[:NEAREST]
        largest.append(
            Cluster(
                number,
                len(own),
                steps[0][0],
                steps[0][1] / len(own),
                _by_lift([words_of[index] for index in own], everywhere, len(present)),
                tuple(clips.clips[index] for index in nearest),
            )
        )
    agreement = adjusted_mutual_info_score([clips.classes[p] for p in present], [labels[p] for p in present])
    return Clusters(space.name, len(space.centroids), len(members), float(agreement), tuple(largest))


def cluster_table(arm: str, clusters: Clusters, names: ShownNames) -> Table:
    """The largest clusters, a line each; without words in a public report."""
    columns = ("cluster", "clips", "commonest step", "share, %") + (() if names.public else ("words by lift",))
    rows = tuple(
        (
            str(cluster.number),
            str(cluster.size),
            names.step_class(cluster.step),
            percent(cluster.share),
            *(() if names.public else (", ".join(cluster.words) or "–",)),
        )
        for cluster in clusters.largest
    )
    notes = (
        f"{clusters.used} of {clusters.number} clusters hold any of the clips; the {len(clusters.largest)} largest are "
        f"shown. Adjusted mutual information of clusters and steps: {clusters.agreement:.2f} (1: the same groups; "
        "0: as by chance).",
    )
    return Table(f"Clusters of {arm}, space {clusters.space}", columns, rows, notes)


def _by_lift(own: Sequence[Collection[str]], everywhere: Mapping[str, int], clips: int) -> tuple[str, ...]:
    here = Counter(word for said in own for word in said)
    lifts = {word: (count / len(own)) / (everywhere[word] / clips) for word, count in here.items() if count >= _LEAST}
    distinctive = [word for word, lift in lifts.items() if lift > 1]
    return tuple(sorted(distinctive, key=lambda word: (-lifts[word], -here[word], word))[:WORDS])
