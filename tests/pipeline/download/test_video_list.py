"""The list of videos: read as published, refused with file and line."""

from pathlib import Path

import pytest

from pipeline.core.errors import InputError
from pipeline.core.records import VideoRecord
from pipeline.download.video_list import read_video_list


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
        (b'video_id\n"aaaaaaa\naaa"\n', r"line 3: 'aaaaaaa\naaa' is not a video id"),
        ("video_id\naaaaaaaaaaа\n".encode(), r"'aaaaaaaaaa\u0430' is not a video id"),
        (b"video_id\n" + b"a" * 5000 + b"\n", "..."),
        (b"video_id\n\xff\n", "not a text file in UTF-8"),
        (b'video_id\n"' + b"a" * (1 << 21) + b'"\n', "line 2: not valid csv: field larger"),
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
