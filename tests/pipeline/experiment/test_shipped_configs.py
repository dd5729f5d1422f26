"""`mcn config`: the shipped files are listed, copied as they are, and never written over another's."""

from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.core.errors import InputError
from pipeline.experiment.run import copy_config
from pipeline.experiment.settings import ConfigCopySettings
from pipeline.experiment.stages import RunSettings

CONFIGS = Path(__file__).parents[3] / "configs"
NAMES = sorted(path.stem for path in CONFIGS.iterdir())


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def copy(name: str, out: str = ".") -> None:
    copy_config(ConfigCopySettings(name, Path(out)))


def test_all_are_listed_with_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "list"]) == 0
    listed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert sorted(listed) == NAMES
    for name, text in listed.items():
        assert (CONFIGS / f"{name}.yaml").read_text().startswith(f"# {text}\n")


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_is_the_file_itself_and_runs_from_anywhere(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "copy", name]) == 0
    copied = tmp_path / f"{name}.yaml"
    assert copied.read_bytes() == (CONFIGS / f"{name}.yaml").read_bytes()
    assert capsys.readouterr().out == f"written: {name}.yaml\n"
    assert RunSettings.load(Path(copied.name)).plan() == RunSettings.load(CONFIGS / copied.name).plan()
    assert [path.name for path in tmp_path.iterdir()] == [copied.name]


def test_it_goes_into_a_folder_or_under_a_name(tmp_path: Path) -> None:
    (tmp_path / "experiments").mkdir()
    copy("sample.yaml", "experiments")
    copy("sample", "experiments/mine.yml")
    assert sorted(path.name for path in (tmp_path / "experiments").iterdir()) == ["mine.yml", "sample.yaml"]


def test_what_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "sample.yaml").write_text("mine")
    (tmp_path / "linked.yaml").symlink_to("sample.yaml")
    for out in (".", "sample.yaml", "linked.yaml"):
        with pytest.raises(InputError, match="is there already and is kept"):
            copy("sample", out)
    assert (tmp_path / "sample.yaml").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["linked.yaml", "sample.yaml"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sampel"], "no config is named 'sampel'; did you mean 'sample'?"),
        (["study"], "known: sample, study-howto100m, study-sample"),
        (["../sample"], "no config is named '../sample'"),
        (["sample", "nowhere"], "nowhere: expected a folder that is there, or a file in one"),
        (["sample", "nowhere/sample.yaml"], "expected a folder that is there"),
        ([], "NAME is required"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_copied_is_one_line(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "copy", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_missing_file_of_a_shipped_name_says_how_to_get_it(capsys: pytest.CaptureFixture[str]) -> None:
    for stage in ("run", "compare"):
        assert main([stage, "configs/study-sample.yaml"]) == 2
        assert capsys.readouterr().err == (
            "mcn: configs/study-sample.yaml: no such file; `mcn config copy study-sample` writes it\n"
        )
    assert main(["run", "mine.yaml"]) == 2 and "mcn config" not in capsys.readouterr().err
