"""`mcn evaluate retrieval`: find the held-out clip, or video, that a text, a sound or a picture belongs to."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from extractors.text import words
from models.clips import Embeddings
from pipeline.core.errors import InputError
from pipeline.core.reporting import RunSummary
from pipeline.core.tables import Table, percent, percent_interval
from pipeline.evaluation.evaluate import digest_of, evaluate, scores_of, trained_on
from pipeline.evaluation.lists import LabelledClip, clips_digest, clips_of_split, cut_out, read_clips
from pipeline.evaluation.settings import RetrievalSettings
from pipeline.metrics.ranking import Direction, Positions, Side, directions, is_headline, ranked
from pipeline.metrics.retrieval import CUTOFFS, MOST_VIDEOS, full_video, retrieval_metrics
from pipeline.training.checkpoint import TrainedModel

RECALLS = tuple(f"R@{k}" for k in CUTOFFS)


def headline_text(detail: Mapping[str, Any]) -> str:
    """The headline's scores as lines of text, beside chance, with what they stand on."""
    metrics = detail["metrics"]
    head = f"{detail['direction']}, {metrics['queries']} clips of {metrics['videos']} videos"
    lines = [f"{head:<44}{'score':>8}{'95 % interval':>18}{'chance':>9}"]

    def line(name: str, score: Mapping[str, float], chance: float, scale: float, unit: str) -> str:
        value, low, high = (scale * score[key] for key in ("value", "low", "high"))
        return f"  {name:<42}{value:>8.1f}{f'{low:.1f} - {high:.1f}':>18}{scale * chance:>9.1f}{unit}"

    lines += [line(name, metrics["recall"][name], metrics["chance"][name], 100.0, " %") for name in RECALLS]
    lines.append(line("median rank", metrics["median_rank"], metrics["chance_median_rank"], 1.0, ""))
    return "\n".join([*lines, f"  {trained_on(detail)}"])


def tables(detail: Mapping[str, Any]) -> list[Table]:
    """A table of all directions; and one of whole videos where they were scored."""
    metrics = detail["metrics"]
    notes = [trained_on(detail)]
    if detail["published ties"]:
        notes.append("Ties are counted as in the published scripts: each tied position is a further hit.")
    columns = ("direction", "space", *RECALLS, "R@5, 95 %", "median rank", "mean rank", "missing")
    rows = [_row(way) for way in detail["directions"]]
    chance = [percent(metrics["chance"][name]) for name in RECALLS]
    middle = f"{metrics['chance_median_rank']:.1f}"
    rows.append(("chance", "", *chance, "", middle, middle, ""))
    starred = not all(way["contrasted"] for way in detail["directions"])
    marked = [*notes, *(["* this pair is not contrasted in training"] if starred else [])]
    marked.append("missing: queries / candidates without the modality")
    title = (
        f"Retrieval, {metrics['queries']} clips of {metrics['videos']} videos, scheme {detail['scheme']}; in percent"
    )
    shown = [Table(title, columns, tuple(rows), tuple(marked))]
    if detail["full video"]:
        shown.append(_whole_videos(detail, notes))
    return shown


def _recalls(metrics: Mapping[str, Any]) -> tuple[str, ...]:
    """Cells of the recalls, and of the interval of R@5."""
    recall = metrics["recall"]
    return (*(percent(recall[name]["value"]) for name in RECALLS), percent_interval(recall["R@5"]))


def _row(way: Mapping[str, Any]) -> tuple[str, ...]:
    metrics, missing = way["metrics"], way["missing"]
    return (
        way["direction"] + ("" if way["contrasted"] else " *"),
        way["space"],
        *_recalls(metrics),
        f"{metrics['median_rank']['value']:.1f}",
        f"{metrics['mean_rank']['value']:.1f}",
        f"{missing['queries']} / {missing['candidates']}",
    )


def _whole_videos(detail: Mapping[str, Any], notes: list[str]) -> Table:
    whole = detail["full video"]
    rows = []
    for rule in ("one caption", "caption average", "votes for videos", "votes for clips"):
        score = whole[rule]
        median = f"{score['median_rank']['value']:.1f}" if "median_rank" in score else ""
        rows.append((rule, *_recalls(score), median))
    chance = whole["caption average"]
    by_chance = [percent(chance["chance"][name]) for name in RECALLS]
    rows.append(("chance", *by_chance, "", f"{chance['chance_median_rank']:.1f}"))
    title = f"{detail['direction']}, {whole['videos']} whole videos, scheme {detail['scheme']}; in percent"
    return Table(title, ("rule", *RECALLS, "R@5, 95 %", "median rank"), tuple(rows), tuple(notes))


