"""Lists that users give: read as the csv module reads what is valid, and what isn't is told with its line."""

import csv
import gzip
import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import InputError
from pipeline.core.lists import (
    EMPTY,
    JOINED,
    LONGEST_LINE,
    MalformedListError,
    csv_lines,
    csv_records,
    left_out_note,
    plain_lines,
    text_lines,
)

LIST = b"id,note,text\naaa,1,x\nbbb,2,y\n"
ROWS = [{"id": "aaa", "note": "1", "text": "x"}, {"id": "bbb", "note": "2", "text": "y"}]


def written(folder: Path, content: bytes | str) -> Path:
    path = folder / "x.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows(path: Path, columns: Sequence[str] = ("id", "note", "text")) -> list[dict[str, str]]:
    return [row for _, row in csv_lines(path, columns, free=("text",))]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_lines_come_with_their_number_and_cells(tmp_path: Path, mark: bytes) -> None:
    left_out: Counter[str] = Counter()
    path = written(tmp_path, mark + 'id,note,text\r\na,1,"größe, ""so"""\r\n\r\nb,2,\r\n  \r\n'.encode())
    assert list(csv_lines(path, ("id", "text"), left_out=left_out)) == [
        (f"{path} line 2", {"id": "a", "note": "1", "text": 'größe, "so"'}),
        (f"{path} line 4", {"id": "b", "note": "2", "text": ""}),
    ]
    assert left_out == {EMPTY: 2}
    assert left_out_note(path, left_out) == [f"{path}: passed over: 2 (empty line)"]
    assert left_out_note(path, Counter({EMPTY: 0})) == []


cells = st.text(st.characters(exclude_categories=("Cc", "Cs"), include_characters='",'), max_size=8)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(cells, cells, cells), max_size=6),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["utf-8", "utf-8-sig"]),
    st.booleans(),
)
def test_what_the_csv_module_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    lines: list[tuple[str, str, str]],
    quoting: int,
    end: str,
    encoding: str,
    packed: bool,
) -> None:
    file = io.StringIO()
    csv.writer(file, quoting=quoting, lineterminator=end).writerows([("id", "note", "text"), *lines])  # type: ignore[arg-type]
    content = file.getvalue().encode(encoding)
    path = written(tmp_path_factory.mktemp("lists"), gzip.compress(content) if packed else content)
    assert [tuple(row.values()) for row in rows(path)] == lines


