"""The shipped YAML files: all load, and the study is the owner's experiment."""

import dataclasses
import inspect
from pathlib import Path

import pytest

from pipeline.cli import parse
from pipeline.commands import COMMANDS
from pipeline.core.config import as_plain, from_mapping
from pipeline.experiment.stages import RunSettings
from pipeline.training.settings import TrainSettings

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(CONFIGS.glob("*.y*ml"))
STUDY = CONFIGS / "study-howto100m.yaml"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_shipped_file_loads_and_reaches_a_score(path: Path) -> None:
    settings = RunSettings.load(path)
    stages = [name for name, _ in settings.plan()]
    models = len(settings.schemes) * len(settings.seeds)
    assert stages.count("train") == stages.count("evaluate retrieval") == models >= 1
    arm = ["train", "evaluate retrieval", *(["evaluate localization"] if "localize" in settings.stages else [])]
    arm += ["probe"] if "probe" in settings.stages else []
    assert stages[-len(arm) * models :] == arm * models
    assert parse("run", [str(path)])[0] == settings


def test_the_study_and_the_sample_are_shipped() -> None:
    assert {"study-howto100m.yaml", "sample.yaml"} <= {path.name for path in FILES}


def test_the_study_compares_three_ways_of_pairing_and_nothing_else() -> None:
    settings = RunSettings.load(STUDY)
    assert settings.schemes == ("shared", "disjoint", "fine-and-coarse") and len(settings.seeds) == 1
    runs = [from_mapping(TrainSettings, values, "") for name, values in settings.plan() if name == "train"]
    assert [run.scheme for run in runs] == list(settings.schemes)
    assert len({run.out for run in runs}) == 3
    apart = {"scheme", "out"}
    first = {name: value for name, value in vars(runs[0]).items() if name not in apart}
    assert all({n: v for n, v in vars(run).items() if n not in apart} == first for run in runs)


def test_the_study_has_the_owners_settings() -> None:
    plan = dict(RunSettings.load(STUDY).plan())
    trained = from_mapping(TrainSettings, plan["train"], "")
    assert (trained.batch_videos, trained.clips_per_video) == (128, 32)
    assert (trained.epochs, trained.learning_rate, trained.network.width) == (30, 0.0001, 4096)
    assert trained.clips.streams == ("resnet152",) and trained.preset == "default" and not trained.permute_captions
    assert list(plan["extract"]["streams"]) == ["resnet152"]
    assert (plan["extract"]["view"], plan["extract"]["weights"]) == ("full", "IMAGENET1K_V1")
    assert "sample" not in plan and plan["download"].get("site", "youtube") == "youtube"


def test_the_owners_settings_are_the_defaults() -> None:
    default = from_mapping(TrainSettings, {"manifest": "d", "out": "o"}, "")
    study = from_mapping(TrainSettings, dict(RunSettings.load(STUDY).plan())["train"], "")
    for name in ("batch_videos", "clips_per_video", "epochs", "learning_rate", "width", "streams", "precision"):
        assert as_plain(default)[name] == as_plain(study)[name], name


def test_every_preset_makes_settings_of_its_own() -> None:
    for preset in TrainSettings.PRESETS["preset"]:
        made = from_mapping(TrainSettings, {"manifest": "d", "out": "o", "preset": preset}, "")
        assert made.preset == preset
    assert made.network.width == 256
    assert TrainSettings.flat(manifest="d", out="o", preset="sample", width="8").network.width == 8


def test_each_commands_settings_are_where_the_table_says() -> None:
    for name, command in COMMANDS.items():
        assert dataclasses.is_dataclass(command.settings_class()), name
        inspect.signature(command.function()).bind(*range(2 if command.beam else 1))
