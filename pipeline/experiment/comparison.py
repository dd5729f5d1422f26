"""What the runs of a study say together: scores over seeds and differences from the reference, as tables."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.core.tables import Table, percent, signed_percent
from pipeline.experiment.report.results import Model, read_model
from pipeline.experiment.settings import ENDPOINT, StudySettings
from pipeline.experiment.training_runs import Run
from pipeline.metrics.intervals import crossed_mean, holm

MEASURES = ("R@1", "R@5", "R@10", "recall")
"""Of text -> video, and of localization."""


def per_video(model: Model, measure: str) -> NDArray[np.float64] | None:
    """[V] whose mean is the score: each video's own score, weighted as the score weights it; None where the model has
    no such score."""
    if measure != "recall":
        if not model.has_headline:
            return None
        videos = [video for _, video in sorted(model.retrieval["detail"]["videos"].items())]
        queries = sum(video["queries"] for video in videos)
        return np.array([len(videos) * video[measure] / queries for video in videos])
    if model.localization is None:
        return None
    videos = model.localization["detail"]["videos"]
    tasks = [video["task_id"] for video in videos]
    each = len(videos) / len(set(tasks))
    return np.array([each * video["recall"] / tasks.count(video["task_id"]) for video in videos])


def read_runs(runs: Sequence[Run]) -> list[Model]:
    """The results of all runs. InputError when two don't measure the same, which no table may put side by side."""
    models = []
    for run in runs:
        localized = any(stage == "evaluate localization" for stage, _ in run.stages)
        models.append(read_model(run.folder, run.arm.name, run.seed, run.equal, localized))
    first = models[0]
    for other in models[1:]:
        for name in ("clips digest", "trained on", "manifest"):
            if other.retrieval["detail"][name] != first.retrieval["detail"][name]:
                raise InputError(f"{other.folder}: another {name} than {first.folder}'s; remove it, and begin anew")
        steps = {one.localization["detail"]["steps digest"] for one in (first, other) if one.localization is not None}
        if len(steps) > 1:
            raise InputError(f"{other.folder}: other steps than {first.folder}'s; remove it, and begin anew")
    return models


def compare(study: StudySettings, models: Sequence[Model]) -> dict[str, Any]:
    """Table -> arm -> its scores, their differences from the reference, parameters and time, as JSON values."""
    return {equal: _table(study, [model for model in models if equal in model.equal]) for equal in study.equal}


def _table(study: StudySettings, models: Sequence[Model]) -> dict[str, Any]:
    by_arm = {arm.name: [model for model in models if model.arm == arm.name] for arm in study.arms}
    values = {measure: {name: _stacked(own, measure) for name, own in by_arm.items()} for measure in MEASURES}
    table: dict[str, Any] = {}
    for name, seeds in by_arm.items():
        trained = seeds[0].training["detail"]
        scores, differences = {}, {}
        for measure in MEASURES:
            own, reference = values[measure][name], values[measure][study.reference]
            if own is None:
                continue
            scores[measure] = asdict(crossed_mean(own))
            if reference is not None and name != study.reference:
                differences[measure] = asdict(crossed_mean(own - reference))
        medians = [one.retrieval["detail"]["metrics"]["median_rank"]["value"] for one in seeds if scores]
        table[name] = {
            "scheme": trained["settings"]["scheme"],
            "width": trained["settings"]["width"],
            "parameters": trained["parameters"],
            "train seconds": [one.seconds for one in seeds],
            "scores": scores,
            "median rank": float(np.mean(medians)) if medians else None,
            "differences": differences,
        }
    compared = [name for name in table if ENDPOINT in table[name]["differences"]]
    corrected = holm([table[name]["differences"][ENDPOINT]["p"] for name in compared])
    for name, p in zip(compared, corrected, strict=True):
        table[name]["corrected p"] = p
    return table


