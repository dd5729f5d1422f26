"""Ordered step lists: which steps a video of a task goes through, in which order, and when each truly happens."""

import math
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.csv_lines import csv_lines
from pipeline.core.errors import InputError


@dataclass(frozen=True)
class Step:
    """One step of a task, with the spans of one video in which it is done."""

    number: int
    """Its place in the task's order, as given."""
    text: str
    segments: tuple[tuple[float, float], ...]
    """Half-open spans [start, end) seconds, ascending; none where the video leaves the step out."""


@dataclass(frozen=True)
class StepList:
    """The K steps that are looked for in one video, in their order."""

    video_id: str
    task_id: str
    steps: tuple[Step, ...]

    @property
    def present(self) -> tuple[bool, ...]:
        """For each step whether it is annotated in the video."""
        return tuple(bool(step.segments) for step in self.steps)


def read_step_lists(annotations: Path, steps: Path | None = None) -> list[StepList]:
    """The step lists of all annotated videos, ascending by task and video.

    `annotations` is a csv video_id,task_id,step,start,end[,text], a line for each segment; a step may have several.
    The steps of a task follow their `step`, a whole number. With `steps`, a csv task_id,step,text that names all steps
    of each task, all of them are looked for in each video, as in CrossTask (Zhukov et al., 2019); without it, those
    that are annotated in the video, each by its own text. InputError names the file and line of what is wrong.
    """
    texts = None if steps is None else _read_texts(steps)
    found: dict[tuple[str, str], dict[int, list[tuple[float, float]]]] = {}
    own: dict[tuple[str, str], dict[int, str]] = {}
    columns = ("video_id", "task_id", "step", "start", "end") + (("text",) if texts is None else ())
    for where, row in csv_lines(annotations, columns):
        key, number, segment = (row["task_id"], row["video_id"]), _number(where, row), _segment(where, row)
        if texts is None:
            text = own.setdefault(key, {}).setdefault(number, row["text"])
            if not text or text != row["text"]:
                raise InputError(f"{where}: step {number} of {key[1]} wants one text, the same on all its lines")
        elif number not in texts.get(key[0], {}):
            raise InputError(f"{where}: {steps} names no step {number} of task {key[0]}; add it there")
        found.setdefault(key, {}).setdefault(number, []).append(segment)
    return [
        StepList(
            key[1],
            key[0],
            tuple(
                Step(number, text, tuple(sorted(segments.get(number, ()))))
                for number, text in sorted((own[key] if texts is None else texts[key[0]]).items())
            ),
        )
        for key, segments in sorted(found.items())
    ]


def _read_texts(path: Path) -> dict[str, dict[int, str]]:
    """Task -> step -> its text."""
    texts: dict[str, dict[int, str]] = {}
    for where, row in csv_lines(path, ("task_id", "step", "text")):
        task, number = texts.setdefault(row["task_id"], {}), _number(where, row)
        if number in task or not row["text"]:
            raise InputError(f"{where}: step {number} of task {row['task_id']} wants one line, with a text")
        task[number] = row["text"]
    return texts


def _number(where: str, row: dict[str, str]) -> int:
    try:
        return int(row["step"])
    except ValueError:
        raise InputError(f"{where}: step {row['step']!r}: a whole number is wanted, the step's place") from None


def _segment(where: str, row: dict[str, str]) -> tuple[float, float]:
    try:
        start, end = float(row["start"]), float(row["end"])
    except ValueError:
        start = end = math.nan
    if not 0 <= start < end < math.inf:
        raise InputError(f"{where}: wanted 0 <= start < end in seconds")
    return start, end
