"""What is asked of yt-dlp, and what its answers become."""

import os
import subprocess
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import pytest
import yt_dlp
from yt_dlp.cookies import YoutubeDLCookieJar
from yt_dlp.utils import DownloadError

from pipeline.core.child import ChildError
from pipeline.core.errors import InputError, ToolError
from pipeline.core.files import sha256_of_file
from pipeline.download import fetcher, ytdlp
from pipeline.download.settings import FetchSettings
from pipeline.sample.site import SampleSite

VIDEO, DEAD = "-bcdefghij_", "geogeogeog1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    (folder / "media").mkdir()
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", "testsrc2=size=96x64:rate=30:d=1"]
    subprocess.run([*command, "-threads", "1", str(folder / "media" / f"{VIDEO}.mp4")], check=True)
    (folder / "dead.csv").write_text(f"video_id,class,message\n{DEAD},geo,Nicht in deinem Land\n")
    return folder


def test_a_fetched_file_comes_with_its_measures(folder: Path, tmp_path: Path) -> None:
    # The name of the folder holds what yt-dlp's templates would take for a field.
    target = tmp_path / "100 %(id)s"
    target.mkdir()
    with SampleSite(folder) as site:
        kind, path, detail = ytdlp.fetch(VIDEO, target, FetchSettings(site="sample", site_url=site.url))
    source = folder / "media" / f"{VIDEO}.mp4"
    assert kind == "done" and Path(path).parent == target
    assert (detail["sha256"], detail["bytes"]) == (sha256_of_file(source), source.stat().st_size)
    assert (detail["width"], detail["height"], detail["video_codec"]) == (96, 64, "h264")
    assert detail["duration"] == pytest.approx(1, abs=0.02) and detail["yt_dlp"] == yt_dlp.version.__version__


def test_a_geographic_refusal_is_known_by_its_type_in_any_language(folder: Path, tmp_path: Path) -> None:
    with SampleSite(folder) as site:
        answer = ytdlp.fetch(DEAD, tmp_path, FetchSettings(site="sample", site_url=site.url))
    assert answer == ("failed", "geo", "Nicht in deinem Land")


def test_an_unknown_video_is_never_called_removed(folder: Path, tmp_path: Path) -> None:
    with SampleSite(folder) as site:
        kind, name, message = ytdlp.fetch("abcdefghijk", tmp_path, FetchSettings(site="sample", site_url=site.url))
    assert (kind, name) == ("failed", "unavailable") and "404" in message


def test_a_file_that_is_no_video_is_not_accepted(folder: Path, tmp_path: Path) -> None:
    with SampleSite(folder) as site:
        site.faults[f"/media/{VIDEO}.mp4"] = deque(["short"])
        kind, name, _ = ytdlp.fetch(VIDEO, tmp_path, FetchSettings(site="sample", site_url=site.url))
    assert kind == "failed" and name in ("truncated", "undecodable")


def test_a_site_that_does_not_answer_is_the_networks_fault(folder: Path, tmp_path: Path) -> None:
    with SampleSite(folder) as site:
        settings = FetchSettings(site="sample", site_url=site.url, retries=0)
    assert ytdlp.fetch(VIDEO, tmp_path, settings)[1] == "network"


def test_yt_dlp_takes_the_parameters_for_youtube_and_leaves_other_sites_alone(folder: Path, tmp_path: Path) -> None:
    settings = FetchSettings(sleep_requests=0.75, sleep_interval=10, max_sleep_interval=20, proxy="")
    messages = ytdlp._Messages()
    with SampleSite(folder) as site, yt_dlp.YoutubeDL(ytdlp._parameters(tmp_path, settings, messages)) as client:
        assert client.params["sleep_interval"] == 10 and client.params["format"].startswith("18/")
        with pytest.raises(DownloadError, match="No suitable extractor"):
            client.extract_info(f"{site.url}/media/{VIDEO}.mp4")
        assert site.requests == []
        youtube = client.get_info_extractor("Youtube")
        assert youtube.suitable(f"{settings.site_url}/watch?v={VIDEO}")
    assert messages.warnings == []


HEADER = "# Netscape HTTP Cookie File\n"
LOGIN = ".youtube.com\tTRUE\t/\tTRUE\t2147483647\tLOGIN\tsecret\n"
SESSION = "127.0.0.1\tFALSE\t/\tFALSE\t0\tSESSION\tsecret\n"


