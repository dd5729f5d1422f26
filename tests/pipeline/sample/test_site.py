"""The sample's site over real HTTP, and yt-dlp's way to it."""

import csv
import http.client
import json
import socket
import subprocess
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import pytest

from pipeline.core.errors import InputError
from pipeline.download.failures import classify
from pipeline.download.fetcher import Fetcher, FetchError
from pipeline.download.settings import FetchSettings
from pipeline.sample.site import SampleSite

VIDEO = "-bcdefghij_"
DEAD = [
    ("privateprv1", "private", "Private video. Sign in if you've been granted access to this video"),
    ("removedrem1", "removed", "Video unavailable. This video has been removed by the uploader"),
    ("terminated1", "terminated", "YouTube account associated with this video has been terminated."),
    ("ageageagea1", "age", "Sign in to confirm your age. This video may be inappropriate for some users."),
    ("geogeogeog1", "geo", "The uploader has not made this video available in your country"),
    ("membersmem1", "members", "Join this channel to get access to members-only content like this video"),
    ("livelivele1", "live", "Premieres in 4 days"),
    ("botbotbotb1", "bot-check", "Sign in to confirm you’re not a bot. This helps protect our community."),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sample of one living video (3 s, its index first) and a dead one of each kind."""
    folder = tmp_path_factory.mktemp("sample")
    (folder / "media").mkdir()
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", "testsrc2=size=96x64:rate=30:d=3"]
    command += ["-c:v", "libx264", "-preset", "ultrafast", "-threads", "1", "-movflags", "faststart"]
    subprocess.run([*command, str(folder / "media" / f"{VIDEO}.mp4")], check=True)
    (folder / "media" / "no id.mp4").touch()
    with open(folder / "dead.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("video_id", "class", "message"), *DEAD])
    return folder


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[SampleSite]:
    with SampleSite(folder) as site:
        yield site


@pytest.fixture(scope="module")
def fetcher(site: SampleSite) -> Iterator[Fetcher]:
    with Fetcher(FetchSettings(site="sample", site_url=site.url, retries=3, retry_wait_s=0.01)) as fetcher:
        yield fetcher


def get(site: SampleSite, path: str, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(site.url.removeprefix("http://"), timeout=600)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_a_video_is_described_and_sent(site: SampleSite, folder: Path) -> None:
    data = (folder / "media" / f"{VIDEO}.mp4").read_bytes()
    status, body = get(site, f"/api/{VIDEO}")
    about = json.loads(body)
    assert status == 200 and (about["id"], about["width"], about["height"]) == (VIDEO, 96, 64)
    assert about["duration"] == pytest.approx(3, abs=0.05) and about["filesize"] == len(data)
    assert get(site, f"/media/{VIDEO}.mp4") == (200, data)


@pytest.mark.parametrize(("first", "last"), [(0, 0), (0, 99), (1000, 1500), (100, None), (10, 10**9)])
def test_a_range_is_that_part_of_the_file(site: SampleSite, folder: Path, first: int, last: int | None) -> None:
    data = (folder / "media" / f"{VIDEO}.mp4").read_bytes()
    wanted = data[first:] if last is None else data[first : last + 1]
    bounds = f"bytes={first}-{'' if last is None else last}"
    assert get(site, f"/media/{VIDEO}.mp4", Range=bounds) == (206, wanted)


def test_a_range_beyond_the_end_is_refused(site: SampleSite) -> None:
    assert get(site, f"/media/{VIDEO}.mp4", Range="bytes=100000000-") == (416, b"")


@pytest.mark.parametrize(
    "path", ["/", "/media/unknown-id1.mp4", "/api/unknown-id1", "/media/../dead.csv", "/dead.csv", "/media/no%20id.mp4"]
)
def test_nothing_else_is_served(site: SampleSite, path: str) -> None:
    assert get(site, path)[0] == 404


def test_it_listens_on_the_loopback_address_and_stops_listening(folder: Path) -> None:
    with SampleSite(folder) as site:
        host, port = site.url.removeprefix("http://").split(":")
        assert host == "127.0.0.1"
        socket.create_connection((host, int(port)), timeout=600).close()
    with pytest.raises(OSError):
        socket.create_connection((host, int(port)), timeout=600)


def test_a_folder_that_is_no_sample_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder media in it"):
        SampleSite(tmp_path)
    (tmp_path / "media").mkdir()
    (tmp_path / "dead.csv").write_text("id,why\na,b\n")
    with pytest.raises(InputError, match="expected video_id,class,message"):
        SampleSite(tmp_path)


@pytest.mark.parametrize(("video_id", "name", "message"), DEAD)
def test_yt_dlp_says_of_a_dead_video_what_youtube_would(
    fetcher: Fetcher, tmp_path: Path, video_id: str, name: str, message: str
) -> None:
    with pytest.raises(FetchError) as caught:
        fetcher.fetch(video_id, tmp_path)
    assert caught.value.failure.name == name
    assert message in str(caught.value)
    assert classify(message).name == name


# Fault of each request for the file, and the class of the failure, if it ends in one.
FAULTS = [
    ([], None),
    (["503", "503"], None),
    (["cut"], None),
    (["cut", "503", "cut"], None),
    (["503"] * 4, "transient"),
    (["cut"] * 4, "truncated"),
    (["short"], "truncated"),
    (["429"], "rate-limited"),
    (["403"], "forbidden"),
]


@pytest.mark.parametrize(("faults", "name"), FAULTS)
def test_yt_dlp_meets_faults(
    site: SampleSite, fetcher: Fetcher, folder: Path, tmp_path: Path, faults: list[str], name: str | None
) -> None:
    path = f"/media/{VIDEO}.mp4"
    site.requests.clear()
    site.faults[path] = deque(faults)
    if name is None:
        fetched = fetcher.fetch(VIDEO, tmp_path)
        assert fetched.path.read_bytes() == (folder / "media" / f"{VIDEO}.mp4").read_bytes()
        assert fetched.detail["duration"] == pytest.approx(3, abs=0.05)
        asked = len(faults) + 1
    else:
        with pytest.raises(FetchError) as caught:
            fetcher.fetch(VIDEO, tmp_path)
        assert caught.value.failure.name == name
        asked = len(faults)
    assert site.requests == [f"GET /api/{VIDEO}"] + [f"GET {path}"] * asked
    assert not site.faults[path]


def test_a_hanging_transfer_is_killed_and_the_next_fetch_works(
    site: SampleSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = [1.5]
    monkeypatch.setattr(FetchSettings, "kill_after_s", property(lambda self: limits[-1]))
    site.faults[f"/media/{VIDEO}.mp4"] = deque(["hang"])
    with Fetcher(FetchSettings(site="sample", site_url=site.url)) as fetcher:
        with pytest.raises(FetchError, match=r"within 1\.5 s") as caught:
            fetcher.fetch(VIDEO, tmp_path)
        assert caught.value.failure.name == "timeout"
        # What doesn't hang is given its time, however busy the machine; whichever request met the fault.
        limits.append(600.0)
        site.faults.clear()
        (tmp_path / "again").mkdir()
        assert fetcher.fetch(VIDEO, tmp_path / "again").detail["width"] == 96


def test_an_id_that_is_none_never_reaches_yt_dlp(site: SampleSite, fetcher: Fetcher, tmp_path: Path) -> None:
    site.requests.clear()
    for hostile in ("../../../etc", "abcdefghij\n", "abcdefghij&list=x"):
        with pytest.raises(FetchError, match="is not a video id"):
            fetcher.fetch(hostile, tmp_path)
    assert site.requests == []
