"""A small study on planted clips: its tables against sums over the runs' own results."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.cli import main
from pipeline.core import figures as vector_drawing
from pipeline.core.errors import InputError
from pipeline.experiment import compare, training_runs
from pipeline.experiment.finished import refuse_another_study
from pipeline.experiment.report.results import read_study
from pipeline.experiment.settings import StudySettings
from pipeline.experiment.training_runs import parameters, width_for
from pipeline.metrics.intervals import crossed_mean
from pipeline.training.checkpoint import load_checkpoint

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def make_study(
    planted: Any, tiny_training: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """`make_study(arms, **compare)`: a study's file, in a folder of its own."""

    def make(arms: list[Any], **given: Any) -> Path:
        folder = tmp_path_factory.mktemp("study")
        steps = folder / "steps.csv"
        lines = [
            f"{i},task{ord(i[-1]) % 2},{place},{c.start},{c.end},{c.text}\n"
            for i, video in planted.videos.items()
            for place, c in enumerate(video.captions)
        ]
        steps.write_text("video_id,task_id,step,start,end,text\n" + "".join(lines))
        content = {
            "out": str(folder / "out"),
            "train": {"manifest": str(planted.manifest), "workers": 0, "epochs": 3} | tiny_training,
            "evaluate": {"clips": str(planted.clips), "bootstrap": 10},
            "localize": {"annotations": str(steps), "bootstrap": 10, "chance_draws": 5},
            "compare": {"arms": arms, "seeds": [1, 2], "at_once": 2} | given,
        }
        path = folder / "study.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return make


WHOLE_WORK, WHOLE_REPORT = training_runs.Pool.work, compare._write_report


@pytest.fixture(scope="module", autouse=True)
def _quick(train_here: Callable[..., None]) -> Iterator[None]:
    """Models are trained in this process, and no report is written, each of which takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_runs.Pool, "work", train_here)
        patch.setattr(compare, "_write_report", lambda settings: True)
        yield


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each model is trained in a process of its own, as outside of tests."""
    monkeypatch.setattr(training_runs.Pool, "work", WHOLE_WORK)


