"""Where media lie, what is taken for media; whole files pass with FFmpeg's own figures, files cut anywhere do not."""

import hashlib
import os
import subprocess
from pathlib import Path

import imageio_ffmpeg
import pytest

from pipeline.core.errors import InputError
from pipeline.download.media import BrokenMedia, check_media, fetched_path, find_media, media_path


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


def test_what_is_no_regular_file_is_left_out_and_named(tmp_path: Path) -> None:
    (tmp_path / "whole.mp4").write_bytes(b"x")
    (tmp_path / "linked.mp4").symlink_to("whole.mp4")
    (tmp_path / "dangling.mp4").symlink_to("nowhere.mp4")
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    found = find_media(tmp_path)
    assert list(found.paths) == ["linked", "whole"]
    assert found.irregular == [tmp_path / "dangling.mp4", tmp_path / "pipe.mp4"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 s at 96x64 with sound: index first (mp4), index last (mp4), and Matroska."""
    folder = tmp_path_factory.mktemp("videos")
    source = ["-f", "lavfi", "-i", "testsrc2=size=96x64:rate=30:duration=3", "-f", "lavfi", "-i", "sine=d=3"]
    h264 = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-threads", "1"]
    for name, options in (
        ("first.mp4", ["-movflags", "faststart"]),
        ("last.mp4", []),
        ("video.mkv", []),
        ("silent.mp4", ["-an"]),
        ("sound.m4a", ["-vn"]),
    ):
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *source, *h264, *options, str(folder / name)]
        subprocess.run(command, check=True)
    return folder


@pytest.mark.parametrize("name", ["first.mp4", "last.mp4", "video.mkv"])
def test_a_whole_file_is_measured(videos: Path, name: str) -> None:
    facts = check_media(videos / name, stated_duration=3)
    assert facts.duration == pytest.approx(3.0, abs=0.02)
    assert (facts.width, facts.height, facts.video_codec) == (96, 64, "h264")
    assert facts.audio_codec == ("vorbis" if name.endswith("mkv") else "aac")


def test_no_sound_is_no_fault(videos: Path) -> None:
    assert check_media(videos / "silent.mp4").audio_codec == ""


@pytest.mark.parametrize("name", ["first.mp4", "last.mp4", "video.mkv"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.8])
def test_a_cut_file_is_refused(videos: Path, tmp_path: Path, name: str, share: float) -> None:
    whole = (videos / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(BrokenMedia) as caught:
        check_media(tmp_path / name, stated_duration=3)
    assert caught.value.reason in ("truncated", "undecodable")


@pytest.mark.parametrize("missing", [1, 2000])
def test_a_cut_that_the_container_tells_needs_no_stated_duration(videos: Path, tmp_path: Path, missing: int) -> None:
    whole = (videos / "first.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[:-missing])
    with pytest.raises(BrokenMedia) as caught:
        check_media(tmp_path / "cut.mp4")
    assert caught.value.reason == "truncated"


def test_a_file_shorter_than_the_site_says_is_truncated(videos: Path) -> None:
    check_media(videos / "first.mp4", stated_duration=4.9)
    with pytest.raises(BrokenMedia, match="ends at 3.0 s of 6.0 s") as caught:
        check_media(videos / "first.mp4", stated_duration=6)
    assert caught.value.reason == "truncated"


def test_what_is_no_video_is_refused(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "page.mp4").write_text("<html>Sign in</html>" * 100)
    (tmp_path / "empty.mp4").touch()
    for path in (videos / "sound.m4a", tmp_path / "page.mp4", tmp_path / "empty.mp4"):
        with pytest.raises(BrokenMedia) as caught:
            check_media(path)
        assert caught.value.reason == "undecodable"
