"""TensorBoard reads what was written, and a disk that is full costs its lines alone."""

import errno
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import record_writer

from pipeline.training.curves import LearningCurves


def read(folder: Path, name: str) -> list[tuple[int, float]]:
    found = EventAccumulator(str(folder)).Reload()
    return [(scalar.step, scalar.value) for scalar in found.Scalars(name)]


def test_tensorboard_reads_the_figures(tmp_path: Path) -> None:
    with LearningCurves(tmp_path, 1) as curves:
        for step in range(1, 6):
            curves.add({"total": step / 4, "contrast/shared/video-text": 2.0}, step, "step")
    assert read(tmp_path, "step/total") == [(step, step / 4) for step in range(1, 6)]
    assert read(tmp_path, "step/contrast/shared/video-text")[0] == (1, 2.0)


def test_a_run_that_goes_on_takes_back_what_the_kill_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.training.curves.time.time", iter(range(1000, 2000)).__next__)
    with LearningCurves(tmp_path, 1) as curves:
        for step in range(1, 6):
            curves.add({"total": 1.0}, step, "step")
    with LearningCurves(tmp_path, 4) as curves:
        curves.add({"total": 2.0}, 4, "step")
    assert read(tmp_path, "step/total") == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0)]


def test_a_full_disk_costs_these_lines_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with LearningCurves(tmp_path, 1) as curves:
        monkeypatch.setattr(record_writer.RecordWriter, "write", full)
        curves.add({"total": 1.0}, 1, "step")
        curves.add({"total": 1.0}, 2, "step")
    assert capsys.readouterr().err == (
        "mcn: TensorBoard's lines can't be written (No space left on device): training continues without them\n"
    )
