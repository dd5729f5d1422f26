"""What each arm finds for the same texts, with frames from the media where they still are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extractors.thumbnails import thumbnail
from pipeline.download.media import MediaFinder
from pipeline.experiment.report.results import Model

MOST_FRAMES = 60
"""Of at most 200x150, some 6 kB each."""


class Frames:
    """Gives data URLs until `MOST_FRAMES` are given."""

    def __init__(self, media: Path | None) -> None:
        self._finder = None if media is None else MediaFinder(media)
        self._left = MOST_FRAMES
        self.lacking = 0
        """Clips whose frame could not be had, or came after the last."""

    @property
    def any(self) -> bool:
        """Whether there are media to take frames from."""
        return self._finder is not None

    def of(self, clip: Mapping[str, Any]) -> str:
        """The frame in the middle of a clip (`video_id`, `start`, `end` in seconds); "" where there is none."""
        if self._finder is None:
            return ""
        path = self._finder.find(clip["video_id"]) if self._left else None
        picture = thumbnail(path, (clip["start"] + clip["end"]) / 2) if path is not None else ""
        self._left -= bool(picture)
        self.lacking += not picture
        return picture


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
    shown = [model for model in models if model.has_headline][:ARMS]
    if not shown:
        return []
    lists = [model.retrieval["detail"]["examples"] for model in shown]
    first = [_place(example) == 1 for example in lists[0]]
    right = _spread([index for index, found in enumerate(first) if found])
    wrong = _spread([index for index, found in enumerate(first) if not found])
    return [
        Example(
            lists[0][index]["text"],
            first[index],
            tuple(_answer(model.arm, own[index], frames) for model, own in zip(shown, lists, strict=True)),
        )
        for index in [*right, *wrong]
    ]


def _answer(arm: str, example: Mapping[str, Any], frames: Frames) -> Answer:
    retrieved = tuple(dict(clip) | {"picture": frames.of(clip)} for clip in example["found"][:FOUND])
    return Answer(arm, retrieved, _place(example), len(example["found"]))


def _place(example: Mapping[str, Any]) -> int | None:
    return next((place for place, clip in enumerate(example["found"], start=1) if clip["right"]), None)


def _spread(indices: list[int]) -> list[int]:
    return indices if len(indices) <= EACH else [indices[number * len(indices) // EACH] for number in range(EACH)]
