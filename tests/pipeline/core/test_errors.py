"""What was likely meant."""

from pathlib import Path

import pytest

from pipeline.core.errors import suggest_below, suggest_path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("configs/x.yaml", "runs/demo/dataset.json", "runs/demo/.hidden", "runs/other.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("missing", "near"),
    [
        ("config/x.yaml", "configs/x.yaml"),
        ("configs/x", "configs/x.yaml"),
        ("confgs/x.yml", "configs/x.yaml"),
        ("rnus/demo/datset.jsn", "runs/demo/dataset.json"),
        ("runs/../runs/dem", "runs/../runs/demo"),
        ("sharde", "shared"),
        ("runs/sharde", ""),
        ("runs/demo/hidden", ""),
        ("nothing/like/it", ""),
    ],
)
def test_the_nearest_path_is_named_whole(folder: Path, missing: str, near: str) -> None:
    assert suggest_path(Path(missing), ["shared"]) == (f"; did you mean {near!r}?" if near else "")
    absolute = suggest_path(folder / missing)
    assert absolute == (f"; did you mean {str(folder / near)!r}?" if near and near != "shared" else "")


def test_what_a_folder_holds_of_the_kind_is_named(folder: Path) -> None:
    assert suggest_below(Path("runs"), ["*/dataset.json"]) == "; did you mean 'runs/demo/dataset.json'?"
    assert suggest_below(Path("runs"), ["*/dataset.json"], named_by_folder=True) == "; did you mean 'runs/demo'?"
    assert suggest_below(Path("runs"), ["*.txt"]) == "" == suggest_below(Path("none"), ["*"])
    for number in range(7):
        Path(f"{number}.json").touch()
    listed = ", ".join(f"{number}.json" for number in range(5))
    assert suggest_below(Path(), ["*.json"]) == f"; it holds {listed} and 2 more: give one"
