"""Environmental sounds in ESC-50's folder layout (Piczak, 2015): told from the vectors of sound, by the csv's folds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.errors import MediaError
from pipeline.clips.cutting import ClipFeatures, cut_clip
from pipeline.core.errors import InputError
from pipeline.core.files import csv_lines
from pipeline.evaluation.probe.clips import embed_clips, probed_rules
from pipeline.evaluation.probe.factors import probe_everywhere
from pipeline.evaluation.probe.linear_probe import Asked, question_of
from pipeline.evaluation.probe.media_features import MediaFeatures
from pipeline.evaluation.settings import Draws
from pipeline.training.checkpoint import TrainedModel

FACTOR = "environmental sound"
LIST = Path("meta", "esc50.csv")
_COLUMNS = ("filename", "fold", "category", "src_file")


@dataclass(frozen=True)
class SoundClip:
    """A line of esc50.csv."""

    path: Path
    fold: int
    category: str
    source: str
    """The recording it was cut from: no other fold has any of it."""


def read_sounds(folder: Path) -> list[SoundClip]:
    """The clips of a folder with meta/esc50.csv (filename,fold,category,src_file) and audio/*.wav.

    InputError names the file and line of what is wrong, and a recording that is in two folds.
    """
    path = folder / LIST
    clips: list[SoundClip] = []
    for where, row in csv_lines(path, _COLUMNS, f"a folder in ESC-50's layout, with {LIST} and audio/"):
        if any(not row[column] for column in _COLUMNS) or not row["fold"].isdecimal():
            raise InputError(f"{where}: expected a value in each of {','.join(_COLUMNS)}, and an integer in fold")
        sound = folder / "audio" / row["filename"]
        if not sound.is_file():
            raise InputError(f"{where}: no such file as {sound}; unpack all of the data set")
        clips.append(SoundClip(sound, int(row["fold"]), row["category"], row["src_file"]))
    folds: dict[str, int] = {}
    for clip in clips:
        if folds.setdefault(clip.source, clip.fold) != clip.fold:
            raise InputError(f"{path}: recording {clip.source} is in two folds; clips of one must be in the same")
    return clips


def probe_sounds(
    model: TrainedModel, media: MediaFeatures, clips: Sequence[SoundClip], draws: Draws
) -> tuple[list[dict[str, Any]], list[str]]:
    """Results of the sounds' input features and of their vectors in each space; and lines on what can't be decoded."""
    rules, notes, kept = replace(probed_rules(model), streams=()), [], []

    def cut() -> Iterator[ClipFeatures]:
        for clip in clips:
            try:
                sound = media.sound(clip.path)
            except MediaError as error:
                notes.append(f"{FACTOR}: {error}")
                continue
            if sound is None:
                notes.append(f"{FACTOR}: {clip.path} holds no sound")
                continue
            heard = media.recording(clip.path.stem, sound)
            kept.append(clip)
            yield cut_clip(heard, 0.0, heard.duration, (), model.vectors, rules)

    vectors = embed_clips(model, cut(), rules)

    def ask(rows: NDArray[np.int64]) -> Asked | None:
        some = [kept[row] for row in rows.tolist()]
        return question_of([c.category for c in some], [c.source for c in some], [c.fold for c in some])

    return list(probe_everywhere(FACTOR, ask, vectors, draws)), notes
