"""Lists of every kind, malformed in many ways: read as they were meant, or refused with the line; no line is lost.

What a list holds is known before it is written, and Python's csv module reads it too: neither is the product's reader.
"""

import csv
import gzip
import io
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.errors import InputError
from pipeline.core.lists import csv_lines, plain_lines
from pipeline.core.video_ids import find_ids, read_split, read_video_list
from pipeline.dataset.captions import read_caption_csv
from pipeline.evaluation.lists import read_clips, read_step_lists

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
TEXTS = ("we chop", "cut, then fry it", 'a 5" nail', "größe", 'say "hot", twice', "now\nbake, or fry, it")
Generator = np.random.Generator


def video_id(generator: Generator) -> str:
    return "".join(generator.choice(list(ALPHABET), 11))


def span(generator: Generator) -> list[str]:
    start = round(float(generator.uniform(0, 50)), 2)
    return [str(start), str(round(start + 1.5, 2))]


def one_of(generator: Generator, *choices: str) -> str:
    return str(generator.choice(choices))


@dataclass(frozen=True)
class Kind:
    """A kind of list."""

    columns: tuple[str, ...]
    asked: tuple[str, ...]
    free: tuple[str, ...]
    make: Callable[[Generator], list[str]]
    """A line's cells."""
    read: Callable[[Path], Any]


KINDS = {
    "ids": Kind(
        ("video_id", "category_1", "task_id"),
        ("video_id",),
        (),
        lambda g: [video_id(g), one_of(g, "Food", "Cars & Other", "Hobbies, Crafts"), str(g.integers(100))],
        read_video_list,
    ),
    "split": Kind(
        ("video_id", "split", "note"),
        ("video_id", "split"),
        (),
        lambda g: [video_id(g), one_of(g, "train", "heldout"), one_of(g, "x", "y, z")],
        read_split,
    ),
    "clips": Kind(
        ("video_id", "start", "end", "text"),
        ("video_id", "start", "end", "text"),
        ("text",),
        lambda g: [video_id(g), *span(g), one_of(g, *TEXTS)],
        lambda path: read_clips(path, "text"),
    ),
    "classes": Kind(
        ("video_id", "start", "end", "action"),
        ("video_id", "start", "end", "action"),
        ("text",),
        lambda g: [video_id(g), *span(g), one_of(g, "chop", "fry, slowly")],
        lambda path: read_clips(path, "action"),
    ),
    "steps": Kind(
        ("video_id", "task_id", "step", "start", "end", "text"),
        ("video_id", "task_id", "step", "start", "end", "text"),
        ("text",),
        lambda g: [video_id(g), "77", str(g.integers(9)), *span(g), one_of(g, *TEXTS)],
        read_step_lists,
    ),
}


@dataclass
class Made:
    """A list, its lines not yet joined."""

    kind: Kind
    header: list[str]
    rows: list[list[str]]

    def line(self, row: int) -> int:
        """Number of the line where a row begins."""
        return 2 + sum(1 + "".join(cells).count("\n") for cells in self.rows[:row])

    def text(self, written: Callable[[list[str], int], str] | None = None, header: str | None = None) -> str:
        lines = [header if header is not None else ",".join(self.header)]
        for number, cells in enumerate(self.rows):
            lines.append(written(cells, number) if written is not None else plain(cells))
        return "\n".join(lines) + "\n"


def quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"'


def plain(cells: Sequence[str]) -> str:
    return ",".join(quoted(cell) if re.search('[",\n]', cell) else cell for cell in cells)


def made(kind: str, generator: Generator) -> Made:
    one = KINDS[kind]
    return Made(one, list(one.columns), [one.make(generator) for _ in range(int(generator.integers(3, 9)))])


def in_row(row: int, change: Callable[[list[str]], str]) -> Callable[[list[str], int], str]:
    """Writes all rows rightly but one."""
    return lambda cells, number: change(cells) if number == row else plain(cells)


def with_cell(cells: list[str], index: int, text: str) -> str:
    """A line one cell of which stands there as it is."""
    return ",".join(text if number == index else plain([cell]) for number, cell in enumerate(cells))


