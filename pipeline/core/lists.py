"""Lists that users give: lines of a text file, and of a csv by column. What is wrong is told with its line.

Every list is read here. Nothing is mended in silence: what can't be read rightly is refused, or counted by the caller.
"""

import gzip
import io
import re
import stat
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, cast

from pipeline.core.errors import InputError
from pipeline.core.formatting import quoted
from pipeline.core.records import VIDEO_ID

Line = tuple[str, dict[str, str]]
"""A line as messages name it (file and number), and its cells by column."""

LONGEST_LINE = 1 << 20
"""Characters of a line, and of a quoted cell."""
_ALWAYS_UNPACKED = 64 << 20
"""Bytes that a .gz may unpack to, however small it is."""
_MOST_UNPACKED = 50
"""Bytes in a byte of a .gz: ids hardly shrink, labels do."""

EMPTY = "empty line"
JOINED = "text with commas outside of quotes, kept whole"
_UNCLOSED = "line with a quote that isn't closed"
_AFTER_QUOTE = "line with text after a closing quote"
_CELL_COUNT = "line with more or fewer cells than the header"
_TOO_LONG = f"line of more than {LONGEST_LINE} characters"
_STRAY = "line with a quote in a cell that doesn't begin with one"
_CURES = {
    _UNCLOSED: "a quote opens a cell here and isn't closed in it; close it, or double it where it is part of the text",
    _AFTER_QUOTE: "text after a closing quote; double the quotes that are part of the text",
    _TOO_LONG: f"more than {LONGEST_LINE} characters",
}

