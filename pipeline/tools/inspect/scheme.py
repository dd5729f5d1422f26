"""What a pairing scheme makes of a model: vectors, heads and costs, and their picture in text.

Sizes and numbers of parameters are read off the model itself, built without memory for its values.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from models.gated import GatedUnit, GateThenProject, WordPooling
from models.mcn import MCN
from models.pairing import FEATURE, Scheme
from models.settings import ModelSettings
from pipeline.core.errors import InputError
from pipeline.core.formatting import aligned, count


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


_ASCII = str.maketrans({"─": "-", "│": "|", "╮": "+", "╯": "+", "┬": "+", "┴": "+", "┼": "+", "▶": ">"})
_GAP = 2
"""Columns from bracket to bracket."""


def scheme_lines(scheme: SchemeDescription, encoding: str = "utf-8") -> list[str]:
    """The drawing, then heads and decoders with their sizes and numbers of parameters; in `encoding`'s characters."""
    shown = []
    for space in scheme.spaces:
        contrasted = ", ".join("-".join(pair) for pair in space.pairs)
        shown += [f"space {space.name}, width {count(space.width)}, contrasts {contrasted}", *_drawn(space), ""]
    davenet = f", of which DaveNet {count(scheme.davenet_parameters)}" if scheme.davenet_parameters else ""
    shown += [*_table(scheme), f"parameters: {count(scheme.parameters)}{davenet}"]
    try:
        "".join(shown).encode(encoding)
    except UnicodeError:
        shown = [line.translate(_ASCII) for line in shown]
    return shown


def _drawn(space: SpaceDescription) -> list[str]:
    froms = [_origin(vector) for vector in space.vectors]
    ways = [_way(space, vector) for vector in space.vectors]
    left, middle = max(map(len, froms)), max(map(len, ways))
    right = max(len(vector.modality) for vector in space.vectors)
    return [
        f"  {start:<{left}} ──{way}{'─' * (middle - len(way))}──▶ {vector.modality:<{right}} {bracket}".rstrip()
        for start, way, vector, bracket in zip(froms, ways, space.vectors, brackets(space), strict=True)
    ]


def _origin(vector: Vector) -> str:
    name = f"{vector.modality} feature" if vector.origin == "feature" else f"{vector.modality} of {vector.origin}"
    return f"{name} {count(vector.width_in)}"


def _way(space: SpaceDescription, vector: Vector) -> str:
    owner = vector.head.removeprefix(f"{space.name}/")
    return f" {vector.through}{'' if owner == vector.modality else f' of {owner}'} "


def brackets(space: SpaceDescription) -> list[str]:
    """For each vector of the space the part, in its line, of the brackets that join contrasted pairs, a column each."""
    row_of = {vector.modality: row for row, vector in enumerate(space.vectors)}
    spans = [sorted((row_of[first], row_of[second])) for first, second in space.pairs]
    drawn = []
    for row in range(len(space.vectors)):
        last = max((column for column, span in enumerate(spans) if row in span), default=-1)
        text = ""
        for column, (top, bottom) in enumerate(spans):
            goes_on = column < last
            if row in (top, bottom):
                corner = ("┬" if row == top else "┴") if goes_on else ("╮" if row == top else "╯")
            elif top < row < bottom:
                corner = "┼" if goes_on else "│"
            else:
                corner = "─" if goes_on else " "
            text += ("─" if column <= last else " ") * (_GAP - 1) + corner
        drawn.append(text)
    return drawn


def _table(scheme: SchemeDescription) -> list[str]:
    rows = [("vector", "head", "in -> out", "parameters", "decoder", "parameters")]
    for space in scheme.spaces:
        for vector in space.vectors:
            shared = vector.head != f"{space.name}/{vector.modality}"
            rows.append(
                (
                    f"{space.name}/{vector.modality}",
                    f"that of {vector.head}" if shared else vector.through,
                    f"{vector.width_in} -> {vector.width_out}",
                    "-" if shared else count(vector.head_parameters),
                    vector.decoder or "none: in no pair",
                    count(vector.decoder_parameters) if vector.decoder else "-",
                )
            )
    return aligned(rows, right=(2, 3, 5))
