"""Names of the published state dict (159 tensors), to and from this package's own.

The authors' weights hold one space with a head and a decoder for each of video, audio and text, DaveNet inside.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from models.davenet import ResDavenet
from models.mcn import MCN
from models.pairing import FEATURE, MODALITIES

_AUDIO = "DAVEnet."
_UNUSED = "batchnorm1."


class StateDictError(ValueError):
    """Weights that don't fit: one line that names every tensor that is missing, unknown or of another shape."""


def load_published(model: MCN, state: Mapping[str, Tensor]) -> None:
    """Load the authors' MCN weights (names with or without `module.`) into a model of one space for all modalities.

    A model on frozen audio rows leaves the DaveNet part aside: `load_published_davenet` loads that into the extractor.
    Raises StateDictError for a model of another form or weights that don't fit it.
    """
    state = _without_module(state)
    _check_form(model)
    names = published_names(model)
    if model.davenet is None or not model.settings.unused_batchnorm:
        unused = _AUDIO if model.davenet is None else _AUDIO + _UNUSED
        state = {name: tensor for name, tensor in state.items() if not name.startswith(unused)}
    own = model.state_dict()
    _check_fit(state, {published: own[name] for published, name in names.items()})
    model.load_state_dict({names[published]: tensor for published, tensor in state.items()})


def export_published(model: MCN, davenet: ResDavenet | None = None) -> dict[str, Tensor]:
    """The model's weights under all 159 published names; `davenet` is needed where the model has frozen audio rows.

    Raises StateDictError for a model of another form, one that standardises its inputs, or one without DaveNet.
    """
    _check_form(model)
    davenet = davenet if model.davenet is None else model.davenet
    if davenet is None:
        raise StateDictError("the published weights include DaveNet's: give the network that made the audio rows")
    fresh = torch.nn.BatchNorm2d(1).state_dict()  # the published class never calls this layer, so it stays as it began
    exported = {f"{_AUDIO}{_UNUSED}{name}": tensor for name, tensor in fresh.items()}
    exported |= {f"{_AUDIO}{name}": tensor for name, tensor in davenet.state_dict().items()}
    own = model.state_dict()
    return exported | {published: own[name] for published, name in published_names(model).items()}


def load_published_davenet(davenet: ResDavenet, state: Mapping[str, Tensor]) -> None:
    """Load DaveNet's weights from a state dict of MCN (`DAVEnet.`), AVLnet or DAVEnet, with or without `module.`.

    Raises StateDictError for weights that don't fit.
    """
    state = _without_module(state)
    if any(name.startswith(_AUDIO) for name in state):
        part = {name.removeprefix(_AUDIO): tensor for name, tensor in state.items() if name.startswith(_AUDIO)}
        state = _without_module(part)
    own = davenet.state_dict()
    if not any(name.startswith(_UNUSED) for name in own):
        state = {name: tensor for name, tensor in state.items() if not name.startswith(_UNUSED)}
    _check_fit(state, own)
    davenet.load_state_dict(state)


def published_names(model: MCN) -> dict[str, str]:
    """Published name -> the model's own, for all its tensors; StateDictError for a model of another form."""
    _check_form(model)
    space = model.settings.scheme.spaces[0].name
    prefixes = {
        "davenet.": _AUDIO,
        f"heads.{space}/audio.project.": "DAVEnet_projection.",
        f"heads.{space}/audio.unit.": "GU_audio.",
        f"heads.{space}/video.": "GU_video.",
        f"word_pooling.{space}/text.": "text_pooling_caption.",
        f"heads.{space}/text.": "GU_text_captions.",
        f"decoders.{space}/video.": "recon_v.",
        f"decoders.{space}/audio.": "recon_a.",
        f"decoders.{space}/text.": "recon_t.",
    }
    return {
        published + name.removeprefix(own): name
        for name in model.state_dict()
        for own, published in prefixes.items()
        if name.startswith(own)
    }


def _check_form(model: MCN) -> None:
    scheme = model.settings.scheme
    space = scheme.spaces[0]
    from_features = all(source.origin == FEATURE for source in space.sources)
    if len(scheme.spaces) != 1 or set(space.trained_modalities) != set(MODALITIES) or not from_features:
        raise StateDictError(f"scheme {scheme.name} has no published form: one space that trains all modalities")
    if model.settings.standardise:
        raise StateDictError("the published model doesn't standardise its inputs: use standardise: false")


def _check_fit(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    problems = [f"{name} is missing" for name in wanted if name not in given]
    problems += [f"{name} is unknown" for name in given if name not in wanted]
    problems += [
        f"{name} has shape {tuple(given[name].shape)} and not {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in given and given[name].shape != tensor.shape
    ]
    if problems:
        raise StateDictError(f"the weights don't fit: {'; '.join(problems)}")


def _without_module(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without `module.`, which DataParallel adds and which may stand before any part of a name."""
    return {re.sub(r"^(module\.)+", "", name): tensor for name, tensor in state.items()}