@pytest.fixture
def write_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `mcn compare` ends with."""
    monkeypatch.setattr(compare, "_write_report", WHOLE_REPORT)


@pytest.fixture(scope="module")
def done(make_study: Callable[..., Path]) -> tuple[StudySettings, Any]:
    """A whole study of two arms that find steps and one that knows no text."""
    arms = ["shared", {"name": "slow", "scheme": "disjoint", "learning_rate": 1e-6}, "video-audio"]
    settings = StudySettings.load(make_study(arms, equal=["width", "parameters"]))
    return settings, compare.run(settings)


def results(settings: StudySettings, run: str, name: str) -> Any:
    return json.loads((settings.out / "runs" / run / name).read_text())


def test_scores_are_means_over_seeds_and_differences_are_paired(done: Any) -> None:
    settings, report = done
    assert report.complete and report.done == 10
    table = report.detail["tables"]["width"]
    for measure, file in (("R@5", "retrieval.json"), ("recall", "localization.json")):
        found, rows = {}, {}
        for arm in ("shared", "slow"):
            own, by_video = [], []
            for seed in (1, 2):
                detail = results(settings, f"{arm}-seed{seed}", file)["detail"]
                metrics, videos = detail["metrics"], detail["videos"]
                own.append((metrics["recall"] if measure == "R@5" else metrics["figures"])[measure]["value"])
                # Four held-out videos of four queries each, two of either task: all weigh alike.
                if measure == "R@5":
                    by_video.append([videos[f"heldout{n:04d}"][measure] / 4 for n in range(4)])
                else:
                    recalls = {video["video_id"]: video["recall"] for video in videos}
                    by_video.append([recalls[f"heldout{n:04d}"] for n in range(4)])
            found[arm], rows[arm] = own, np.array(by_video)
            assert table[arm]["scores"][measure]["value"] == pytest.approx(np.mean(own))
            assert table[arm]["scores"][measure]["seeds_sd"] == pytest.approx(np.std(own, ddof=1))
        difference = table["slow"]["differences"][measure]
        assert difference["value"] == pytest.approx(np.mean(found["slow"]) - np.mean(found["shared"]))
        # Seed 1 beside seed 1, seed 2 beside seed 2, and each video beside itself.
        paired = crossed_mean(rows["slow"] - rows["shared"])
        for bound in ("value", "low", "high", "p"):
            assert difference[bound] == pytest.approx(getattr(paired, bound))
        crosswise = crossed_mean(rows["slow"] - rows["shared"][::-1])
        assert crosswise.high != pytest.approx(paired.high), "another pairing gives another interval"
    assert table["shared"]["differences"] == {} and 0 <= table["slow"]["corrected p"] <= 1


def test_an_arm_without_text_has_no_endpoint_and_no_steps(done: Any) -> None:
    settings, report = done
    arm = report.detail["tables"]["width"]["video-audio"]
    assert arm["scores"] == {} == arm["differences"] and arm["median rank"] is None
    assert not (settings.out / "runs" / "video-audio-seed1" / "localization.json").exists()
    (line,) = [
        line
        for line in (settings.out / "compare.md").read_text().splitlines()
        if line.startswith("| video-audio | 8 |")
    ]
    assert line.count("–") == 5


def test_equal_parameters_are_as_equal_as_a_width_can_make_them(done: Any, planted: Any) -> None:
    settings, report = done
    table = report.detail["tables"]["parameters"]
    wanted = table["shared"]["parameters"]
    by_name = {run["run"]: run for run in report.detail["runs"]}
    assert "slow-seed1" not in {name for name, run in by_name.items() if "parameters" in run["equal"]}
    for arm in table.values():
        # As near as a whole number of dimensions brings it; the last test of this file says how near that is.
        assert abs(arm["parameters"] - wanted) <= 0.1 * wanted
    for name, run in by_name.items():
        model = load_checkpoint(settings.out / "runs" / name)["model"]
        trained = sum(v.numel() for k, v in model.items() if not k.startswith("standardisation"))
        assert trained == run["parameters"]
    assert table["shared"]["width"] == 8 and table["slow"]["width"] < 8


def test_arms_begin_with_the_same_weights_where_shapes_agree(done: Any) -> None:
    settings, _ = done
    # The slow arm has hardly moved; after three steps of Adam at 1e-6 each weight is within 1e-5 of its start.
    from pipeline.training.checkpoint import model_from
    from pipeline.training.weights import share_initial_weights

    slow = model_from(load_checkpoint(settings.out / "runs" / "slow-seed1"))
    start = {name: value.clone() for name, value in slow.state_dict().items()}
    share_initial_weights(slow, 1)
    assert all((value - start[name]).abs().max() < 2e-5 for name, value in slow.state_dict().items())
    share_initial_weights(slow, 2)
    assert any((value - start[name]).abs().max() > 1e-2 for name, value in slow.state_dict().items())


def test_what_is_done_is_not_done_again(done: Any) -> None:
    settings, first = done
    before = {path: path.stat().st_mtime_ns for path in settings.out.rglob("checkpoint.pt")}
    tables = (settings.out / "compare.md").read_bytes()
    again = compare.run(settings)
    assert {path: path.stat().st_mtime_ns for path in settings.out.rglob("checkpoint.pt")} == before
    assert (settings.out / "compare.md").read_bytes() == tables and again.complete and len(before) == 10
    assert again.detail["tables"]["width"]["slow"]["scores"] == first.detail["tables"]["width"]["slow"]["scores"]


@pytest.mark.parametrize(
    ("seeds", "kills"),
    [
        pytest.param([1], [1], marks=pytest.mark.slow),
        pytest.param([1, 2], [1, 3, 4, 7, 11], marks=[pytest.mark.endurance, pytest.mark.timeout(1800)]),
    ],
    ids=["killed once", "killed five times"],
)
def test_killed_and_begun_again_the_tables_are_the_same(
    make_study: Callable[..., Path], processes: None, seeds: list[int], kills: list[int]
) -> None:
    """`kills`: how many files of results there are when the whole study is killed."""
    paths = [make_study(["shared", "disjoint"], seeds=seeds, at_once=1) for _ in range(2)]
    whole, out = (StudySettings.load(path).out for path in paths)
    compare.run(StudySettings.load(paths[0]))
    command = [sys.executable, "-m", "pipeline.cli", "compare", str(paths[1])]

    def made() -> int:
        names = ("checkpoint.pt", "retrieval.json", "localization.json")
        return sum(len(list(out.glob(f"runs/*/{name}"))) for name in names)

    for moment in kills:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        while made() < moment:
            assert process.poll() is None
            time.sleep(0.02)  # until that much has been saved
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (out / "compare.json").exists()
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    for suffix in ("md", "tex"):
        assert (out / f"compare.{suffix}").read_bytes() == (whole / f"compare.{suffix}").read_bytes()


def test_a_plan_trains_nothing_and_gives_a_command_a_model(
    make_study: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.cli import parse

    monkeypatch.setattr(compare, "PROBE_SECONDS", 0.5)
    path = make_study(["shared", "disjoint"])
    settings = StudySettings.load(path, ["train.epochs=4"], plan=True)
    report = compare.run(settings)
    assert report.complete and report.waiting == 4 and not list(settings.out.rglob("*.pt"))
    printed = capsys.readouterr().out
    # 12 training videos in batches of 4.
    (line,) = [line for line in printed.splitlines() if line.strip().startswith("disjoint-seed2")]
    assert line.split()[3] == "12"
    lines = (settings.out / "commands.txt").read_text().splitlines()
    assert len(lines) == 4 and "#SBATCH --array=1-4" in (settings.out / "array.sh").read_text()
    for name, words in (("srun", 'echo "$@"; exit 75'), ("scontrol", 'echo "$@"')):
        (settings.out / name).write_text(f"#!/bin/sh\n{words}\n")
        (settings.out / name).chmod(0o755)
    # The last task of an array has the array's own job id.
    task = {"SLURM_JOB_ID": "40", "SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "4"}
    environment = {"PATH": f"{settings.out}:{os.environ['PATH']}"} | task
    array = ["bash", settings.out / "array.sh"]
    ended = subprocess.run(array, env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (75, f"{lines[3]}\nrequeue 40_4\n")
    asked, _ = parse("compare", lines[1].split()[2:])
    assert asked.only == "disjoint-seed1" and asked.experiment.stages["train"]["epochs"] == "4"


def test_one_model_alone_is_a_task_of_a_job_array(make_study: Callable[..., Path], processes: None) -> None:
    path = make_study(["shared", "disjoint"])
    settings = StudySettings.load(path, only="disjoint-seed2")
    report = compare.run(settings)
    assert report.complete and report.done == 1
    assert [folder.name for folder in (settings.out / "runs").iterdir() if (folder / "retrieval.json").exists()] == [
        "disjoint-seed2"
    ]
    with pytest.raises(InputError, match="no model 'disjoint-seed3'; did you mean"):
        compare.run(replace(settings, only="disjoint-seed3"))


def test_a_model_that_fails_is_told_of_and_the_others_are_kept(
    make_study: Callable[..., Path], processes: None
) -> None:
    path = make_study(["shared", {"name": "lost", "initial_weights": "/nowhere.pth"}], seeds=[1])
    settings = StudySettings.load(path)
    report = compare.run(settings)
    assert not report.complete and report.done == 1 and report.failed == {"model lost-seed1, status 2": 1}
    assert "/nowhere.pth" in (settings.out / "runs" / "lost-seed1" / "log.txt").read_text()
    assert (settings.out / "runs" / "shared-seed1" / "retrieval.json").exists()


def test_what_models_will_be_asked_must_be_there_before_any_is_trained(make_study: Callable[..., Path]) -> None:
    path = make_study(["shared"])
    for given, problem in (
        ("probe.media=/nowhere", "probe: media /nowhere: no such file or folder"),
        ("probe.beside=/nowhere.json", "probe: beside /nowhere.json: no such"),
        ("evaluate.clips=/nowhere.csv", "evaluate retrieval: clips /nowhere.csv: no such"),
    ):
        settings = StudySettings.load(path, [given])
        with pytest.raises(InputError, match=problem):
            compare.run(settings)
        assert not list((settings.out / "runs").glob("*/checkpoint*"))


def test_what_no_model_will_be_asked_need_not_be_there(make_study: Callable[..., Path]) -> None:
    gone = "probe.media=/nowhere"
    path = make_study(["shared"], seeds=[1])
    compare.run(replace(StudySettings.load(path, [gone]), plan=True))
    assert compare.run(StudySettings.load(path, [gone, "compare.probed_seeds=0"])).complete


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"arms": ["sharde"]}, "unknown arm 'sharde'; did you mean 'shared'"),
        ({"arms": ["shared", "shared"]}, "arm shared is given twice"),
        ({"arms": [{"scheme": "shared"}]}, "needs a `name`"),
        ({"arms": [{"name": "a", "widht": 3}]}, "arm a: unknown setting 'widht'"),
        ({"arms": [{"name": "a", "scheme": "none"}]}, "'none' is neither built in nor"),
        ({"arms": "shared"}, "expected a list of arms"),
        ({"arms": ["shared", {"name": "odd", "seed": 7}]}, "arm odd: seed is the same for all arms"),
        ({"arms": ["shared", {"name": "odd", "epochs": 7}]}, "arm odd: epochs is the same for all arms"),
        ({"arms": ["video-audio", "shared"]}, "reference: video-audio never contrasts text with video"),
        ({"reference": "disjoint"}, "reference: 'disjoint' is none of the arms"),
        ({"seeds": [1, 1]}, "seeds without repeats"),
        ({"equal": ["depth"]}, "equal: \\[width, parameters\\]"),
        ({"at_once": -1}, "at_once: expected an integer of at least 0, got -1"),
        ({"sedes": [1]}, "unknown setting 'sedes'"),
    ],
)
def test_what_is_wrong_with_a_study_is_said(
    make_study: Callable[..., Path], change: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InputError, match=problem):
        StudySettings.load(make_study(**{"arms": ["shared"]} | change))


def test_a_study_is_overridden_on_the_command_line(make_study: Callable[..., Path]) -> None:
    path = make_study(["shared"])
    for given in ("[shared, disjoint]", "shared,disjoint"):
        settings = StudySettings.load(path, [f"compare.arms={given}", "compare.seeds=[3]", "compare.at_once=1"])
        assert [arm.name for arm in settings.arms] == ["shared", "disjoint"]
        assert (settings.seeds, settings.at_once) == ((3,), 1)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "group"), [(signal.SIGTERM, True), (signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_a_signal_is_saved_and_goes_on(make_study: Callable[..., Path], number: signal.Signals, group: bool) -> None:
    path = make_study(["shared", "disjoint"], seeds=[1])
    out = StudySettings.load(path).out
    command = [sys.executable, "-m", "pipeline.cli", "compare", str(path), "--set", "train.epochs=4000"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    # Written when training begins.
    settings = [out / "runs" / f"{arm}-seed1" / "settings.json" for arm in ("shared", "disjoint")]
    while not all(file.exists() for file in settings):
        assert process.poll() is None
        time.sleep(0.05)  # until both are at it
    (os.killpg if group else os.kill)(process.pid, number)
    printed, _ = process.communicate()
    assert process.returncode == 75, printed
    assert printed.count("stopped, all of it saved") == 2
    assert all((file.parent / "checkpoint.pt").exists() for file in settings)


def test_localization_that_is_not_asked_for_any_more_is_in_no_table(done: Any) -> None:
    settings, _ = done
    stages = {name: values for name, values in settings.experiment.stages.items() if name != "localize"}
    without = replace(settings, experiment=replace(settings.experiment, stages=stages))
    table = compare.run(without).detail["tables"]["width"]
    assert all("recall" not in arm["scores"] for arm in table.values())
    assert (settings.out / "runs" / "shared-seed1" / "localization.json").exists()


def test_a_scheme_of_fixed_widths_has_as_many_parameters_as_it_has(done: Any, planted: Any, tmp_path: Path) -> None:
    from pipeline.clips.dataset import FeatureDataset

    settings, _ = done
    scheme = tmp_path / "fixed.yaml"
    modalities = {"video": "feature", "text": "feature"}
    space = {"name": "one", "width": 8, "modalities": modalities, "pairs": ["video-text"]}
    scheme.write_text(yaml.safe_dump({"name": "fixed", "spaces": [space]}))
    train = replace(settings.train_settings(settings.arms[0], 1, settings.out), scheme=str(scheme))
    dataset = FeatureDataset(planted.manifest)
    own = parameters(train, dataset, 16)
    assert width_for(own, train, dataset, 16) == train.network.width
    with pytest.raises(InputError, match="its spaces state their own"):
        width_for(own + 1, train, dataset, 16)


def test_results_of_other_clips_are_never_put_side_by_side(done: Any) -> None:
    settings, _ = done
    path = settings.out / "runs" / "slow-seed2" / "retrieval.json"
    whole = path.read_text()
    content = json.loads(whole)
    content["detail"]["clips digest"] = "0" * 64
    path.write_text(json.dumps(content))
    try:
        with pytest.raises(InputError, match="slow-seed2: another clips digest than"):
            compare.run(settings)
    finally:
        path.write_text(whole)


def test_a_report_is_of_the_first_table_and_keeps_the_order_of_arms(done: Any) -> None:
    """Files sort names: `parameters` comes before `width`, at which the arms are trained that figures show."""
    settings, report = done
    study = read_study(settings.out)
    assert list(study.detail["tables"]) == ["width", "parameters"] == list(report.detail["tables"])
    assert all(list(arms) == ["shared", "slow", "video-audio"] for arms in study.detail["tables"].values())
    assert [model.name for model in study.examples()] == ["shared-seed1", "slow-seed1", "video-audio-seed1"]


def test_it_ends_with_a_report(done: Any, write_report: None, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, _ = done
    monkeypatch.setattr(vector_drawing, "as_pdf", lambda figure, title, command: b"%PDF")
    assert compare.run(settings).complete
    page = (settings.out / "report.html").read_text()
    table = json.loads((settings.out / "compare.json").read_text())["detail"]["tables"]["width"]
    shown = table["slow"]["corrected p"] < 0.05
    assert ("slow has" in page) == shown and ("between slow and shared is shown" in page) != shown
    assert "equal number of parameters" in page


def test_a_report_that_fails_loses_no_comparison(
    done: Any,
    write_report: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(settings: Any) -> Any:
        raise OSError("no room\nand more")

    settings, _ = done
    monkeypatch.setattr("pipeline.experiment.report.report.run", fail)
    assert not compare.run(settings).complete
    assert json.loads((settings.out / "compare.json").read_text())["complete"]
    told = f"mcn compare: no report (no room); `mcn report {settings.out}` writes it\n"
    assert capsys.readouterr().err.endswith(told)


def test_data_are_made_where_the_sample_says_so(tmp_path: Path) -> None:
    retrieval = {"settings": {"clips": str(tmp_path / "steps.csv")}}
    assert not compare._is_of_sample(retrieval)
    (tmp_path / "sample.json").write_text("{}")
    assert compare._is_of_sample(retrieval)


def test_a_width_is_found_for_any_number_of_parameters(done: Any, planted: Any) -> None:
    from pipeline.clips.dataset import FeatureDataset

    settings, _ = done
    dataset = FeatureDataset(planted.manifest)
    train = settings.train_settings(settings.arms[1], 1, settings.out)
    for wanted in (1, 20_000, 123_456, 5_000_000):
        width = width_for(wanted, train, dataset, 16)
        off = abs(parameters(train, dataset, 16, width) - wanted)
        neighbours = [w for w in (width - 1, width + 1) if w > 0]
        assert all(off <= abs(parameters(train, dataset, 16, near) - wanted) for near in neighbours)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"compare": {"arms": ["shared"]}}, "arms was ['shared', 'slow', 'video-audio'], now ['shared']"),
        ({"compare": {"seeds": [1, 2, 3]}}, "seeds was [1, 2], now [1, 2, 3]"),
        ({"compare": {"reference": "slow"}}, "reference was 'shared', now 'slow'"),
        ({"train": {"epochs": 4}}, "arm shared: epochs was 3, now 4"),
        ({"train": {"width": 16}}, "arm shared: width was 8, now 16"),
        ({"evaluate": {"bootstrap": 11}}, "evaluate retrieval: bootstrap was 10, now 11"),
        ({"evaluate": {"clips": "other/clips.csv"}}, "evaluate retrieval: clips was"),
    ],
)
@pytest.mark.parametrize("how", [[], ["--plan"], ["--only", "shared-seed1"]], ids=["whole", "plan", "only"])
def test_another_study_of_the_same_out_is_refused_before_anything_is_written(
    done: Any,
    tmp_path: Path,
    change: dict[str, Any],
    problem: str,
    how: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings, _ = done
    monkeypatch.chdir(tmp_path)
    content = yaml.safe_load(Path(settings.experiment.source).read_text())
    (tmp_path / "other").mkdir()
    lines = Path(content["evaluate"]["clips"]).read_text().splitlines(keepends=True)
    (tmp_path / "other" / "clips.csv").write_text("".join(lines[:-1]))
    another = tmp_path / "another.yaml"
    another.write_text(yaml.safe_dump(content | {key: content[key] | values for key, values in change.items()}))
    files = [path for path in settings.experiment.out.rglob("*") if path.is_file()]
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}
    assert main(["compare", str(another), *how]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and f"{settings.out / 'compare.json'}: holds another study: {problem}" in told
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before}
    assert len(before) == sum(path.is_file() for path in settings.experiment.out.rglob("*"))


def test_models_that_fail_now_take_no_finished_comparison_away(
    done: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(pool: Any, runs: Sequence[training_runs.Run]) -> None:
        pool.statuses.update({run.name: 2 for run in runs})

    settings, _ = done
    before = (settings.out / "compare.json").read_bytes()
    monkeypatch.setattr(training_runs.Pool, "work", fail)
    assert not compare.run(settings).complete
    assert (settings.out / "compare.json").read_bytes() == before
    assert f"note: {settings.out / 'compare.json'} is kept as it was" in capsys.readouterr().out


def test_a_comparison_of_an_earlier_version_is_protected_too(done: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It doesn't say what its models were asked."""
    settings, _ = done
    path = settings.out / "compare.json"
    whole = path.read_text()
    content = json.loads(whole)
    del content["detail"]["evaluations"]
    path.write_text(json.dumps(content))
    try:
        refuse_another_study(replace(settings, at_once=1))
        with pytest.raises(InputError, match=r"holds another study: seeds was \[1, 2\], now \[2\]"):
            refuse_another_study(replace(settings, seeds=(2,)))
    finally:
        path.write_text(whole)
