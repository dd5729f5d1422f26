"""The whole way from a YAML file: stages in order, skipped when complete, stopped at the first that isn't."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cli import main
from pipeline.core.config import from_mapping
from pipeline.core.errors import InputError
from pipeline.core.reporting import RunSummary
from pipeline.evaluation import retrieval as evaluate
from pipeline.experiment.stages import STAGES, RunSettings
from pipeline.tools.forget.references import is_report
from pipeline.training import train


def written(folder: Path, content: Any) -> Path:
    path = folder / "run.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


@pytest.fixture
def study(tmp_path: Path, planted: Any, tiny_training: dict[str, Any]) -> Path:
    """Train and evaluate two schemes on the planted data set."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "dataset").symlink_to(planted.folder)
    places = {"clips": str(planted.clips), "bootstrap": 10}
    content = {
        "out": str(tmp_path / "out"),
        "schemes": ["shared", "disjoint"],
        "seeds": [3],
        "train": tiny_training | {"epochs": 2, "manifest": str(planted.manifest)},
        "evaluate": places,
    }
    return written(tmp_path, content)


def test_a_run_trains_and_evaluates_every_arm_and_gathers_the_scores(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["run", str(study)]) == 0
    out = tmp_path / "out"
    results = json.loads((out / "results.json").read_text())
    assert [stage["stage"] for stage in results["stages"]] == ["train", "evaluate retrieval"] * 2
    arms = ["shared-seed3", "disjoint-seed3"]
    assert [Path(score["checkpoint"]).name for score in results["scores"]] == arms
    assert [score["scheme"] for score in results["scores"]] == ["shared", "disjoint"]
    for arm, score in zip(arms, results["scores"], strict=True):
        one = json.loads((out / "models" / arm / "retrieval.json").read_text())
        assert one["detail"]["metrics"] == score["metrics"]
    assert len({score["clips digest"] for score in results["scores"]}) == 1
    page = (out / "index.html").read_text()
    assert page.count("<svg") == 2 and "Scheme disjoint, space video-text" in page
    printed = capsys.readouterr().out
    assert printed.count("== train") == 2 and f"page:   {(out / 'index.html').resolve()}" in printed
    assert json.loads((out / "run.json").read_text())["done"] == 4

    # Once more: nothing is trained again, and the scores are the same.
    monkeypatch.setattr(train.Trainer, "_step", lambda *arguments: pytest.fail("trained again"))
    assert main(["run", str(study)]) == 0
    again = json.loads((out / "results.json").read_text())
    assert again["scores"] == results["scores"]
    assert [stage["skipped"] for stage in again["stages"] if stage["stage"] == "train"] == [2, 2]


def test_a_run_stops_at_the_first_stage_whose_work_is_not_there(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Path] = []

    def incomplete(settings: train.TrainSettings) -> RunSummary:
        asked.append(settings.out)
        report = RunSummary("train", unit="epoch", complete=len(asked) < 2)
        report.detail = {"last": {}}
        return report

    def evaluated(settings: evaluate.RetrievalSettings) -> RunSummary:
        keys = ("scheme", "space", "direction", "metrics", "trained on", "manifest", "clips digest")
        return RunSummary("evaluate retrieval", detail=dict.fromkeys(keys, "x"))

    monkeypatch.setattr(train, "run", incomplete)
    monkeypatch.setattr(evaluate, "run", evaluated)
    assert main(["run", str(study)]) == 1
    assert [path.name for path in asked] == ["shared-seed3", "disjoint-seed3"]
    report = json.loads((tmp_path / "out" / "run.json").read_text())
    assert report["failed"] == {"train": 1} and report["done"] == 2 and not report["complete"]
    assert "stopped at train: see above; rerun the same command to resume" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "out" / "results.json").read_text())["stages"]) == 3
    assert not (tmp_path / "out" / "index.html").exists()


