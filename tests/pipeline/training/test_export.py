"""Weights out and in again, through files: the authors' names, nothing lost, and one line where it can't be."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from extractors.weights import load_weights
from models.davenet import ResDavenet
from models.mcn import MCN
from models.pairing import builtin_scheme, scheme_to_dict
from models.settings import ModelSettings
from pipeline.cli import main
from pipeline.core.errors import InputError
from pipeline.training.checkpoint import KEYS, save_checkpoint
from pipeline.training.settings import ExportSettings
from pipeline.training.weights import export as run
from pipeline.training.weights import load_initial, read_davenet

SMALL = ModelSettings(width=6, video_streams=(5, 3), word_dim=4, reconstruction_hidden=2)
LISTENING = replace(SMALL, audio_from="logmel", unused_batchnorm=True)


def scrambled(module: torch.nn.Module, seed: int) -> Any:
    """Every tensor drawn anew, running statistics and counters too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            drawn = torch.rand(tensor.shape, generator=generator)
            tensor.copy_(drawn if tensor.is_floating_point() else (100 * drawn).long())
    return module


def made(settings: ModelSettings, seed: int = 0) -> MCN:
    torch.manual_seed(seed)
    model: MCN = scrambled(MCN(settings), seed)
    return model


@pytest.fixture(scope="module")
def davenet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("weights") / "davenet.pt"
    torch.save(scrambled(ResDavenet(), 5).state_dict(), path)
    return path


@pytest.fixture
def trained(tmp_path: Path, davenet_file: Path) -> Callable[[MCN], Path]:
    """Saves a model as `mcn train` does."""

    def save(model: MCN) -> Path:
        plain = asdict(model.settings)
        scheme = scheme_to_dict(builtin_scheme(plain.pop("scheme")["name"]))
        content = dict.fromkeys(KEYS, 0) | {
            "model": model.state_dict(),
            "model_settings": plain | {"video_streams": list(plain["video_streams"])},
            "scheme": scheme,
            "identity": {"audio": {"weights": load_weights("davenet", davenet_file).digest}},
        }
        save_checkpoint(tmp_path / "model", content)
        return tmp_path / "model"

    return save


def equal(one: torch.nn.Module, two: torch.nn.Module) -> bool:
    a, b = one.state_dict(), two.state_dict()
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def test_an_exported_model_loads_as_it_was(tmp_path: Path, trained: Callable[[MCN], Path]) -> None:
    model = made(LISTENING)
    assert main(["export", str(trained(model)), "--out", str(tmp_path / "weights.pth")]) == 0
    other = made(LISTENING, seed=1)
    assert not equal(model, other)
    load_initial(other, tmp_path / "weights.pth")
    assert equal(model, other)
    assert len(torch.load(tmp_path / "weights.pth", weights_only=True)) == 159


def test_a_model_on_frozen_rows_takes_the_davenet_of_its_data_set_along(
    tmp_path: Path, trained: Callable[[MCN], Path], davenet_file: Path
) -> None:
    model = made(SMALL)
    report = run(ExportSettings(trained(model), tmp_path / "weights.pth", davenet_file))
    assert (report.done, report.skipped, report.complete) == (159, 0, True)
    other = made(SMALL, seed=1)
    load_initial(other, tmp_path / "weights.pth")
    assert equal(model, other)
    davenet = read_davenet(tmp_path / "weights.pth").state_dict()
    given = torch.load(davenet_file, weights_only=True)
    assert all(torch.equal(davenet[name], value) for name, value in given.items())
    assert load_weights("davenet", tmp_path / "weights.pth").digest == load_weights("davenet", davenet_file).digest


def test_a_second_export_finds_the_first_and_replaces_nothing_else(
    tmp_path: Path, trained: Callable[[MCN], Path]
) -> None:
    out = tmp_path / "weights.pth"
    run(ExportSettings(trained(made(LISTENING)), out))
    written = out.read_bytes()
    assert run(ExportSettings(tmp_path / "model", out)).skipped == 159
    assert out.read_bytes() == written
    for other in (b"something else", None):
        if other is not None:
            out.write_bytes(other)
        else:
            torch.save({}, out)
        kept = out.read_bytes()
        with pytest.raises(InputError, match="holds something else; remove it or choose another --out"):
            run(ExportSettings(tmp_path / "model", out))
        assert out.read_bytes() == kept


