"""Which modality can be found by which other: every space of a scheme, both ways."""

from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor

from models import Embeddings, Scheme
from pipeline.metrics.ranking import Side


@dataclass(frozen=True)
class Direction:
    """What is asked and what is searched, in one space. Several modalities stand for the sum of their vectors."""

    space: str
    query: tuple[str, ...]
    candidate: tuple[str, ...]
    contrasted: bool
    """Whether training contrasted every modality asked with every one searched, in this space."""

    @property
    def name(self) -> str:
        """For people: `text -> video+audio`."""
        return f"{'+'.join(self.query)} -> {'+'.join(self.candidate)}"

    def queries(self, embedded: Embeddings) -> Side:
        """The vectors asked with."""
        return _side(embedded, self.space, self.query)

    def candidates(self, embedded: Embeddings) -> Side:
        """The vectors searched."""
        return _side(embedded, self.space, self.candidate)


def directions(scheme: Scheme) -> list[Direction]:
    """All directions of a scheme, the headline first: text -> video, video alone, in the space that contrasts them.

    In each space every modality finds each other one, and where it holds all three also the sum of two (the published
    text -> video+audio) and is found by it. A scheme that never contrasts text with video has no headline.
    """
    found = []
    for space in scheme.spaces:
        pairs = {frozenset((pair.first, pair.second)) for pair in space.pairs}
        names: list[str] = [name for name in ("text", "video", "audio") if name in space.modalities]
        sides: list[tuple[tuple[str, ...], tuple[str, ...]]] = [((a,), (b,)) for a, b in permutations(names, 2)]
        if len(names) == 3:
            sides += [(("text",), ("video", "audio")), (("video", "audio"), ("text",))]
        for query, candidate in sides:
            contrasted = all(frozenset((a, b)) in pairs for a in query for b in candidate)
            found.append(Direction(space.name, query, candidate, contrasted))
    return sorted(found, key=lambda direction: not is_headline(direction))


def is_headline(direction: Direction) -> bool:
    """Whether it is the score by which schemes are compared."""
    return (direction.query, direction.candidate, direction.contrasted) == (("text",), ("video",), True)


def _side(embedded: Embeddings, space: str, modalities: tuple[str, ...]) -> Side:
    """The sum of those modalities' vectors that are there; absent where none is."""
    vectors: Tensor | None = None
    present = torch.zeros(len(embedded.present[modalities[0]]), dtype=torch.bool)
    for modality in modalities:
        there = embedded.present[modality].cpu()
        part = embedded.vectors[space][modality].detach().float().cpu()
        if len(modalities) > 1:
            part = part.masked_fill(~there.unsqueeze(1), 0.0)
        vectors = part if vectors is None else vectors + part
        present = present | there
    assert vectors is not None
    return Side(vectors, present)
