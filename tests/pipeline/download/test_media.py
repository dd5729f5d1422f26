"""Where media lie, and what is taken for media."""

import hashlib
from pathlib import Path

import pytest

from pipeline.core.errors import InputError
from pipeline.download.media import fetched_path, find_media, media_path


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_a_video_lies_in_the_folder_of_its_hash(tmp_path: Path) -> None:
    path = media_path(tmp_path, "-bcdefghijk", ".webm")
    assert path == tmp_path / hashlib.sha256(b"-bcdefghijk").hexdigest()[:2] / "-bcdefghijk.webm"
    assert fetched_path(tmp_path, "-bcdefghijk") is None
    touch(path)
    assert fetched_path(tmp_path, "-bcdefghijk") == path
    assert fetched_path(tmp_path, "-bcdefghijK") is None


def test_own_media_are_found_flat_and_nested(tmp_path: Path) -> None:
    wanted = {
        "abcdefghijk": touch(tmp_path / "abcdefghijk.mp4"),
        "-_A": touch(tmp_path / "deep" / "er" / "-_A.MKV"),
        "pancake": touch(tmp_path / "deep" / "pancake.mov"),
    }
    for name in (".hidden.mp4", "b.mp4.part", "c.part", "caption.json", "deep/.part/run/media.mp4", "no_suffix"):
        touch(tmp_path / name)
    spaced = touch(tmp_path / "two words.mp4")
    found = find_media(tmp_path)
    assert found.paths == wanted
    assert found.duplicates == {} and found.misnamed == [spaced]


def test_duplicates_are_reported_and_the_first_by_name_is_taken(tmp_path: Path) -> None:
    second, first = touch(tmp_path / "b" / "twice.mp4"), touch(tmp_path / "a" / "twice.webm")
    found = find_media(tmp_path)
    assert found.paths == {"twice": first} and found.duplicates == {"twice": [first, second]}


def test_ids_that_differ_in_case_alone_are_two(tmp_path: Path) -> None:
    touch(media_path(tmp_path, "abcdefghijk"))
    touch(media_path(tmp_path, "ABCDEFGHIJK"))
    assert set(find_media(tmp_path).paths) == {"abcdefghijk", "ABCDEFGHIJK"}


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: can't be read"):
        find_media(tmp_path / "nowhere")
