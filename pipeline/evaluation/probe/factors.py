"""The factors that probes tell from vectors: a made sample's, and from abstract category to fine step."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.core.files import csv_lines
from pipeline.core.records import VideoRecord
from pipeline.evaluation.lists import StepList
from pipeline.evaluation.probe.clips import INPUT, ClipVectors, Window, embed_windows, step_windows
from pipeline.evaluation.probe.linear_probe import Asked, LinearProbe, Question, question_of
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
        if not row["second"].isdecimal():
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