FILE = "retrieval.json"
MOST_EXAMPLES = 64
EXAMPLE_LENGTH = 5


def run(settings: RetrievalSettings) -> RunSummary:
    """Rank clips and videos in every direction; the headline is text -> video, video alone, for every scheme."""
    report = RunSummary("evaluate retrieval", unit="clip")
    inputs = {
        "clips": digest_of(settings.clips, "a csv video_id,start,end,text"),
        "directions": settings.directions,
        "published_ties": settings.published_ties,
    }

    def text(detail: Mapping[str, Any]) -> str:
        all_tables = (settings.out / FILE).with_suffix(".md")
        return f"{headline_text(detail)}\n  all directions, and whole videos: {all_tables}"

    return evaluate(report, settings, FILE, inputs, lambda model: _measured(settings, model, report), tables, text)


def _measured(settings: RetrievalSettings, model: TrainedModel, report: RunSummary) -> dict[str, Any]:
    clips = clips_of_split(read_clips(settings.clips, "text", report), model, settings.split, settings.clips, report)
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
    return {
        **{key: scored[0][key] for key in ("direction", "space", "headline", "metrics", "missing", "videos")},
        "directions": [{key: value for key, value in way.items() if key != "videos"} for way in scored],
        "full video": _full_video(ways[0], embedded, owners, settings, report),
        "published ties": settings.published_ties,
        "clips digest": clips_digest(clips),
        "examples": _examples(clips, ways[0].queries(embedded), ways[0].candidates(embedded)),
    }


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
    with scores_of(settings.checkpoint):
        where = ranked(queries, candidates)
    metrics = retrieval_metrics(where, owners, settings.bootstrap, settings.seed, settings.published_ties)
    return {
        "direction": way.name,
        "space": way.space,
        "contrasted": way.contrasted,
        "headline": is_headline(way),
        "metrics": asdict(metrics),
        "videos": _by_video(where, owners),
        "missing": {"queries": int((~queries.present).sum()), "candidates": int((~candidates.present).sum())},
    }


def _by_video(where: Positions, owners: Sequence[str]) -> dict[str, dict[str, float]]:
    """Each video's queries and their summed hits: by these, two models are compared on the same videos."""
    names, owner = np.unique(np.asarray(owners), return_inverse=True)
    columns = {"queries": np.bincount(owner)} | {f"R@{k}": np.bincount(owner, weights=where.hits(k)) for k in CUTOFFS}
    return {
        name: {key: float(sums[index]) for key, sums in columns.items()} for index, name in enumerate(names.tolist())
    }


def _full_video(
    way: Direction, embedded: Embeddings, owners: Sequence[str], settings: RetrievalSettings, report: RunSummary
) -> dict[str, Any]:
    """Rule -> metrics of finding whole videos; nothing where each video has one clip."""
    videos = len(set(owners))
    if videos == len(owners):
        return {}
    if videos > MOST_VIDEOS:
        report.notes.append(f"{videos} videos: scores of whole videos are left out, which go to {MOST_VIDEOS}")
        return {}
    ranks = full_video(way.queries(embedded), way.candidates(embedded), owners)

    def metrics(where: Positions, owners: Sequence[str]) -> dict[str, Any]:
        draws = (settings.bootstrap, settings.seed, settings.published_ties)
        return asdict(retrieval_metrics(where, owners, *draws, candidates=videos))

    by_votes = {
        kind: {f"R@{k}": metrics(votes[k], ranks.video_ids)["recall"][f"R@{k}"] for k in CUTOFFS}
        for kind, votes in (("votes for videos", ranks.video_votes), ("votes for clips", ranks.clip_votes))
    }
    return {
        "one caption": metrics(ranks.caption, owners),
        "caption average": metrics(ranks.caption_average, ranks.video_ids),
        **{kind: {"recall": recall} for kind, recall in by_votes.items()},
        "videos": videos,
    }


def _examples(clips: Sequence[LabelledClip], queries: Side, candidates: Side) -> list[dict[str, Any]]:
    """For some queries, spread over the list, their best clips, best first: what a page shows."""

    def described(index: int) -> dict[str, Any]:
        clip = clips[index].clip
        return {"video_id": clip.video_id, "start": clip.start, "end": clip.end, "text": clips[index].label}

    examples = []
    for index in range(0, len(clips), -(-len(clips) // MOST_EXAMPLES)):
        scores = candidates.vectors @ queries.vectors[index]
        scores[~candidates.present] = -torch.inf
        best = scores.sort(descending=True, stable=True).indices[:EXAMPLE_LENGTH].tolist()
        retrieved = best if queries.present[index] else []
        examples.append(described(index) | {"found": [described(i) | {"right": i == index} for i in retrieved]})
    return examples