def test_localization_stands_beside_retrieval(study: Path, tmp_path: Path, planted: Any) -> None:
    annotations = tmp_path / "steps.csv"
    lines = [
        f"{video_id},7,{step},{caption.start},{caption.end},{caption.text}"
        for video_id, video in planted.videos.items()
        for step, caption in enumerate(video.captions)
    ]
    annotations.write_text("\n".join(["video_id,task_id,step,start,end,text", *lines]))
    content = yaml.safe_load(study.read_text())
    asked = {"annotations": str(annotations), "bootstrap": 10, "chance_draws": 3}
    assert main(["run", str(written(tmp_path, content | {"localize": asked}))]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    stages = ["train", "evaluate retrieval", "evaluate localization"] * 2
    assert [stage["stage"] for stage in results["stages"]] == stages
    found = [score for score in results["scores"] if score["direction"] == "steps -> seconds"]
    assert len(results["scores"]) == 4 and [score["scheme"] for score in found] == ["shared", "disjoint"]
    one = json.loads((tmp_path / "out" / "models" / "disjoint-seed3" / "localization.json").read_text())
    assert one["detail"]["metrics"] == found[1]["metrics"] and found[1]["steps digest"] == found[0]["steps digest"]
    page = (tmp_path / "out" / "index.html").read_text()
    assert "Steps in time, scheme disjoint, space video-text" in page
    assert page.count("<svg") == 2 + 2 * 3, "learning curves, and time lines of three videos, for each model"
    assert is_report(tmp_path / "out" / "results.json") and is_report(tmp_path / "out" / "index.html")

    # Without retrieval too there is a page.
    del content["evaluate"]
    assert main(["run", str(written(tmp_path, content | {"localize": asked}))]) == 0
    page = (tmp_path / "out" / "index.html").read_text()
    assert "Steps in time, in 4 held-out videos" in page and page.count("<svg") == 2 * 3


def test_beam_arguments_reach_the_beam_stages_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from beam_jobs import extract
    from pipeline.sample import make

    seen: dict[str, Any] = {}
    report = RunSummary("x")
    monkeypatch.setattr(make, "run", lambda settings: seen.update(sample=settings) or report)
    monkeypatch.setattr(extract, "run", lambda settings, beam: seen.update(extract=(settings, beam)) or report)
    path = written(tmp_path, {"out": str(tmp_path / "out"), "sample": None, "extract": {"weights": "random:0"}})
    assert main(["run", str(path), "--runner=FlinkRunner"]) == 0
    settings, beam = seen["extract"]
    assert list(beam) == ["--runner=FlinkRunner"] and settings.media == tmp_path / "out" / "media"
    assert settings.split == seen["sample"].out / "split.csv" == tmp_path / "out" / "sample" / "split.csv"


def test_paths_from_stage_to_stage_are_filled_in(tmp_path: Path) -> None:
    content = {"out": "o", "sample": {}, "download": {}, "extract": {}, "train": {}, "evaluate": {}, "localize": {}}
    content["probe"] = {"window_seconds": 2}
    plan = RunSettings.load(written(tmp_path, content)).plan()
    stages = dict(plan)
    evaluations = ["evaluate retrieval", "evaluate localization", "probe"]
    assert [name for name, _ in plan] == ["sample", "download", "extract", "freeze", "train", *evaluations]
    assert stages["download"]["ids"] == stages["extract"]["ids"] == f"{stages['sample']['out']}/HowTo100M_v1.csv"
    assert stages["extract"]["media"] == stages["download"]["out"] == "o/media"
    assert stages["freeze"]["dataset"] == stages["extract"]["out"] and stages["freeze"]["media"] == "o/media"
    assert stages["train"]["manifest"] == "o/dataset/manifests/run.json"
    assert {stages[name]["checkpoint"] for name in evaluations} == {stages["train"]["out"]} == {"o/models/shared-seed1"}
    truth = "o/sample/steps.csv"
    assert stages["evaluate retrieval"]["clips"] == stages["evaluate localization"]["annotations"] == truth
    assert {stages[name]["split"] for name in ("extract", "freeze")} == {"o/sample/split.csv"}
    files = {"truth": "o/sample/truth.csv", "ids": "o/sample/HowTo100M_v1.csv", "steps": truth}
    assert {name: stages["probe"][name] for name in files} == files and stages["probe"]["window_seconds"] == 2
    given = RunSettings.load(written(tmp_path, content | {"train": {"manifest": "mine"}})).plan()
    assert {dict(given)[name]["manifest"] for name in ("train", *evaluations)} == {"mine"}
    assert "freeze" not in dict(given)


def test_what_extraction_was_told_is_frozen(tmp_path: Path) -> None:
    content = {
        "out": "o", "download": {"ids": "ids.csv", "out": "m"}, "extract": {"out": "d", "split": "split.csv"},
        "freeze": {"name": "mine", "exclude": ["benchmark.csv"]}, "train": {}, "evaluate": {"clips": "clips.csv"},
    }  # fmt: skip
    stages = dict(RunSettings.load(written(tmp_path, content)).plan())
    assert stages["freeze"] == {
        "dataset": "d", "media": "m", "name": "mine", "ids": "ids.csv", "split": "split.csv",
        "exclude": ["benchmark.csv"],
    }  # fmt: skip
    assert stages["train"]["manifest"] == stages["evaluate retrieval"]["manifest"] == "d/manifests/mine.json"


def test_settings_can_be_overridden_from_the_command_line(tmp_path: Path) -> None:
    path = written(tmp_path, "out: o\ntrain: {epochs: 3}\nsample:\n")
    overridden = ["train.epochs=5", "sample.seed=4", "seeds=3,4", "out=elsewhere"]
    settings = RunSettings.load(path, overridden)
    assert settings.seeds == (3, 4) and settings.out == Path("elsewhere")
    trained = [from_mapping(train.TrainSettings, values, "") for name, values in settings.plan() if name == "train"]
    assert [(one.epochs, one.seed) for one in trained] == [(5, 3), (5, 4)]
    assert settings.stages["sample"] == {"seed": "4"}


@pytest.mark.parametrize("override", ["=3", ".epochs=3", "train.=3", "train.epochs"])
def test_an_override_without_key_or_value_is_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(InputError, match=f"^--set {re.escape(override)}: expected SECTION.KEY=VALUE"):
        RunSettings.load(written(tmp_path, "out: o\n"), [override])


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("train: {}", "`out: FOLDER` is needed"),
        ("out: o\ntrian: {}", "unknown section 'trian'; did you mean 'train'?"),
        ("out: o\ntrain: {epoch: 3}", "train: unknown setting 'epoch'; did you mean 'epochs'?"),
        ("out: o\ntrain: {epochs: many}", "epochs: expected an integer, got 'many'"),
        ("out: o\ntrain: [epochs]", "train: expected settings as `name: value` lines"),
        ("out: o\nsample: false", "sample: expected settings"),
        ("out: o\nschemes: [disjiont]\ntrain: {}", "'disjiont' is neither built in nor a .yaml file; did you mean"),
        ("out: o\nschemes: 3", "schemes: expected a list"),
        ("out: o\nseeds: [one]", "seeds: expected an integer, got 'one'"),
        ("out: [o]", "out: expected a path"),
        ("out: o\ndownload: {}", "--ids is required"),
        ("out: o\nfreeze: {name: a/b}", "letters, digits, - _"),
        ("out: o\nfreeze: {dataset: [d]}", "freeze: dataset: expected a path"),
        ("out: o\nfreeze: {heldout_videos: 2}", "shares from 0 to below 1"),
        ("out: o\nevaluate: {}", "--clips is required"),
        ("[out, o]", "expected settings"),
        ("out: 'o", "line 1: not valid YAML"),
    ],
)
def test_all_of_a_file_is_checked_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, named: str
) -> None:
    assert main(["run", str(written(tmp_path, content))]) == 2
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