@pytest.fixture(autouse=True)
def no_copies() -> Iterator[None]:
    """A process copies a cookie file once; each test is one's beginning."""
    ytdlp._cookies.cache_clear()
    yield
    ytdlp._cookies.cache_clear()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"format": "best["}, "--format: 'best['"),
        ({"format": "b[height<=?abc]"}, "--format: "),
        ({"format": "(18/b"}, "--format: "),
        ({"format": "b[height~='(']"}, "--format: "),
        ({"format": " "}, "--format: "),
        ({"format": "-"}, "--format: "),
        ({"format_sort": ("res:360", "res=360")}, "--format-sort: 'res=360'"),
        ({"format_sort": ("+",)}, "--format-sort: '+'"),
        ({"site": "sample", "site_url": "http://localhost:80"}, "--site-url: "),
    ],
)
def test_settings_that_yt_dlp_cannot_use_are_one_line_with_the_flag(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as told:
        ytdlp.check(FetchSettings(**values))
    assert str(told.value).startswith(words) and "\n" not in str(told.value)


def test_settings_that_yt_dlp_can_use_pass_and_odd_ones_are_told(tmp_path: Path) -> None:
    assert ytdlp.check(FetchSettings()) == []
    assert ytdlp.check(FetchSettings(format="bv*[height<=360]+ba/b", format_sort=("+size", "hdr~10", "res"))) == []
    (note,) = ytdlp.check(FetchSettings(format_sort=("rez:360",)))
    assert "rez" in note
    (tmp_path / "cookies.txt").write_text(f"{HEADER}{LOGIN}a line of blanks and a secret\n")
    (note,) = ytdlp.check(FetchSettings(cookies=tmp_path / "cookies.txt"))
    assert "1 lines" in note and "secret" not in note


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'[{"domain": ".youtube.com", "name": "A", "value": "secret"}]', "another format"),
        ("# Netscape".encode("utf-16"), "isn't UTF-8"),
        (LOGIN.encode(), "another format"),
        (HEADER.encode(), "holds no cookie"),
        (f"{HEADER}{LOGIN}".replace("\t", " ").encode(), "holds no cookie"),
        (f"{HEADER}.youtube.com\tFALSE\t/\tTRUE\t9\tA\tsecret\n".encode(), "another format"),
        (b"", "another format"),
    ],
    ids=["json", "utf-16", "no header", "no cookie", "blanks for tabs", "domain", "empty"],
)
def test_what_is_no_cookie_file_is_one_line_without_its_words(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "cookies.txt"
    path.write_bytes(content)
    for ask in (lambda: ytdlp.check(FetchSettings(cookies=path)), lambda: fetch(path, tmp_path)):
        with pytest.raises(InputError) as told:
            ask()
        message = str(told.value)
        assert str(path) in message and words in message and "--cookies" in message
        assert "\n" not in message and "secret" not in message


def fetch(cookies: Path, folder: Path, url: str = "http://127.0.0.1:1") -> tuple[Any, ...]:
    return ytdlp.fetch(VIDEO, folder, FetchSettings(site="sample", site_url=url, cookies=cookies))


def test_a_cookie_file_with_a_byte_order_mark_and_other_line_ends_is_read(tmp_path: Path) -> None:
    path = tmp_path / "cookies.txt"
    path.write_bytes(f"\ufeff{HEADER}{LOGIN}".replace("\n", "\r\n").encode())
    assert ytdlp.check(FetchSettings(cookies=path)) == []
    (cookie,) = loaded(ytdlp._cookies(path))
    assert (cookie.name, cookie.value) == ("LOGIN", "secret")


def loaded(copy: "ytdlp._Cookies") -> YoutubeDLCookieJar:
    copy.seek(0)
    jar = YoutubeDLCookieJar(copy)
    jar.load()
    return jar


def test_the_users_cookies_are_read_once_and_never_written(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "$HOME cookies.txt"  # yt-dlp would put a variable's value there
    path.write_text(f"{HEADER}{LOGIN}{SESSION}# a remark\n")
    before, status = path.read_bytes(), path.stat()
    os.chmod(path, 0o400)
    with SampleSite(folder) as site:
        for number in range(2):
            (tmp_path / str(number)).mkdir()
            assert fetch(path, tmp_path / str(number), site.url)[0] == "done"
            # What one video leaves the next one finds, in this process alone.
            assert {cookie.name for cookie in loaded(ytdlp._cookies(path))} == {"LOGIN", "SESSION"}
    assert path.read_bytes() == before and path.stat().st_mtime_ns == status.st_mtime_ns
    assert [each.name for each in tmp_path.rglob("*") if "cookie" in each.name] == [path.name]


def test_the_copy_takes_what_sites_set_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "cookies.txt"
    path.write_text(HEADER + LOGIN + SESSION)
    copy = ytdlp._cookies(path)
    for number in range(3):
        parameters = ytdlp._parameters(tmp_path, FetchSettings(cookies=path), ytdlp._Messages())
        with ytdlp._client(parameters, FetchSettings()) as client:
            (known,) = (cookie for cookie in client.cookiejar if cookie.name == "LOGIN")
            known.value = f"{known.value}{number}"
    assert "\0" not in copy.getvalue() and copy.getvalue().count("LOGIN") == 1
    assert {cookie.name: cookie.value for cookie in loaded(copy)} == {"LOGIN": "secret012", "SESSION": "secret"}


def test_an_error_on_closing_takes_nothing_from_a_video_that_is_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(client: yt_dlp.YoutubeDL) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(yt_dlp.YoutubeDL, "save_cookies", full)
    with SampleSite(folder) as site:
        settings = FetchSettings(site="sample", site_url=site.url)
        assert ytdlp.fetch(VIDEO, tmp_path, settings)[0] == "done"
        (tmp_path / "dead").mkdir()
        assert ytdlp.fetch(DEAD, tmp_path / "dead", settings)[:2] == ("failed", "geo")


def test_a_process_that_cannot_start_is_charged_to_no_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_start(child: object, *arguments: object, limit_s: float | None = None) -> None:
        raise ChildError("start", "ended with status 1 (No module named 'yt_dlp')")

    monkeypatch.setattr(fetcher.Child, "call", no_start)
    with pytest.raises(ToolError, match="No module named 'yt_dlp'"):
        fetcher.check(FetchSettings())
    with fetcher.Fetcher(FetchSettings()) as one, pytest.raises(ToolError, match="No module named 'yt_dlp'"):
        one.fetch("abcdefghijk", tmp_path)


def test_the_environments_proxy_is_checked_unless_another_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetcher, "getproxies", lambda: {"https": "http://user:pa/55w0rd@host:1", "no": "localhost"})
    monkeypatch.setattr(fetcher.Child, "call", lambda *arguments, **limits: [])
    with pytest.raises(InputError, match="https_proxy") as told:
        fetcher.check(FetchSettings())
    assert "55w0rd" not in str(told.value)
    assert fetcher.check(FetchSettings(proxy="http://host:1")) == []
