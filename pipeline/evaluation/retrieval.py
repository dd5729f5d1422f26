"""`mcn evaluate retrieval`: find the held-out clip, or video, that a text, a sound or a picture belongs to.

Shapes: N captions of M clips; a clip of several captions is one candidate. D width of a space.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from extractors.text import words
from models.clips import Embeddings, concatenate
from pipeline.core.errors import InputError
from pipeline.core.records import Clip
from pipeline.core.reporting import RunSummary
from pipeline.core.tables import Table, percent, percent_interval
from pipeline.evaluation.evaluate import digest_of, evaluate, scores_of, trained_on
from pipeline.evaluation.lists import LabelledClip, clips_digest, clips_of_split, cut_out, read_clips
from pipeline.evaluation.settings import RetrievalSettings
from pipeline.metrics.ranking import Direction, Positions, Side, directions, is_headline, ranked
from pipeline.metrics.retrieval import CUTOFFS, MOST_VIDEOS, Chance, full_video, retrieval_metrics
from pipeline.training.checkpoint import BATCH_CLIPS, TrainedModel

RECALLS = tuple(f"R@{k}" for k in CUTOFFS)


def asked(detail: Mapping[str, Any]) -> str:
    """What was asked, for people: `72 clips of 14 videos`, or `1,440 captions of 72 clips of 14 videos`."""
    queries = detail["metrics"]["queries"]
    # Results of version 0.1.0 don't say: a candidate then was a line of the list.
    clips = detail.get("clips", queries)
    captions = f"{queries:,} captions of " if queries != clips else ""
    return f"{captions}{clips:,} clips of {detail['metrics']['videos']:,} videos"


def headline_text(detail: Mapping[str, Any]) -> str:
    """The headline's scores as lines of text, beside chance, with what they stand on."""
    metrics = detail["metrics"]
    head = f"{detail['direction']}, {asked(detail)}"
    width = max(42, len(head))
    lines = [f"{head:<{width + 2}}{'score':>8}{'95 % interval':>18}{'chance':>9}"]

    def line(name: str, score: Mapping[str, float], chance: float, scale: float, unit: str) -> str:
        value, low, high = (scale * score[key] for key in ("value", "low", "high"))
        return f"  {name:<{width}}{value:>8.1f}{f'{low:.1f} - {high:.1f}':>18}{scale * chance:>9.1f}{unit}"

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
    rows.append(_chance_row("chance", metrics))
    if several := [way for way in detail["directions"] if "chance mean rank" in way]:
        rows.append(_chance_row("chance, -> text", several[0]["metrics"], several[0]["chance mean rank"]))
    starred = not all(way["contrasted"] for way in detail["directions"])
    marked = [*notes, *(["* this pair is not contrasted in training"] if starred else [])]
    marked.append("missing: queries / candidates without the modality")
    title = f"Retrieval, {asked(detail)}, scheme {detail['scheme']}; in percent"
    shown = [Table(title, columns, tuple(rows), tuple(marked))]
    if detail["full video"]:
        shown.append(_whole_videos(detail, notes))
    return shown


def _recalls(metrics: Mapping[str, Any]) -> tuple[str, ...]:
    """Cells of the recalls, and of the interval of R@5."""
    recall = metrics["recall"]
    return (*(percent(recall[name]["value"]) for name in RECALLS), percent_interval(recall["R@5"]))


def _chance_row(name: str, metrics: Mapping[str, Any], mean: float | None = None) -> tuple[str, ...]:
    """`mean`: chance of the mean rank where it isn't that of the median."""
    median = metrics["chance_median_rank"]
    recalls = [percent(metrics["chance"][cutoff]) for cutoff in RECALLS]
    return (name, "", *recalls, "", f"{median:.1f}", f"{median if mean is None else mean:.1f}", "")


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


@dataclass(frozen=True)
class Captions:
    """N captions, as listed, and the M different clips that they describe, in the order of their first captions."""

    captions: tuple[LabelledClip, ...]
    clips: tuple[Clip, ...]
    clip_of: tuple[int, ...]
    """[N]: the clip of each caption."""

    @classmethod
    def of(cls, captions: Sequence[LabelledClip]) -> "Captions":
        """Captions whose video, start and end agree are of one clip."""
        number_of: dict[Clip, int] = {}
        clip_of = tuple(number_of.setdefault(caption.clip, len(number_of)) for caption in captions)
        return cls(tuple(captions), tuple(number_of), clip_of)

    @property
    def first(self) -> tuple[int, ...]:
        """[M]: each clip's first caption."""
        firsts = {clip: caption for caption, clip in reversed(list(enumerate(self.clip_of)))}
        return tuple(firsts[clip] for clip in range(len(self.clips)))