def _stacked(models: Sequence[Model], measure: str) -> NDArray[np.float64] | None:
    """[seeds, V]; None where the arm has no such score."""
    rows = [per_video(model, measure) for model in models]
    return None if any(row is None for row in rows) else np.stack([row for row in rows if row is not None])


_NONE = "–"
TITLES = {"width": "Every space of equal width", "parameters": "Models of an equal number of parameters"}


def comparison_tables(detail: Mapping[str, Any]) -> list[Table]:
    """Two tables for each of `width` and `parameters` that was asked for: scores, and differences."""
    tables = []
    for equal, arms in detail["tables"].items():
        tables.append(_scores(equal, arms, detail))
        if any(arm["differences"] for arm in arms.values()):
            tables.append(_differences(equal, arms, detail))
    return tables


def about_the_data(detail: Mapping[str, Any]) -> str:
    """What the figures stand on: the first thing a reader must know."""
    manifest, data = detail["manifest"], detail["data"]
    counts = (
        f"{data['training videos']} training videos of manifest {manifest['name']}, digest {manifest['digest'][:12]}"
    )
    if data["made"]:
        return (
            f"Made data: {counts}, drawn and spoken by `mcn sample`. They show that the method finds what was "
            "planted in them. They say nothing about HowTo100M."
        )
    return f"Data: {counts}; features of {', '.join(data['streams'])}."


def _scores(equal: str, arms: Mapping[str, Any], detail: Mapping[str, Any]) -> Table:
    columns = ("arm", "width", "parameters", "R@1", "R@5", "R@10", "median rank", "localization recall")
    rows = []
    for name, arm in arms.items():
        median = _NONE if arm["median rank"] is None else f"{arm['median rank']:.1f}"
        cells = [_mean(arm["scores"].get(measure)) for measure in ("R@1", "R@5", "R@10")]
        rows.append(
            (name, str(arm["width"]), f"{arm['parameters']:,}", *cells, median, _mean(arm["scores"].get("recall")))
        )
    chance = detail["chance"]
    middle, recall = f"{chance['median rank']:.1f}", percent(chance["recall"]) if "recall" in chance else _NONE
    rows.append(("chance", "", "", *(percent(chance[name]) for name in ("R@1", "R@5", "R@10")), middle, recall))
    seeds = ", ".join(map(str, detail["seeds"]))
    notes = (about_the_data(detail), f"Percent; mean ± standard deviation over seeds {seeds}.")
    return Table(f"{TITLES[equal]}: text -> video (video alone), and steps in time", columns, tuple(rows), notes)


def _differences(equal: str, arms: Mapping[str, Any], detail: Mapping[str, Any]) -> Table:
    columns = ("arm", f"{ENDPOINT} more", "95 %", "p, corrected", "localization more", "95 %")
    rows = []
    for name, arm in arms.items():
        if not arm["differences"]:
            continue
        primary, second = arm["differences"].get(ENDPOINT), arm["differences"].get("recall")
        p = probability(arm["corrected p"]) if "corrected p" in arm else _NONE
        rows.append((name, *_difference(primary), p, *_difference(second)))
    notes = (
        f"Percentage points more than {detail['reference']}, paired by video and seed; intervals over both.",
        f"Primary endpoint, fixed beforehand: {ENDPOINT} of text -> video; its p is Holm's over this table's arms.",
    )
    return Table(f"{TITLES[equal]}: differences from {detail['reference']}", columns, tuple(rows), notes)


def probability(p: float, equals: str = "") -> str:
    """For people: three digits, after `equals`; `< 0.001` below."""
    return "< 0.001" if p < 0.001 else f"{equals}{p:.3f}"


def _mean(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return _NONE
    spread = "" if score["seeds_sd"] is None else f" ± {percent(score['seeds_sd'])}"
    return percent(score["value"]) + spread


def _difference(score: Mapping[str, Any] | None) -> tuple[str, str]:
    return (_NONE, "") if score is None else signed_percent(score)
