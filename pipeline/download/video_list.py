"""Which videos there are: the published `HowTo100M_v1.csv` or any csv with a `video_id` column."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.core.errors import InputError
from pipeline.core.files import csv_lines
from pipeline.core.records import VideoRecord
from pipeline.core.video_ids import check_video_id

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