def run(settings: RetrievalSettings) -> RunSummary:
    """Rank clips and videos in every direction; the headline is text -> video, video alone, for every scheme."""
    report = RunSummary("evaluate retrieval", unit="clip")
    inputs = {
        "clips": digest_of(settings.clips, "a csv video_id,start,end,text"),
        "directions": settings.directions,
        "published_ties": settings.published_ties,
    }
    listed = read_clips(settings.clips, "text", report)
    if len({caption.clip for caption in listed}) < len(listed):
        # Where each clip has one caption, results of version 0.1.0 stand; others took each line for a candidate.
        inputs["candidates"] = "different clips"

    def text(detail: Mapping[str, Any]) -> str:
        all_tables = (settings.out / FILE).with_suffix(".md")
        return f"{headline_text(detail)}\n  all directions, and whole videos: {all_tables}"

    def measure(model: TrainedModel) -> dict[str, Any]:
        captions = clips_of_split(listed, model, settings.split, settings.clips, report)
        return _measured(settings, model, Captions.of(captions), report)

    return evaluate(report, settings, FILE, inputs, measure, tables, text)


def _measured(settings: RetrievalSettings, model: TrainedModel, listed: Captions, report: RunSummary) -> dict[str, Any]:
    ways = _directions(settings, model)
    if not is_headline(ways[0]):
        report.notes.append(
            f"scheme {model.network.settings.scheme.name} never contrasts text with video: no headline score, "
            f"{ways[0].name} comes first"
        )
    embedded = _embed(model, listed, ways)
    scored = [_scored(way, embedded, settings) for way in ways]
    report.done = len(listed.clips)
    return {
        **{key: scored[0][key] for key in ("direction", "space", "headline", "metrics", "missing", "videos")},
        "captions": len(listed.captions),
        "clips": len(listed.clips),
        "directions": [{key: value for key, value in way.items() if key != "videos"} for way in scored],
        "full video": _full_video(ways[0], embedded, settings, report),
        "published ties": settings.published_ties,
        "clips digest": clips_digest(listed.captions),
        "examples": _examples(ways[0], embedded),
    }


def _directions(settings: RetrievalSettings, model: TrainedModel) -> list[Direction]:
    ways = directions(model.network.settings.scheme)
    if settings.directions == "all":
        return ways
    if not is_headline(ways[0]):
        scheme = model.network.settings.scheme.name
        raise InputError(f"{settings.checkpoint}: scheme {scheme} never contrasts text with video: no headline score")
    return ways[:1]


@dataclass(frozen=True)
class _Embedded:
    """What is asked and searched."""

    listed: Captions
    clips: Embeddings
    """Vectors (M, D): video and audio of each clip."""
    texts: Embeddings
    """Vectors (N, D): text of each caption."""

    def queries(self, way: Direction) -> Side:
        """What is asked in this direction."""
        return replace(way.queries(self._of(way.query)), clips=self._clips(way.query))

    def candidates(self, way: Direction) -> Side:
        """What is searched in this direction."""
        return replace(way.candidates(self._of(way.candidate)), clips=self._clips(way.candidate))

    def _of(self, modalities: tuple[str, ...]) -> Embeddings:
        return self.texts if modalities == ("text",) else self.clips

    def _clips(self, modalities: tuple[str, ...]) -> torch.Tensor | None:
        return torch.tensor(self.listed.clip_of) if modalities == ("text",) else None

    def owners(self, modalities: tuple[str, ...]) -> list[str]:
        """The video of each caption, or of each clip."""
        of_clip = [clip.video_id for clip in self.listed.clips]
        return [of_clip[clip] for clip in self.listed.clip_of] if modalities == ("text",) else of_clip


