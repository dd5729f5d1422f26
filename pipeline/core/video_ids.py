"""Video ids: what is one, lists of them with tasks or sides, and which partition of a job one belongs to."""

import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from pipeline.core.errors import InputError
from pipeline.core.files import LARGEST_JSON
from pipeline.core.formatting import quoted
from pipeline.core.lists import MalformedListError, csv_lines, csv_records, open_list
from pipeline.core.records import VIDEO_ID, VideoRecord

_MEDIA_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ADDRESS = re.compile(
    r"(?:(?i:youtube(?:-nocookie)?\.com)/(?:(?:watch/?)?\?(?:[^#\s]*[&;])?v=|(?:embed|shorts|live|v|e)/)|(?i:youtu\.be)/)"
    r"([A-Za-z0-9_-]{11})(?![A-Za-z0-9_-])"
)
_PREFIXED = re.compile(r"v_([A-Za-z0-9_-]{11})")
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{2,5}\Z")


def is_video_id(text: str) -> bool:
    """Whether `text` is 11 characters of A-Z a-z 0-9 _ -, as YouTube's ids are."""
    return VIDEO_ID.fullmatch(text) is not None


def is_media_name(text: str) -> bool:
    """Whether `text` may name a user's own video: 1 to 64 characters of A-Z a-z 0-9 _ -."""
    return _MEDIA_NAME.fullmatch(text) is not None


def check_video_id(text: str, where: str) -> str:
    """Return `text` if it is a video id; otherwise InputError that begins with `where` (a file and line, say)."""
    if not is_video_id(text):
        within = id_within(text.strip(), prefixed=True)
        cure = f"; give {within} alone" if is_video_id(within) else ""
        raise InputError(f"{where}: {quoted(text)} is not a video id: expected 11 characters of A-Z a-z 0-9 _ -{cure}")
    return text


def check_media_name(text: str, where: str) -> str:
    """Return `text` if it may name a user's own video; otherwise InputError that begins with `where`."""
    if not is_media_name(text):
        raise InputError(f"{where}: {quoted(text)} can't name a video: expected 1 to 64 characters of A-Z a-z 0-9 _ -")
    return text


def id_within(text: str, prefixed: bool) -> str:
    """The id or name that an address at YouTube, a file's path or name, or the text itself gives; "" for none.

    `prefixed`: whether `v_` before 11 characters is no part of an id, as ActivityNet has it.
    """
    if "/" in text and (address := _ADDRESS.search(text)):
        return address[1]
    name = _SUFFIX.sub("", text.replace("\\", "/").rpartition("/")[2])
    if prefixed and (match := _PREFIXED.fullmatch(name)):
        return match[1]
    return name if is_media_name(name) else ""


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
REPEATED = "id listed again, its first line counts"


def read_video_list(path: Path, left_out: Counter[str] | None = None) -> list[VideoRecord]:
    """Read the list in its own order; a repeated id keeps its first line.

    Columns: `video_id`, and where present `category_1`, `category_2`, `rank`, `task_id`. `left_out` counts lines passed
    over, by reason. Raises InputError that names the file and line of what is wrong.
    """
    left_out = Counter() if left_out is None else left_out
    records: dict[str, VideoRecord] = {}
    for row in _rows(path, left_out):
        if row["video_id"] in records:
            left_out[REPEATED] += 1
            continue
        details: dict[str, Any] = {name: row[name] for name in DETAILS if name in row}
        records[row["video_id"]] = VideoRecord(row["video_id"], **details)
    return list(records.values())


def read_video_ids(path: Path, left_out: Counter[str] | None = None) -> list[str]:
    """The ids alone, each once, in the list's order; `left_out` and InputError as for `read_video_list`."""
    left_out = Counter() if left_out is None else left_out
    lines = Counter(row["video_id"] for row in _rows(path, left_out))
    left_out[REPEATED] += lines.total() - len(lines)
    return list(lines)


def each_video_id(path: Path, left_out: Counter[str] | None = None) -> Iterator[str]:
    """The ids one by one, repeated where the list repeats them; `left_out` and InputError as for `read_video_list`."""
    return (row["video_id"] for row in _rows(path, Counter() if left_out is None else left_out))


def _rows(path: Path, left_out: Counter[str]) -> Iterator[dict[str, str]]:
    """The list's lines by column, ids checked."""
    empty = True
    for where, row in csv_lines(path, ("video_id",), left_out=left_out):
        check_video_id(row["video_id"], where)
        empty = False
        yield row
    if empty:
        raise InputError(f"{path}: lists no video; expected a line per video below the header")


def read_split(path: Path, left_out: Counter[str] | None = None) -> dict[str, str]:
    """Read a csv video_id,split: id -> train or heldout, each id once.

    `left_out` counts lines passed over, by reason. Raises InputError that names the file and line of what is wrong.
    """
    splits: dict[str, str] = {}
    first: dict[str, str] = {}
    for where, row in csv_lines(path, ("video_id", "split"), left_out=left_out):
        video_id, side = check_media_name(row["video_id"], where), row["split"]
        if side not in ("train", "heldout"):
            raise InputError(f"{where}: split must be train or heldout, not {quoted(side)}")
        line = where.rpartition(" ")[2]
        if video_id in splits:
            sides = f"{splits[video_id]} in line {first[video_id]}, {side} in line {line}"
            raise InputError(f"{where}: {video_id} is listed twice: {sides}; keep one of these lines")
        splits[video_id], first[video_id] = side, line
    return splits


