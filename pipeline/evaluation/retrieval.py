"""`mcn evaluate retrieval`: find the held-out clip, or video, that a text, a sound or a picture belongs to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from extractors.text import words
from models import Embeddings
from pipeline.core.config import as_plain
from pipeline.core.errors import InputError
from pipeline.core.provenance import circumstance
from pipeline.core.report import StageReport
from pipeline.evaluation.clip_list import LabelledClip, clips_digest, cut_out, of_split, read_clips
from pipeline.evaluation.results import digest_of, found_again, publish
from pipeline.evaluation.retrieval_tables import headline_text, tables
from pipeline.metrics.directions import Direction, directions, is_headline
from pipeline.metrics.ranking import Positions, Side, ranked
from pipeline.metrics.retrieval import MOST_VIDEOS, full_video
from pipeline.metrics.retrieval_metrics import CUTOFFS, retrieval_metrics
from pipeline.training.trained_model import TrainedModel, open_trained

FILE = "retrieval.json"
MOST_EXAMPLES = 64
EXAMPLE_LENGTH = 5


@dataclass(frozen=True)
class RetrievalSettings:
    """What `mcn evaluate retrieval` can be told."""

    checkpoint: Path
    """Trained model: a checkpoint file or the folder it lies in."""
    clips: Path
    """csv video_id,start,end,text: each line is a query (its text) and a candidate (its clip)."""
    out: Path
    """Folder for retrieval.json, retrieval.md and retrieval.tex."""
    manifest: Path | None = None
    """Manifest of `mcn freeze`; default: the one the model was trained on."""
    split: str = "heldout"
    """Clips of which videos: a split of the manifest, heldout (every split whose name begins so), or all."""
    directions: Literal["all", "headline"] = "all"
    """What finds what: every pair of modalities that shares a space; or text -> video alone, for which no sound is
    read."""
    published_ties: bool = False
    """Count tied positions as the published scripts do, each as a further hit, so that a recall can exceed 100 %."""
    bootstrap: int = 2000
    """Draws of the 95 % interval over videos."""
    seed: int = 0
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        if self.bootstrap < 1 or self.seed < 0:
            raise ValueError("bootstrap must be at least 1, seed at least 0")


def run(settings: RetrievalSettings) -> StageReport:
    """Rank clips and videos in every direction; the headline is text -> video, video alone, for every scheme."""
    report = StageReport("evaluate retrieval", unit="clip")
    model = open_trained(settings.checkpoint, settings.manifest)
    inputs = _inputs(settings, model)
    if found_again(report, settings.out / FILE, inputs):
        _print(report.detail, settings)
        return report
    clips = of_split(read_clips(settings.clips, "text"), model, settings.split, settings.clips, report)
    ways = _directions(settings, model)
    if not is_headline(ways[0]):
        report.notes.append(
            f"scheme {model.network.settings.scheme.name} never contrasts text with video: no headline score, "
            f"{ways[0].name} comes first"
        )
    embedded = _embed(model, clips, ways)
    owners = [clip.clip.video_id for clip in clips]
    scored = [_scored(way, embedded, owners, settings) for way in ways]
    report.done = len(clips)
    report.detail = {
        **{key: scored[0][key] for key in ("direction", "space", "headline", "metrics", "missing", "videos")},
        "directions": [{key: value for key, value in way.items() if key != "videos"} for way in scored],
        "full video": _full_video(ways[0], embedded, owners, settings, report),
        "published ties": settings.published_ties,
        "clips digest": clips_digest(clips),
        **model.provenance(),
        "inputs": inputs,
        "circumstance": circumstance("cpu"),
        "settings": as_plain(settings),
        "examples": _examples(clips, ways[0].queries(embedded), ways[0].candidates(embedded)),
    }
    publish(report, settings.out / FILE, tables(report.detail))
    _print(report.detail, settings)
    return report


def _print(detail: Mapping[str, Any], settings: RetrievalSettings) -> None:
    print(headline_text(detail))
    print(f"  all directions, and whole videos: {(settings.out / FILE).with_suffix('.md')}")


def _directions(settings: RetrievalSettings, model: TrainedModel) -> list[Direction]:
    ways = directions(model.network.settings.scheme)
    if settings.directions == "all":
        return ways
    if not is_headline(ways[0]):
        scheme = model.network.settings.scheme.name
        raise InputError(f"{settings.checkpoint}: scheme {scheme} never contrasts text with video: no headline score")
    return ways[:1]


def _embed(model: TrainedModel, clips: Sequence[LabelledClip], ways: Sequence[Direction]) -> Embeddings:
    # Sound that is neither asked nor searched needs not be read.
    heard = any("audio" in way.query + way.candidate for way in ways)
    rules = model.rules if heard else model.rules.without_sound()

    cut = (cut_out(model, c.clip.video_id, c.clip.start, c.clip.end, words(c.label), rules) for c in clips)
    return model.embed(cut, rules)


def _scored(way: Direction, embedded: Embeddings, owners: Sequence[str], settings: RetrievalSettings) -> dict[str, Any]:
    queries, candidates = way.queries(embedded), way.candidates(embedded)
    where = _ranked(queries, candidates, settings)
    metrics = retrieval_metrics(where, owners, settings.bootstrap, settings.seed, settings.published_ties)
    return {
        "direction": way.name,
        "space": way.space,
        "contrasted": way.contrasted,
        "headline": is_headline(way),
        "metrics": metrics.as_json(),
        "videos": _by_video(where, owners),
        "missing": {"queries": int((~queries.present).sum()), "candidates": int((~candidates.present).sum())},
    }


def _by_video(where: Positions, owners: Sequence[str]) -> dict[str, dict[str, float]]:
    """Each video's queries and their summed hits: by these, two models are compared on the same videos."""
    names, owner = np.unique(np.asarray(owners), return_inverse=True)
    columns = {"queries": np.bincount(owner)} | {f"R@{k}": np.bincount(owner, weights=where.hits(k)) for k in CUTOFFS}
    return {
        name: {key: float(sums[place]) for key, sums in columns.items()} for place, name in enumerate(names.tolist())
    }


