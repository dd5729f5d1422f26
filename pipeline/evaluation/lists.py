"""Lists that a model is asked about: clips with a text or a class, and ordered steps with their true times."""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.clips.cutting import ClipFeatures, cut_clip
from pipeline.clips.rules import ClipRules
from pipeline.core.errors import InputError
from pipeline.core.files import digest_of_json
from pipeline.core.lists import csv_lines, left_out_note
from pipeline.core.records import Clip
from pipeline.core.reporting import RunSummary
from pipeline.core.video_ids import check_media_name
from pipeline.training.checkpoint import TrainedModel


@dataclass(frozen=True)
class LabelledClip:
    """A clip and what is said of it."""

    label: str
    """A text that describes it, or the name of its class."""
    clip: Clip


_FREE = ("text",)


def read_clips(path: Path, column: str, report: RunSummary | None = None) -> list[LabelledClip]:
    """Read a csv with columns video_id,start,end and `column`; notes of `report` say how many lines are passed over.

    InputError names the file and line of what is wrong.
    """
    clips, left_out = [], Counter[str]()
    for where, row in csv_lines(path, ("video_id", "start", "end", column), free=_FREE, left_out=left_out):
        video_id = check_media_name(row["video_id"], where)
        label = row[column]
        if column not in _FREE and label != label.strip():
            raise InputError(f"{where}: {column} {label[:80]!a} begins or ends with white space; remove it")
        clips.append(LabelledClip(label, Clip(video_id, *_segment(where, row, column))))
    _note(report, path, left_out)
    return clips


def _note(report: RunSummary | None, path: Path, left_out: Counter[str]) -> None:
    if report is not None:
        report.notes += left_out_note(path, left_out)


def clips_digest(clips: Sequence[LabelledClip]) -> str:
    """By which two evaluations of the same clips are known."""
    return digest_of_json([[c.clip.video_id, c.clip.start, c.clip.end, c.label] for c in clips])


def cut_out(
    model: TrainedModel, video_id: str, start: float, end: float, words: Sequence[str], rules: ClipRules
) -> ClipFeatures:
    """The clip's features; nothing to see or to hear where it starts at the video's end or later."""
    video = model.dataset.video(video_id, rules)
    clip = cut_clip(video, start, end, words, model.vectors, rules)
    if start < video.duration:
        return clip
    return replace(clip, video=np.zeros_like(clip.video), has_video=False, audio=None)


def videos_of_split(
    video_ids: Sequence[str],
    model: TrainedModel,
    split: str,
    source: Path,
    report: RunSummary,
    lacking_note: Callable[[Sequence[str]], str],
) -> set[str]:
    """Those of a list's `video_ids` that are in `split` of the model's manifest; the others count in `report`.

    Its notes tell of videos that the manifest lacks (`lacking_note` of their ids) and of those the model was trained
    on. InputError, naming the `source` of the list, when no video is left.
    """
    dataset = model.dataset
    frozen = set(dataset.video_ids)
    lacking = [video_id for video_id in video_ids if video_id not in frozen]
    if lacking:
        report.failed["video not in the manifest"] = len(lacking)
        report.notes.append(lacking_note(lacking))
    chosen = set(dataset.manifest.ids(split)).intersection(video_ids)
    if not chosen:
        raise InputError(f"{source}: no video in split {split} of {dataset.path}; check --split and the list")
    if seen := model.seen(chosen):
        report.notes.append(seen)
    return chosen


def clips_of_split(
    clips: Sequence[LabelledClip], model: TrainedModel, split: str, source: Path, report: RunSummary
) -> list[LabelledClip]:
    """Those of the clips whose video is in `split`, as `videos_of_split` has it; a note tells of late ones too."""
    chosen = videos_of_split(
        [clip.clip.video_id for clip in clips],
        model,
        split,
        source,
        report,
        lambda lacking: f"{len(lacking)} clips are of videos that the manifest lacks: left out on both sides",
    )
    kept = [clip for clip in clips if clip.clip.video_id in chosen]
    timed = ClipRules(streams=(), audio="none")
    clips_asked = dict.fromkeys(c.clip for c in kept)
    late = [clip for clip in clips_asked if clip.start >= model.dataset.video(clip.video_id, timed).duration]
    if late:
        report.notes.append(
            f"{len(late)} clips start at their video's end or later and count as misses, "
            f"e.g. {late[0].video_id} at {late[0].start} s"
        )
    return kept


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


