"""What is true of each second of a made sample, and what is asked of it: one question a factor, and the words."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.csv_lines import csv_lines
from pipeline.core.errors import InputError
from pipeline.evaluation.probe.linear_probe import Asked, Question, question_of

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
    chosen, found = set(videos), []
    for where, row in csv_lines(path, _COLUMNS, "the truth.csv of a sample is wanted"):
        if not row["second"].isdecimal():
            raise InputError(f"{where}: `second` is to be a whole number")
        if row["video_id"] in chosen:
            found.append({column: row[column] for column in _COLUMNS})
    if not found:
        raise InputError(f"{path}: knows no video of the split; check --truth and --split")
    kinds = {(row["video_id"], int(row["second"])): row["kind"] for row in found}

    def filler(video_id: str, second: int) -> bool:
        return STEP not in (kinds[video_id, second], kinds.get((video_id, second + 1), ""))

    return [
        TrueSecond(row["video_id"], int(row["second"]), row, filler(row["video_id"], int(row["second"])))
        for row in found
    ]


def ask_factor(factor: Factor, seconds: Sequence[TrueSecond], rows: NDArray[np.int64]) -> Asked | None:
    """The question which level the factor has in `rows`; seconds without it are not asked."""

    def level(second: TrueSecond) -> str:
        if factor.fillers_only and not second.filler:
            return ""
        found = second.levels[factor.column]
        return "" if found == ABSENT else found

    asked = [seconds[row] for row in rows.tolist()]
    return question_of([level(second) for second in asked], [second.video_id for second in asked])


def ask_words(words: Sequence[str], seconds: Sequence[TrueSecond], rows: NDArray[np.int64]) -> Asked | None:
    """For each of `words` the question whether it sounds; seconds without any word are not asked."""
    spoken = [place for place, row in enumerate(rows.tolist()) if seconds[row].words]
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
    return list(_usual(counts, videos, len(spoken)))[:MOST_WORDS]


def _usual(counts: Counter[str], videos: dict[str, set[str]], spoken: int) -> Iterator[str]:
    for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if _RAREST <= count / spoken <= 0.5 and len(videos[word]) >= _LEAST_VIDEOS:
            yield word


def carried_by() -> dict[str, Any]:
    """Factor -> the modality that carries it; words are carried by two."""
    return {factor.name: [factor.carried_by] for factor in FACTORS} | {WORDS: ["audio", "text"]}
