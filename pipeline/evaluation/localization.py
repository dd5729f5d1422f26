"""`mcn evaluate localization`: find the seconds in which a task's steps are done, by their texts and their order."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.config import as_plain
from pipeline.core.errors import InputError
from pipeline.core.files import digest_of_json
from pipeline.core.reporting import RunSummary
from pipeline.core.tables import Table, percent
from pipeline.evaluation.evaluate import digest_of, evaluate, read_detail, trained_on
from pipeline.evaluation.lists import StepList, read_step_lists, true_seconds, videos_of_split
from pipeline.evaluation.settings import LocalizationSettings
from pipeline.evaluation.step_scores import StepScorer, StepScores, whole_seconds
from pipeline.metrics import localization
from pipeline.metrics.intervals import Interval
from pipeline.training.checkpoint import TrainedModel

STAGE = "evaluate localization"
FILE = "localization.json"
DIRECTION = "steps -> seconds"

_SAME_TO_COMPARE = ("fusion", "video_seconds", "audio_seconds", "max_words", "step_seconds", "background")


@dataclass(frozen=True)
class _LocalizedVideo:
    """One video of a task, scored."""

    steps: StepList
    scored: StepScores
    found: localization.Found
    figures: localization.VideoFigures
    chance: localization.VideoFigures
    cut: int
    """Segments of its annotation that reach past its end."""

    def as_json(self) -> dict[str, Any]:
        """Figures, and what was found for each step."""
        figures = self.figures
        return {
            "video_id": self.steps.video_id,
            "task_id": self.steps.task_id,
            "seconds": len(self.found.best),
            "hits": int(figures.hits),
            "present": figures.present,
            "recall": int(figures.hits) / figures.present,
            "unordered recall": float(figures.unordered),
            "IoU": float(figures.iou),
            "IoD": float(figures.iod),
            "steps": [
                {
                    "step": step.number,
                    "text": step.text,
                    "true": [list(segment) for segment in step.segments],
                    "second": int(second) if second >= 0 else None,
                    "found": segment if segment[0] >= 0 else None,
                }
                for step, second, segment in zip(
                    self.steps.steps, self.found.chosen, self.found.segments.tolist(), strict=True
                )
            ],
        }


def run(settings: LocalizationSettings) -> RunSummary:
    """Localize the steps of annotated videos; the headline is recall by video alone, for every scheme."""
    report = RunSummary(STAGE, unit="video")
    inputs = {
        "annotations": digest_of(settings.annotations, "a csv video_id,task_id,step,start,end,text"),
        "steps": digest_of(settings.steps, "a csv task_id,step,text"),
        "against": digest_of(settings.against, f"another model's {FILE}"),
        **{name: getattr(settings, name) for name in (*_SAME_TO_COMPARE, "chance_draws")},
    }
    return evaluate(report, settings, FILE, inputs, lambda model: _measured(settings, model, report), tables)


def _measured(settings: LocalizationSettings, model: TrainedModel, report: RunSummary) -> dict[str, Any]:
    lists = _of_split(read_step_lists(settings.annotations, settings.steps, report), model, settings, report)
    digest = digest_of_json(
        [[one.task_id, one.video_id, [[s.number, s.text, s.segments] for s in one.steps]] for one in lists]
    )
    other = None if settings.against is None else _read_other(settings.against, digest, settings)
    scorer = StepScorer(model, settings.windows)
    videos = [_localize(steps, scorer, settings) for steps in lists]
    _announce(videos, report)
    owners, tasks = [one.video_id for one in lists], [one.task_id for one in lists]
    scores = localization.gather([video.figures for video in videos], tasks)
    by_chance = [video.chance for video in videos]
    chance = [localization.gather(by_chance, tasks, draw) for draw in range(settings.chance_draws)]
    metrics = localization.localization_metrics(scores, chance, owners, settings.bootstrap, settings.seed)
    report.done = len(videos)
    detail = {
        "direction": DIRECTION,
        "space": scorer.space,
        "metrics": asdict(metrics),
        "steps digest": digest,
        "videos": [video.as_json() for video in videos],
        "missing": {
            "steps without a known word": sum(int(video.scored.unknown.sum()) for video in videos),
            "seconds without anything to score": sum(int(video.scored.unseen.sum()) for video in videos),
        },
    }
    if other is not None:
        detail["against"] = _compared(scores, other, owners, tasks, settings)
    return detail


def tables(detail: Mapping[str, Any]) -> list[Table]:
    """The figures beside chance, and their differences from another model's where they were asked for."""
    metrics, settings = detail["metrics"], detail["settings"]
    head = f"Localization, {metrics['steps']} steps in {metrics['videos']} videos of {metrics['tasks']} tasks"
    rows = [
        (name, *_interval(metrics["figures"][name]), percent(metrics["chance"][name])) for name in localization.FIGURES
    ]
    notes = (
        f"by {settings['fusion']}, in percent; means over a task's videos, then over tasks; IoU and IoD by segments "
        f"with a mean of {settings['step_seconds']:g} s",
        trained_on(detail),
    )
    title = f"{head}, scheme {detail['scheme']}"
    found = [Table(title, ("", "score", "95 % interval", "chance"), tuple(rows), notes)]
    if "against" in detail:
        against = detail["against"]
        differences = tuple((name, *_interval(against["differences"][name])) for name in localization.FIGURES)
        title = f"More than the model of {against['checkpoint']}, paired over the same videos; in percent"
        found.append(Table(title, ("", "difference", "95 % interval"), differences))
    return found