@pytest.mark.parametrize(
    ("content", "line", "problem"),
    [
        ('id,note,text\na,1,"x\nb,2,y\n', 2, "a quote opens a cell here and isn't closed in it"),
        ('id,note,text\na,1,"x\nb,2,"y"\n', 2, "a quote opens a cell here and isn't closed in it"),
        ('id,note,text\na,1,"x\nb,2,y"\n', 2, "a quote opens a cell here and isn't closed in it"),
        ('id,note,text\na,"1,x\nb,2,y\nc",x\nd",z\n', 2, "a line break in column note"),
        ('id,note,more,text\na,1,"x\nb,2,y",z\nb,2,y,z\n', 2, "a quote opens a cell here"),
        ('id,note,text\na,1,"x\ny",z,z\n', 2, "expected 3 fields, as in line 1, got 5; a quote opens a cell here"),
        ('id,note,text\na,1,"x\ny"\nb,2,"z\n', 4, "a quote opens a cell here"),
        ('id,note,text\n"a\nb",1,x\n', 2, "a line break in column id"),
        ('id,note,text\na,1,"x" y\n', 2, "text after a closing quote"),
        ('id,note,text\na"b,1,x\n', 2, "a quote within a cell of column 'id'"),
        ("id,note,text\na,1\n", 2, "expected 3 fields, as in line 1, got 2"),
        ("id,note,text\n\na,1,x, y\n", 3, "expected 3 fields, as in line 1, got 4; a cell with commas goes in quotes"),
        ("id,note,text\na;1;x\n", 2, "got 1; expected commas between cells, not semicolons"),
        ("id;note;text\na;1;x\n", 1, "its cells are separated by semicolons"),
        ('"id"\t"note"\t"text"\n', 1, "its cells are separated by tabs"),
        ("id,note,text,note\na,1,x,2\n", 1, "column 'note' stands twice"),
        ("id,note,text,more,more\na,1,x,2,3\n", 1, "column 'more' stands twice"),
        ("id,note\na,1\n", 1, "no column text; expected id,note,text among"),
        ("\na,b,c\nid,note,text\n", 2, "no column id,note,text; expected id,note,text among .*, got 'a,b,c'"),
        ("", 1, "no column id,note,text"),
        (b"id,note,text\na,1,x\nb,2,gr\xf6\xdfe\n", 3, "byte 0xf6 isn't UTF-8; save the file as UTF-8, e.g. iconv -f"),
        (b'id,note,text\na,1,"x\ngr\xf6\xdfe"\n', 3, "byte 0xf6 isn't UTF-8"),
        (b"id,note,text\na,1,x\0\n", 2, "a NUL byte"),
        ("id,note,text\na,1," + "b" * LONGEST_LINE + "\n", 2, "more than 1048576 characters"),
        (
            'id,note,text\na,1,"' + ("b" * 999 + "\n") * (LONGEST_LINE // 999) + "b" * 999 + '"\n',
            2,
            "a quote opens a cell here",
        ),
        ('id,"no\nte",text\n', 1, "a line break or a stray quote in a column's name"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_wrong_is_told_with_the_line_where_it_begins(
    tmp_path: Path, content: bytes | str, line: int, problem: str
) -> None:
    path = written(tmp_path, content)
    with pytest.raises(MalformedListError, match=rf"x\.csv line {line}: .*{problem}") as refused:
        rows(path)
    assert str(refused.value).startswith(f"{path} line {line}: ") and "\n" not in str(refused.value)


def test_running_text_may_hold_line_breaks_and_inches(tmp_path: Path) -> None:
    text = 'id,note,text\na,1,"cut it,\nthen, later, fry"\nb,"two\nlines",take 5" nails\n'
    found = rows(written(tmp_path, text), ("id", "text"))
    assert [row["text"] for row in found] == ["cut it,\nthen, later, fry", 'take 5" nails']
    first = 'text,start,end\n"cut it, \n2,3",0,2\n"fry",2,3\n'
    assert [row["text"] for row in rows(written(tmp_path, first), ("start", "end", "text"))] == ["cut it, \n2,3", "fry"]
    with pytest.raises(MalformedListError, match="line 3: a quote within a cell of column 'text'"):
        list(csv_lines(written(tmp_path, 'id,text\na,x\nb,take 5" nails\n'), ("id", "text")))


def test_a_malformed_line_of_captions_costs_no_other_and_is_counted(tmp_path: Path) -> None:
    content = (
        b'id,note,text\na,1,"x\nb,2,y\nbb,2,yy\nc,3\nd,4,"x" y\ne,5,chop, and fry\nf,6,"chop", and fry\n'
        b"g,7,gr\xf6\xdfe\n"
        b'h,8,"two\nlines"\n\ni,9,"x\nj,10,z"\n' + b"k,11," + b"b" * LONGEST_LINE + b"\nl,12,y\n"
    )
    left_out: Counter[str] = Counter()
    found = csv_lines(
        written(tmp_path, content), ("id", "note", "text"), free=("text",), left_out=left_out, lenient=True
    )
    assert [(row["id"], row["text"]) for _, row in found] == [
        ("b", "y"), ("bb", "yy"), ("e", "chop, and fry"), ("g", "gr\ufffd\ufffde"), ("h", "two\nlines"), ("j", 'z"'),
        ("l", "y"),
    ]  # fmt: skip
    assert left_out == {
        "line with a quote that isn't closed": 2,
        "line with more or fewer cells than the header": 2,
        "line with text after a closing quote": 1,
        f"line of more than {LONGEST_LINE} characters": 1,
        JOINED: 1,
        EMPTY: 1,
    }
    with pytest.raises(MalformedListError, match="line 1: no column text"):
        list(csv_lines(written(tmp_path, "id,words\n"), ("id", "text"), lenient=True))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_other_encodings_are_named_with_their_cure(tmp_path: Path, encoding: str) -> None:
    path = written(tmp_path, LIST.decode().encode(encoding))
    name = encoding.upper().replace("-LE", "LE").replace("-BE", "BE")
    with pytest.raises(MalformedListError, match=f": {name}, not UTF-8; save it .* iconv -f {name} -t UTF-8 x.csv"):
        rows(path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"PK\x03\x04rest", "a zip archive or an Excel workbook"),
        (gzip.compress(gzip.compress(LIST)), "packed by gzip; unpack it"),
        (gzip.compress(LIST)[:-12], "not a whole .gz"),
        (gzip.compress(LIST)[:20] + b"rest" * 9, "not a whole .gz"),
        (gzip.compress(b"\n" * (65 << 20)), "unpacks to more than 50 times its size"),
    ],
    ids=["zip", "twice", "cut", "damaged", "swells"],
)
def test_what_is_packed_is_read_or_told(tmp_path: Path, content: bytes, problem: str) -> None:
    with pytest.raises(MalformedListError, match=f"x.csv: .*{problem}"):
        rows(written(tmp_path, content))


def test_a_file_that_can_not_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)
    for path, problem in (
        (tmp_path, "can't be read: Is a directory"),
        (tmp_path / "none.csv", "no such file; expected a csv with id,note,text"),
        (tmp_path / "pipe", "a pipe or a device; save the list as a file"),
        (Path("-"), "-: standard input can't be a list; save it as a file"),
    ):
        with pytest.raises(InputError, match=problem) as refused:
            rows(path)
        assert not isinstance(refused.value, MalformedListError)


def test_lines_of_a_text(tmp_path: Path) -> None:
    left_out: Counter[str] = Counter()
    path = written(tmp_path, "\ufefffry\r\n\r\n peel it\u2028now \rsalt")
    assert list(plain_lines(path, "a text", left_out)) == [
        (f"{path} line 1", "fry"), (f"{path} line 3", "peel it\u2028now"), (f"{path} line 4", "salt"),
    ]  # fmt: skip
    assert left_out == {EMPTY: 1}
    with pytest.raises(MalformedListError, match="line 2: byte 0xff isn't UTF-8"):
        list(plain_lines(written(tmp_path, b"a\n\xff\n"), "a text"))
    assert [line.number for line in text_lines(written(tmp_path, b"a\n" * 3), "a text")] == [1, 2, 3]


def test_records_of_a_csv_of_which_nothing_is_known(tmp_path: Path) -> None:
    for separator in ",;\t":
        content = separator.join("ab") + "\n\n" + separator.join(('"c\nd"', "e")) + "\n"
        assert [cells for _, cells in csv_records(written(tmp_path, content), "ids")] == [["a", "b"], ["c\nd", "e"]]
    for content, problem in (
        ("a,b\nc\n", "line 2: expected 2 fields, as in the first line, got 1"),
        ('a,b\n"c,d\n', "line 2: a quote opens a cell here"),
        ('a,"b\nc,d\ne,f"\n', "line 1: a quote opens a cell here"),
        ("a\n\0\n", "line 2: a NUL byte"),
    ):
        with pytest.raises(MalformedListError, match=f"x.csv {problem}"):
            list(csv_records(written(tmp_path, content), "ids"))
