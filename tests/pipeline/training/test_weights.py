"""Initial weights that schemes share."""

import torch

from models.mcn import MCN
from models.pairing import BUILTIN_SCHEMES, builtin_scheme
from models.settings import ModelSettings
from pipeline.training.weights import share_initial_weights


def made(scheme: str, seed: int = 1, **settings: object) -> MCN:
    torch.manual_seed(torch.randint(1000, ()).item())
    sizes = {"audio_dim": 5, "word_dim": 3, "reconstruction_hidden": 7} | settings
    model = MCN(ModelSettings(builtin_scheme(scheme), 8, (6,), **sizes))  # type: ignore[arg-type]
    share_initial_weights(model, seed)
    return model


def test_the_first_layers_of_a_modality_are_equal_in_all_schemes() -> None:
    shared = made("shared").state_dict()
    for scheme in BUILTIN_SCHEMES:
        model, compared = made(scheme), 0
        for name, value in model.state_dict().items():
            space, _, rest = name.partition("/")
            spaces = [one.name for one in model.settings.scheme.spaces]
            collection, own = space.split(".")
            modality = rest.split(".")[0]
            first = [one for one in spaces if modality in model.settings.scheme.space(one).modalities][0]
            twin = shared.get(f"{collection}.shared/{rest}", torch.zeros(0))
            if own == first:
                assert value.shape != twin.shape or torch.equal(value, twin), name
                compared += value.shape == twin.shape
            elif value.shape == twin.shape and value.numel() > 1:
                assert not torch.equal(value, twin), name
        assert compared >= 12


def test_weights_follow_from_the_seed_alone_and_are_spread_as_torch_s_own() -> None:
    first, again, other = made("shared").state_dict(), made("shared").state_dict(), made("shared", seed=2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
    weights = torch.cat([value.flatten() for name, value in first.items() if name == "heads.shared/text.cg.fc.weight"])
    bound = 8**-0.5
    assert weights.abs().max() <= bound and weights.std() > 0.8 * bound / 3**0.5


def test_davenet_keeps_the_rule_that_it_is_drawn_by() -> None:
    model = made("video-audio", audio_from="logmel", audio_dim=1024)
    torch.manual_seed(5)
    plain = MCN(ModelSettings(builtin_scheme("video-audio"), 8, (6,), audio_from="logmel"))
    assert model.davenet is not None and plain.davenet is not None
    for (name, mine), theirs in zip(model.davenet.named_parameters(), plain.davenet.parameters(), strict=True):
        if mine.ndim == 4:
            torch.testing.assert_close(mine.std(), theirs.std(), rtol=0.1, atol=0, msg=name)


def test_drawing_leaves_the_callers_numbers_alone() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    model = MCN(ModelSettings(builtin_scheme("shared"), 8, (6,), audio_dim=5, word_dim=3))
    torch.set_rng_state(state)
    share_initial_weights(model, 1)
    assert torch.equal(torch.rand(2), wanted)