def _interval(score: Mapping[str, float]) -> tuple[str, str]:
    return percent(score["value"]), f"{percent(score['low'])} – {percent(score['high'])}"


def _of_split(
    lists: Sequence[StepList], model: TrainedModel, settings: LocalizationSettings, report: RunSummary
) -> list[StepList]:
    def note(lacking: Sequence[str]) -> str:
        return f"{len(lacking)} annotated videos are not in the manifest, e.g. {lacking[0]}: they are in no mean"

    video_ids = sorted({steps.video_id for steps in lists})
    chosen = videos_of_split(video_ids, model, settings.split, settings.annotations, report, note)
    return [steps for steps in lists if steps.video_id in chosen]


def _localize(steps: StepList, scorer: StepScorer, settings: LocalizationSettings) -> _LocalizedVideo:
    seconds = whole_seconds(scorer.duration(steps.video_id))
    scored, truth = scorer.score(steps), true_seconds(steps, seconds)
    alignment = localization.Alignment(settings.background, settings.step_seconds)
    found = localization.find_steps(scored.scores, alignment).without(scored.unknown)
    # Random scores of one video don't depend on which others there are.
    generator = np.random.default_rng([settings.seed, *f"{steps.task_id} {steps.video_id}".encode()])
    random: NDArray[np.float64] = generator.standard_normal((settings.chance_draws, *truth.shape))
    return _LocalizedVideo(
        steps,
        scored,
        found,
        localization.video_figures(found, truth, steps.present),
        localization.video_figures(localization.find_steps(random, alignment), truth, steps.present),
        cut=sum(math.ceil(end) > seconds for step in steps.steps for _, end in step.segments),
    )


def _announce(videos: Sequence[_LocalizedVideo], report: RunSummary) -> None:
    """Say how many of what is odd there are, with an example each, and what it counts as."""

    def note(text: str, counts: Sequence[tuple[_LocalizedVideo, int]], counts_as: str) -> None:
        odd = [(video, count) for video, count in counts if count]
        if odd:
            total, example = sum(count for _, count in odd), odd[0][0].steps.video_id
            report.notes.append(f"{total} {text} in {len(odd)} videos, e.g. {example}: {counts_as}")

    note(
        "annotated segments reach past the end",
        [(video, video.cut) for video in videos],
        "cut off there; a step wholly past it counts as missed",
    )
    note(
        "steps without a known word",
        [(video, int(video.scored.unknown.sum())) for video in videos],
        "they are not looked for, and count as missed",
    )
    note(
        "seconds without anything to score",
        [(video, int(video.scored.unseen.sum())) for video in videos],
        "they score lowest, and count",
    )
    note(
        "steps beyond the number of seconds",
        [(video, max(0, len(video.steps.steps) - len(video.found.best))) for video in videos],
        "as many steps as there are seconds get one, the others count as missed",
    )


def _read_other(path: Path, digest: str, settings: LocalizationSettings) -> dict[str, Any]:
    """What another model found; InputError unless it was asked the same in the same way."""
    detail = read_detail(path, STAGE)
    if detail["steps digest"] != digest:
        raise InputError(f"{path}: of other videos or steps than these; evaluate that model on the same --annotations")
    mine = as_plain(settings)
    for name in _SAME_TO_COMPARE:
        if detail["settings"][name] != mine[name]:
            flag = name.replace("_", "-")
            raise InputError(f"{path}: made with --{flag} {detail['settings'][name]}, this is with {mine[name]}")
    return detail


def _compared(
    scores: localization.Scores,
    other: Mapping[str, Any],
    owners: Sequence[str],
    tasks: Sequence[str],
    settings: LocalizationSettings,
) -> dict[str, Any]:
    theirs = [
        localization.VideoFigures(
            np.asarray(video["hits"]),
            video["present"],
            np.asarray(video["unordered recall"]),
            np.asarray(video["IoU"]),
            np.asarray(video["IoD"]),
        )
        for video in other["videos"]
    ]
    differences: dict[str, Interval] = localization.paired_differences(
        scores, localization.gather(theirs, tasks), owners, settings.bootstrap, settings.seed
    )
    return {
        "checkpoint": other["settings"]["checkpoint"],
        "checkpoint digest": other["inputs"]["checkpoint"],
        "differences": {name: asdict(differences[name]) for name in localization.FIGURES},
    }