@pytest.mark.parametrize("override", ["train", "train.=3", "=", "train.epoch=3", "trian.epochs=3", "train=3"])
def test_overrides_that_fit_nothing_are_refused(tmp_path: Path, override: str) -> None:
    path = written(tmp_path, "out: o\ntrain: {}\n")
    with pytest.raises(InputError, match=r"--set|unknown|expected settings"):
        RunSettings.load(path, [override])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.epochs=many", "--set train.epochs: expected an integer, got 'many'"),
        ("train.epochs=0", "--set train.epochs is 0: it must be at least 1"),
        ("train.batch-videos=0", "--set train.batch-videos is 0: it must be at least 1"),
        ("train.epoch=3", "--set train.epoch: unknown setting 'epoch'; did you mean 'epochs'?"),
        ("trian.epochs=3", "--set trian.epochs: unknown section 'trian'; did you mean 'train'?"),
        ("train.seed=3", "--set train.seed: give `seeds: [...]` instead; each has a folder of its own"),
        ("seeds=one", "--set seeds: expected an integer, got 'one'"),
        ("out=p", "FILE: train: width is 0: it must be at least 1"),
        ("train.epochs=3", "FILE: train: width is 0: it must be at least 1"),
    ],
)
def test_set_and_the_file_are_each_blamed_for_their_own(tmp_path: Path, override: str, said: str) -> None:
    path = written(tmp_path, "out: o\ntrain: {width: 0}\n" if said.startswith("FILE") else "out: o\ntrain: {}\n")
    with pytest.raises(InputError) as refused:
        RunSettings.load(path, [override])
    assert str(refused.value) == said.replace("FILE", str(path))


