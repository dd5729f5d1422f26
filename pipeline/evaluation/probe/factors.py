"""The factors that probes tell from vectors: a made sample's, from abstract category to fine step, and the sounds of a
folder in ESC-50's layout (Piczak, 2015), by the csv's folds."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.errors import MediaError
from pipeline.clips.cutting import ClipFeatures, cut_clip
from pipeline.core.errors import InputError
from pipeline.core.lists import csv_lines
from pipeline.core.records import VideoRecord
from pipeline.core.video_ids import check_media_name
from pipeline.evaluation.lists import StepList
from pipeline.evaluation.probe.clips import (
    INPUT,
    ClipVectors,
    Window,
    embed_clips,
    embed_windows,
    probed_rules,
    step_windows,
)
from pipeline.evaluation.probe.linear_probe import Asked, LinearProbe, Question, question_of
from pipeline.evaluation.probe.media_features import MediaFeatures
from pipeline.evaluation.settings import Draws
from pipeline.training.checkpoint import TrainedModel

ABSENT = "none"
STEP = "step"
MOST_WORDS = 8
_RAREST, _LEAST_VIDEOS = 0.04, 5
_COLUMNS = (
    *("video_id", "second", "task_id", "kind", "action", "object", "background"),
    *("noise", "voice", "action_sound", "words"),
)


@dataclass(frozen=True)
class Factor:
    """A column of the truth whose levels are told apart."""

    name: str
    column: str
    carried_by: str
    """The modality that shows or sounds it."""
    fillers_only: bool = False
    """Outside of steps alone, where object, sound of action and narration have nothing to do with one another."""


FACTORS = (
    Factor("object", "object", "video"),
    Factor("object, fillers", "object", "video", fillers_only=True),
    Factor("background", "background", "video"),
    Factor("action", "action", "video"),
    Factor("action sound", "action_sound", "audio"),
    Factor("action sound, fillers", "action_sound", "audio", fillers_only=True),
    Factor("background noise", "noise", "audio"),
    Factor("voice", "voice", "audio"),
)
WORDS = "words"


@dataclass(frozen=True)
class TrueSecond:
    """What is seen at the instant `second` of a video, and heard for most of the second that follows."""

    video_id: str
    second: int
    levels: dict[str, str]
    """Column of truth.csv -> level; `none` is absent."""
    filler: bool
    """Whether nothing of a step is seen or heard in all of the second: at its end too there is none."""

    @property
    def words(self) -> list[str]:
        """All words that sound in the second, as they are spelt."""
        return self.levels["words"].split()


def read_truth(path: Path, videos: Collection[str]) -> list[TrueSecond]:
    """The seconds of those of `videos` that `path` knows, in its order.

    `path` is a truth.csv of `mcn sample`. InputError names the file and line of what is wrong, and when no video is
    left.
    """
    chosen, rows = set(videos), []
    for where, row in csv_lines(path, _COLUMNS, "the truth.csv of a sample"):
        check_media_name(row["video_id"], where)
        if not _is_index(row["second"]):
            raise InputError(f"{where}: expected an integer in column second, got {row['second']!r}")
        if row["video_id"] in chosen:
            rows.append({column: row[column] for column in _COLUMNS})
    if not rows:
        raise InputError(f"{path}: knows no video of the split; check --truth and --split")
    kinds = {(row["video_id"], int(row["second"])): row["kind"] for row in rows}

    def filler(video_id: str, second: int) -> bool:
        return STEP not in (kinds[video_id, second], kinds.get((video_id, second + 1), ""))

    return [
        TrueSecond(row["video_id"], int(row["second"]), row, filler(row["video_id"], int(row["second"])))
        for row in rows
    ]


def _is_index(text: str) -> bool:
    return text.isdecimal() and len(text) < 10


def ask_factor(factor: Factor, seconds: Sequence[TrueSecond], rows: NDArray[np.int64]) -> Asked | None:
    """The question which level the factor has in `rows`; seconds without it are not asked."""

    def level(second: TrueSecond) -> str:
        if factor.fillers_only and not second.filler:
            return ""
        name = second.levels[factor.column]
        return "" if name == ABSENT else name

    chosen = [seconds[row] for row in rows.tolist()]
    return question_of([level(second) for second in chosen], [second.video_id for second in chosen])


def ask_words(words: Sequence[str], seconds: Sequence[TrueSecond], rows: NDArray[np.int64]) -> Asked | None:
    """For each of `words` the question whether it sounds; seconds without any word are not asked."""
    spoken = [index for index, row in enumerate(rows.tolist()) if seconds[row].words]
    if not words or not spoken:
        return None
    kept = np.array(spoken, np.int64)
    labels = np.array([[word in seconds[row].words for word in words] for row in rows[kept].tolist()], np.int64)
    videos = np.array([seconds[row].video_id for row in rows[kept].tolist()])
    return Asked(Question(labels, (2,) * len(words), videos), kept, left_out=0)


def frequent_words(seconds: Sequence[TrueSecond]) -> list[str]:
    """The words that most seconds have, 8 at most: in 4 % of the spoken seconds or more, and in 5 videos or more.

    Words that are in most spoken seconds are no question.
    """
    spoken = [second for second in seconds if second.words]
    counts, videos = Counter[str](), defaultdict[str, set[str]](set)
    for second in spoken:
        for word in set(second.words):
            counts[word] += 1
            videos[word].add(second.video_id)
    usual = [
        word
        for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        if _RAREST <= count / len(spoken) <= 0.5 and len(videos[word]) >= _LEAST_VIDEOS
    ]
    return usual[:MOST_WORDS]


def carried_by() -> dict[str, Any]:
    """Factor -> the modality that carries it; words are carried by two."""
    return {factor.name: [factor.carried_by] for factor in FACTORS} | {WORDS: ["audio", "text"]}


Ask = Callable[[NDArray[np.int64]], Asked | None]
"""Takes the indices of the clips that have a modality and gives what is asked of them, rows counted among these."""


def probe_everywhere(
    factor: str, ask: Ask, clips: ClipVectors, draws: Draws, trained_on: Collection[str] = ()
) -> Iterator[dict[str, Any]]:
    """A result for each modality's input features and for its vectors in each space that holds it, as JSON values.

    All of one modality are told of the same rows by the same folds. A modality of which the question can't be asked
    has none.
    """
    for modality in clips.modalities:
        present = np.flatnonzero(clips.present[modality])
        asked = ask(present)
        if asked is None or len(np.unique(asked.question.videos)) < 2:
            continue
        probe, rows, input_predictions = LinearProbe(asked.question, draws, trained_on), present[asked.rows], None
        for space in (INPUT, *clips.spaces_of(modality)):
            scores, predictions = probe.scores(clips.vectors[space, modality][rows], input_predictions)
            if space == INPUT:
                input_predictions = predictions
            yield {
                "factor": factor,
                "space": space,
                "modality": modality,
                "videos": len(np.unique(asked.question.videos)),
                "levels": max(asked.question.levels),
                "questions": len(asked.question.levels),
                "levels left out": asked.left_out,
                **scores.as_json(),
            }


def unasked(factor: str, results: Sequence[dict[str, Any]], clips: ClipVectors) -> str:
    """A line that says of which modalities a question could not be asked; empty where it could of all."""
    probed = {result["modality"] for result in results}
    lacking = [modality for modality in clips.modalities if modality not in probed]
    return f"{factor}: fewer than two levels that two videos have, no probe of {', '.join(lacking)}" if lacking else ""


LEVELS = ("category_1", "category_2", "task_id")


def climb(
    windows: Sequence[Window],
    clips: ClipVectors,
    records: Mapping[str, VideoRecord],
    draws: Draws,
    trained_on: frozenset[str],
) -> tuple[list[dict[str, Any]], list[str]]:
    """Results of the rungs that the id list names, and lines on what couldn't be asked."""
    results, notes = [], []
    for level in LEVELS:
        names = [getattr(records.get(window.clip.video_id), level, "") for window in windows]
        rung, note = _rung(level, names, windows, clips, draws, trained_on)
        results += rung
        notes += [note] if note else []
    return results, notes


