"""A ladder from abstract to fine: categories and task of the id list, told from windows; then annotated steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.records import VideoRecord
from pipeline.evaluation.lists import StepList
from pipeline.evaluation.probe.clip_vectors import ClipVectors
from pipeline.evaluation.probe.clips import Window, embed_windows, step_windows, videos_of
from pipeline.evaluation.probe.factor_probes import probe_everywhere, unasked
from pipeline.evaluation.probe.linear_probe import Asked, Draws, question_of
from pipeline.training.trained_model import TrainedModel

LEVELS = ("category_1", "category_2", "task_id")
STEP = "step"


def climb(
    windows: Sequence[Window],
    clips: ClipVectors,
    records: Mapping[str, VideoRecord],
    draws: Draws,
    trained_on: frozenset[str],
) -> tuple[list[dict[str, Any]], list[str]]:
    """Results of the rungs that the id list names, and lines on what couldn't be asked."""
    found, notes = [], []
    for level in LEVELS:
        names = [getattr(records.get(window.clip.video_id), level, "") for window in windows]
        results, note = _rung(level, names, windows, clips, draws, trained_on)
        found += results
        notes += [note] if note else []
    return found, notes


def climb_steps(model: TrainedModel, steps: Sequence[StepList], draws: Draws) -> tuple[list[dict[str, Any]], list[str]]:
    """Results of the last rung, which step of which task, told from its annotated segments."""
    windows, names = step_windows(model, steps)
    if not windows:
        return [], ["step: no annotated segment lies in a video of the split"]
    clips = embed_windows(model, windows)
    results, note = _rung(STEP, names, windows, clips, draws, model.training_videos)
    return results, [note] if note else []


def _rung(
    level: str,
    names: Sequence[str],
    windows: Sequence[Window],
    clips: ClipVectors,
    draws: Draws,
    trained_on: frozenset[str],
) -> tuple[list[dict[str, Any]], str]:
    def ask(rows: NDArray[np.int64]) -> Asked | None:
        return question_of([names[row] for row in rows.tolist()], videos_of(windows, rows))

    results = list(probe_everywhere(level, ask, clips, draws, trained_on))
    return results, unasked(level, results, clips)
