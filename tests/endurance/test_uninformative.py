"""The comparison finds what was planted: probes and retrieval move with what a sample tells, and nothing else does.

Three models of one seed are trained, on the plain sample and on its two controls (docs/sample.md). What must move, and
what must not, was written down in `PREDICTIONS` from the way the samples are made, before any of them was trained.
Every figure is of videos that the model has not seen: of those it has seen it may remember which caption, or which
stretch of noise, went with what.

Text by a permutation: no map from video to text is right for more pairs than chance makes so, hence the text asked for
in evaluation, which is true, finds its clip no more often than chance; nor do a window's captions tell the task. Video
and sound belong together as before, and so does what each tells of itself.

Audio of white noise: one second of it is like any other, so it finds no clip, is not found, and tells neither sound of
action nor noise nor voice. Video and captions belong together as before, and so does what each tells of itself.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.endurance, pytest.mark.timeout(3600)]

ROOT = Path(__file__).resolve().parents[2]
PLAIN, TEXT, AUDIO = "", "text", "audio"
SAMPLES: dict[str, dict[str, Any]] = {PLAIN: {}, TEXT: {"uninformative": TEXT}, AUDIO: {"uninformative": AUDIO}}
STAGES: dict[str, Any] = {
    "out": "run",
    "download": {},
    "extract": {"streams": ["efficientnet-lite0"], "davenet_weights": "random:0", "workers": 2},
    "freeze": {},
    "train": {"preset": "sample"},
    "evaluate": {},
}
RECALL = "R@5"
FALLS = "falls to chance"
"""Above chance in the plain sample; in the control not above it, and the two intervals are apart."""
NOT_ABOVE = "is not above chance"
"""In the control, wherever it was before."""
ABOVE = "stays above chance"
SAME = "stays above chance, the two intervals overlap"


@dataclass(frozen=True)
class Prediction:
    """What becomes of a figure when a modality is made uninformative."""

    control: str
    measure: str
    """A direction of retrieval (its R@5), or `FACTOR from MODALITY` (the accuracy of a probe)."""
    move: str


PREDICTIONS = (
    Prediction(TEXT, "text -> video", FALLS),
    Prediction(TEXT, "video -> text", FALLS),
    Prediction(TEXT, "text -> audio", NOT_ABOVE),
    Prediction(TEXT, "task_id from text", FALLS),
    Prediction(TEXT, "audio -> video", ABOVE),
    Prediction(TEXT, "action sound from audio", ABOVE),
    Prediction(TEXT, "object from video", SAME),
    Prediction(AUDIO, "audio -> video", FALLS),
    Prediction(AUDIO, "video -> audio", FALLS),
    Prediction(AUDIO, "text -> audio", NOT_ABOVE),
    Prediction(AUDIO, "action sound from audio", FALLS),
    Prediction(AUDIO, "background noise from audio", FALLS),
    Prediction(AUDIO, "voice from audio", FALLS),
    Prediction(AUDIO, "text -> video", ABOVE),
    Prediction(AUDIO, "task_id from text", ABOVE),
    Prediction(AUDIO, "object from video", SAME),
)


@dataclass(frozen=True)
class Score:
    """A fraction in [0, 1] with its 95 % interval over videos, and what chance gives."""

    value: float
    low: float
    high: float
    chance: float
    most_by_chance: float
    """The upper end of chance's own interval, which probes have; for a recall, chance."""
    at_chance: bool
    """Chance explains it: a recall's interval reaches down to chance; a probe's accuracy is within chance's interval,
    or below, where a probe without information falls on balanced factors."""

    @property
    def above_chance(self) -> bool:
        return self.low > self.most_by_chance

    def __str__(self) -> str:
        figures = (100 * figure for figure in (self.value, self.low, self.high))
        return "{:5.1f} ({:5.1f} - {:5.1f})".format(*figures)


def recall(entry: Mapping[str, Any]) -> Score:
    found, chance = entry["metrics"]["recall"][RECALL], entry["metrics"]["chance"][RECALL]
    return Score(found["value"], found["low"], found["high"], chance, chance, found["low"] <= chance)


def accuracy(entry: Mapping[str, Any]) -> Score:
    found, chance = entry["unseen"]["accuracy"], entry["unseen"]["chance"]
    at_chance = found["value"] <= chance["high"]
    return Score(found["value"], found["low"], found["high"], chance["value"], chance["high"], at_chance)


def scores_of(model: Path) -> dict[str, Score]:
    """Measure -> score in the model's own space: the input features are left out."""
    retrieval = json.loads((model / "retrieval.json").read_text())["detail"]
    probe = json.loads((model / "probe.json").read_text())["detail"]
    scores = {entry["direction"]: recall(entry) for entry in retrieval["directions"]}
    for entry in (*probe["factors"], *probe["ladder"]):
        if entry["space"] == "shared":
            scores[f"{entry['factor']} from {entry['modality']}"] = accuracy(entry)
    return scores


def trained_and_probed(run: Any) -> dict[str, Score]:
    """The whole way in the run's folder; its scores."""
    run.complete()
    # All paths of a run are relative to its folder.
    sample, model = Path("run/sample"), Path("run/models/shared-seed1")
    command = [sys.executable, "-m", "pipeline.cli", "probe", "--checkpoint", str(model), "--out", str(model)]
    command += ["--truth", str(sample / "truth.csv"), "--ids", str(sample / "HowTo100M_v1.csv")]
    command += ["--steps", str(sample / "steps.csv"), "--window-seconds", "2", "--neighbour-seconds", "4"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **run.environment}
    done = subprocess.run(command, cwd=run.folder, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return scores_of(run.folder / model)


@pytest.fixture(scope="module")
def scores(make_run: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Score]]:
    """What is made uninformative -> measure -> score."""
    folder = tmp_path_factory.mktemp("uninformative")
    # Each of two runs at a time keeps to one thread: threads that share cores with others mostly wait for each other.
    environment = {"OMP_NUM_THREADS": "1"}
    runs = {
        control: make_run(folder / (control or "plain"), STAGES | {"sample": sample}, environment)
        for control, sample in SAMPLES.items()
    }
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(runs, pool.map(trained_and_probed, runs.values()), strict=True))


@pytest.mark.parametrize("told", PREDICTIONS, ids=lambda told: f"{told.control}: {told.measure}")
def test_the_comparison_finds_what_was_planted(scores: dict[str, dict[str, Score]], told: Prediction) -> None:
    plain, control = scores[PLAIN][told.measure], scores[told.control][told.measure]
    figures = f"{told.measure}: plain {plain}, {told.control} {control}, chance {100 * control.chance:.1f}, at most "
    figures += f"{100 * plain.most_by_chance:.1f} and {100 * control.most_by_chance:.1f} by chance"
    print(f"\n{figures}: {told.move}")
    if told.move == FALLS:
        assert plain.above_chance and control.at_chance and control.high < plain.low, figures
    elif told.move == NOT_ABOVE:
        assert control.at_chance, figures
    else:
        assert control.above_chance, figures
    if told.move == SAME:
        assert control.low <= plain.high and plain.low <= control.high, figures
