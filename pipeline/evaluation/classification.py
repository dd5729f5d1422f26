"""`mcn evaluate classification`: which class does a clip belong to, told by the classes' names alone (zero-shot)."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.clips.cutting import ClipFeatures
from pipeline.core.errors import InputError
from pipeline.core.lists import left_out_note, plain_lines
from pipeline.core.reporting import RunSummary
from pipeline.core.tables import Table, percent, percent_interval
from pipeline.evaluation.evaluate import digest_of, evaluate, scores_of, trained_on
from pipeline.evaluation.lists import LabelledClip, clips_digest, clips_of_split, cut_out, read_clips
from pipeline.evaluation.settings import ClassificationSettings
from pipeline.metrics.intervals import Interval, bootstrap
from pipeline.metrics.ranking import Positions, positions
from pipeline.training.checkpoint import TrainedModel

FILE = "classification.json"
CUTOFFS = (1, 5)


def run(settings: ClassificationSettings) -> RunSummary:
    """Score every clip against every class name, video alone, in the space that contrasts text with video.

    Top-k is the share of clips whose class is among the k best. Also printed: its mean over classes, so that common
    classes don't outweigh rare ones. A clip without a frame, or of a class whose name has no known word, is a miss.
    """
    report = RunSummary("evaluate classification", unit="clip")
    inputs = {
        "clips": digest_of(settings.clips, f"a csv video_id,start,end,{settings.class_column}"),
        "classes": digest_of(settings.classes, "a text file of class names, one a line"),
        "class_column": settings.class_column,
        "window_seconds": settings.window_seconds,
    }
    return evaluate(report, settings, FILE, inputs, lambda model: _measured(settings, model, report), tables)


def _measured(settings: ClassificationSettings, model: TrainedModel, report: RunSummary) -> dict[str, Any]:
    spaces = model.network.settings.scheme.contrasting("text", "video")
    if not spaces:
        scheme = model.network.settings.scheme.name
        raise InputError(
            f"{settings.checkpoint}: scheme {scheme} never contrasts text with video: nothing to classify by"
        )
    listed = read_clips(settings.clips, settings.class_column, report)
    clips = clips_of_split(listed, model, settings.split, settings.clips, report)
    classes = _classes(settings, clips, report)
    named = model.embed_texts([spoken(name) for name in classes])
    unnamed = [name for name, present in zip(classes, named.present["text"].tolist(), strict=True) if not present]
    if unnamed:
        report.notes.append(
            f"{len(unnamed)} class names have no known word, e.g. {unnamed[0]!r}: their clips count as misses"
        )
    if len(unnamed) == len(classes):
        raise InputError(f"{settings.clips}: no class name has a word that the data set's vectors know")
    seen, shown = _mean_windows(model, clips, settings.window_seconds, spaces[0].name)
    scores = (seen @ named.vectors[spaces[0].name]["text"].double().T).numpy()
    where = _standing(scores, shown, named.present["text"].numpy(), clips, classes, settings)
    report.done = len(clips)
    return {
        "clips": len(clips),
        "videos": len({clip.clip.video_id for clip in clips}),
        "classes": len(classes),
        "classes with clips": len({clip.label for clip in clips}),
        "space": spaces[0].name,
        "metrics": _metrics(where, clips, classes, settings),
        "missing": {"clips": int((~shown).sum()), "classes": len(unnamed)},
        "clips digest": clips_digest(clips),
    }


def spoken(name: str) -> str:
    """A class name as words: `peel_banana`, `peel-banana` and `PeelBanana` all read `Peel Banana`, case apart."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|[_\-/]+", " ", name).strip()


def tables(detail: Mapping[str, Any]) -> list[Table]:
    """The scores beside chance: one table."""
    metrics = detail["metrics"]
    rows = []
    for name in (f"top-{k}" for k in CUTOFFS):
        for what, key in (("over clips", name), ("over classes", f"{name} by class")):
            value, interval = percent(metrics[key]["value"]), percent_interval(metrics[key])
            rows.append((f"{name}, mean {what}", value, interval, percent(metrics["chance"][name])))
    title = (
        f"Zero-shot classification, {detail['clips']} clips of {detail['videos']} videos, {detail['classes']} classes, "
        f"scheme {detail['scheme']}; in percent"
    )
    missing = detail["missing"]
    notes = (
        f"counted as misses: {missing['clips']} clips without a frame, and those of {missing['classes']} classes whose "
        "names hold no known word",
        trained_on(detail),
    )
    return [Table(title, ("score", "value", "95 %", "chance"), tuple(rows), notes)]


