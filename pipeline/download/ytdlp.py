"""The one place that speaks to yt-dlp; loaded by the process that `download.fetcher` starts and may kill."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import yt_dlp
from yt_dlp.utils import GeoRestrictedError
from yt_dlp.version import __version__

from extractors.errors import DecoderError
from pipeline.core.files import sha256_of_file
from pipeline.core.video_ids import is_video_id
from pipeline.download.failures import FAILURE_CLASSES, FailureClass, classify
from pipeline.download.media import BrokenMedia, check_media
from pipeline.download.settings import FetchSettings
from pipeline.sample.site_extractor import SampleSiteIE

_LONGEST_WAIT_S = 60.0


def fetch(video_id: str, folder: Path, settings: FetchSettings) -> tuple[Any, ...]:
    """Fetch a video into `folder`: ("done", path, detail), or ("failed", class name, message)."""
    if not is_video_id(video_id):
        return "failed", "unknown", f"{video_id[:80]!a} is not a video id"
    messages = _Messages()
    try:
        with yt_dlp.YoutubeDL(_parameters(folder, settings, messages), auto_init=settings.site == "youtube") as site:
            if settings.site == "sample":
                site.add_info_extractor(SampleSiteIE())
            info = site.extract_info(f"{settings.site_url}/watch?v={video_id}")
        return _accepted(Path(info["requested_downloads"][0]["filepath"]), info)
    except BrokenMedia as error:
        return "failed", error.reason, str(error)
    except DecoderError as error:
        return "failed", "decoder", str(error)
    except Exception as error:  # yt-dlp lets errors of any type through; each is one video's failure, told by its words
        failure, message = _explain(error, "\n".join(messages.warnings))
        return "failed", failure.name, message


def _accepted(path: Path, info: dict[str, Any]) -> tuple[Any, ...]:
    stated = info.get("duration")
    detail = asdict(check_media(path, stated)) | {
        "bytes": path.stat().st_size,
        "sha256": sha256_of_file(path),
        "stated_duration": stated,
        "format": info.get("format_id"),
        "yt_dlp": __version__,
    }
    return "done", str(path), detail


def _parameters(folder: Path, settings: FetchSettings, messages: "_Messages") -> dict[str, Any]:
    def wait(n: int) -> float:
        return min(_LONGEST_WAIT_S, settings.retry_wait_s * 2**n)

    return {
        "logger": messages,
        "quiet": True,
        "noprogress": True,
        "color": {"stdout": "never", "stderr": "never"},
        "format": settings.format,
        "format_sort": list(settings.format_sort),
        "merge_output_format": "mp4",
        "outtmpl": {"default": f"{str(folder).replace('%', '%%')}/media.%(ext)s"},
        "ffmpeg_location": imageio_ffmpeg.get_ffmpeg_exe(),
        "allowed_extractors": ["youtube$"] if settings.site == "youtube" else None,
        "noplaylist": True,
        "updatetime": False,
        "cachedir": None if settings.site == "youtube" else False,
        "retries": settings.retries,
        "fragment_retries": settings.retries,
        "extractor_retries": settings.retries,
        "file_access_retries": settings.retries,
        "skip_unavailable_fragments": False,
        "retry_sleep_functions": {kind: wait for kind in ("http", "fragment", "file_access", "extractor")},
        "socket_timeout": settings.socket_timeout_s,
        "sleep_interval_requests": settings.sleep_requests,
        "sleep_interval": settings.sleep_interval,
        "max_sleep_interval": settings.max_sleep_interval,
        "cookiefile": str(settings.cookies) if settings.cookies else None,
        # The loopback host must not be asked for through a proxy of the environment.
        "proxy": "" if settings.site == "sample" else settings.proxy,
    }


class _Messages:
    """yt-dlp's logger: keeps what it warns of, since that tells why a video had no format."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def debug(self, message: str) -> None:
        pass

    def error(self, message: str) -> None:
        pass

    def warning(self, message: str) -> None:
        self.warnings.append(message)


def _explain(error: Exception, warnings: str) -> tuple[FailureClass, str]:
    errors = list(_chain(error))
    # The innermost of yt-dlp's errors has the site's own words, without the prefix and the advice put around them.
    words = [str(getattr(each, "orig_msg", None) or each) for each in errors]
    message = words[-1] if hasattr(errors[-1], "orig_msg") else words[0]
    failure = classify("\n".join([*words, *(type(each).__name__ for each in errors)]), warnings)
    if failure.name == "unknown" and any(isinstance(each, GeoRestrictedError) for each in errors):
        failure = FAILURE_CLASSES["geo"]
    return failure, message.removeprefix("ERROR: ")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        inner = getattr(error, "exc_info", None) or (None, None)
        error = inner[1] or getattr(error, "cause", None) or error.__cause__ or error.__context__