def climb_steps(model: TrainedModel, steps: Sequence[StepList], draws: Draws) -> tuple[list[dict[str, Any]], list[str]]:
    """Results of the last rung, which step of which task, told from its annotated segments."""
    windows, names = step_windows(model, steps)
    if not windows:
        return [], ["step: no annotated segment lies in a video of the split"]
    clips = embed_windows(model, windows)
    results, note = _rung(STEP, names, windows, clips, draws, model.training_videos)
    return results, [note] if note else []


def _rung(
    level: str,
    names: Sequence[str],
    windows: Sequence[Window],
    clips: ClipVectors,
    draws: Draws,
    trained_on: frozenset[str],
) -> tuple[list[dict[str, Any]], str]:
    def ask(rows: NDArray[np.int64]) -> Asked | None:
        chosen = rows.tolist()
        return question_of([names[row] for row in chosen], [windows[row].clip.video_id for row in chosen])

    results = list(probe_everywhere(level, ask, clips, draws, trained_on))
    return results, unasked(level, results, clips)


SOUND = "environmental sound"
SOUND_LIST = Path("meta", "esc50.csv")
LONGEST_NAME = 255
"""Bytes of a file's name."""
_SOUND_COLUMNS = ("filename", "fold", "category", "src_file")


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
    path = folder / SOUND_LIST
    clips: list[SoundClip] = []
    for where, row in csv_lines(path, _SOUND_COLUMNS, f"a folder in ESC-50's layout, with {SOUND_LIST} and audio/"):
        if any(not row[column] for column in _SOUND_COLUMNS) or not _is_index(row["fold"]):
            raise InputError(f"{where}: expected a value in each of {','.join(_SOUND_COLUMNS)}, and an integer in fold")
        sound, name = folder / "audio" / row["filename"], row["filename"]
        if Path(name).name != name or len(name.encode()) > LONGEST_NAME or not sound.is_file():
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
                notes.append(f"{SOUND}: {error}")
                continue
            if sound is None:
                notes.append(f"{SOUND}: {clip.path} holds no sound")
                continue
            heard = media.recording(clip.path.stem, sound)
            kept.append(clip)
            yield cut_clip(heard, 0.0, heard.duration, (), model.vectors, rules)

    vectors = embed_clips(model, cut(), rules)

    def ask(rows: NDArray[np.int64]) -> Asked | None:
        some = [kept[row] for row in rows.tolist()]
        return question_of([c.category for c in some], [c.source for c in some], [c.fold for c in some])

    return list(probe_everywhere(SOUND, ask, vectors, draws)), notes