def _ranked(queries: Side, candidates: Side, settings: RetrievalSettings) -> Positions:
    try:
        return ranked(queries, candidates)
    except ValueError as error:
        raise InputError(f"{settings.checkpoint}: {error}; the model is broken, train it again") from None


def _full_video(
    way: Direction, embedded: Embeddings, owners: Sequence[str], settings: RetrievalSettings, report: StageReport
) -> dict[str, Any]:
    """Rule -> metrics of finding whole videos; nothing where each video has one clip."""
    videos = len(set(owners))
    if videos == len(owners):
        return {}
    if videos > MOST_VIDEOS:
        report.notes.append(f"{videos} videos: scores of whole videos are left out, which go to {MOST_VIDEOS}")
        return {}
    found = full_video(way.queries(embedded), way.candidates(embedded), owners)

    def metrics(where: Positions, owners: Sequence[str]) -> dict[str, Any]:
        return retrieval_metrics(
            where, owners, settings.bootstrap, settings.seed, settings.published_ties, candidates=videos
        ).as_json()

    by_votes = {
        kind: {f"R@{k}": metrics(votes[k], found.video_ids)["recall"][f"R@{k}"] for k in CUTOFFS}
        for kind, votes in (("votes for videos", found.video_votes), ("votes for clips", found.clip_votes))
    }
    return {
        "one caption": metrics(found.caption, owners),
        "caption average": metrics(found.caption_average, found.video_ids),
        **{kind: {"recall": recall} for kind, recall in by_votes.items()},
        "videos": videos,
    }


def _inputs(settings: RetrievalSettings, model: TrainedModel) -> dict[str, Any]:
    """What the scores follow from: equal inputs need no second evaluation."""
    return {
        "checkpoint": model.digest,
        "clips": digest_of(settings.clips, "a csv video_id,start,end,text"),
        "manifest": model.dataset.manifest.digest,
        **{name: as_plain(settings)[name] for name in ("split", "directions", "published_ties", "bootstrap", "seed")},
    }


def _examples(clips: Sequence[LabelledClip], queries: Side, candidates: Side) -> list[dict[str, Any]]:
    """For some queries, spread over the list, their best clips, best first: what a page shows."""

    def place(index: int) -> dict[str, Any]:
        clip = clips[index].clip
        return {"video_id": clip.video_id, "start": clip.start, "end": clip.end, "text": clips[index].label}

    examples = []
    for index in range(0, len(clips), -(-len(clips) // MOST_EXAMPLES)):
        scores = candidates.vectors @ queries.vectors[index]
        scores[~candidates.present] = -torch.inf
        best = scores.sort(descending=True, stable=True).indices[:EXAMPLE_LENGTH].tolist()
        found = best if queries.present[index] else []
        examples.append(place(index) | {"found": [place(i) | {"right": i == index} for i in found]})
    return examples
