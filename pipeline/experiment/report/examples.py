"""What each arm finds for the same texts: some that the reference finds at once, some that it doesn't find."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.experiment.report.frames import Frames
from pipeline.experiment.report.results import Model

EACH = 2
"""Examples of either kind."""
ARMS = 3
"""Shown at most, the reference first."""
FOUND = 3
"""Clips shown for each arm, best first."""


@dataclass(frozen=True)
class Answer:
    """What one arm finds for a text."""

    arm: str
    found: tuple[Mapping[str, Any], ...]
    """Clips, best first: video_id, start, end, text, `right`, and `picture`, a data URL or ""."""
    place: int | None
    """Of the right clip, from 1; None where it isn't among those that were kept."""
    kept: int


@dataclass(frozen=True)
class Example:
    """One text, and what the arms find for it."""

    text: str
    right: bool
    """Whether the reference finds the right clip first."""
    answers: tuple[Answer, ...]


def retrieval_examples(models: Sequence[Model], frames: Frames) -> list[Example]:
    """`EACH` texts that the first model answers rightly and `EACH` that it doesn't, spread over those there are.

    Models that can't be asked by text are passed over; nothing where that leaves none.
    """
    asked = [model for model in models if model.has_headline][:ARMS]
    if not asked:
        return []
    lists = [model.retrieval["detail"]["examples"] for model in asked]
    first = [_place(example) == 1 for example in lists[0]]
    right = _spread([place for place, found in enumerate(first) if found])
    wrong = _spread([place for place, found in enumerate(first) if not found])
    return [
        Example(
            lists[0][place]["text"],
            first[place],
            tuple(_answer(model.arm, own[place], frames) for model, own in zip(asked, lists, strict=True)),
        )
        for place in [*right, *wrong]
    ]


def _answer(arm: str, example: Mapping[str, Any], frames: Frames) -> Answer:
    found = tuple(dict(clip) | {"picture": frames.of(clip)} for clip in example["found"][:FOUND])
    return Answer(arm, found, _place(example), len(example["found"]))


def _place(example: Mapping[str, Any]) -> int | None:
    return next((place for place, clip in enumerate(example["found"], start=1) if clip["right"]), None)


def _spread(places: list[int]) -> list[int]:
    return places if len(places) <= EACH else [places[number * len(places) // EACH] for number in range(EACH)]
