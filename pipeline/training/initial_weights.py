"""Initial weights that follow from the seed and what a layer is for, so that several schemes share them."""

import hashlib
import re

import torch

from models import MCN, ResDavenet


def share_initial_weights(model: MCN, seed: int) -> None:
    """Draw every layer of `model` anew from the seed and its role, as it was drawn when the model was made.

    The role is the modality and how many spaces of the scheme held that modality before this one: the first head of
    video is one layer in every scheme, whatever its space is called. So layers of the same role and shape begin equal.
    """
    spaces = [space.name for space in model.settings.scheme.spaces]
    with torch.random.fork_rng(devices=[]):
        for path, module in model.named_modules():
            draw = getattr(module, "reset_parameters", None)
            if callable(draw) and not path.startswith("davenet."):
                role = re.sub(r"([A-Za-z0-9_-]+)/(video|audio|text)", lambda found: _role(model, spaces, found), path)
                _seed(seed, role)
                draw()
        if model.davenet is not None:
            # Its convolutions are drawn by a rule of its own, not by torch's default.
            _seed(seed, "davenet")
            model.davenet.load_state_dict(ResDavenet(model.settings.unused_batchnorm).state_dict())


def _seed(seed: int, role: str) -> None:
    digest = hashlib.sha256(f"initial weights\0{seed}\0{role}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _role(model: MCN, spaces: list[str], found: re.Match[str]) -> str:
    space, modality = found[1], found[2]
    before = [
        name for name in spaces[: spaces.index(space)] if modality in model.settings.scheme.space(name).modalities
    ]
    return f"{modality}#{len(before)}"