@dataclass(frozen=True)
class FoundIds:
    """Ids in a file of any layout."""

    ids: frozenset[str]
    place: str
    """Where in the file they stand."""
    elsewhere: frozenset[str]
    """Known ids of 11 characters that stand elsewhere in the file alone."""
    header: str = ""
    """What is taken for the column's name, though it isn't `video_id`."""


def find_ids(path: Path, known: Collection[str]) -> FoundIds:
    """The ids in a list of any layout: a csv with or without a header, an id a line, or JSON.

    They may be addresses at YouTube, names of files, or stand behind `v_`. They are those of the column (of JSON: the
    level, and what is `known` at others) with the most ids of `known`; of columns equal in this, those of one named
    video_id; where none holds a known one, those of the column with the most ids of 11 characters. InputError where
    there is none, two are equal in this and differ, or a line of the column holds no id.
    """
    expected = "a list of ids: a csv, an id a line, or JSON"
    with open_list(path, expected) as file:
        is_json = file.peek(64)[:64].lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[")
        places = _json_levels(path, file.read(LARGEST_JSON + 1)) if is_json else {}
    readings = [
        _Reading(place, cells, prefixed, is_json, known)
        for place, cells in (places or _csv_columns(path)).items()
        for prefixed in (False, True)
    ]
    best = max(reading.rank for reading in readings)
    chosen = [reading for reading in readings if reading.rank == best]
    if not chosen[0].ids or (best == (0, False, 0) and len(readings) > 2):
        raise InputError(f"{path}: lists no id; expected {expected}")
    if any((one.hits or one.ids) != (chosen[0].hits or chosen[0].ids) for one in chosen):
        both = " and ".join(dict.fromkeys(reading.place for reading in chosen))
        raise InputError(f"{path}: {both} may be the ids; give a csv whose column of ids is named video_id")
    if chosen[0].others:
        where, text = chosen[0].others[0]
        raise InputError(f"{where}: {quoted(text)} is no id; expected one in each line, in {chosen[0].place}")
    elsewhere = frozenset(i for one in readings for i in one.hits - chosen[0].ids if is_video_id(i))
    if is_json:  # whose parts may lie at different levels, and which names nothing by chance
        return FoundIds(chosen[0].ids | elsewhere, chosen[0].place, frozenset())
    return FoundIds(chosen[0].ids, chosen[0].place, elsewhere, chosen[0].header)


_Cells = list[tuple[str, str]]
"""Where each cell stands, and its text."""


class _Reading:
    """A column, or a level of JSON, taken for ids in one of two ways."""

    def __init__(self, place: str, cells: _Cells, prefixed: bool, is_json: bool, known: Collection[str]) -> None:
        found = [id_within(text.strip(), prefixed) for _, text in cells]
        named = not is_json and cells[0][1].strip() == "video_id"
        # A first line that is no id of the others' kind names the column.
        header = named or (
            not is_json and found[0] not in known and not is_video_id(found[0]) and any(map(is_video_id, found[1:]))
        )
        given = list(zip(cells, found, strict=True))[header:]
        # JSON holds many other texts.
        ids = {i for _, i in given if i and (not is_json or is_video_id(i) or i in known)}
        name = cells[0][1].strip()
        self.place, self.ids = f"{place} ({name[:40]!a})" if header and name else place, frozenset(ids)
        self.header = "" if named or not header else name
        self.others = [cell for cell, video_id in given if not video_id and not is_json]
        self.hits = {video_id for video_id in ids if video_id in known}
        self.rank = (len(self.hits), named and bool(ids), 0 if self.hits else sum(map(is_video_id, ids)))


def _csv_columns(path: Path) -> dict[str, _Cells]:
    """Each column by its number."""
    columns: dict[str, _Cells] = {}
    for where, cells in csv_records(path, "a list of ids"):
        for number, cell in enumerate(cells, 1):
            columns.setdefault(f"column {number}", []).append((where, cell))
    if not columns:
        raise InputError(f"{path}: lists no id; the file is empty")
    return columns


def _json_levels(path: Path, content: bytes) -> dict[str, _Cells]:
    """Keys, and texts that are values, by how deep they lie."""
    try:
        if len(content) > LARGEST_JSON:
            raise ValueError("too large")
        level = [json.loads(content.decode("utf-8-sig"))]
    except (ValueError, RecursionError) as error:
        raise MalformedListError(f"{path}: not a JSON file: {error}; expected a list of ids") from None
    levels: dict[str, _Cells] = {"values at level 0": [(str(path), "")]}
    depth = 0
    while level:
        depth += 1
        objects = [one for one in level if isinstance(one, dict)]
        inner = [*chain.from_iterable(one if isinstance(one, list) else one.values() for one in level)]
        texts = {"keys": chain.from_iterable(objects), "values": (one for one in inner if isinstance(one, str))}
        for kind, some in texts.items():
            if cells := [(str(path), text) for text in some]:
                levels[f"{kind} at level {depth}"] = cells
        level = [one for one in inner if isinstance(one, dict | list)]
    return levels
