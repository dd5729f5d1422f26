"""The authors' weights from a file, into a model or out of one; and initial weights that schemes share.

Any file of a state dict will do that `extractors.state_dict_file` reads, with the published names, with or without
`module.`: the authors' own, AVLnet's and DAVEnet's for the audio network, or one written by `mcn export`. Nothing in
the file is executed.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from extractors.errors import WeightsError
from extractors.state_dict_file import read_state_dict
from extractors.weights import load_weights
from models.davenet import ResDavenet
from models.mcn import MCN
from models.published import (
    StateDictError,
    export_published,
    load_published,
    load_published_davenet,
    published_names,
)
from pipeline.core.errors import InputError
from pipeline.core.reporting import RunSummary
from pipeline.training.checkpoint import load_checkpoint, model_from, save_tensors
from pipeline.training.settings import ExportSettings


def load_initial(model: MCN, path: Path) -> None:
    """Begin from published MCN weights: load all of them into `model`, whose element type they take.

    A model on frozen audio rows leaves the DaveNet part aside. Raises InputError, and leaves the model as it was, for a
    file that can't be read, a model whose scheme or standardisation has no published form, and weights that don't fit:
    the message then names every tensor that is missing, unknown or of another shape, with both shapes.
    """
    try:
        load_published(model, _finite(path))
    except StateDictError as error:
        raise InputError(
            f"{path}: {error}; published weights want --scheme shared, no --standardise, their width and streams"
        ) from None


def read_davenet(path: Path) -> ResDavenet:
    """The audio network of an MCN, AVLnet or DAVEnet file, with all its tensors, ready to evaluate; else InputError."""
    state = _finite(path)
    davenet = ResDavenet(unused_batchnorm=any("batchnorm1." in name for name in state))
    try:
        load_published_davenet(davenet, state)
    except StateDictError as error:
        raise InputError(f"{path}: {error}; give weights of DaveNet, as `mcn train --model davenet` writes") from None
    return davenet.eval()


def _finite(path: Path) -> dict[str, Tensor]:
    try:
        state = read_state_dict(path)
    except WeightsError as error:
        raise InputError(str(error)) from None
    broken = [name for name, tensor in state.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise InputError(f"{path}: NaN or infinity in {', '.join(broken)}; the file is damaged, fetch it again")
    return state


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
                role = re.sub(r"([A-Za-z0-9_-]+)/(video|audio|text)", lambda match: _role(model, spaces, match), path)
                _seed(seed, role)
                draw()
        if model.davenet is not None:
            # Its convolutions are drawn by a rule of its own, not by torch's default.
            _seed(seed, "davenet")
            model.davenet.load_state_dict(ResDavenet(model.settings.unused_batchnorm).state_dict())


def _seed(seed: int, role: str) -> None:
    digest = hashlib.sha256(f"initial weights\0{seed}\0{role}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _role(model: MCN, spaces: list[str], match: re.Match[str]) -> str:
    space, modality = match[1], match[2]
    before = [
        name for name in spaces[: spaces.index(space)] if modality in model.settings.scheme.space(name).modalities
    ]
    return f"{modality}#{len(before)}"


def export(settings: ExportSettings) -> RunSummary:
    """`mcn export`: write a model's tensors under the authors' names, for their code and for others that read it.

    A file that is there with the same tensors stays. InputError where the model has no published form.
    """
    report = RunSummary("export", unit="tensor")
    content = load_checkpoint(settings.model)
    model = model_from(content)
    try:
        published_names(model)  # whether there is a published form, before what else may be missing
        exported = export_published(model, _davenet(settings, model, content))
    except StateDictError as error:
        raise InputError(f"{settings.model}: {error}") from None
    if settings.out.exists():
        if not _equal(exported, settings.out):
            raise InputError(f"{settings.out}: holds something else; remove it or choose another --out")
        report.skipped = len(exported)
    else:
        save_tensors(settings.out, exported)
        report.done = len(exported)
    report.detail = {
        "weights": str(settings.out),
        "width": model.settings.width_of(model.settings.scheme.spaces[0]),
        "video_streams": list(model.settings.video_streams),
    }
    report.finish().publish(settings.out.with_name(f"{settings.out.name}.json"))
    return report


def _davenet(settings: ExportSettings, model: MCN, content: dict[str, Any]) -> ResDavenet | None:
    """The network that made the model's audio rows; None where DaveNet is part of the model."""
    if model.davenet is not None:
        if settings.davenet is not None:
            raise InputError(f"{settings.model}: has trained a DaveNet of its own; leave out --davenet")
        return None
    if settings.davenet is None:
        raise InputError(f"{settings.model}: was trained on audio rows; give --davenet, the weights that made them")
    try:
        digest = load_weights("davenet", settings.davenet).digest
    except WeightsError as error:
        raise InputError(str(error)) from None
    expected = content["identity"]["audio"]["weights"]
    if digest != expected:
        raise InputError(
            f"{settings.davenet}: not the DaveNet that {settings.model} has learnt to hear by (digest {digest[:12]}, "
            f"its data set's is {expected[:12]}); give the file that `mcn extract` took as --davenet-weights"
        )
    return read_davenet(settings.davenet)


def _equal(exported: dict[str, Tensor], path: Path) -> bool:
    try:
        existing = read_state_dict(path)
    except WeightsError:
        return False
    return existing.keys() == exported.keys() and all(torch.equal(existing[name], x) for name, x in exported.items())