SAME: dict[str, Callable[[str, Generator], bytes]] = {
    "as it is": lambda text, g: text.encode(),
    "mark": lambda text, g: text.encode("utf-8-sig"),
    "CRLF": lambda text, g: text.replace("\n", "\r\n").encode(),
    "CR": lambda text, g: text.replace("\n", "\r").encode(),
    "no end": lambda text, g: text[:-1].encode(),
    "packed": lambda text, g: gzip.compress(text.encode("utf-8-sig")),
    "empty lines": lambda text, g: ("\n\n" + text + "\n \n").encode(),
}
FAULTS: dict[str, Callable[..., str]] = {
    "unclosed": lambda cells, index: with_cell(cells, index, '"' + cells[index].replace('"', "").replace("\n", " ")),
    "text after": lambda cells, index: with_cell(cells, index, quoted(cells[index].replace("\n", " ")) + "x"),
    "cell lacking": lambda cells, index: plain(cells[:index] + cells[index + 1 :]),
    "cell more": lambda cells, index: plain([*cells[:index], "x", *cells[index:]]),
    "other separator": lambda cells, index: ";".join(cell.replace(",", "").replace("\n", " ") for cell in cells),
    "NUL": lambda cells, index: with_cell(cells, index, cells[index].replace("\n", " ").replace('"', "") + "\0"),
    "not UTF-8": lambda cells, index: with_cell(cells, index, "\udcf6"),
}


