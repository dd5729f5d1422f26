"""Context against content: what a clip's nearest clips share with it, its own video or its task.

Shapes: N clips, D width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.records import Clip
from pipeline.evaluation.probe.clips import INPUT, ClipVectors
from pipeline.evaluation.settings import Draws
from pipeline.metrics.intervals import bootstrap

MOST_QUERIES = 2000
MEASURES = ("same video", "same video within task", "same task")
RATIO = "context over content"
_BLOCK = 256

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Neighbourhood:
    """N clips among which each asks for those like it."""

    videos: NDArray[Any]
    """[N]."""
    tasks: NDArray[Any]
    """[N], empty where none is known."""
    starts: NDArray[np.float64]
    """[N], seconds."""
    ends: NDArray[np.float64]
    """[N], seconds."""
    apart: float
    """Clips of the query's video that are less than so many seconds before or after it are no candidates."""

    def right_and_searched(self, measure: str, query: NDArray[np.int64]) -> tuple[Mask, Mask]:
        """[Q, N] each: which clips are right answers, and which are searched at all, for these queries.

        `same video`: among all clips, but for the query's neighbours in time. `same video within task`: among those of
        the query's task alone, so that the task tells nothing. `same task`: other videos of it, among other videos.
        """
        own = self.videos[query][:, None] == self.videos
        task = (self.tasks[query][:, None] == self.tasks) & (self.tasks != "")
        if measure == "same task":
            return task & ~own, ~own
        gap = np.maximum(self.starts - self.ends[query][:, None], self.starts[query][:, None] - self.ends)
        far = ~own | (gap >= self.apart)
        return own & far, far & (task if measure == "same video within task" else True)


def neighbourhood(clips: Sequence[Clip], tasks: Sequence[str], apart: float) -> Neighbourhood:
    """The clips with their tasks."""
    return Neighbourhood(
        np.array([clip.video_id for clip in clips]),
        np.array(tasks),
        np.array([clip.start for clip in clips], np.float64),
        np.array([clip.end for clip in clips], np.float64),
        apart,
    )


def average_precision(order: Mask) -> NDArray[np.float64]:
    """Of rankings [Q, M] of right and wrong answers, best first: the mean precision at the right ones; NaN without."""
    right = order.cumsum(axis=1)
    precision = right / np.arange(1, order.shape[1] + 1)
    count = right[:, -1]
    total = (precision * order).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def chance_precision(right: NDArray[np.int64], searched: NDArray[np.int64]) -> NDArray[np.float64]:
    """Expected average precision of a random order with `right` of `searched` answers right, exactly; NaN without any.

    (H + (r - 1) / (n - 1) (n - H)) / n with H the n-th harmonic number: by the chance that place k is right and how
    many of those before it are.
    """
    most = int(searched.max(initial=0))
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, most + 1))])[searched]
    others = (right - 1) / np.maximum(searched - 1, 1)
    expected = (harmonic + others * (searched - harmonic)) / np.maximum(searched, 1)
    return np.where(right > 0, expected, np.nan)


def context_scores(clips: ClipVectors, among: Neighbourhood, draws: Draws) -> Iterator[dict[str, Any]]:
    """For the input features and each space of each modality what nearness means, as JSON values.

    Clips are compared by cosine, ties in random order. At most 2,000 clips ask, drawn by chance.
    """
    for modality in clips.modalities:
        rows = np.flatnonzero(clips.present[modality])
        some = Neighbourhood(among.videos[rows], among.tasks[rows], among.starts[rows], among.ends[rows], among.apart)
        for space in (INPUT, *clips.spaces_of(modality)):
            figures = _nearness(clips.vectors[space, modality][rows], some, draws)
            if figures:
                yield {"space": space, "modality": modality, "clips": len(rows), **figures}


def _nearness(vectors: NDArray[np.float32], among: Neighbourhood, draws: Draws) -> dict[str, Any]:
    random = np.random.default_rng([draws.seed, 4])
    count = len(vectors)
    queries = np.sort(random.choice(count, MOST_QUERIES, replace=False)) if count > MOST_QUERIES else np.arange(count)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions = vectors / np.maximum(length, 1e-12)
    columns: dict[str, list[NDArray[np.float64]]] = {f"{m} {c}": [] for m in MEASURES for c in ("found", "chance")}
    for first in range(0, len(queries), _BLOCK):
        block = queries[first : first + _BLOCK]
        cosines = directions[block] @ directions.T
        # A random order that a stable sort keeps among equals.
        shuffled = random.permutation(count)
        best = shuffled[np.argsort(-cosines[:, shuffled], axis=1, kind="stable")]
        for measure in MEASURES:
            right, searched = among.right_and_searched(measure, block)
            columns[f"{measure} found"].append(_precision(best, right, searched))
            columns[f"{measure} chance"].append(chance_precision(right.sum(axis=1), searched.sum(axis=1)))
    values = {name: np.concatenate(parts) for name, parts in columns.items()}
    return _figures(values, among.videos[queries].tolist(), draws)


def _precision(best: NDArray[np.int64], right: Mask, searched: Mask) -> NDArray[np.float64]:
    ranked = np.take_along_axis(searched, best, axis=1)
    order = np.take_along_axis(right & searched, best, axis=1)
    # Clips that aren't searched go last, where they change no precision.
    kept = np.argsort(~ranked, axis=1, kind="stable")
    return average_precision(np.take_along_axis(order, kept, axis=1))


def _figures(values: dict[str, NDArray[np.float64]], owners: list[str], draws: Draws) -> dict[str, Any]:
    """Means over queries that have a right answer, their chance, how many times chance that is, and the ratio."""
    answerable = {m: ~np.isnan(values[f"{m} found"]) for m in MEASURES}
    measures = [
        m for m in MEASURES if len({o for o, counted in zip(owners, answerable[m], strict=True) if counted}) > 1
    ]
    both = {"same video within task", "same task"} <= set(measures)

    def statistics(drawn: NDArray[np.int64]) -> list[float]:
        scores, lifts = [], {}
        for measure in measures:
            rows = drawn[answerable[measure][drawn]]
            # A draw of videos none of which has a question is worth chance.
            mean = float(values[f"{measure} found"][rows].mean()) if len(rows) else 0.0
            chance = float(values[f"{measure} chance"][rows].mean()) if len(rows) else 0.0
            lifts[measure] = mean / chance if chance else 1.0
            scores += [mean, lifts[measure]]
        return [*scores, lifts["same video within task"] / max(lifts["same task"], 1e-12)] if both else scores

    if not measures:
        return {}
    intervals = bootstrap(statistics, owners, draws.bootstrap, draws.seed)
    figures: dict[str, Any] = {
        measure: {
            "average precision": asdict(intervals[2 * index]),
            "chance": float(np.nanmean(values[f"{measure} chance"])),
            "times chance": asdict(intervals[2 * index + 1]),
            "queries": int(answerable[measure].sum()),
        }
        for index, measure in enumerate(measures)
    }
    return figures | ({RATIO: asdict(intervals[-1])} if both else {})
