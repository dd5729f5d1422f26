"""`mcn compare STUDY.yaml`: arms x seeds on one manifest, trained alike, and what their differences are worth."""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from pipeline.clips.dataset import FeatureDataset
from pipeline.commands import COMMANDS
from pipeline.core.config import as_plain
from pipeline.core.errors import InputError, suggest
from pipeline.core.provenance import provenance
from pipeline.core.reporting import RunSummary
from pipeline.core.signals import STOPPED, asked_to_stop
from pipeline.core.tables import Table, write_tables
from pipeline.dataset.manifest import TRAIN
from pipeline.experiment import training_runs
from pipeline.experiment.comparison import about_the_data, compare, comparison_tables, read_runs
from pipeline.experiment.finished import asked_of_models, has_finished, refuse_another_study
from pipeline.experiment.report.results import COMPARISON, Model
from pipeline.experiment.run import run_stages
from pipeline.experiment.settings import ReportSettings, StudySettings
from pipeline.experiment.training_runs import Run, processes_at_once
from pipeline.sample.make import SUMMARY
from pipeline.training.speed import TrainingShape, probe_failure, probe_training

PROBE_SECONDS = 20.0
"""In all; by it the hours are told."""


def run(settings: StudySettings, beam_arguments: Sequence[str] = ()) -> RunSummary:
    """The data's stages, then every model, then the tables and the report; what is done is skipped, what was stopped
    is resumed. InputError, with nothing written, where `out` holds another study's comparison.

    Complete when all models are trained and evaluated, and the report is written. With `plan` or `only` the data must
    be there, and nothing or one model is trained.
    """
    report = RunSummary("compare", unit="model")
    refuse_another_study(settings)
    if not settings.plan and not settings.only:
        stages = RunSummary("data", unit="stage")
        run_stages(settings.experiment, settings.experiment.data_plan(), stages, beam_arguments)
        if not stages.complete:
            report.complete, report.stopped = False, stages.stopped
            report.notes += stages.notes
            return report.finish()
        refuse_another_study(settings)  # now that its manifest is there
    dataset = FeatureDataset(settings.experiment.manifest)
    runs = training_runs.runs_of(settings, dataset, dataset.word_vectors().vector_size)
    if settings.only:
        model = _named(settings, runs)
        model.write_settings()
        _train(settings, [model], report)
        report.finish().publish()
        return report
    training_runs.write_commands(settings, runs)
    if settings.plan:
        videos = len(set(dataset.manifest.ids(TRAIN)) - dataset.without_captions())
        print(plan_table(settings, runs, videos, int(dataset.identity["feature_fps"])).text())
        commands, array = settings.out / training_runs.COMMANDS_FILE, settings.out / training_runs.ARRAY_FILE
        print(f"  a command for each model: {commands}; as a SLURM array: {array}")
        report.detail = {"runs": [{"run": run.name, "command": settings.command(run.name)} for run in runs]}
        report.waiting = len(runs)
        report.finish().publish()
        return report
    _train(settings, runs, report)
    if report.complete:
        _conclude(settings, runs, dataset, report)
    if report.complete or not has_finished(settings.out):
        report.finish().publish(settings.out / COMPARISON)
    else:
        report.notes.append(f"{settings.out / COMPARISON} is kept as it was when all models were there")
        report.finish().publish()
    if report.complete:
        print("\n".join(table.text() for table in comparison_tables(report.detail)))
        report.complete = _write_report(settings)
    return report


def _named(settings: StudySettings, runs: Sequence[Run]) -> Run:
    for run in runs:
        if run.name == settings.only:
            return run
    names = [run.name for run in runs]
    raise InputError(f"{settings.experiment.source}: no model {settings.only!r}; {suggest(settings.only, names)}")


def _refuse_absent(settings: StudySettings, runs: Sequence[Run]) -> None:
    """InputError names a file or folder that isn't there, and that a model still to be trained will be asked about."""
    source = settings.experiment.source
    for run in runs:
        evaluations = () if (run.folder / "train.json").exists() else run.stages[1:]
        for stage, values in evaluations:
            stage_values = settings.experiment.stage_settings(stage, values)
            for name in (setting.name for setting in fields(stage_values) if setting.name not in ("checkpoint", "out")):
                value = getattr(stage_values, name)
                for path in value if isinstance(value, tuple) else (value,):
                    if isinstance(path, Path) and not path.exists():
                        raise InputError(f"{source}: {stage}: {name} {path}: no such file or folder")


def _train(settings: StudySettings, runs: Sequence[Run], report: RunSummary) -> None:
    _refuse_absent(settings, runs)
    pool = training_runs.Pool(min(training_runs.processes_at_once(settings), len(runs)))
    print(f"== {len(runs)} models, {pool.at_once} at once", flush=True)
    began = time.monotonic()
    pool.work(runs)
    print(f"   models took {time.monotonic() - began:.1f} s", flush=True)
    for name, status in pool.statuses.items():
        if status == 0:
            report.done += 1
        elif status != STOPPED:
            report.failed[f"model {name}, status {status}"] += 1
    report.waiting = len(runs) - len(pool.statuses) + sum(status == STOPPED for status in pool.statuses.values())
    report.stopped = asked_to_stop() and bool(report.waiting)
    report.complete = report.done == len(runs)


