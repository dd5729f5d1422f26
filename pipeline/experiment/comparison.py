"""What the runs of a study say together: scores over seeds and differences from the reference, as tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.core.files import read_json
from pipeline.core.tables import Table, percent, signed_percent
from pipeline.experiment.settings import ENDPOINT, StudySettings
from pipeline.experiment.training_runs import Run
from pipeline.metrics.intervals import crossed_mean, holm

RETRIEVAL, LOCALIZATION = "retrieval.json", "localization.json"
MEASURES = ("R@1", "R@5", "R@10", "recall")
"""Of text -> video, and of localization."""


@dataclass(frozen=True)
class Measured:
    """One run's scores."""

    run: Run
    retrieval: Mapping[str, Any]
    localization: Mapping[str, Any] | None
    training: Mapping[str, Any]

    @property
    def seconds(self) -> float | None:
        """Of its training; None where it was stopped in between, and nobody has counted them all."""
        return None if self.training["skipped"] else float(self.training["seconds"])

    def per_video(self, measure: str) -> NDArray[np.float64] | None:
        """[V] whose mean is the score: each video's own score, weighted as the score weights it; None where the model
        has no such score."""
        if measure != "recall":
            if not self.retrieval["headline"]:
                return None
            videos = [video for _, video in sorted(self.retrieval["videos"].items())]
            queries = sum(video["queries"] for video in videos)
            return np.array([len(videos) * video[measure] / queries for video in videos])
        if self.localization is None:
            return None
        videos = self.localization["videos"]
        tasks = [video["task_id"] for video in videos]
        each = len(videos) / len(set(tasks))
        return np.array([each * video["recall"] / tasks.count(video["task_id"]) for video in videos])


def read_runs(runs: Sequence[Run]) -> list[Measured]:
    """The scores of all runs. InputError when two don't measure the same, which no table may put side by side."""
    found = []
    for run in runs:
        path = run.folder / LOCALIZATION
        localized = any(stage == "evaluate localization" for stage, _ in run.stages)
        found.append(
            Measured(
                run,
                read_json(run.folder / RETRIEVAL)["detail"],
                read_json(path)["detail"] if localized else None,
                read_json(run.folder / "train.json"),
            )
        )
    first = found[0]
    for other in found[1:]:
        for name in ("clips digest", "trained on", "manifest"):
            if other.retrieval[name] != first.retrieval[name]:
                raise InputError(
                    f"{other.run.folder}: another {name} than {first.run.folder}'s; remove it, and begin anew"
                )
        steps = {one.localization["steps digest"] for one in (first, other) if one.localization is not None}
        if len(steps) > 1:
            raise InputError(f"{other.run.folder}: other steps than {first.run.folder}'s; remove it, and begin anew")
    return found


def compare(study: StudySettings, measured: Sequence[Measured]) -> dict[str, Any]:
    """Table -> arm -> its scores, their differences from the reference, parameters and time, as JSON values."""
    return {equal: _table(study, [one for one in measured if equal in one.run.equal]) for equal in study.equal}


def _table(study: StudySettings, measured: Sequence[Measured]) -> dict[str, Any]:
    by_arm = {arm.name: [one for one in measured if one.run.arm.name == arm.name] for arm in study.arms}
    values = {measure: {name: _stacked(runs, measure) for name, runs in by_arm.items()} for measure in MEASURES}
    found: dict[str, Any] = {}
    for name, runs in by_arm.items():
        scores, differences = {}, {}
        for measure in MEASURES:
            own, reference = values[measure][name], values[measure][study.reference]
            if own is None:
                continue
            scores[measure] = crossed_mean(own).as_json()
            if reference is not None and name != study.reference:
                differences[measure] = crossed_mean(own - reference).as_json()
        medians = [one.retrieval["metrics"]["median_rank"]["value"] for one in runs if scores]
        found[name] = {
            "scheme": runs[0].run.train.scheme,
            "width": runs[0].run.train.width,
            "parameters": runs[0].run.parameters,
            "train seconds": [one.seconds for one in runs],
            "scores": scores,
            "median rank": float(np.mean(medians)) if medians else None,
            "differences": differences,
        }
    compared = [name for name in found if ENDPOINT in found[name]["differences"]]
    corrected = holm([found[name]["differences"][ENDPOINT]["p"] for name in compared])
    for name, p in zip(compared, corrected, strict=True):
        found[name]["corrected p"] = p
    return found


def _stacked(runs: Sequence[Measured], measure: str) -> NDArray[np.float64] | None:
    """[seeds, V]; None where the arm has no such score."""
    rows = [one.per_video(measure) for one in runs]
    return None if any(row is None for row in rows) else np.stack([row for row in rows if row is not None])


_NONE = "–"
TITLES = {"width": "Every space of equal width", "parameters": "Models of an equal number of parameters"}


def comparison_tables(detail: Mapping[str, Any]) -> list[Table]:
    """Two tables for each of `width` and `parameters` that was asked for: scores, and differences."""
    found = []
    for equal, arms in detail["tables"].items():
        found.append(_scores(equal, arms, detail))
        if any(arm["differences"] for arm in arms.values()):
            found.append(_differences(equal, arms, detail))
    return found


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
    notes = (about_the_data(detail), f"Percent; mean ± standard deviation over seeds {_listed(detail['seeds'])}.")
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


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