def _embed(model: TrainedModel, listed: Captions, ways: Sequence[Direction]) -> _Embedded:
    # Sound that is neither asked nor searched needs not be read.
    heard = any("audio" in way.query + way.candidate for way in ways)
    rules = model.rules if heard else model.rules.without_sound()
    texts = [caption.label for caption in listed.captions]
    firsts = listed.first
    cut = (
        cut_out(model, clip.video_id, clip.start, clip.end, words(texts[first]), rules)
        for clip, first in zip(listed.clips, firsts, strict=True)
    )
    clips = model.embed(cut, rules)
    others = sorted(set(range(len(texts))).difference(firsts))
    if not others or not any("text" in way.query + way.candidate for way in ways):
        return _Embedded(listed, clips, clips)
    batches = [others[first : first + BATCH_CLIPS] for first in range(0, len(others), BATCH_CLIPS)]
    parts = [model.embed_texts([texts[caption] for caption in batch]) for batch in batches]
    alone = concatenate([_text_of(clips), *map(_text_of, parts)])
    order = torch.tensor([*firsts, *others]).argsort()
    present = {"text": alone.present["text"][order]}
    return _Embedded(listed, clips, replace(alone.map_vectors(lambda vectors: vectors[order]), present=present))


def _text_of(embedded: Embeddings) -> Embeddings:
    """Its text alone."""
    vectors = {space: {"text": of["text"]} for space, of in embedded.vectors.items() if "text" in of}
    return Embeddings(vectors, {"text": embedded.present["text"]}, {space: {} for space in vectors})


def _scored(way: Direction, embedded: _Embedded, settings: RetrievalSettings) -> dict[str, Any]:
    queries, candidates = embedded.queries(way), embedded.candidates(way)
    owners, count = embedded.owners(way.query), len(candidates.present)
    with scores_of(settings.checkpoint):
        where = ranked(queries, candidates)
    right = torch.bincount(candidates.clip_numbers, minlength=len(embedded.listed.clips))[queries.clip_numbers].numpy()
    drawn = (settings.bootstrap, settings.seed, settings.published_ties)
    metrics = retrieval_metrics(where, owners, *drawn, candidates=count, right=right)
    return {
        "direction": way.name,
        "space": way.space,
        "contrasted": way.contrasted,
        "headline": is_headline(way),
        "metrics": asdict(metrics),
        "videos": _by_video(where, owners),
        "missing": {"queries": int((~queries.present).sum()), "candidates": int((~candidates.present).sum())},
        **({"chance mean rank": Chance(count, right).mean_rank} if (right > 1).any() else {}),
    }


def _by_video(where: Positions, owners: Sequence[str]) -> dict[str, dict[str, float]]:
    """Each video's queries and their summed hits: by these, two models are compared on the same videos."""
    names, owner = np.unique(np.asarray(owners), return_inverse=True)
    columns = {"queries": np.bincount(owner)} | {f"R@{k}": np.bincount(owner, weights=where.hits(k)) for k in CUTOFFS}
    return {
        name: {key: float(sums[index]) for key, sums in columns.items()} for index, name in enumerate(names.tolist())
    }


def _full_video(way: Direction, embedded: _Embedded, settings: RetrievalSettings, report: RunSummary) -> dict[str, Any]:
    """Rule -> metrics of finding whole videos; nothing where each video has one caption."""
    owners = embedded.owners(way.query)
    videos = len(set(owners))
    if videos == len(owners):
        return {}
    if videos > MOST_VIDEOS:
        report.notes.append(f"{videos} videos: scores of whole videos are left out, which go to {MOST_VIDEOS}")
        return {}
    ranks = full_video(embedded.queries(way), embedded.candidates(way), owners, embedded.owners(way.candidate))

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


def _examples(way: Direction, embedded: _Embedded) -> list[dict[str, Any]]:
    """For some queries, spread over the list, their best clips, best first: what a page shows."""
    listed, firsts = embedded.listed, embedded.listed.first
    queries, candidates = embedded.queries(way), embedded.candidates(way)
    captions = list(range(len(listed.captions))) if way.query == ("text",) else list(firsts)

    def described(caption: int) -> dict[str, Any]:
        clip, text = listed.captions[caption].clip, listed.captions[caption].label
        return {"video_id": clip.video_id, "start": clip.start, "end": clip.end, "text": text}

    examples = []
    for index in range(0, len(captions), -(-len(captions) // MOST_EXAMPLES)):
        asked_by, own = captions[index], listed.clip_of[captions[index]]
        scores = candidates.vectors @ queries.vectors[index]
        scores[~candidates.present] = -torch.inf
        best = scores.sort(descending=True, stable=True).indices[:EXAMPLE_LENGTH].tolist()
        retrieved = best if queries.present[index] else []
        # A clip of several captions is shown with the one that asks for it, else with its first.
        shown = [(asked_by if clip == own else firsts[clip], clip == own) for clip in retrieved]
        examples.append(described(asked_by) | {"found": [described(one) | {"right": right} for one, right in shown]})
    return examples
