"""What a study will take: steps, disk and hours of each model, before any is trained."""

from collections.abc import Sequence

from pipeline.core.tables import Table
from pipeline.experiment.settings import StudySettings
from pipeline.experiment.training_runs import Run, processes_at_once
from pipeline.training.speed import TrainingShape, probe_failure, probe_training

PROBE_SECONDS = 20.0
"""In all; by it the hours are told."""


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
