"""Ids are checked before they reach a path or a URL."""

import re
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import InputError
from pipeline.core.records import VideoRecord
from pipeline.core.video_ids import (
    Part,
    check_media_name,
    check_video_id,
    find_part,
    is_media_name,
    is_video_id,
    read_video_list,
)

ALPHABET = string.ascii_letters + string.digits + "_-"


@given(st.text(ALPHABET, min_size=11, max_size=11))
def test_eleven_characters_of_the_alphabet_are_an_id(text: str) -> None:
    assert check_video_id(text, "list.csv line 2") == text


@given(st.text(max_size=70))
@settings(max_examples=50)
def test_an_id_is_nothing_else(text: str) -> None:
    assert is_video_id(text) == (len(text) == 11 and set(text) <= set(ALPHABET))
    assert is_media_name(text) == (1 <= len(text) <= 64 and set(text) <= set(ALPHABET))


@pytest.mark.parametrize(
    "text",
    ["", "../../etc/a", "abcdefghijk\n", "abcdefghij", "abcdefghijkl", "abc def ghi", "äbcdefghijk", "a/b/c/d/e/f"],
)
def test_a_bad_id_is_named_in_one_printable_line(text: str) -> None:
    with pytest.raises(InputError) as caught:
        check_video_id(text, "list.csv line 7")
    message = str(caught.value)
    assert message.startswith("list.csv line 7: ") and ascii(text) in message
    assert message.isascii() and message.isprintable()


def test_a_long_one_is_not_repeated_whole() -> None:
    with pytest.raises(InputError) as caught:
        check_media_name("x" * 100_000, "media")
    assert len(str(caught.value)) < 250


def test_names_of_own_media_may_be_up_to_64_long() -> None:
    assert check_media_name("-" * 64, "media") == "-" * 64
    with pytest.raises(InputError, match=re.escape("1 to 64")):
        check_media_name("-" * 65, "media")


@given(st.integers(1, 40), st.integers(0, 10**6))
def test_every_plan_is_one_parts(count: int, number: int) -> None:
    assert sum(Part(index, count).owns(number) for index in range(1, count + 1)) == 1


def test_one_process_has_all() -> None:
    assert find_part("", {}) == Part(1, 1) and all(Part().owns(number) for number in range(9))
    assert find_part("2/8", {"SLURM_ARRAY_TASK_ID": "5"}) == Part(2, 8)


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "a/b", "1/3 ", "-1/3", "1/3/5", "9999999/9999999"])
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"expected I/N"):
        find_part(text, {})


@pytest.mark.parametrize(("first", "last", "step"), [(0, 7, 1), (1, 8, 1), (10, 40, 5), (3, 3, 1)])
def test_slurms_array_is_the_default(first: int, last: int, step: int) -> None:
    tasks = range(first, last + 1, step)
    found = [
        find_part(
            "",
            {
                "SLURM_ARRAY_TASK_ID": str(task),
                "SLURM_ARRAY_TASK_MIN": str(first),
                "SLURM_ARRAY_TASK_MAX": str(tasks[-1]),
                "SLURM_ARRAY_TASK_STEP": str(step),
                "SLURM_ARRAY_TASK_COUNT": str(len(tasks)),
            },
        )
        for task in tasks
    ]
    assert found == [Part(index, len(tasks)) for index in range(1, len(tasks) + 1)]


@pytest.mark.parametrize(
    ("task", "count", "step"), [("7", "3", "1"), ("x", "3", "1"), ("2", "3", "0"), ("4", "9", "2")]
)
def test_an_array_with_gaps_is_told(task: str, count: str, step: str) -> None:
    names = {"ID": task, "MIN": "1", "COUNT": count, "STEP": step}
    with pytest.raises(InputError, match="--part I/N"):
        find_part("", {f"SLURM_ARRAY_TASK_{name}": value for name, value in names.items()})


def read(tmp_path: Path, content: bytes) -> list[VideoRecord]:
    path = tmp_path / "list.csv"
    path.write_bytes(content)
    return read_video_list(path)


def test_the_published_columns_are_kept_in_order(tmp_path: Path) -> None:
    content = (
        b"video_id,category_1,category_2,rank,task_id\r\n"
        b'nVbIUDjzWY4,Cars & Other Vehicles,"Motor, cycles",27,52907\r\n'
        b"-_aaaaaaaaa,,,1,\r\n"
    )
    assert read(tmp_path, content) == [
        VideoRecord("nVbIUDjzWY4", "Cars & Other Vehicles", "Motor, cycles", "27", "52907"),
        VideoRecord("-_aaaaaaaaa", "", "", "1", ""),
    ]


def test_other_columns_are_passed_over_and_a_repeated_id_keeps_its_first_line(tmp_path: Path) -> None:
    content = b"note,video_id,rank\nx,aaaaaaaaaaa,1\n\ny,bbbbbbbbbbb,2\nz,aaaaaaaaaaa,3\n"
    assert read(tmp_path, content) == [VideoRecord("aaaaaaaaaaa", rank="1"), VideoRecord("bbbbbbbbbbb", rank="2")]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "line 1: no column video_id"),
        (b"id\naaaaaaaaaaa\n", "line 1: no column video_id"),
        (b"video_id\n", "lists no video"),
        (b"video_id,rank\naaaaaaaaaaa,1\nbbbbbbbbbbb\n", "line 3: expected 2 fields, as in line 1, got 1"),
        (b"video_id,rank\naaaaaaaaaaa,1,2\n", "line 2: expected 2 fields, as in line 1, got 3"),
        (b"video_id\naaaaaaaaaa\n", "line 2: 'aaaaaaaaaa' is not a video id"),
        (b"video_id\naaaaaaaaaaa\n../../passwd\n", "line 3: '../../passwd' is not a video id"),
        (b'video_id\n"aaaaaaa\naaa"\n', "line 2: a line break in column video_id"),
        ("video_id\naaaaaaaaaaа\n".encode(), r"'aaaaaaaaaa\u0430' is not a video id"),
        (b"video_id\n" + b"a" * 5000 + b"\n", "..."),
        (b"video_id\n\xff\n", "line 2: byte 0xff isn't UTF-8"),
        (b'video_id\n"' + b"a" * (1 << 21) + b'"\n', "line 2: more than 1048576 characters"),
    ],
    ids=lambda value: str(value[:30]),
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, content: bytes, named: str) -> None:
    with pytest.raises(InputError) as refused:
        read(tmp_path, content)
    message = str(refused.value)
    assert named in message and message.startswith(str(tmp_path / "list.csv")) and "\n" not in message
    assert len(message) < 400


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; expected a csv with video_id"):
        read_video_list(tmp_path / "none.csv")
    with pytest.raises(InputError, match="can't be read"):
        read_video_list(tmp_path)
