"""A pairing scheme in text: each space with its vectors, whence they come, and brackets around what is contrasted."""

from pipeline.core.terminal_text import count
from pipeline.tools.inspect.scheme import SchemeDescription, SpaceDescription, Vector

_ASCII = str.maketrans({"─": "-", "│": "|", "╮": "+", "╯": "+", "┬": "+", "┴": "+", "┼": "+", "▶": ">"})
_GAP = 2
"""Columns from bracket to bracket."""


def scheme_lines(scheme: SchemeDescription, encoding: str = "utf-8") -> list[str]:
    """The drawing, then heads and decoders with their sizes and numbers of parameters; in `encoding`'s characters."""
    shown = []
    for space in scheme.spaces:
        contrasted = ", ".join("-".join(pair) for pair in space.pairs)
        shown += [f"space {space.name}, width {count(space.width)}, contrasts {contrasted}", *_drawn(space), ""]
    shown += [*_table(scheme), f"parameters: {count(scheme.parameters)}{_davenet(scheme)}"]
    try:
        "".join(shown).encode(encoding)
    except UnicodeError:
        shown = [line.translate(_ASCII) for line in shown]
    return shown


def _davenet(scheme: SchemeDescription) -> str:
    return f", of which DaveNet {count(scheme.davenet_parameters)}" if scheme.davenet_parameters else ""


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
    place = {vector.modality: row for row, vector in enumerate(space.vectors)}
    spans = [sorted((place[first], place[second])) for first, second in space.pairs]
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
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    right = (2, 3, 5)
    return [
        "  ".join(
            f"{cell:>{width}}" if column in right else f"{cell:<{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