def test_what_the_file_has_wrong_is_the_file_s_whatever_set_gave(tmp_path: Path) -> None:
    path = written(tmp_path, "out: o\nseeds: [one]\ntrain: {}\n")
    with pytest.raises(InputError, match=f"^{path}: seeds: expected an integer, got 'one'$"):
        RunSettings.load(path, ["train.epochs=3"])


def test_every_section_is_a_stage_of_the_command() -> None:
    from pipeline.commands import COMMANDS

    assert set(STAGES.values()) <= set(COMMANDS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "number"),
    [("sample", signal.SIGTERM), ("download", signal.SIGTERM), ("train", signal.SIGTERM), ("train", signal.SIGUSR1)],
)
def test_a_signal_ends_a_run_with_75_whatever_its_stages_have_started(
    tmp_path: Path, planted: Any, tiny_training: dict[str, Any], stage: str, number: signal.Signals
) -> None:
    pytest.importorskip("espeakng_loader")
    # Drawn by processes of its own: from then on the run's has multiprocessing's tracker.
    videos = 6 if stage == "sample" else 2
    content: dict[str, Any] = {"out": str(tmp_path / "out")}
    content["sample"] = {"videos": videos, "seconds": 16, "processes": 2}
    endless = tiny_training | {"epochs": 100_000, "manifest": str(planted.manifest), "save_every": 1e-9}
    content |= {"download": {"download": {"workers": 1}}, "train": {"train": endless}}.get(stage, {})
    sign = {"sample": "sample/media/*.mp4", "download": "media/??/*.mp4", "train": "models/*/checkpoint.pt"}[stage]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "run", str(written(tmp_path, content))],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    while not list((tmp_path / "out").glob(sign)) and process.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.02)
    os.killpg(process.pid, number)
    try:
        printed, _ = process.communicate(timeout=600)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"the signal was swallowed: {process.communicate()[0]}")
    assert process.returncode == 75, printed
    assert "Traceback" not in printed and "stopped by a signal" in printed
    if stage != "sample":
        assert "sample: 2 videos done" in printed
