"""Captions read as a stream: equal to json.load's, odd lines counted, a broken file told."""

import json
import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import InputError
from pipeline.core.records import Caption
from pipeline.dataset import captions as module
from pipeline.dataset.captions import (
    LONGEST_TEXT,
    caption_identity,
    drop_overlapping_repeats,
    read_caption_csv,
    read_caption_file,
)


def read(tmp_path: Path, content: Any) -> tuple[dict[str, tuple[Caption, ...]], Counter[str]]:
    path = tmp_path / "caption.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    left_out: Counter[str] = Counter()
    return dict(read_caption_file(path, left_out)), left_out


def test_captions_come_in_the_order_of_time(tmp_path: Path) -> None:
    found, left_out = read(
        tmp_path,
        {
            "a": {"start": [3.5, 0, 3.5], "end": [4, 2.5, 3.75], "text": ["third", "größe 日本", "second"]},
            "b": {"start": [], "end": [], "text": []},
        },
    )
    assert found == {
        "a": (Caption(0.0, 2.5, "größe 日本"), Caption(3.5, 3.75, "second"), Caption(3.5, 4.0, "third")),
        "b": (),
    }
    assert not left_out
    assert all(isinstance(time, float) for caption in found["a"] for time in (caption.start, caption.end))


texts = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=30).filter(str.strip)
entries = st.lists(st.tuples(st.integers(0, 999), texts), max_size=5).map(
    lambda lines: {
        "start": [start for start, _ in lines],
        "end": [start + 0.5 for start, _ in lines],
        "text": [text for _, text in lines],
    }
)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.text("abcXYZ-_9", min_size=1, max_size=11), entries, max_size=6),
    st.sampled_from([None, 0, 2]),
    st.booleans(),
    st.integers(1, 40),
)
def test_whatever_the_blocks_it_is_what_json_load_reads(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any], indent: int | None, ascii_only: bool, block: int
) -> None:
    path = tmp_path_factory.mktemp("captions") / "caption.json"
    path.write_text(json.dumps(content, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        left_out: Counter[str] = Counter()
        found = dict(read_caption_file(path, left_out))
    wanted = {
        video_id: sorted(zip(entry["start"], entry["end"], entry["text"], strict=True), key=lambda line: line[:2])
        for video_id, entry in json.loads(path.read_text(encoding="utf-8")).items()
    }
    assert {i: [(c.start, c.end, c.text) for c in lines] for i, lines in found.items()} == wanted and not left_out


def test_lists_as_they_should_be_and_odd_ones_give_the_same(tmp_path: Path) -> None:
    """Whole lists are looked at first: what that can't judge must come out as line by line."""
    odd = (7.0, 6.0, "reversed")
    for lines in (
        [(3.0, 5.0, "b"), (3.0, 4.0, "a"), (5.0, 6.0, "c")],
        [(1.0, 1.0, "none"), (2.0, 3.0, "a")],
        [(1.0, 2.0, "a"), (2.0, 2.0, "none")],
        [(2.0, 3.0, "b"), (0.0, 1.0, "a")],
        [(0.0, 1.0, "a"), (1.0, 2.0, "b")],
    ):
        entries = [
            dict(zip(("start", "end", "text"), zip(*some, strict=True), strict=True)) for some in (lines, [*lines, odd])
        ]
        found, _ = read(tmp_path, dict(zip("ab", entries, strict=True)))
        kept = sorted(line for line in lines if line[0] < line[1])
        assert [(c.start, c.end, c.text) for c in found["a"]] == kept == [(c.start, c.end, c.text) for c in found["b"]]


def test_odd_lines_are_left_out_and_counted(tmp_path: Path) -> None:
    lines = [
        (0, 1, "kept", None),
        (0, 1, None, "text is not a string"),
        (0, 1, 5, "text is not a string"),
        (0, 1, math.nan, "text is not a string"),
        (0, 1, ["x"], "text is not a string"),
        (0, 1, "", "empty text"),
        (0, 1, " \n\t", "empty text"),
        ("zero", 1, "x", "time is not a number"),
        (0, None, "x", "time is not a number"),
        (0, math.nan, "x", "time is not a number"),
        (0, math.inf, "x", "time is not a number"),
        (0, 10**400, "x", "time is not a number"),
        (True, 2, "x", "time is not a number"),
        (2, 1, "x", "reversed or negative time"),
        (1, 1, "x", "reversed or negative time"),
        (-0.5, 1, "x", "reversed or negative time"),
        ("2.0", "3", "kept too", None),
    ]
    starts, ends, said, reasons = map(list, zip(*lines, strict=True))
    found, left_out = read(tmp_path, {"a": {"start": starts, "end": ends, "text": said}})
    assert [caption.text for caption in found["a"]] == ["kept", "kept too"] and found["a"][1].start == 2.0
    assert left_out == {reason: reasons.count(reason) for reason in set(reasons) - {None}}


def test_odd_videos_are_counted_and_cost_no_other(tmp_path: Path) -> None:
    good = {"start": [0], "end": [1], "text": ["x"]}
    odd = {"three": 3, "list": [good], "short": good | {"end": []}, "half": {"start": [0], "end": [1]}, "no": None}
    found, left_out = read(tmp_path, {"first": good, **odd, "../../etc": good, "": good, "last": good})
    assert {video_id for video_id, lines in found.items() if lines} == {"first", "last"}
    assert left_out == {
        "video without lists start, end and text": 4,
        "video whose lists differ in length": 1,
        "video whose name can't be an id": 2,
    }
    twice = b'{"a": %s, "a": {"start": [5], "end": [6], "text": ["y"]}}' % json.dumps(good).encode()
    found, left_out = read(tmp_path, twice)
    assert found == {"a": (Caption(0, 1, "x"),)} and left_out == {"video listed a second time": 1}


def test_odd_characters_and_long_lines_are_mended_and_counted(tmp_path: Path) -> None:
    said_oddly = b'["b\\u0000ell\\u0007", "half \\ud800 pair", "\xff\xfe", "%s"]'
    entry = b'{"a": {"start": [0, 1, 2, 3], "end": [1, 2, 3, 4], "text": ' + said_oddly + b"}}"
    found, left_out = read(tmp_path, b"\xef\xbb\xbf" + entry % (b"z" * 100_000))
    said = [caption.text for caption in found["a"]]
    assert said[:3] == ["b ell ", "half   pair", "\ufffd\ufffd"] and said[3] == "z" * LONGEST_TEXT
    assert all(text.encode() for text in said)
    assert left_out == {
        "control characters in a text that is kept": 2,
        "characters that aren't UTF-8": 2,
        f"text cut at {LONGEST_TEXT} characters": 1,
    }


@pytest.mark.parametrize("cut", range(1, 60, 3))
def test_a_file_cut_short_is_told_with_the_last_key(tmp_path: Path, cut: int) -> None:
    whole = json.dumps({"first": {"start": [0], "end": [1], "text": ["x"]}, "second": {"start": [], "end": []}})
    path = tmp_path / "caption.json"
    path.write_text(whole[:-cut])
    with pytest.raises(
        InputError, match=r"caption\.json: not valid JSON.*(near its start|key '(first|second)').*download it"
    ):
        list(read_caption_file(path, Counter()))


@pytest.mark.parametrize("content", ["[]", "3", '"x"', '{"a" 3}', '{"a": 1,}', '{"a": 1} 2', "{1: 2}", "[" * 5000, ""])
def test_what_is_no_object_of_videos_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "caption.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"caption\.json: (expected one JSON object|not valid JSON)"):
        list(read_caption_file(path, Counter()))
    path.write_text(content + '{"a": 1}', encoding="utf-16")
    with pytest.raises(InputError, match=r"caption\.json: UTF-16, not UTF-8; save it as UTF-8"):
        list(read_caption_file(path, Counter()))
    with pytest.raises(InputError, match="no such file"):
        list(read_caption_file(tmp_path / "none.json", Counter()))


def test_an_entry_without_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_ENTRY", 1000)
    monkeypatch.setattr(module, "_BLOCK", 100)
    path = tmp_path / "caption.json"
    path.write_text('{"a": {"start": [' + "0, " * 5000)
    with pytest.raises(InputError, match="no complete entry within"):
        list(read_caption_file(path, Counter()))


def test_a_csv_of_one_video_is_the_same_captions(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('start,end,text\n3.5,4,"third, quoted"\n0,2.5,größe\nx,1,y\n1\n5,4,z\n', encoding="utf-8")
    left_out: Counter[str] = Counter()
    assert read_caption_csv(path, left_out) == (Caption(0, 2.5, "größe"), Caption(3.5, 4, "third, quoted"))
    cells = "line with more or fewer cells than the header"
    assert left_out == {"time is not a number": 1, cells: 1, "reversed or negative time": 1}
    path.write_bytes(b"start,end,text\n0,1,gr\xf6\xdfe\n")
    left_out.clear()
    assert read_caption_csv(path, left_out) == (Caption(0, 1, "gr\ufffd\ufffde"),)
    assert left_out == {"characters that aren't UTF-8": 2}


@pytest.mark.parametrize("content", ["", "begin,end,text\n0,1,a\n", "\0", "start;end;text\n0;1;a\n"])
def test_a_file_that_is_no_csv_of_captions_is_counted(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(content)
    left_out: Counter[str] = Counter()
    assert read_caption_csv(path, left_out) == ()
    assert left_out == {"file that is no csv with start,end,text": 1}


def test_a_malformed_line_is_counted_and_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        'start,end,text\n0,2,first we chop, then fry\n2,4,"we wash\n4,6,now bake\n6,8,"fry" it\n\n8,9,5" nails\n'
    )
    left_out: Counter[str] = Counter()
    found = read_caption_csv(path, left_out)
    assert [caption.text for caption in found] == ["first we chop, then fry", "now bake", '5" nails']
    assert left_out == {
        "text with commas outside of quotes, kept whole": 1,
        "line with a quote that isn't closed": 1,
        "line with text after a closing quote": 1,
        "empty line": 1,
    }


def test_a_csv_that_can_not_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be read: Is a directory"):
        read_caption_csv(tmp_path, Counter())


@pytest.mark.parametrize("digits", [300, 310, 5_000, 100_000])
@pytest.mark.parametrize("sign", ["", "-"])
def test_a_number_of_many_digits_costs_its_own_line(tmp_path: Path, digits: int, sign: str) -> None:
    path = tmp_path / "caption.json"
    number = sign + "7" * digits
    entry = f'{{"start": [0, {number}, 2], "end": [1, 8, {number}], "text": ["a", "b", "c"]}}'
    path.write_text(f'{{"first": {entry}, "second": {{"start": [3], "end": [4], "text": ["d"]}}}}')
    left_out: Counter[str] = Counter()
    found = dict(read_caption_file(path, left_out))
    assert found["first"][0] == Caption(0, 1, "a") and found["second"] == (Caption(3, 4, "d"),)
    if digits > 308:
        assert len(found["first"]) == 1 and left_out == {"time is not a number": 2}


def test_captions_that_roll_up_the_screen_are_joined() -> None:
    rolling = (
        Caption(0, 4, "a b"),
        Caption(2, 6, "c d"),
        Caption(3, 8, "a  b"),
        Caption(9, 10, "a b"),
        Caption(9.5, 11, "e"),
    )
    assert drop_overlapping_repeats(rolling) == (Caption(0, 8, "a b"), Caption(2, 6, "c d"), *rolling[3:])
    assert drop_overlapping_repeats(rolling[3:]) == rolling[3:] and drop_overlapping_repeats(()) == ()
    # Touching isn't overlapping, and the longer of two that end apart stays as long as it is.
    touching = (Caption(0, 2, "a"), Caption(2, 4, "a"))
    assert drop_overlapping_repeats(touching) == touching
    assert drop_overlapping_repeats((Caption(0, 9, "a"), Caption(1, 3, "a"), Caption(4, 5, "a"))) == (
        Caption(0, 9, "a"),
    )


def test_the_identity_names_the_source(tmp_path: Path) -> None:
    path = tmp_path / "raw_caption.json"
    path.write_text("{}")
    found = caption_identity(path, True)
    assert found["source"] == "raw_caption.json" and found["format"] == "json" and found["overlaps"] == "dropped"
    path.write_text("{} ")
    assert caption_identity(path, True)["sha256"] != found["sha256"]
    assert caption_identity(tmp_path, False)["format"] == "csv" and caption_identity(None, False)["format"] == ""
    with pytest.raises(InputError, match="no such file"):
        caption_identity(tmp_path / "none.json", False)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: a pipe or a device; save the captions as a file"):
        caption_identity(tmp_path / "pipe", False)
