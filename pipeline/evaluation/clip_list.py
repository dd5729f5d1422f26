"""Clips that a model is asked about, each with a text or a class: a csv, and which of its lines belong to a split."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.clips.clip_rules import ClipRules
from pipeline.clips.cutting import ClipFeatures, cut_clip
from pipeline.core.csv_lines import csv_lines
from pipeline.core.errors import InputError
from pipeline.core.files import digest_of_json
from pipeline.core.records import Clip
from pipeline.core.report import StageReport
from pipeline.training.trained_model import TrainedModel


@dataclass(frozen=True)
class LabelledClip:
    """A clip and what is said of it."""

    label: str
    """A text that describes it, or the name of its class."""
    clip: Clip


def read_clips(path: Path, column: str) -> list[LabelledClip]:
    """Read a csv with columns video_id,start,end and `column`; InputError names the file and line of what is wrong."""
    clips = []
    for where, row in csv_lines(path, ("video_id", "start", "end", column)):
        try:
            start, end = float(row["start"]), float(row["end"])
        except ValueError:
            start = end = math.nan
        if not (0 <= start < end < math.inf and row[column]):
            raise InputError(f"{where}: wanted 0 <= start < end in seconds, and a {column}")
        clips.append(LabelledClip(row[column], Clip(row["video_id"], start, end)))
    return clips


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


def of_split(
    asked: list[LabelledClip], model: TrainedModel, split: str, source: Path, report: StageReport
) -> list[LabelledClip]:
    """Those clips whose video is in `split` of the model's manifest; all that is odd about them goes into `report`.

    InputError when none is left.
    """
    dataset = model.dataset
    chosen, frozen = set(dataset.manifest.ids(split)), set(dataset.video_ids)
    clips = [clip for clip in asked if clip.clip.video_id in chosen]
    lacking = sum(clip.clip.video_id not in frozen for clip in asked)
    if lacking:
        report.failed["video not in the manifest"] = lacking
        report.notes.append(f"{lacking} clips are of videos that the manifest lacks: left out on both sides")
    if not clips:
        raise InputError(f"{source}: no clip of a video in split {split} of {dataset.path}; check --split and --clips")
    seen = model.seen(clip.clip.video_id for clip in clips)
    if seen:
        report.notes.append(seen)
    timed = ClipRules(streams=(), audio="none")
    late = [c.clip for c in clips if c.clip.start >= dataset.video(c.clip.video_id, timed).duration]
    if late:
        report.notes.append(
            f"{len(late)} clips start at their video's end or later and count as misses, "
            f"e.g. {late[0].video_id} at {late[0].start} s"
        )
    return clips
