"""Checkpoints: whole or absent, nothing in them is ever run; a trained model embeds as its own network does."""

import os
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.clips import ClipInputs
from models.mcn import MCN
from models.pairing import builtin_scheme, scheme_to_dict
from models.settings import ModelSettings
from pipeline.clips.cutting import cut_clip
from pipeline.core.errors import InputError
from pipeline.training import checkpoint
from pipeline.training.checkpoint import (
    KEYS,
    SCHEMA,
    TrainedModel,
    load_checkpoint,
    model_from,
    open_trained,
    save_checkpoint,
)
from pipeline.training.settings import TrainSettings
from pipeline.training.train import run as train


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


@pytest.fixture(scope="module")
def trained(
    planted: Any, tiny_training: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., TrainedModel]:
    """`trained(**changed)`: a model of the planted data set, trained for an epoch with these settings, once."""

    @cache
    def folder_of(**changed: Any) -> Path:
        out = tmp_path_factory.mktemp("checkpoint") / "model"
        train(TrainSettings.flat(manifest=planted.manifest, out=out, epochs=1, **tiny_training, **changed))
        return out

    return lambda **changed: open_trained(folder_of(**changed))


def by_the_network(model: TrainedModel, vectors: list[np.ndarray], room: int) -> torch.Tensor:
    """Text vectors `(N, D)` of given word vectors, each in a batch of its own, padded to `room` words."""
    rows = []
    for known in vectors:
        words, mask = torch.zeros(1, room, known.shape[1]), torch.zeros(1, room, dtype=torch.bool)
        words[0, : len(known)], mask[0, : len(known)] = torch.from_numpy(known.copy()), True
        with torch.inference_mode():
            rows.append(model.network(ClipInputs(words=words, known_words=mask)).vectors["shared"]["text"][0])
    return torch.stack(rows)


@pytest.mark.parametrize("masked", [True, False])
def test_texts_are_embedded_as_in_training(planted: Any, trained: Callable[..., TrainedModel], masked: bool) -> None:
    model = trained(mask_padding_words=masked)
    texts = ["action3, now!", "action1 action2 zzz again", "zzz"]
    known = [[planted.vectors[w] for w in line.split()] for line in ("action3 now", "action1 action2 again")]
    found = model.embed_texts(texts)
    assert found.present["text"].tolist() == [True, True, False]
    wanted = by_the_network(model, [np.stack(words) for words in known], 20)
    assert torch.allclose(found.vectors["shared"]["text"][:2], wanted, atol=1e-6)
    first = model.embed_texts(["action1 action2 again"], max_words=1)
    alone = by_the_network(model, [planted.vectors["action1"][None]], 1 if not masked else 20)
    assert torch.allclose(first.vectors["shared"]["text"], alone, atol=1e-6)


def test_batches_change_nothing(
    planted: Any, trained: Callable[..., TrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained()
    clips = [
        cut_clip(model.dataset.video(i, model.rules), c.start, c.end, c.text.split(), model.vectors, model.rules)
        for i, video in planted.videos.items()
        for c in video.captions
    ]
    whole = model.embed(clips)
    monkeypatch.setattr(checkpoint, "BATCH_CLIPS", 7)
    parts = model.embed(iter(clips))
    for modality, vectors in whole.vectors["shared"].items():
        assert torch.allclose(vectors, parts.vectors["shared"][modality], atol=1e-6)
    with pytest.raises(ValueError, match="no clips"):
        model.embed([])


def test_vectors_compared_by_direction_have_length_one(trained: Callable[..., TrainedModel]) -> None:
    plain = trained()
    turned = trained(normalise=True, temperature=0.1)
    lengths = [m.embed_texts(["action1", "action2 now"]).vectors["shared"]["text"].norm(dim=1) for m in (plain, turned)]
    assert not torch.allclose(lengths[0], torch.ones(2)) and torch.allclose(lengths[1], torch.ones(2))


def test_what_is_missing_is_absent_also_for_a_model_trained_on_zeros(trained: Callable[..., TrainedModel]) -> None:
    model = trained(zeros_for_missing=True)
    assert model.embed_texts(["zzz", "action1"]).present["text"].tolist() == [False, True]


def test_training_videos_are_told(trained: Callable[..., TrainedModel]) -> None:
    model = trained()
    assert model.seen(["heldout0000"]) == ""
    assert "trained on 2 of these videos, e.g. train000001" in model.seen(["train000003", "train000001", "heldout0000"])
