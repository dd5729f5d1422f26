"""Video ids: what is one, lists of them with their tasks, and which partition of a job one belongs to."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.errors import InputError
from pipeline.core.files import csv_lines
from pipeline.core.records import VideoRecord

_VIDEO_ID = re.compile(r"[A-Za-z0-9_-]{11}")
_MEDIA_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def is_video_id(text: str) -> bool:
    """Whether `text` is 11 characters of A-Z a-z 0-9 _ -, as YouTube's ids are."""
    return _VIDEO_ID.fullmatch(text) is not None


def is_media_name(text: str) -> bool:
    """Whether `text` may name a user's own video: 1 to 64 characters of A-Z a-z 0-9 _ -."""
    return _MEDIA_NAME.fullmatch(text) is not None


def check_video_id(text: str, where: str) -> str:
    """Return `text` if it is a video id; otherwise InputError that begins with `where` (a file and line, say)."""
    if not is_video_id(text):
        raise InputError(f"{where}: {_shown(text)} is not a video id: expected 11 characters of A-Z a-z 0-9 _ -")
    return text


def check_media_name(text: str, where: str) -> str:
    """Return `text` if it may name a user's own video; otherwise InputError that begins with `where`."""
    if not is_media_name(text):
        raise InputError(f"{where}: {_shown(text)} can't name a video: expected 1 to 64 characters of A-Z a-z 0-9 _ -")
    return text


def _shown(text: str) -> str:
    # ascii(), so that control and look-alike characters show for what they are.
    return ascii(text if len(text) <= 80 else text[:77] + "...")


_PART = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")


@dataclass(frozen=True)
class Part:
    """Part `index` of `count`, counted from 1."""

    index: int = 1
    count: int = 1

    def owns(self, number: int) -> bool:
        """Whether plan `number`, or a video whose hash is `number`, belongs to this part."""
        return number % self.count == self.index - 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def find_part(text: str, environment: Mapping[str, str] = os.environ) -> Part:
    """The part that `text` ("I/N") names; for "" that of SLURM's array task, or the whole.

    InputError when `text` isn't I/N with 1 <= I <= N, or SLURM's variables make no sense.
    """
    if text:
        match = _PART.fullmatch(text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise InputError(f"--part {text}: expected I/N with 1 <= I <= N, e.g. 2/8")
        return Part(int(match[1]), int(match[2]))
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return Part()
    try:
        task, first, count, step = (
            int(environment.get(f"SLURM_ARRAY_TASK_{name}", default))
            for name, default in (("ID", ""), ("MIN", "0"), ("COUNT", "1"), ("STEP", "1"))
        )
        part = Part((task - first) // step + 1, count)
    except (ValueError, ZeroDivisionError):
        raise InputError("SLURM_ARRAY_TASK_ID, _MIN, _COUNT and _STEP aren't integers; give --part I/N") from None
    # An array such as 1,5,7 has no even step: these variables don't tell its tasks their index.
    if (task - first) % step or not 1 <= part.index <= part.count:
        raise InputError(
            f"SLURM's array task {task} isn't one of {count} tasks from {first} on by steps of {step}; give --part I/N"
        )
    return part


DETAILS = ("category_1", "category_2", "rank", "task_id")


def read_video_list(path: Path) -> list[VideoRecord]:
    """Read the list in its own order; a repeated id keeps its first line.

    Columns: `video_id`, and where present `category_1`, `category_2`, `rank`, `task_id`. Raises InputError that names
    the file and line of what is wrong.
    """
    records: dict[str, VideoRecord] = {}
    for row in _rows(path):
        details: dict[str, Any] = {name: row[name] for name in DETAILS if name in row}
        records.setdefault(row["video_id"], VideoRecord(row["video_id"], **details))
    return list(records.values())


def read_video_ids(path: Path) -> list[str]:
    """The ids alone, each once, in the list's order; InputError as for `read_video_list`."""
    return list(dict.fromkeys(row["video_id"] for row in _rows(path)))


def each_video_id(path: Path) -> Iterator[str]:
    """The ids one by one, repeated where the list repeats them; InputError as for `read_video_list`."""
    return (row["video_id"] for row in _rows(path))


def _rows(path: Path) -> Iterator[dict[str, str]]:
    """The list's lines by column, ids checked."""
    empty = True
    for where, row in csv_lines(path, ("video_id",)):
        check_video_id(row["video_id"], where)
        empty = False
        yield row
    if empty:
        raise InputError(f"{path}: lists no video; expected a line per video below the header")
