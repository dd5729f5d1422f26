"""What is asked of yt-dlp, and what its answers become."""

import subprocess
from collections import deque
from pathlib import Path

import imageio_ffmpeg
import pytest
import yt_dlp
from yt_dlp.utils import DownloadError

from pipeline.core.files import sha256_of_file
from pipeline.download import ytdlp
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
    assert (kind, name) == ("failed", "unknown") and "404" in message


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
