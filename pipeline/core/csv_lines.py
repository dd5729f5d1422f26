"""Lines of a csv with a head line, as lists that people hand over: each with the words by which messages name it."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.core.errors import InputError

Line = tuple[str, dict[str, str]]
"""A line as messages name it, and its cells by column."""


def csv_lines(path: Path, columns: Sequence[str], wanted: str = "") -> Iterator[Line]:
    """The lines of a csv that has `columns` among its own; a byte order mark, as spreadsheets write it, is no matter.

    InputError names the file and the line of what is wrong. `wanted`: what to give, for a file that isn't there.
    """
    names = ",".join(columns)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if not set(columns) <= set(reader.fieldnames or ()):
                raise InputError(f"{path} line 1: columns {names} are wanted")
            for row in reader:
                where = f"{path} line {reader.line_num}"
                if any(row[column] is None for column in columns):
                    raise InputError(f"{where}: cut short; {names} are wanted")
                yield where, row
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {wanted or f'a csv {names} is wanted'}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: can't be read as csv: {error}") from None
