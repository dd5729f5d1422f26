"""What a pairing scheme makes of a model: which vectors it has, through which heads they come, and what that costs.

Sizes and numbers of parameters are read off the model itself, built without memory for its values.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from models import MCN, ModelSettings, Scheme
from models.gated import GatedUnit, GateThenProject, WordPooling
from models.pairing import FEATURE
from pipeline.core.errors import InputError


@dataclass(frozen=True)
class Vector:
    """A modality's vector in a space, and how it comes there."""

    modality: str
    origin: str
    """`feature`, or the space whose vector it is made of."""
    head: str
    """SPACE/MODALITY: the head that it goes through; another modality's where that is shared."""
    through: str
    """What that head is made of."""
    width_in: int
    width_out: int
    head_parameters: int
    """Of the head and, for words, of the layer before the maximum over them; 0 where another modality owns the head."""
    decoder: str
    """What rebuilds the feature from it; empty for a vector that is in no pair."""
    decoder_parameters: int


@dataclass(frozen=True)
class SpaceDescription:
    """An embedding space."""

    name: str
    width: int
    vectors: tuple[Vector, ...]
    pairs: tuple[tuple[str, str], ...]
    """Contrasted modalities."""


@dataclass(frozen=True)
class SchemeDescription:
    """A scheme at given sizes."""

    name: str
    spaces: tuple[SpaceDescription, ...]
    features: dict[str, int]
    """Modality -> width of its feature, for those that the scheme uses."""
    parameters: int
    """Of the whole model."""
    davenet_parameters: int
    """Of these, of DaveNet; 0 where its rows come in frozen."""


def describe(scheme: Scheme, settings: Mapping[str, Any] | None = None) -> SchemeDescription:
    """The scheme's model, with the sizes of `settings` (fields of ModelSettings; default: the project's).

    InputError for sizes that no model can have.
    """
    try:
        with torch.device("meta"):
            sizes = ModelSettings(scheme=scheme, **(settings or {}))
            model = MCN(sizes)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(f"scheme {scheme.name}: no model of these sizes: {str(error).splitlines()[0]}") from None
    spaces = []
    for space in scheme.spaces:
        vectors = []
        for source in space.sources:
            key, owner = f"{space.name}/{source.modality}", f"{space.name}/{source.through}"
            modules: list[nn.Module] = [model.heads[owner]]
            if key in model.word_pooling:
                modules.insert(0, model.word_pooling[key])
            owned = source.through == source.modality
            decoder = model.decoders[key] if key in model.decoders else None
            vectors.append(
                Vector(
                    modality=source.modality,
                    origin=source.origin,
                    head=owner,
                    through=", ".join(map(_named, modules)),
                    width_in=_width_in(modules[0]),
                    width_out=sizes.width_of(space),
                    head_parameters=sum(map(_parameters, modules)) if owned else 0,
                    decoder=_layers(decoder) if decoder is not None else "",
                    decoder_parameters=_parameters(decoder) if decoder is not None else 0,
                )
            )
        pairs = tuple((pair.first, pair.second) for pair in space.pairs)
        spaces.append(SpaceDescription(space.name, sizes.width_of(space), tuple(vectors), pairs))
    widths = {"video": sizes.video_dim, "audio": sizes.audio_dim, "text": sizes.word_dim}
    used = {v.modality for space in spaces for v in space.vectors if v.origin == FEATURE}
    return SchemeDescription(
        scheme.name,
        tuple(spaces),
        {modality: width for modality, width in widths.items() if modality in used},
        _parameters(model),
        _parameters(model.davenet) if model.davenet is not None else 0,
    )


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _named(module: nn.Module) -> str:
    if isinstance(module, WordPooling):
        return "maximum over words"
    return "gated unit, projection" if isinstance(module, GateThenProject) else "gated unit"


def _width_in(module: nn.Module) -> int:
    if isinstance(module, GateThenProject):
        return module.unit.fc.in_features
    assert isinstance(module, GatedUnit | WordPooling)
    return module.fc.in_features


def _layers(decoder: nn.Module) -> str:
    """Widths of a decoder's layers: `4096-1024-2048`."""
    linear = [layer for layer in decoder.modules() if isinstance(layer, nn.Linear)]
    return "-".join(str(width) for width in (linear[0].in_features, *(layer.out_features for layer in linear)))
