"""Checkpoints: whole or absent, and nothing in them is ever run."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from models.mcn import MCN
from models.pairing import builtin_scheme, scheme_to_dict
from models.settings import ModelSettings
from pipeline.core.errors import InputError
from pipeline.training.checkpoint import KEYS, SCHEMA, load_checkpoint, model_from, save_checkpoint


@pytest.fixture
def content() -> dict[str, Any]:
    torch.manual_seed(0)
    settings = {"width": 6, "video_streams": [5, 3], "word_dim": 4, "reconstruction_hidden": 2, "standardise": False}
    scheme = builtin_scheme("fine-and-coarse")
    model = MCN(ModelSettings(scheme=scheme, **(settings | {"video_streams": (5, 3)})))
    values = {"model": model.state_dict(), "model_settings": settings, "scheme": scheme_to_dict(scheme), "epoch": 3}
    return dict.fromkeys(KEYS, 0) | values


def test_a_checkpoint_goes_there_and_back_by_file_or_folder(tmp_path: Path, content: dict[str, Any]) -> None:
    save_checkpoint(tmp_path / "model", content)
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["checkpoint.pt"]
    for path in (tmp_path / "model", tmp_path / "model" / "checkpoint.pt"):
        found = load_checkpoint(path)
        assert found["epoch"] == 3 and found["scheme"] == content["scheme"]
        assert all(torch.equal(found["model"][name], value) for name, value in content["model"].items())


def test_equal_content_gives_equal_bytes(tmp_path: Path, content: dict[str, Any]) -> None:
    for name in ("one", "two"):
        save_checkpoint(tmp_path / name, content)
    one, two = ((tmp_path / name / "checkpoint.pt").read_bytes() for name in ("one", "two"))
    assert one == two
    save_checkpoint(tmp_path / "two", content | {"epoch": 4})
    assert (tmp_path / "two" / "checkpoint.pt").read_bytes() != one


def test_the_model_comes_back_ready_to_evaluate(tmp_path: Path, content: dict[str, Any]) -> None:
    save_checkpoint(tmp_path, content)
    model = model_from(load_checkpoint(tmp_path))
    assert not model.training and model.settings.video_streams == (5, 3)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in content["model"].items())


def test_what_would_not_load_is_never_saved(tmp_path: Path, content: dict[str, Any]) -> None:
    save_checkpoint(tmp_path, content)
    with pytest.raises(pickle.UnpicklingError):
        save_checkpoint(tmp_path, content | {"epoch": Path("not a plain value")})
    assert load_checkpoint(tmp_path)["epoch"] == 3 and len(list(tmp_path.iterdir())) == 1


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


def test_loading_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: dict[str, Any]) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content | {"schema": SCHEMA, "epoch": Hostile()}, tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match="not a whole checkpoint") as refused:
        load_checkpoint(tmp_path)
    assert not (tmp_path / "ran").exists() and "\n" not in str(refused.value)


@pytest.mark.parametrize("change", [{"schema": SCHEMA - 1}, {"schema": SCHEMA + 1}, {"schema": None}])
def test_other_files_are_no_checkpoints(tmp_path: Path, content: dict[str, Any], change: dict[str, Any]) -> None:
    for index, value in enumerate((content | change, torch.zeros(3), {"schema": SCHEMA, "model": {}})):
        torch.save(value, tmp_path / f"{index}.pt")
        with pytest.raises(InputError, match="not a checkpoint of this program"):
            load_checkpoint(tmp_path / f"{index}.pt")


@pytest.mark.parametrize(
    "change",
    [
        {"model": {}},
        {"scheme": {"name": "x", "spaces": []}},
        {"scheme": 0},
        {"model_settings": {}},
        {"model_settings": {"width": 0, "video_streams": [5, 3]}},
        {"model_settings": {"width": 7, "video_streams": [5, 3], "word_dim": 4, "reconstruction_hidden": 2}},
        {"model_settings": {"video_streams": [5, 3], "unheard_of": 1}},
    ],
    ids=str,
)
def test_weights_that_misfit_their_settings_are_refused(content: dict[str, Any], change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="doesn't fit its own settings") as refused:
        model_from(content | change)
    assert "\n" not in str(refused.value)