def csv_rows(content: bytes) -> list[list[str]]:
    """What Python's csv module reads, without empty lines; csv.Error where it can't."""
    text = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    lines = io.StringIO(text.decode("utf-8-sig"), newline="")
    found = [[cell.replace("\r\n", "\n").replace("\r", "\n") for cell in row] for row in csv.reader(lines, strict=True)]
    return [row for row in found if len(row) > 1 or "".join(row).strip()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", SAME)
def test_what_keeps_a_list_is_read_as_it_was_meant(tmp_path: Path, kind: str, way: str) -> None:
    for seed in range(3):
        generator = np.random.default_rng([seed, *kind.encode()])
        one = made(kind, generator)
        path = tmp_path / "list.csv"
        path.write_bytes(SAME[way](one.text(), generator))
        left_out: Counter[str] = Counter()
        found = [row for _, row in csv_lines(path, one.kind.asked, free=one.kind.free, left_out=left_out)]
        assert [list(row.values()) for row in found] == one.rows == csv_rows(path.read_bytes())[1:]
        assert left_out.total() == (4 if way == "empty lines" else 0)
        one.kind.read(path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", FAULTS)
def test_what_spoils_a_line_is_refused_with_that_line(tmp_path: Path, kind: str, fault: str) -> None:
    path = tmp_path / "list.csv"
    for seed in range(8):
        generator = np.random.default_rng([seed, *kind.encode(), *fault.encode()])
        one = made(kind, generator)
        row, index = int(generator.integers(len(one.rows))), int(generator.integers(len(one.header)))
        text = one.text(in_row(row, partial(FAULTS[fault], index=index)))
        path.write_bytes(SAME[("mark", "CRLF", "as it is")[seed % 3]](text, generator) if "\udcf6" not in text else
            text.encode("utf-8", "surrogateescape"))  # fmt: skip
        with pytest.raises(InputError) as refused:
            one.kind.read(path)
        assert str(refused.value).startswith(f"{path} line {one.line(row)}: "), (text, str(refused.value))


@pytest.mark.parametrize("kind", KINDS)
def test_what_spoils_the_header_or_the_whole_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "list.csv"
    one = made(kind, np.random.default_rng(5))
    names = one.header
    for content, where in (
        (one.text(header=",".join([*names[:-1], names[0]])), " line 1: "),
        (one.text(header=",".join(["other", *names[1:]])), " line 1: "),
        (one.text(header=";".join(names)), " line 1: "),
        (one.text().split("\n", 1)[1], " line 1: "),
        ("", " line 1: "),
        (one.text().replace(",", "\t"), " line 1: "),
        (one.text().encode("utf-16"), ": UTF-16"),
        (one.text().encode("utf-32-be"), ": UTF-32BE"),
        (gzip.compress(one.text().encode())[:-9], ": not a whole .gz"),
    ):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(InputError) as refused:
            one.kind.read(path)
        assert str(refused.value).startswith(f"{path}{where}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_list_cut_short_loses_its_last_line_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "list.csv"
    refusals = 0
    for seed in range(12):
        generator = np.random.default_rng([seed, *kind.encode()])
        one = made(kind, generator)
        whole = one.text().encode()
        cut = int(generator.integers(len(",".join(one.header)) + 1, len(whole)))
        path.write_bytes(whole[:cut])
        begun = [row for row in range(len(one.rows)) if one.line(row) <= whole[:cut].count(b"\n") + 1]
        try:
            found = [list(row.values()) for _, row in csv_lines(path, one.kind.asked, free=one.kind.free)]
        except InputError as error:
            refusals += 1
            last = re.match(re.escape(str(path)) + r" line (\d+): ", str(error))
            assert last and int(last[1]) >= one.line(begun[-1]), (whole[:cut], str(error))
        else:
            kept = [row for row in begun if whole[:cut].count(b"\n") >= one.line(row)]
            assert found[: len(kept)] == [one.rows[row] for row in kept] and len(found) - len(kept) <= 1
        try:
            one.kind.read(path)
        except InputError as error:
            assert str(error).startswith(str(path))
    assert refusals > 2


@pytest.mark.parametrize("kind", KINDS)
def test_of_bytes_changed_at_random_nothing_is_lost_in_silence(tmp_path: Path, kind: str) -> None:
    path, outcomes = tmp_path / "list.csv", Counter[str]()
    for seed in range(60):
        generator = np.random.default_rng([seed, *kind.encode()])
        one = made(kind, generator)
        content = bytearray(one.text().encode())
        for _ in range(int(generator.integers(1, 4))):
            place, byte = int(generator.integers(len(content))), b'",\n;\r\t\0\xff a1'[generator.integers(11)]
            if generator.integers(3):
                content.insert(place, byte)
            else:
                del content[place]
        path.write_bytes(content)
        try:
            found = [list(row.values()) for _, row in csv_lines(path, one.kind.asked, free=one.kind.free)]
        except InputError as error:
            outcomes["refused"] += 1
            assert re.match(re.escape(str(path)) + r" line [1-9]", str(error)), str(error)
        else:
            outcomes["read"] += 1
            assert found == csv_rows(bytes(content))[1:]
            # A line is a line of the file, save where a text goes over several.
            lines = [line for line in re.split(rb"\r\n|\r|\n", bytes(content)) if line.strip()]
            assert len(lines) == 1 + sum(1 + len(re.findall("\n.*\\S", "".join(row))) for row in found)
        try:
            one.kind.read(path)
        except InputError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)
    assert outcomes["refused"] > 20 and outcomes["read"] > 3


def test_captions_lose_what_is_malformed_and_count_it(tmp_path: Path) -> None:
    path, times = tmp_path / "a.csv", iter(range(10**6))
    for fault in FAULTS:
        for seed in range(6):
            generator = np.random.default_rng([seed, *fault.encode()])
            rows = [[str(start := next(times)), f"{start}.5", one_of(generator, *TEXTS)] for _ in range(6)]
            one = Made(KINDS["clips"], ["start", "end", "text"], rows)
            row, index = int(generator.integers(6)), int(generator.integers(3))
            text = one.text(in_row(row, partial(FAULTS[fault], index=index)))
            path.write_bytes(text.encode("utf-8", "surrogateescape"))
            left_out: Counter[str] = Counter()
            found = [(c.start, c.text) for c in read_caption_csv(path, left_out)]
            others = [(float(cells[0]), cells[2]) for number, cells in enumerate(rows) if number != row]
            assert [one for one in found if one in others] == others and len(found) <= 6
            # Kept with a mended text and counted, or left out and counted.
            assert left_out.total() >= 1, text


def test_lists_of_ids_of_any_layout_lose_none(tmp_path: Path) -> None:
    path, outcomes = tmp_path / "list.csv", Counter[str]()
    for seed in range(60):
        generator = np.random.default_rng(seed)
        ids = [video_id(generator) for _ in range(6)]
        forms = (
            lambda i: f"105253,{i},https://www.youtube.com/watch?v={i}",
            lambda i: i,
            lambda i: f"v_{i}",
            lambda i: f'{i},"chop, fry"',
        )
        lines = [forms[seed % 4](one) for one in ids]
        fault, row = seed // 4 % 5, int(generator.integers(6))
        lines[row] = (lines[row], lines[row] + "\r\n", lines[row].replace(ids[row], f'"{ids[row]}'), lines[row] + "\0",
            lines[row].replace(ids[row], ids[row][:5] + "\udce9"))[fault]  # fmt: skip
        path.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
        if fault < 2:
            outcomes["read"] += 1
            assert find_ids(path, ids).ids == set(ids)
        else:
            outcomes["refused"] += 1
            with pytest.raises(InputError, match=f"list.csv line {row + 1}: "):
                find_ids(path, ids)
    assert outcomes == {"read": 24, "refused": 36}


def test_class_names_are_lines(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    names = ["chop, fry", "größe", '5" nail', "peel\u2028it"]
    for way, write in SAME.items():
        left_out: Counter[str] = Counter()
        path.write_bytes(write("\n".join(names) + "\n", np.random.default_rng(0)))
        assert [name for _, name in plain_lines(path, "classes", left_out)] == names, way
        assert left_out.total() == (4 if way == "empty lines" else 0)