_SIGNATURES = {
    b"PK\x03\x04": "a zip archive or an Excel workbook; save the list as csv in UTF-8",
    b"\xd0\xcf\x11\xe0": "an Excel workbook; save the list as csv in UTF-8",
    b"\x1f\x8b": "packed by gzip; unpack it",
    b"BZh91AY&SY": "packed by bzip2; unpack it, or pack it by gzip",
    b"\xfd7zXZ": "packed by xz; unpack it, or pack it by gzip",
    b"\x28\xb5\x2f\xfd": "packed by zstd; unpack it, or pack it by gzip",
}
_MARKS = {b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


class MalformedListError(InputError):
    """What a file holds is no list of the kind expected; `InputError` alone: the file can't be read at all."""


class TextLine(NamedTuple):
    """A physical line of a file, without its end."""

    number: int
    text: str
    """What isn't UTF-8 is U+FFFD."""
    fault: str
    """What is wrong with its characters; empty for nothing."""


@contextmanager
def open_list(path: Path, expected: str) -> Iterator[io.BufferedReader | gzip.GzipFile]:
    """The bytes of a list, unpacked if they are a .gz, whatever its name; `expected`: what to give, for messages.

    InputError when there is no such file, it can't be read, or is a pipe: lists are read more than once.
    MalformedListError for what is no text in UTF-8 by its first bytes, and for a .gz that is cut short or swells.
    """
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise InputError(f"{path}: a pipe or a device; save the list as a file: it is read more than once")
        with open(path, "rb") as packed:
            file = gzip.GzipFile(fileobj=packed) if packed.peek(2)[:2] == b"\x1f\x8b" else packed
            if isinstance(file, gzip.GzipFile):
                _refuse_swelling(path, file)
            refuse_other_kinds(path, file.peek(4096)[:4096])
            yield file
    except FileNotFoundError:
        if str(path) == "-":
            raise InputError(
                "-: standard input can't be a list; save it as a file: it is read more than once"
            ) from None
        raise InputError(f"{path}: no such file; expected {expected}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise MalformedListError(f"{path}: not a whole .gz ({error}); fetch it again") from None
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror or error}") from None


def _refuse_swelling(path: Path, file: gzip.GzipFile) -> None:
    """Go through the file once, so that none of it is taken before it is known to be whole and of a size to be read."""
    room = max(_ALWAYS_UNPACKED, _MOST_UNPACKED * path.stat().st_size)
    while block := file.read(1 << 20):
        room -= len(block)
        if room < 0:
            raise MalformedListError(
                f"{path}: a .gz that unpacks to more than {_MOST_UNPACKED} times its size; unpack it first"
            )
    file.seek(0)


def refuse_other_kinds(path: Path, head: bytes) -> None:
    """MalformedListError where a file that begins with `head`, some KiB, is no text in UTF-8 by its first bytes."""
    for signature, kind in _SIGNATURES.items():
        if head.startswith(signature):
            raise MalformedListError(f"{path}: {kind}")
    if encoding := _wide_encoding(head):
        raise MalformedListError(
            f"{path}: {encoding}, not UTF-8; save it as UTF-8, e.g. iconv -f {encoding} -t UTF-8 {path.name}"
        )


def _wide_encoding(head: bytes) -> str:
    """UTF-16 or UTF-32 by its mark, or by where bytes are 0; empty for another encoding."""
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding
    zero = [2 * head[place::4].count(0) > len(head[place::4]) for place in range(4)]
    if sum(zero) == 3:
        return "UTF-32LE" if not zero[0] else "UTF-32BE"
    return {(False, True): "UTF-16LE", (True, False): "UTF-16BE"}.get((zero[0], zero[1]), "") if any(zero) else ""


def text_lines(path: Path, expected: str) -> Iterator[TextLine]:
    """The lines of a text in UTF-8, with or without a byte order mark, ended by LF, CRLF or CR; empty ones too.

    A line that is too long is cut, with a fault. Errors as `open_list` raises them.
    """
    with open_list(path, expected) as content:
        # As escapes, so that a byte that isn't UTF-8 is seen in its line.
        file = io.TextIOWrapper(
            cast(io.BufferedReader, content), encoding="utf-8", errors="surrogateescape", newline=""
        )
        number = 0
        while text := file.readline(LONGEST_LINE + 1):
            number += 1
            if number == 1:
                text = text.lstrip("\ufeff")
            cut = len(text) > LONGEST_LINE
            rest = text
            while cut and rest and rest[-1] not in "\r\n":
                rest = file.readline(LONGEST_LINE)
            text = text.rstrip("\r\n")
            fault = _TOO_LONG if cut else ""
            if not text.isascii() and (odd := next((one for one in text if "\udc80" <= one <= "\udcff"), "")):
                fault = fault or (
                    f"byte 0x{ord(odd) - 0xDC00:02x} isn't UTF-8; save the file as UTF-8, "
                    f"e.g. iconv -f ISO-8859-1 -t UTF-8 {path.name}"
                )
                text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            elif "\0" in text:
                fault = fault or "a NUL byte; the file is damaged, or no text"
            yield TextLine(number, text, fault)


def plain_lines(path: Path, expected: str, left_out: Counter[str] | None = None) -> Iterator[tuple[str, str]]:
    """The lines of a text file as (file and number, text without white space about it); empty ones count in `left_out`.

    MalformedListError names the line whose characters can't be read; see `open_list` for others.
    """
    for line in text_lines(path, expected):
        where = f"{path} line {line.number}"
        if line.fault:
            raise MalformedListError(f"{where}: {_CURES.get(line.fault, line.fault)}")
        if text := line.text.strip():
            yield where, text
        elif left_out is not None:
            left_out[EMPTY] += 1


@dataclass
class _Record:
    """A line of a csv, which may go over several lines of the file."""

    first: TextLine
    cells: list[str]
    quoted: set[int] = field(default_factory=set)
    """The cells that stood in quotes."""
    stray: int | None = None
    """The first cell that holds a quote and didn't stand in quotes."""
    broken: set[int] = field(default_factory=set)
    """The cells with a line break in them."""
    opened: int = 0
    """Number of the line in which the first of these begins."""
    more: list[TextLine] = field(default_factory=list)
    """The lines of the file after the first."""


class _FaultError(Exception):
    """A record that can't be read: what `kind` of fault, and the line of the file where it begins."""

    def __init__(self, kind: str, number: int, text: str = "") -> None:
        self.kind, self.number = kind, number
        super().__init__(text or _CURES.get(kind, kind))


_INSIDE = re.compile(r'(?:[^"]+|"")*+')
"""What a cell in quotes may hold up to its closing quote."""


class _Records:
    """The records of a csv, one after another; after one that can't be read, the next begins on the next line."""

    def __init__(self, lines: Iterator[TextLine], separator: str = ",") -> None:
        self._lines, self._again, self.separator = lines, list[TextLine](), separator

    def next_line(self) -> TextLine | None:
        """The next line of the file; None at its end."""
        return self._again.pop() if self._again else next(self._lines, None)

    def read(self, first: TextLine) -> _Record:
        """The record that begins with the line; _FaultError for one that isn't valid csv."""
        if '"' not in first.text:
            return _Record(first, first.text.split(self.separator))
        record = _Record(first, [])
        try:
            self._read_cells(record)
        except _FaultError as fault:
            self.resume_after(fault.number, record)
            raise
        return record

    def resume_after(self, number: int, record: _Record) -> None:
        """Let the lines of the record after line `number` be the next again."""
        self._again += [line for line in reversed(record.more) if line.number > number]

    def _read_cells(self, record: _Record) -> None:
        line, place = record.first, 0
        while True:
            index = len(record.cells)
            if line.text.startswith('"', place):
                opened, parts, size, place = line.number, list[str](), 0, place + 1
                record.quoted.add(index)
                while (end := _end_of_quoted(line.text, place)) == len(line.text):
                    parts.append(line.text[place:])
                    size += len(parts[-1]) + 1
                    following = self.next_line()
                    record.more += [following] if following is not None else []
                    if following is None or following.fault == _TOO_LONG or size > LONGEST_LINE:
                        raise _FaultError(_UNCLOSED, opened)
                    line, place = following, 0
                if parts:
                    record.opened = record.opened or opened
                    record.broken.add(index)
                record.cells.append("\n".join([*parts, line.text[place:end]]).replace('""', '"'))
                place = end + 1
                if line.text[place : place + 1] not in ("", self.separator):
                    raise _FaultError(_UNCLOSED if parts else _AFTER_QUOTE, opened)
            else:
                end = line.text.find(self.separator, place)
                end = len(line.text) if end < 0 else end
                record.cells.append(line.text[place:end])
                if '"' in record.cells[-1] and record.stray is None:
                    record.stray = index
                place = end
            if place == len(line.text):
                return
            place += 1


def _end_of_quoted(text: str, place: int) -> int:
    """Where the quoted cell that `place` lies in ends: at its closing quote, or at the line's end."""
    match = _INSIDE.match(text, place)
    assert match is not None
    return match.end()


class _Header:
    """The columns of a csv, and what its lines must be."""

    def __init__(self, path: Path, record: _Record, columns: Sequence[str], free: Collection[str]) -> None:
        """MalformedListError unless `columns` are there, each once."""
        self.names, self._free, self._number = record.cells, free, record.first.number
        where, names = f"{path} line {self._number}", ",".join(columns)
        if record.broken or record.stray is not None:
            raise MalformedListError(f"{where}: a line break or a stray quote in a column's name; expected {names}")
        twice = [name for name, count in Counter(filter(None, self.names)).items() if count > 1]
        if twice:
            raise MalformedListError(f"{where}: column {quoted(twice[0])} stands twice; remove or rename one")
        if missing := [column for column in columns if column not in self.names]:
            raise MalformedListError(
                f"{where}: no column {','.join(missing)}; expected {names} among the columns' names in the first line, "
                f"got {quoted(','.join(self.names))}"
            )
        self._asked = {self.names.index(column) for column in columns}
        self.may_join = self.names[-1] in free

    def check(self, record: _Record) -> None:
        """_FaultError unless the record has a cell for each column, and line breaks and quotes where they may be."""
        number, width, opened = record.first.number, len(self.names), record.opened
        # An unclosed quote that meets another further on swallows lines: they tell themselves by their cells.
        if self._swallowed(record):
            raise _FaultError(_UNCLOSED, opened)
        if len(record.cells) != width:
            counted = f"expected {width} fields, as in line {self._number}, got {len(record.cells)}"
            if record.broken:
                raise _FaultError(_UNCLOSED, opened, f"{counted}; {_CURES[_UNCLOSED]}")
            raise _FaultError(_CELL_COUNT, number, counted + self._hint(record))
        for index in sorted(record.broken & self._asked):
            if self.names[index] not in self._free:
                cure = "put it on one line, or close the quote"
                raise _FaultError(_UNCLOSED, opened, f"a line break in column {self.names[index]}; {cure}")
        if record.stray is not None and self.names[record.stray] not in self._free:
            fault = f"a quote within a cell of column {quoted(self.names[record.stray])} that doesn't begin with one"
            raise _FaultError(_STRAY, number, f"{fault}; quote the cell, and double the quotes in it")

    def _hint(self, record: _Record) -> str:
        other = next((name for mark, name in _SEPARATORS.items() if mark in record.first.text), "")
        if len(record.cells) == 1 and other:
            return f"; expected commas between cells, not {other}"
        return "; a cell with commas goes in quotes" if len(record.cells) > len(self.names) else ""

    def _swallowed(self, record: _Record) -> bool:
        """Whether a line within a quoted cell looks like a record, by its ids and numbers; its last line may end in the
        column of the cell, where an unclosed quote has met the next."""
        for broken in record.broken:
            plain = [
                i for i in self._asked - record.broken if self.names[i] not in self._free and i < len(record.cells)
            ]
            lines = record.cells[broken].split("\n")[1:]
            for text in lines:
                cells = text.split(",")
                known = [i for i in plain if i < broken] if text is lines[-1] and len(cells) == broken + 1 else plain
                forms = [_form(record.cells[index]) for index in known]
                enough = len(cells) >= len(self.names) or known is not plain
                if any(forms) and enough and [_form(cells[index]) for index in known] == forms:
                    return True
        return False


_NUMBER = re.compile(r"\s*-?[0-9.]+(?:[eE][-+]?[0-9]+)?\s*")


def _form(cell: str) -> str:
    return "id" if VIDEO_ID.fullmatch(cell) else "number" if _NUMBER.fullmatch(cell) else ""


def csv_lines(
    path: Path,
    columns: Sequence[str],
    expected: str = "",
    free: Collection[str] = (),
    left_out: Counter[str] | None = None,
    lenient: bool = False,
) -> Iterator[Line]:
    """The lines of a csv (UTF-8, packed by gzip or not) that has `columns` among its own.

    `expected`: what to give, for a file that isn't there. `free`: columns of running text, whose cells may hold line
    breaks, and quotes where they don't begin with one. `left_out` counts what is passed over by reason: empty lines.
    `lenient`: a line that can't be read is counted too and costs no other, bytes that aren't UTF-8 become U+FFFD, and
    further commas belong to the last column if that is free.
    Raises InputError that names the file, and MalformedListError that names the line where the trouble begins too.
    """
    left_out = Counter() if left_out is None else left_out
    lines = text_lines(path, expected or f"a csv with {','.join(columns)}")
    records, header, prefix = _Records(lines), None, f"{path} line "
    while (line := records.next_line()) is not None:
        if not line.text or line.text.isspace():
            left_out[EMPTY] += 1
            continue
        try:
            if line.fault and (not lenient or line.fault == _TOO_LONG):
                raise _FaultError(line.fault, line.number)
            if header is None:
                _refuse_other_separators(path, line, columns)
                header = _Header(path, records.read(line), columns, free)
                continue
            record = records.read(line)
            if not lenient and (odd := next((one for one in record.more if one.fault), None)):
                raise _FaultError(odd.fault, odd.number)
            if lenient and header.may_join and _join(record, len(header.names)):
                left_out[JOINED] += 1
            try:
                header.check(record)
            except _FaultError as fault:
                records.resume_after(fault.number, record)
                raise
        except _FaultError as fault:
            if header is None or not lenient:
                raise MalformedListError(f"{prefix}{fault.number}: {fault}") from None
            left_out[fault.kind] += 1
            continue
        yield prefix + str(line.number), dict(zip(header.names, record.cells, strict=True))
    if header is None:
        raise MalformedListError(
            f"{path} line 1: no column {','.join(columns)}; expected {','.join(columns)} and lines below"
        )


def csv_records(path: Path, expected: str) -> Iterator[tuple[str, list[str]]]:
    """The lines of a csv of which nothing is known, as (file and number, cells), the first as the others; empty lines
    are passed over. Its cells may be separated by commas, tabs or semicolons, as the first line tells.

    Errors as for `csv_lines`; a line of another number of cells than the first is one.
    """
    records, width = _Records(text_lines(path, expected)), 0
    while (line := records.next_line()) is not None:
        if not line.text or line.text.isspace():
            continue
        if not width and "," not in line.text:
            records.separator = next((mark for mark in _SEPARATORS if mark in line.text), ",")
        where = f"{path} line {line.number}"
        try:
            record = records.read(line)
        except _FaultError as fault:
            raise MalformedListError(f"{path} line {fault.number}: {fault}") from None
        width = width or len(record.cells)
        if odd := next((one for one in (line, *record.more) if one.fault), None):
            raise MalformedListError(f"{path} line {odd.number}: {_CURES.get(odd.fault, odd.fault)}")
        swallowed = (text for index in record.broken for text in record.cells[index].split("\n")[1:])
        if any(text.count(records.separator) + 1 >= width for text in swallowed):
            raise MalformedListError(f"{path} line {record.opened}: {_CURES[_UNCLOSED]}")
        if len(record.cells) != width:
            raise MalformedListError(f"{where}: expected {width} fields, as in the first line, got {len(record.cells)}")
        yield where, record.cells


def left_out_note(path: Path, left_out: Counter[str]) -> list[str]:
    """A line that says how many lines of a list were passed over, and why; none where none were."""
    counts = ", ".join(f"{number} ({reason})" for reason, number in sorted(left_out.items()) if number)
    return [f"{path}: passed over: {counts}"] if counts else []


def _join(record: _Record, width: int) -> bool:
    """Take unquoted cells beyond the last column as that column's text, with the commas between; whether there were."""
    if len(record.cells) <= width or not record.quoted.isdisjoint(range(width - 1, len(record.cells))):
        return False
    record.cells[width - 1 :] = [",".join(record.cells[width - 1 :])]
    record.stray = None if record.stray is None else min(record.stray, width - 1)
    return True


def _refuse_other_separators(path: Path, line: TextLine, columns: Sequence[str]) -> None:
    def names(separator: str) -> set[str]:
        return {name.strip('" ') for name in line.text.split(separator)}

    for separator, name in _SEPARATORS.items():
        if columns and set(columns) <= names(separator) and not set(columns) <= names(","):
            raise MalformedListError(
                f"{path} line {line.number}: its cells are separated by {name}; save it with commas between cells and "
                "points in numbers"
            )