def read_step_lists(annotations: Path, steps: Path | None = None, report: RunSummary | None = None) -> list[StepList]:
    """The step lists of all annotated videos, ascending by task and video.

    `annotations` is a csv video_id,task_id,step,start,end[,text], a line for each segment; a step may have several.
    The steps of a task follow their `step`, a whole number. With `steps`, a csv task_id,step,text that names all steps
    of each task, all of them are looked for in each video, as in CrossTask (Zhukov et al., 2019); without it, those
    that are annotated in the video, each by its own text. Notes of `report` say how many lines are passed over.
    InputError names the file and line of what is wrong.
    """
    texts, left_out = None if steps is None else _read_texts(steps, report), Counter[str]()
    segments_of: dict[tuple[str, str], dict[int, list[tuple[float, float]]]] = {}
    texts_of: dict[tuple[str, str], dict[int, str]] = {}
    columns = ("video_id", "task_id", "step", "start", "end") + (("text",) if texts is None else ())
    for where, row in csv_lines(annotations, columns, free=_FREE, left_out=left_out):
        video_id, number, segment = check_media_name(row["video_id"], where), _number(where, row), _segment(where, row)
        key = row["task_id"], video_id
        if texts is None:
            text = texts_of.setdefault(key, {}).setdefault(number, row["text"])
            if not text or text != row["text"]:
                raise InputError(f"{where}: step {number} of {key[1]} needs one text, the same on all its lines")
        elif number not in texts.get(key[0], {}):
            raise InputError(f"{where}: {steps} names no step {number} of task {key[0]}; add it there")
        segments_of.setdefault(key, {}).setdefault(number, []).append(segment)
    _note(report, annotations, left_out)
    return [
        StepList(
            key[1],
            key[0],
            tuple(
                Step(number, text, tuple(sorted(segments.get(number, ()))))
                for number, text in sorted((texts_of[key] if texts is None else texts[key[0]]).items())
            ),
        )
        for key, segments in sorted(segments_of.items())
    ]


def _read_texts(path: Path, report: RunSummary | None) -> dict[str, dict[int, str]]:
    """Task -> step -> its text."""
    texts: dict[str, dict[int, str]] = {}
    left_out = Counter[str]()
    for where, row in csv_lines(path, ("task_id", "step", "text"), free=_FREE, left_out=left_out):
        task, number = texts.setdefault(row["task_id"], {}), _number(where, row)
        if number in task or not row["text"]:
            raise InputError(f"{where}: step {number} of task {row['task_id']} needs one line, with a text")
        task[number] = row["text"]
    _note(report, path, left_out)
    return texts


_INTEGER = re.compile(r"\s*[+-]?[0-9]{1,9}\s*")
_NUMBER = re.compile(r"\s*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\s*")


def _number(where: str, row: dict[str, str]) -> int:
    if not _INTEGER.fullmatch(row["step"]):
        raise InputError(f"{where}: step: expected an integer, got {row['step'][:80]!r}")
    return int(row["step"])


def _segment(where: str, row: dict[str, str], column: str = "") -> tuple[float, float]:
    """A line's start and end in seconds; `column` must have a value too."""
    start, end = (float(row[name]) if _NUMBER.fullmatch(row[name]) else math.nan for name in ("start", "end"))
    if not 0 <= start < end < math.inf or (column and not row[column].strip()):
        raise InputError(f"{where}: expected 0 <= start < end in seconds{column and f', and a {column}'}")
    return start, end


def true_seconds(steps: StepList, seconds: int) -> NDArray[np.bool_]:
    """[T, K]: in which of a video's T seconds each step is done; what lies past the end is cut off."""
    truth = np.zeros((seconds, len(steps.steps)), np.bool_)
    for index, step in enumerate(steps.steps):
        for start, end in step.segments:
            truth[math.floor(start) : math.ceil(end), index] = True
    return truth
