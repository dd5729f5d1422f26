"""Media in a store: found, fetched within the budget, measured by their first bytes; the network charged to nobody."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import pytest

from pipeline.core.cache import GIB, NoRoomError
from pipeline.core.errors import InputError
from pipeline.download.media import MediaFinder, find_media, stated_seconds
from pipeline.download.remote_media import MediaFetcher, stated_durations, write_head

from ...loopback_store import busy, refused

SIZE = 10_000
NAMES = ("b/one.mp4", "b/d/two.webm", "a.mp4", "c/a.mkv", ".hidden/x.mp4", "b/no id.mp4", "b/other.txt", "b/.y.mp4")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files that are named like videos, 10 kB each."""
    for number, name in enumerate(NAMES):
        path = tmp_path / "media" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]) * SIZE)
    return tmp_path / "media"


def fetcher(media: Path, cache: Path, files: float = 10) -> MediaFetcher:
    return MediaFetcher(media, cache, files * SIZE / GIB)


def test_the_same_is_found_as_in_the_folder(store: Any, folder: Path) -> None:
    address = store.upload(folder, store.bucket(), "media")
    local, remote = find_media(folder), find_media(Path(address))
    assert list(remote.paths) == list(local.paths) == ["a", "one", "two"]

    def below(paths: list[Path], root: Path) -> list[str]:
        return [path.relative_to(root).as_posix() for path in paths]

    for name in ("misnamed", "irregular"):
        assert below(getattr(remote, name), Path(address)) == below(getattr(local, name), folder)
    assert below([*remote.paths.values()], Path(address)) == below([*local.paths.values()], folder)
    assert below(remote.duplicates["a"], Path(address)) == below(local.duplicates["a"], folder) == ["a.mp4", "c/a.mkv"]
    assert list(find_media(Path(f"{address}/b/one.mp4")).paths) == ["one"]


def test_videos_are_fetched_one_by_one_and_the_store_is_listed_once(store: Any, folder: Path, tmp_path: Path) -> None:
    media = Path(store.upload(folder, store.bucket(), "media"))
    store.asked.clear()
    with fetcher(media, tmp_path / "cache", 2) as finder:
        for video_id in ("one", "two", "a"):
            path = finder.find(video_id)
            assert path is not None and path.stem == video_id
            assert path.read_bytes() == find_media(folder).paths[video_id].read_bytes()
            finder.release(video_id)
        assert finder.find("absent") is None
    assert {path.name for path in (tmp_path / "cache").rglob("*.*") if path.suffix} == {"two.webm", "a.mp4"}
    assert sum(method == "GET" and "media" not in path for method, path in store.asked) == 5  # each folder once


def test_files_in_work_that_leave_no_room_are_told(store: Any, folder: Path, tmp_path: Path) -> None:
    media = Path(store.upload(folder, store.bucket(), "media"))
    with fetcher(media, tmp_path / "cache", 1.5) as finder:
        assert finder.find("one") is not None
        with pytest.raises(NoRoomError):
            finder.find("two")
        finder.release("one")
        assert finder.find("two") is not None


def test_what_the_network_keeps_back_waits(
    store: Any, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    media = Path(store.upload(folder, store.bucket(), "media"))
    with fetcher(media, tmp_path / "cache") as finder:
        assert finder.find("a") is not None
        store.faults.append(busy(10_000, "/media/b/"))
        assert finder.find("one") is None and finder.find("two") is None
        assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == ["mcn", "mcn"]
        finder.release("a")
        assert finder.find("a") is not None  # it was fetched before, and it counts for nothing against the others
        store.faults.clear()
        assert finder.find("one") is not None


def test_a_store_that_is_away_is_asked_for_three_videos_a_shard(store: Any, folder: Path, tmp_path: Path) -> None:
    for number in range(6):
        shutil.copy(folder / "a.mp4", folder / f"more-{number}.mp4")
    media = Path(store.upload(folder, store.bucket(), "media"))
    with fetcher(media, tmp_path / "cache") as finder:
        assert finder.find("absent") is None
        store.asked.clear()
        store.faults.append(busy(10_000))
        assert [finder.find(f"more-{number}") for number in range(5)] == [None] * 5
        assert {path.rpartition("/")[2] for method, path in store.asked if method == "HEAD"} == {
            *(f"more-{number}.mp4" for number in range(3))
        }
        store.faults.clear()
        assert finder.find("more-5") is None
        finder.begin()
        assert finder.find("more-5") is not None


def test_without_the_right_to_read_the_work_ends(store: Any, folder: Path, tmp_path: Path) -> None:
    media = Path(store.upload(folder, store.bucket(), "media"))
    with fetcher(media, tmp_path / "cache") as finder:
        assert finder.find("a") is not None
        store.faults.append(refused)
        with pytest.raises(InputError, match="no right to it"):
            finder.find("one")


def test_other_stages_say_that_they_read_local_folders() -> None:
    with pytest.raises(InputError, match="s3://bucket/media: only `mcn extract` reads media at an address"):
        MediaFinder(Path("s3://bucket/media"))


@pytest.fixture(scope="module")
def long_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of more bytes than are looked at: index at the end, index at the begin, another container, a short one."""
    folder = tmp_path_factory.mktemp("long")
    for name, seconds, flags in (
        ("end.mp4", 7, []),
        ("begin.mp4", 6, ["-movflags", "+faststart"]),
        ("other.mkv", 5, []),
        ("stream.ts", 6, []),
        ("short.mp4", 1, []),
    ):
        noise = f"nullsrc=size=160x120:rate=10:duration={seconds},geq=random(1)*255:128:128"
        encoding = ["-c:v", "mpeg4", "-q:v", "1", *flags]
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", noise, *encoding]
        subprocess.run([*command, str(folder / name)], check=True)
    return folder


def test_durations_are_those_of_the_whole_files(
    store: Any, long_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.download.remote_media._HEAD", 1 << 14)
    monkeypatch.setattr("pipeline.download.remote_media._TAIL", 1 << 16)
    media = Path(store.upload(long_videos, store.bucket(), "media"))
    local = {video_id: stated_seconds(path) for video_id, path in find_media(long_videos).paths.items()}
    assert local["end"] == pytest.approx(7, abs=0.2) and local["other"] == pytest.approx(5, abs=0.2)
    assert stated_durations(media, find_media(media).paths) == local


def test_of_a_long_video_little_is_fetched(
    store: Any, long_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.core.remote import Store

    monkeypatch.setattr("pipeline.download.remote_media._HEAD", 1 << 14)
    remote = Store(store.upload(long_videos, store.bucket(), "media"))
    fetched: list[int] = []
    read = remote.read

    def counted(name: str, start: int, end: int) -> bytes:
        fetched.append(end - start)
        return read(name, start, end)

    monkeypatch.setattr(remote, "read", counted)
    write_head(remote, "end.mp4", tmp_path / "end.mp4")
    assert (tmp_path / "end.mp4").stat().st_size == (long_videos / "end.mp4").stat().st_size
    assert sum(fetched) < 0.1 * (long_videos / "end.mp4").stat().st_size
