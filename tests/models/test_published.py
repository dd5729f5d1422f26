from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from models.davenet import ResDavenet
from models.mcn import MCN
from models.pairing import builtin_scheme
from models.published import StateDictError, export_published, load_published, load_published_davenet
from models.settings import ModelSettings

SMALL = ModelSettings(width=8, video_streams=(6, 4), word_dim=3, reconstruction_hidden=7)


@pytest.fixture(scope="module")
def published(davenet: ResDavenet) -> dict[str, torch.Tensor]:
    """The published names and small shapes, written down here and filled at random but for DaveNet's."""
    shapes = {
        "DAVEnet_projection": (8, 1024),
        "GU_audio.fc": (1024, 1024),
        "GU_audio.cg.fc": (1024, 1024),
        "GU_video.fc": (8, 10),
        "GU_video.cg.fc": (8, 8),
        "text_pooling_caption.fc": (8, 3),
        "GU_text_captions.fc": (8, 8),
        "GU_text_captions.cg.fc": (8, 8),
        "recon_v.0": (7, 8),
        "recon_v.2": (10, 7),
        "recon_a.0": (7, 8),
        "recon_a.2": (1024, 7),
        "recon_t.0": (7, 8),
        "recon_t.2": (8, 7),
    }
    generator = torch.Generator().manual_seed(0)
    state = {f"DAVEnet.{name}": tensor for name, tensor in davenet.state_dict().items()}
    for name, (out, into) in shapes.items():
        state[f"{name}.weight"] = torch.randn(out, into, generator=generator)
        state[f"{name}.bias"] = torch.randn(out, generator=generator)
    unused = {"weight": 1, "bias": 1, "running_mean": 1, "running_var": 1}
    state |= {f"DAVEnet.batchnorm1.{leaf}": torch.randn(n, generator=generator) for leaf, n in unused.items()}
    state["DAVEnet.batchnorm1.num_batches_tracked"] = torch.tensor(4)
    return state


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_a_load_then_an_export_is_the_identity(published: dict[str, torch.Tensor]) -> None:
    model = MCN(replace(SMALL, audio_from="logmel", unused_batchnorm=True))
    load_published(model, {f"module.{name}": tensor for name, tensor in published.items()})
    exported = export_published(model)
    assert len(exported) == 159
    assert equal(exported, published)


def test_a_model_on_frozen_rows_exports_with_the_network_that_made_them(
    published: dict[str, torch.Tensor], davenet: ResDavenet
) -> None:
    model = MCN(SMALL)
    load_published(model, published)
    exported = export_published(model, davenet)
    unused = {name for name in published if "batchnorm1" in name}
    assert exported.keys() == published.keys()
    assert all(torch.equal(exported[name], published[name]) for name in published.keys() - unused)
    assert exported["DAVEnet.batchnorm1.weight"].tolist() == [1] and exported["DAVEnet.batchnorm1.bias"].tolist() == [0]
    with pytest.raises(StateDictError, match="give the network that made the audio rows"):
        export_published(model)


def test_every_tensor_that_does_not_fit_is_named_with_both_shapes(published: dict[str, torch.Tensor]) -> None:
    model = MCN(SMALL)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wrong = dict(published) | {"recon_v.9.weight": torch.zeros(1), "GU_video.fc.weight": torch.zeros(8, 20)}
    del wrong["recon_t.0.bias"]
    with pytest.raises(StateDictError) as caught:
        load_published(model, wrong)
    message = str(caught.value)
    for part in ("recon_t.0.bias is missing", "recon_v.9.weight is unknown", "(8, 20) and not (8, 10)"):
        assert part in message
    assert "\n" not in message
    assert equal(model.state_dict(), before)


@pytest.mark.parametrize("prefix", ["", "module.", "DAVEnet.", "module.DAVEnet.", "DAVEnet.module."])
def test_davenet_is_found_in_its_projects_state_dicts(
    published: dict[str, torch.Tensor], davenet: ResDavenet, prefix: str
) -> None:
    state = {name: tensor for name, tensor in published.items() if name.startswith("DAVEnet.")}
    given = {prefix + name.removeprefix("DAVEnet."): tensor for name, tensor in state.items()}
    if "DAVEnet." in prefix:
        given |= {"module.recon_v.0.bias": torch.zeros(7)}
    other = deepcopy(davenet)
    for tensor in other.state_dict().values():
        tensor.zero_()
    load_published_davenet(other, given)
    assert equal(other.state_dict(), davenet.state_dict())


def test_davenet_refuses_weights_of_another_network(davenet: ResDavenet) -> None:
    with pytest.raises(StateDictError, match="conv1.weight is missing.*fc.weight is unknown"):
        load_published_davenet(davenet, {"fc.weight": torch.zeros(3, 3)})


@pytest.mark.parametrize("name", ["disjoint", "fine-and-coarse", "fine-and-coarse-mmv"])
def test_other_schemes_have_no_published_form(name: str) -> None:
    model = MCN(replace(SMALL, scheme=builtin_scheme(name)))
    with pytest.raises(StateDictError, match=f"scheme {name} has no published form"):
        load_published(model, {})


def test_a_standardised_model_has_no_published_form() -> None:
    with pytest.raises(StateDictError, match="doesn't standardise"):
        export_published(MCN(replace(SMALL, standardise=True)))
