"""Ids are checked before they reach a path or a URL."""

import json
import re
import string
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import InputError
from pipeline.core.lists import EMPTY
from pipeline.core.records import VideoRecord
from pipeline.core.video_ids import (
    REPEATED,
    Part,
    check_media_name,
    check_video_id,
    each_video_id,
    find_ids,
    find_part,
    id_within,
    is_media_name,
    is_video_id,
    read_split,
    read_video_ids,
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


@pytest.mark.parametrize(
    ("text", "within"),
    [
        ("https://www.youtube.com/watch?v=-UksU_Rq-P6", "-UksU_Rq-P6"),
        ("http://m.youtube.com/watch?list=PL12&v=-UksU_Rq-P6&t=5s", "-UksU_Rq-P6"),
        ("HTTPS://YOUTU.BE/_XJXtRPX1ZF?t=1", "_XJXtRPX1ZF"),
        ("https://www.youtube-nocookie.com/embed/_XJXtRPX1ZF", "_XJXtRPX1ZF"),
        ("youtube.com/shorts/_XJXtRPX1ZF/", "_XJXtRPX1ZF"),
        ("https://www.youtube.com/live/_XJXtRPX1ZF#x", "_XJXtRPX1ZF"),
        ("v_-UksU_Rq-P6", "-UksU_Rq-P6"),
        ("v_-UksU_Rq-P6.mp4", "-UksU_Rq-P6"),
        ("101/-UksU_Rq-P6", "-UksU_Rq-P6"),
        ("C:\\videos\\-UksU_Rq-P6.webm", "-UksU_Rq-P6"),
        ("-UksU_Rq-P6", "-UksU_Rq-P6"),
        ("v_abcdefghi", "v_abcdefghi"),
        ("https://www.youtube.com/watch?v=-UksU_Rq-P6x", ""),
        ("chop the onion", ""),
        ("", ""),
    ],
)
def test_the_id_within_an_address_or_a_name(text: str, within: str) -> None:
    assert id_within(text, prefixed=True) == within


def test_what_to_give_in_place_of_an_address_is_said(tmp_path: Path) -> None:
    for text in ("https://youtu.be/-UksU_Rq-P6", "v_-UksU_Rq-P6", " -UksU_Rq-P6"):
        with pytest.raises(InputError, match="line 2: .* is not a video id: .*; give -UksU_Rq-P6 alone"):
            read(tmp_path, f"video_id\n{text}\n".encode())
    with pytest.raises(InputError, match="line 1: no column video_id; expected video_id among .*, got '-UksU_Rq-P6'"):
        read(tmp_path, b"-UksU_Rq-P6\n")


def test_lines_passed_over_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(b"video_id,rank\naaaaaaaaaaa,1\n\naaaaaaaaaaa,2\nbbbbbbbbbbb,3\naaaaaaaaaaa,4\n")
    counted: list[Counter[str]] = [Counter(), Counter(), Counter()]
    assert len(read_video_list(path, counted[0])) == len(read_video_ids(path, counted[1])) == 2
    assert list(each_video_id(path, counted[2])) == ["aaaaaaaaaaa"] * 2 + ["bbbbbbbbbbb", "aaaaaaaaaaa"]
    assert counted == [{EMPTY: 1, REPEATED: 2}, {EMPTY: 1, REPEATED: 2}, {EMPTY: 1}]


def split_of(tmp_path: Path, *lines: str) -> dict[str, str]:
    path = tmp_path / "split.csv"
    path.write_text("\n".join(["video_id,split,note", *lines]) + "\n")
    return read_split(path)


def test_each_id_has_one_side(tmp_path: Path) -> None:
    assert split_of(tmp_path, "-a,train,x", "b,heldout,y") == {"-a": "train", "b": "heldout"}
    for second, sides in (
        ("heldout", "train in line 2, heldout in line 4"),
        ("train", "train in line 2, train in line 4"),
    ):
        with pytest.raises(InputError, match=rf"split.csv line 4: -a is listed twice: {sides}; keep one"):
            split_of(tmp_path, "-a,train,x", "b,heldout,y", f"-a,{second},z")
    with pytest.raises(InputError, match="line 2: 'a b' can't name a video"):
        split_of(tmp_path, "a b,train,x")


KNOWN = ["-UksU_Rq-P6", "_XJXtRPX1ZF", "kUlf_FQ0xyr", "v_abcdefghi", "own-clip-7"]
OTHER = "zzzzzzzzzzz"


def addresses(ids: Sequence[str]) -> list[str]:
    forms = ("https://www.youtube.com/watch?v={}", "https://youtu.be/{}?t=3", "https://www.youtube.com/embed/{}")
    return [forms[number % 3].format(video_id) for number, video_id in enumerate(ids)]


YOUTUBE = [*KNOWN[:4], OTHER]


@pytest.mark.parametrize(
    ("lines", "place"),
    [
        (YOUTUBE, "column 1"),
        (["video_id", *YOUTUBE], "column 1 ('video_id')"),
        (["task,id", *(f"{n},{i}" for n, i in enumerate(YOUTUBE))], "column 2 ('id')"),
        ([f"105253,{i},https://www.youtube.com/watch?v={i}" for i in YOUTUBE], "column 2"),
        (["key\tyoutube_id", *(f"k{n}\t{i}" for n, i in enumerate(YOUTUBE))], "column 2 ('youtube_id')"),
        (["recipe;url", *(f"{n};{one}" for n, one in enumerate(addresses(YOUTUBE)))], "column 2 ('url')"),
        ([f"v_{i}" for i in YOUTUBE], "column 1"),
        ([f"101/{i}" for i in YOUTUBE], "column 1"),
        ([*YOUTUBE[:2], *addresses(YOUTUBE[2:])], "column 1"),
        (["text,video_id", *(f'"ingredients",{i}' for i in YOUTUBE)], "column 2 ('video_id')"),
        (["id,like,video_id", *(f"{i},{i},{i}" for i in YOUTUBE)], "column 3 ('video_id')"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_ids_are_found_by_content(tmp_path: Path, lines: list[str], place: str) -> None:
    path = tmp_path / "list.txt"
    for mark, end in ((b"", "\n"), (b"\xef\xbb\xbf", "\r\n")):
        path.write_bytes(mark + end.join([*lines, ""]).encode())
        found = find_ids(path, KNOWN)
        assert found.ids == set(YOUTUBE) and found.place == place


def test_a_first_line_that_is_a_known_name_is_no_header(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("\n".join(["own-clip-7", *YOUTUBE, ""]))
    assert find_ids(path, KNOWN).ids == {"own-clip-7", *YOUTUBE}


@pytest.mark.parametrize(
    "content",
    [
        YOUTUBE,
        {"train": YOUTUBE[:2], "test": YOUTUBE[2:]},
        {"database": {f"v_{i}": {"subset": "ingredients", "url": "x"} for i in YOUTUBE}},
        [{"video_id": f"video{n}", "url": one, "caption": "chop"} for n, one in enumerate(addresses(YOUTUBE))],
    ],
    ids=["list", "lists", "keys", "addresses"],
)
def test_ids_are_found_in_json(tmp_path: Path, content: object) -> None:
    path = tmp_path / "list.json"
    path.write_text(json.dumps(content, indent=1))
    assert find_ids(path, KNOWN).ids == set(YOUTUBE)


def test_known_ids_at_another_level_of_json_count_too(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"train": {"chop": YOUTUBE[:1]}, "val": YOUTUBE[1:]}))
    found = find_ids(path, YOUTUBE)
    assert found.ids == set(YOUTUBE) and not found.elsewhere


def test_of_names_with_v_before_them_those_of_the_data_set_count(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("v_aaaaaaaaaaa\nv_bbbbbbbbbbb\n")
    assert find_ids(path, ["v_aaaaaaaaaaa", "x"]).ids == {"v_aaaaaaaaaaa", "v_bbbbbbbbbbb"}
    assert find_ids(path, ["aaaaaaaaaaa", "x"]).ids == {"aaaaaaaaaaa", "bbbbbbbbbbb"}
    assert find_ids(path, ["x"]).ids == {"aaaaaaaaaaa", "bbbbbbbbbbb"}
    with pytest.raises(InputError, match="list.txt: column 1 may be the ids"):
        find_ids(path, ["aaaaaaaaaaa", "v_bbbbbbbbbbb"])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "lists no id; the file is empty"),
        ("video_id\n", "lists no id"),
        ("chop the onion\nfry it\n", "lists no id"),
        ("name,step\nchop,1\nfry,2\n", "lists no id"),
        ("{}", "lists no id"),
        ('{"a": ["chop", "fry"]}', "lists no id"),
        ('{"a": ', "not a JSON file"),
        ("[" * 100_000, "not a JSON file"),
        ("-UksU_Rq-P6,kUlf_FQ0xyr\n_XJXtRPX1ZF,zzzzzzzzzzz\n-UksU_Rq-P6,_XJXtRPX1ZF\n", "column 1 and column 2 may"),
        ("id,text\n-UksU_Rq-P6,x\na b,y\n", r"line 3: 'a b' is no id; expected one in each line, in column 1 \('id'\)"),
        ('a,"b\n-UksU_Rq-P6,"c"\n', "line 1: a quote opens a cell here"),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_a_list_without_ids_or_with_two_columns_of_them_is_refused(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(content)
    with pytest.raises(InputError, match=problem) as refused:
        find_ids(path, KNOWN)
    assert str(refused.value).startswith(str(path)) and "\n" not in str(refused.value)