def _classes(settings: ClassificationSettings, clips: Sequence[LabelledClip], report: RunSummary) -> list[str]:
    """All class names, in order; InputError for a clip whose class a given list lacks."""
    if settings.classes is None:
        return sorted({clip.label for clip in clips})
    left_out = Counter[str]()
    classes: dict[str, None] = {}
    for _, name in plain_lines(settings.classes, "a text file of class names, one a line", left_out):
        left_out["class listed again"] += name in classes
        classes[name] = None
    report.notes += left_out_note(settings.classes, left_out)
    lacking = sorted({clip.label for clip in clips} - set(classes))
    if lacking:
        raise InputError(f"{settings.classes}: class {lacking[0]!r} of {settings.clips} isn't in it; add it")
    return list(classes)


def _windows(clip: LabelledClip, longest: float) -> list[tuple[float, float]]:
    """The clip in equal parts of at most `longest` seconds."""
    start, end = clip.clip.start, clip.clip.end
    count = max(1, math.ceil((end - start) / longest - 1e-9))
    edges = [start + (end - start) * index / count for index in range(count + 1)]
    return list(zip(edges, edges[1:], strict=False))


def _mean_windows(
    model: TrainedModel, clips: Sequence[LabelledClip], longest: float, space: str
) -> tuple[torch.Tensor, NDArray[np.bool_]]:
    """Each clip's vector, the mean of its windows' that have a frame: `(N, D)` float64; and [N], whether any has."""
    rules = model.rules.without_sound()
    cut = [(index, window) for index, clip in enumerate(clips) for window in _windows(clip, longest)]

    def windows() -> Iterator[ClipFeatures]:
        for index, (start, end) in cut:
            yield cut_out(model, clips[index].clip.video_id, start, end, (), rules)

    embedded = model.embed(windows(), rules)
    present = embedded.present["video"]
    owner = torch.tensor([index for index, _ in cut])[present]
    vectors = embedded.vectors[space]["video"][present].double()
    total = torch.zeros(len(clips), vectors.shape[1], dtype=torch.float64).index_add_(0, owner, vectors)
    count = torch.bincount(owner, minlength=len(clips))
    return total / count.clamp(min=1).unsqueeze(1), (count > 0).numpy()


def _standing(
    scores: NDArray[np.float64],
    shown: NDArray[np.bool_],
    named: NDArray[np.bool_],
    clips: Sequence[LabelledClip],
    classes: Sequence[str],
    settings: ClassificationSettings,
) -> Positions:
    """Where each clip's class stands among all; last where the clip has no frame or the class no known word."""
    column = {name: index for index, name in enumerate(classes)}
    target = np.array([column[clip.label] for clip in clips])
    scores[:, ~named] = -np.inf
    with scores_of(settings.checkpoint):
        where = positions(scores, target)
    return where.without(~shown | ~named[target], len(classes))


def _metrics(
    where: Positions, clips: Sequence[LabelledClip], classes: Sequence[str], settings: ClassificationSettings
) -> dict[str, Any]:
    hits = {f"top-{k}": where.hits(k) for k in CUTOFFS}
    _, owner = np.unique([clip.label for clip in clips], return_inverse=True)

    def statistics(drawn: NDArray[np.int64]) -> list[float]:
        counts = np.bincount(owner[drawn])
        by_class = [
            float((np.bincount(owner[drawn], weights=hit[drawn])[counts > 0] / counts[counts > 0]).mean())
            for hit in hits.values()
        ]
        return [*(float(hit[drawn].mean()) for hit in hits.values()), *by_class]

    names = [*hits, *(f"{name} by class" for name in hits)]
    videos = [clip.clip.video_id for clip in clips]
    intervals: list[Interval] = bootstrap(statistics, videos, settings.bootstrap, settings.seed)
    scores: dict[str, Any] = {name: asdict(interval) for name, interval in zip(names, intervals, strict=True)}
    return scores | {"chance": {f"top-{k}": min(1.0, k / len(classes)) for k in CUTOFFS}}