@pytest.mark.parametrize("scheme", ["disjoint", "fine-and-coarse", "fine-and-coarse-mmv", "video-audio"])
def test_other_schemes_have_no_published_form(
    tmp_path: Path, trained: Callable[[MCN], Path], scheme: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained(made(replace(SMALL, scheme=builtin_scheme(scheme))))
    assert main(["export", str(folder), "--out", str(tmp_path / "weights.pth")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"mcn: {folder}: scheme {scheme} has no published form: ") and said.count("\n") == 1
    assert not (tmp_path / "weights.pth").exists()


def test_a_full_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path, trained: Callable[[MCN], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = trained(made(LISTENING))

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:603] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match="weights.pth: can't be written: .*room"):
        run(ExportSettings(folder, tmp_path / "weights.pth"))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_davenet_must_be_the_one_that_the_model_has_heard_by(
    tmp_path: Path, trained: Callable[[MCN], Path], davenet_file: Path
) -> None:
    folder, out = trained(made(SMALL)), tmp_path / "weights.pth"
    with pytest.raises(InputError, match="trained on audio rows; give --davenet"):
        run(ExportSettings(folder, out))
    torch.save(scrambled(ResDavenet(), 6).state_dict(), tmp_path / "another.pt")
    with pytest.raises(InputError, match="another.pt: not the DaveNet that .*model has learnt to hear by"):
        run(ExportSettings(folder, out, tmp_path / "another.pt"))
    with pytest.raises(InputError, match="nowhere.pt: no such weights file"):
        run(ExportSettings(folder, out, tmp_path / "nowhere.pt"))
    with pytest.raises(InputError, match="has trained a DaveNet of its own; leave out --davenet"):
        run(ExportSettings(trained(made(LISTENING)), out, davenet_file))


@pytest.mark.parametrize("as_zip", [True, False])
@pytest.mark.parametrize("prefix", ["", "module.", "module.module."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "net"])
def test_initial_weights_may_come_in_any_form(
    tmp_path: Path, published: dict[str, torch.Tensor], as_zip: bool, prefix: str, wrapper: str | None
) -> None:
    state: Any = {prefix + name: tensor for name, tensor in published.items()}
    content = {"epoch": 7, wrapper: state} if wrapper else state
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=as_zip)
    model = made(SMALL, seed=1)
    load_initial(model, tmp_path / "a.pth")
    assert torch.equal(model.state_dict()["decoders.shared/text.2.bias"], published["recon_t.2.bias"])
    assert torch.equal(model.state_dict()["heads.shared/audio.unit.cg.fc.weight"], published["GU_audio.cg.fc.weight"])


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    """Published names and shapes of all but DaveNet's, at the sizes of `SMALL`."""
    shapes = {
        "DAVEnet_projection": (6, 1024),
        "GU_audio.fc": (1024, 1024),
        "GU_audio.cg.fc": (1024, 1024),
        "GU_video.fc": (6, 8),
        "GU_video.cg.fc": (6, 6),
        "text_pooling_caption.fc": (6, 4),
        "GU_text_captions.fc": (6, 6),
        "GU_text_captions.cg.fc": (6, 6),
        "recon_v.0": (2, 6),
        "recon_v.2": (8, 2),
        "recon_a.0": (2, 6),
        "recon_a.2": (1024, 2),
        "recon_t.0": (2, 6),
        "recon_t.2": (6, 2),
    }
    generator = torch.Generator().manual_seed(3)
    state = {"DAVEnet.conv1.weight": torch.zeros(128, 1, 40, 1)}
    for name, shape in shapes.items():
        state[f"{name}.weight"] = torch.randn(shape, generator=generator)
        state[f"{name}.bias"] = torch.randn(shape[0], generator=generator)
    return state


def test_initial_weights_that_do_not_fit_name_every_tensor_and_both_shapes(
    tmp_path: Path, published: dict[str, torch.Tensor]
) -> None:
    wide = made(replace(SMALL, width=7), seed=1)
    before = {name: tensor.clone() for name, tensor in wide.state_dict().items()}
    torch.save(
        {name: t for name, t in published.items() if name != "recon_a.0.bias"} | {"extra": torch.ones(3)},
        tmp_path / "a",
    )
    with pytest.raises(InputError) as caught:
        load_initial(wide, tmp_path / "a")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'a'}: ") and "\n" not in message
    assert "recon_a.0.bias is missing" in message and "extra is unknown" in message
    narrow = {name: tensor for name, tensor in published.items() if 6 in tensor.shape}
    assert len(narrow) == 17
    for name, tensor in narrow.items():
        wanted = tuple(7 if size == 6 else size for size in tensor.shape)
        assert f"{name} has shape {tuple(tensor.shape)} and not {wanted}" in message
    assert all(torch.equal(tensor, before[name]) for name, tensor in wide.state_dict().items())


def test_initial_weights_of_another_form_or_with_nan_are_refused(
    tmp_path: Path, published: dict[str, torch.Tensor]
) -> None:
    torch.save(published, tmp_path / "a")
    with pytest.raises(InputError, match="a: scheme disjoint has no published form.*--scheme shared"):
        load_initial(made(replace(SMALL, scheme=builtin_scheme("disjoint"))), tmp_path / "a")
    torch.save(published | {"recon_a.0.bias": torch.tensor([1.0, torch.nan])}, tmp_path / "b")
    with pytest.raises(InputError, match="b: NaN or infinity in recon_a.0.bias; the file is damaged"):
        load_initial(made(SMALL), tmp_path / "b")
    torch.save({"fc.weight": torch.ones(3)}, tmp_path / "c")
    with pytest.raises(InputError, match="c: the weights don't fit: .*; give weights of DaveNet"):
        read_davenet(tmp_path / "c")
