"""`mcn compare STUDY.yaml`: arms x seeds on one manifest, trained alike, and what their differences are worth."""

import time
from collections.abc import Sequence
from typing import Any

from pipeline.circumstance import circumstance
from pipeline.config import as_plain
from pipeline.dataset import FeatureDataset
from pipeline.errors import InputError, suggest
from pipeline.manifest import TRAIN
from pipeline.report import StageReport
from pipeline.run import run_stages
from pipeline.stopping import asked_to_stop
from pipeline.study.comparison import Measured, compare, read_runs
from pipeline.study.comparison_tables import about_the_data, comparison_tables
from pipeline.study.plan import plan_table
from pipeline.study.runs import ARRAY_FILE, COMMANDS_FILE, Pool, Run, processes_at_once, runs_of, write_commands
from pipeline.study.study_settings import StudySettings
from pipeline.tables import write_tables

FILE = "compare.json"


def run(settings: StudySettings, beam_arguments: Sequence[str] = ()) -> StageReport:
    """The data's stages, then every model, then the tables; what is done is skipped, what was stopped goes on.

    Complete when all models are trained and evaluated. With `plan` or `only` the data must be there, and nothing or one
    model is trained.
    """
    report = StageReport("compare", unit="model")
    if not settings.plan and not settings.only:
        stages = StageReport("data", unit="stage")
        run_stages(settings.experiment.data_plan(), settings.experiment.source, stages, beam_arguments)
        if not stages.complete:
            report.complete, report.stopped = False, stages.stopped
            report.notes += stages.notes
            return report.finish()
    dataset = FeatureDataset(settings.experiment.manifest)
    runs = runs_of(settings, dataset, dataset.word_vectors().vector_size)
    write_commands(settings, runs)
    if settings.only:
        _train(settings, [_named(settings, runs)], report)
        report.finish().publish()
        return report
    if settings.plan:
        print(plan_table(settings, runs, len(dataset.manifest.ids(TRAIN)), int(dataset.identity["feature_fps"])).text())
        print(
            f"  a command for each model: {settings.out / COMMANDS_FILE}; as a SLURM array: {settings.out / ARRAY_FILE}"
        )
        report.detail = {"runs": [{"run": run.name, "command": settings.command(run.name)} for run in runs]}
        report.waiting = len(runs)
        report.finish().publish()
        return report
    _train(settings, runs, report)
    if report.complete:
        _conclude(settings, runs, dataset, report)
    report.finish().publish(settings.out / FILE)
    if report.complete:
        print("\n".join(table.text() for table in comparison_tables(report.detail)))
    return report


def _named(settings: StudySettings, runs: Sequence[Run]) -> Run:
    for run in runs:
        if run.name == settings.only:
            return run
    names = [run.name for run in runs]
    raise InputError(f"{settings.experiment.source}: no model {settings.only!r}; {suggest(settings.only, names)}")


def _train(settings: StudySettings, runs: Sequence[Run], report: StageReport) -> None:
    pool, at_once = Pool(processes_at_once(settings)), processes_at_once(settings)
    print(f"== {len(runs)} models, {min(at_once, len(runs))} at once", flush=True)
    began = time.monotonic()
    pool.work(runs)
    print(f"   models took {time.monotonic() - began:.1f} s", flush=True)
    for name, status in pool.statuses.items():
        if status == 0:
            report.done += 1
        elif status != 75:
            report.failed[f"model {name}, status {status}"] += 1
    report.waiting = len(runs) - len(pool.statuses) + sum(status == 75 for status in pool.statuses.values())
    report.stopped = asked_to_stop() and bool(report.waiting)
    report.complete = report.done == len(runs)


def _conclude(settings: StudySettings, runs: Sequence[Run], dataset: FeatureDataset, report: StageReport) -> None:
    measured = read_runs(runs)
    headlines = [one for one in measured if one.per_video("R@5") is not None]
    if not headlines:
        raise InputError(
            f"{settings.experiment.source}: no arm contrasts text with video: there is no endpoint to compare"
        )
    manifest = dataset.manifest
    report.detail = {
        "tables": compare(settings, measured),
        "chance": _chance(headlines[0], measured),
        "reference": settings.reference,
        "seeds": list(settings.seeds),
        "manifest": {"name": manifest.name, "digest": manifest.digest},
        "data": {
            "made": "sample" in settings.experiment.stages,
            "training videos": len(manifest.ids(TRAIN)),
            "streams": sorted(dataset.identity["streams"]),
        },
        "runs": [_summary(one) for one in measured],
        "circumstance": circumstance("cpu"),
    }
    report.notes.append(about_the_data(report.detail))
    if len(settings.seeds) == 1:
        report.notes.append("one seed: the intervals know nothing of how much another seed would differ")
    write_tables(settings.out / FILE, comparison_tables(report.detail))


def _chance(headline: Measured, measured: Sequence[Measured]) -> dict[str, float]:
    metrics = headline.retrieval["metrics"]
    chance = dict(metrics["chance"]) | {"median rank": metrics["chance_median_rank"]}
    localized = [one.localization for one in measured if one.localization is not None]
    return chance | ({"recall": localized[0]["metrics"]["chance"]["recall"]} if localized else {})


def _summary(one: Measured) -> dict[str, Any]:
    return {
        "run": one.run.name,
        "folder": str(one.run.folder),
        "arm": one.run.arm.name,
        "seed": one.run.seed,
        "equal": list(one.run.equal),
        "settings": as_plain(one.run.train),
        "parameters": one.run.parameters,
        "seconds": one.training["seconds"],
        "precision": one.training["detail"]["precision"],
    }
