"""Captions: odd lines are counted and left out, hostile structure is refused with its key."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.captions import CaptionFile, read_captions
from pipeline.errors import InputError
from pipeline.records import Caption


def read(tmp_path: Path, content: Any, wanted: tuple[str, ...] = ("a", "b")) -> CaptionFile:
    path = tmp_path / "caption.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return read_captions(path, wanted)


def test_captions_of_the_videos_asked_for_come_in_the_order_of_time(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        {
            "a": {"start": [3.5, 0, 3.5], "end": [4, 2.5, 3.75], "text": ["third", "größe 日本", "second"]},
            "c": {"start": [0], "end": [1], "text": ["not asked for"]},
            "b": {"start": [], "end": [], "text": []},
        },
    )
    assert found.captions == {
        "a": (Caption(0.0, 2.5, "größe 日本"), Caption(3.5, 3.75, "second"), Caption(3.5, 4.0, "third")),
        "b": (),
    }
    assert not found.left_out
    assert all(isinstance(time, float) for caption in found.captions["a"] for time in (caption.start, caption.end))


def test_odd_lines_are_left_out_and_counted(tmp_path: Path) -> None:
    lines = [
        (0, 1, "kept", None),
        (0, 1, None, "text is not a string"),
        (0, 1, 5, "text is not a string"),
        (0, 1, ["x"], "text is not a string"),
        (0, 1, "", "empty text"),
        (0, 1, " \n\t", "empty text"),
        ("0", 1, "x", "time is not a number"),
        (0, None, "x", "time is not a number"),
        (True, 2, "x", "time is not a number"),
        (2, 1, "x", "reversed or negative time"),
        (1, 1, "x", "reversed or negative time"),
        (-0.5, 1, "x", "reversed or negative time"),
        (2, 3, "kept too", None),
    ]
    starts, ends, texts, reasons = map(list, zip(*lines, strict=True))
    entry = {"start": starts, "end": ends, "text": texts}
    found = read(tmp_path, {"a": entry, "other": entry})
    assert [caption.text for caption in found.captions["a"]] == ["kept", "kept too"]
    assert found.left_out == {reason: reasons.count(reason) for reason in set(reasons) - {None}}
    assert found.left_out.total() + 2 == len(lines)


@pytest.mark.parametrize(
    "entry",
    [
        None,
        3,
        "text",
        [],
        {},
        {"start": [0], "end": [1]},
        {"start": 0, "end": [1], "text": ["x"]},
        {"start": [0], "end": [1], "text": "x"},
        {"start": {"0": 0}, "end": [1], "text": ["x"]},
    ],
)
def test_a_structure_that_is_not_the_published_one_is_refused_with_its_key(tmp_path: Path, entry: Any) -> None:
    good = {"start": [0], "end": [1], "text": ["x"]}
    with pytest.raises(InputError, match=r"caption\.json: key 'b': wanted \{"):
        read(tmp_path, {"a": good, "b": entry})
    assert read(tmp_path, {"a": good, "b": entry}, wanted=("a",)).captions.keys() == {"a"}


def test_lists_of_different_lengths_are_refused_with_their_key(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="key 'a': 2 starts, 1 ends and 3 texts; the same number is wanted"):
        read(tmp_path, {"a": {"start": [0, 1], "end": [1], "text": ["x", "y", "z"]}})


@pytest.mark.parametrize("content", [b"[]", b'[{"a": 1}]', b"3", b'"a"', b"null"])
def test_anything_but_an_object_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InputError, match="wanted one object"):
        read(tmp_path, content)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"a": {"start": [0], "end": [1], "text": ["x"]}',
        b"nope",
        b'{"a": "\xff"}',
        b'{"a":' + b"[" * 3000,
    ],
    ids=lambda value: str(value[:20]),
)
def test_broken_json_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InputError, match=r"caption\.json: not valid JSON near its start") as refused:
        read(tmp_path, content)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 600


def test_a_fault_far_into_a_large_file_is_placed_by_the_last_key_before_it(tmp_path: Path) -> None:
    entry = {"start": [0], "end": [1], "text": ["x" * 1000]}
    whole = json.dumps({f"v{n:03d}": entry for n in range(300)}).encode()
    with pytest.raises(InputError, match=r"some way after key 'v(1[2-9]|2[0-4])\d'"):
        read(tmp_path, whole[: 250 * 1050] + b"!" + whole[250 * 1050 :])
    with pytest.raises(InputError, match="some way after key 'v2"):
        read(tmp_path, whole[:-20])


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; the captions' caption.json is wanted"):
        read_captions(tmp_path / "none.json", ())
    with pytest.raises(InputError, match="can't be read"):
        read_captions(tmp_path, ())
