"""The one place that speaks to yt-dlp; loaded by the process that `download.fetcher` starts and may kill."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import yt_dlp
from yt_dlp.cookies import YoutubeDLCookieJar
from yt_dlp.utils import FormatSorter, GeoRestrictedError
from yt_dlp.version import __version__

from extractors.errors import DecoderError
from pipeline.core.errors import InputError
from pipeline.core.files import sha256_of_file
from pipeline.core.video_ids import is_video_id
from pipeline.download.failures import FAILURE_CLASSES, FailureClass, classify
from pipeline.download.media import BrokenMedia, check_media
from pipeline.download.settings import FetchSettings
from pipeline.sample.site_extractor import SampleSiteIE

_LONGEST_WAIT_S = 60.0


def fetch(video_id: str, folder: Path, settings: FetchSettings) -> tuple[Any, ...]:
    """Fetch a video into `folder`: ("done", path, detail), or ("failed", class name, message).

    Raises InputError for cookies that can't be read.
    """
    if not is_video_id(video_id):
        return "failed", "unknown", f"{video_id[:80]!a} is not a video id"
    messages = _Messages()
    parameters = _parameters(folder, settings, messages)
    try:
        with _client(parameters, settings) as client:
            info = client.extract_info(f"{settings.site_url}/watch?v={video_id}")
        return _accepted(Path(info["requested_downloads"][0]["filepath"]), info)
    except BrokenMedia as error:
        return "failed", error.reason, str(error)
    except DecoderError as error:
        return "failed", "decoder", str(error)
    except Exception as error:  # yt-dlp lets errors of any type through; each is one video's failure, told by its words
        failure, message = _explain(error, "\n".join(messages.warnings))
        return "failed", failure.name, message


def check(settings: FetchSettings) -> list[str]:
    """See that yt-dlp takes the settings, without asking any site; what it warns of, for people. Raises InputError."""
    messages = _Messages()
    if not settings.format.strip() or settings.format.strip() == "-":
        raise InputError(f"--format: {settings.format!r} is no format selector; expected one such as 18/b")
    for part in settings.format_sort:
        if not re.match(FormatSorter.regex, part):
            raise InputError(
                f"--format-sort: {part!r} is no order of formats; expected FIELD, +FIELD, FIELD:LIMIT or FIELD~LIMIT"
            )
    plain = replace(settings, format="b", format_sort=(), cookies=None)
    with _client(_parameters(Path("."), plain, messages), settings) as client:
        try:
            client.build_format_selector(settings.format)
        except Exception as error:  # a SyntaxError, or what a regular expression or a number in it raises
            why = str(error).partition("\n")[0]
            raise InputError(f"--format: {settings.format!r} can't be used: {why}; expected one such as 18/b") from None
        client.params["format_sort"] = list(settings.format_sort)
        try:
            FormatSorter(client, ())
        except Exception as error:
            raise InputError(f"--format-sort: {','.join(settings.format_sort)!r} can't be used: {error}") from None
    if settings.site == "sample" and not SampleSiteIE.suitable(f"{settings.site_url}/watch?v={'a' * 11}"):
        raise InputError(f"--site-url: {settings.site_url!r} is no sample's; expected http://127.0.0.1:PORT")
    if settings.cookies is not None and (skipped := _cookies(settings.cookies).skipped):
        messages.warnings.append(f"{settings.cookies}: {skipped} lines are no cookies and passed over")
    return messages.warnings


@contextmanager
def _client(parameters: dict[str, Any], settings: FetchSettings) -> Iterator[yt_dlp.YoutubeDL]:
    client = yt_dlp.YoutubeDL(parameters, auto_init=settings.site == "youtube")
    try:
        if settings.site == "sample":
            client.add_info_extractor(SampleSiteIE())
        yield client
    finally:
        # What fails only now, such as writing cookies back, takes nothing from a video that is there.
        with suppress(Exception):
            client.close()


class _Cookies(io.StringIO):
    """This process's own copy of the user's cookies: yt-dlp reads it for each video, and writes back what sites set."""

    skipped = 0
    """Lines of the file that were no cookies."""

    def truncate(self, size: int | None = 0) -> int:
        """Cut the text, and go to its end: yt-dlp writes on from there."""
        self.seek(size or 0)
        return super().truncate()


@cache
def _cookies(path: Path) -> _Cookies:
    """Raises InputError for what is no cookie file, without its words: they are secrets."""
    expected = (
        "--cookies expects a cookie file in Netscape format: '# Netscape HTTP Cookie File', then a cookie a line, with "
        "tabs between its 7 fields"
    )
    try:
        cookies = _Cookies(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}; {expected}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: isn't UTF-8 text; {expected}") from None
    jar, said = YoutubeDLCookieJar(cookies), io.StringIO()
    try:
        with redirect_stderr(said):
            jar.load()
    except Exception:
        raise InputError(f"{path}: is in another format; {expected}") from None
    if not len(jar):
        raise InputError(f"{path}: holds no cookie; {expected}")
    # Without the lines that yt-dlp would complain of, in full, with each video.
    jar.save()
    cookies.skipped = said.getvalue().count("skipping cookie file entry")
    return cookies


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
        return min(_LONGEST_WAIT_S, settings.retry_wait_s * 2 ** min(n, 32))

    cookies = _cookies(settings.cookies) if settings.cookies else None
    if cookies is not None:
        cookies.seek(0)
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
        "cookiefile": cookies,
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