def _conclude(settings: StudySettings, runs: Sequence[Run], dataset: FeatureDataset, report: RunSummary) -> None:
    models = read_runs(runs)
    reference = next(model for model in models if model.arm == settings.reference)
    retrieval = reference.retrieval["detail"]
    if len(retrieval["videos"]) < 2:
        raise InputError(
            f"{settings.experiment.source}: clips of one video have no interval over videos; evaluate more"
        )
    manifest = dataset.manifest
    report.detail = {
        "tables": compare(settings, models),
        # Files sort names: these two say in which order tables and arms stand.
        "equal": list(settings.equal),
        "arms": [arm.name for arm in settings.arms],
        "chance": _chance(reference, models),
        "reference": settings.reference,
        "seeds": list(settings.seeds),
        "evaluations": asked_of_models(settings),
        "manifest": {"name": manifest.name, "digest": manifest.digest},
        "data": {
            "made": "sample" in settings.experiment.stages or _is_of_sample(retrieval),
            "training videos": retrieval["trained on"]["videos"],
            "streams": sorted(dataset.identity["streams"]),
        },
        "runs": [
            {
                "run": run.name,
                "folder": str(run.folder),
                "arm": run.arm.name,
                "seed": run.seed,
                "equal": list(run.equal),
                "settings": as_plain(run.train),
                "parameters": run.parameters,
                "seconds": model.seconds,
                "precision": model.training["detail"]["precision"],
            }
            for run, model in zip(runs, models, strict=True)
        ],
        "circumstance": provenance("cpu"),
    }
    report.notes.append(about_the_data(report.detail))
    if len(settings.seeds) == 1:
        report.notes.append("one seed: the intervals know nothing of how much another seed would differ")
    write_tables(settings.out / COMPARISON, comparison_tables(report.detail))


def _is_of_sample(retrieval: Mapping[str, Any]) -> bool:
    # A study may also name the sample's files; beside its list of clips lies what `mcn sample` says of itself.
    return (Path(retrieval["settings"]["clips"]).parent / SUMMARY).exists()


def _write_report(settings: StudySettings) -> bool:
    """Whether the report is whole. The comparison stands, whatever the report has met."""
    media = settings.experiment.out / "media"
    report_settings = ReportSettings(settings.out, media if media.is_dir() else None)
    try:
        page = COMMANDS["report"].run(report_settings)
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        print(f"mcn compare: no report ({reason}); `mcn report {settings.out}` writes it", file=sys.stderr)
        return False
    print(f"report: {report_settings.file.resolve()}")
    return page.complete


def _chance(reference: Model, models: Sequence[Model]) -> dict[str, float]:
    metrics = reference.retrieval["detail"]["metrics"]
    chance = dict(metrics["chance"]) | {"median rank": metrics["chance_median_rank"]}
    localized = [model.localization for model in models if model.localization is not None]
    return chance | ({"recall": localized[0]["detail"]["metrics"]["chance"]["recall"]} if localized else {})


def plan_table(study: StudySettings, runs: Sequence[Run], training_videos: int, feature_fps: int) -> Table:
    """A line for each model, and their sum. Hours are unknown where the probe fails, which a note then says."""
    shapes = {_kind(run): TrainingShape(run.train, feature_fps) for run in runs}
    step_s, about = _step_seconds(shapes)
    rows, steps, hours, size = [], 0, 0.0, 0.0
    for run in runs:
        own_steps = training_videos // run.train.batch_videos * run.train.epochs
        own_size = shapes[_kind(run)].checkpoint_bytes() / 1e9
        own_hours = own_steps * step_s.get(_kind(run), 0.0) / 3600
        shown = f"{own_hours:.2f}" if step_s else "?"
        rows.append(
            (run.name, str(run.train.network.width), f"{run.parameters:,}", f"{own_steps:,}", f"{own_size:.2f}", shown)
        )
        steps, hours, size = steps + own_steps, hours + own_hours, size + own_size
    rows.append(("all", "", "", f"{steps:,}", f"{size:.2f}", f"{hours:.2f}" if step_s else "?"))
    at_once = min(processes_at_once(study), len(runs))
    notes = (about, f"hours of one model at a time; `mcn compare` trains {at_once} side by side")
    columns = ("model", "width", "parameters", "steps", "GB", "hours")
    return Table(f"{len(runs)} models on {training_videos} videos", columns, tuple(rows), notes)


def _kind(run: Run) -> str:
    """Runs of one kind cost the same: a seed changes no time."""
    return f"{run.arm.name} {run.train.network.width}"


def _step_seconds(shapes: dict[str, TrainingShape]) -> tuple[dict[str, float], str]:
    try:
        rates = probe_training(shapes, PROBE_SECONDS)
    except (ValueError, RuntimeError, MemoryError) as error:
        return {}, f"no hours: {probe_failure(error)}"
    device = next(iter(rates.values())).device
    about = f"by steps timed on {device} for {PROBE_SECONDS:.0f} s; reading comes on top"
    return {kind: rate.step_s for kind, rate in rates.items()}, about
