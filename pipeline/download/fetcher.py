"""Fetching one video by yt-dlp, in a child process that is killed when the clock says so.

yt-dlp's YoutubeDL is not safe to share between threads, and a transfer may hang for good: a `Fetcher` has a process of
its own, which serves one video after the other and is replaced when it had to be killed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import getproxies

from pipeline.core.child import START_LIMIT_S, Child, ChildError
from pipeline.core.errors import InputError, ToolError
from pipeline.core.secrets import masked, masked_setting, secrets_of
from pipeline.download.failures import FAILURE_CLASSES, FailureClass
from pipeline.download.settings import FetchSettings, proxy_fault


@dataclass(frozen=True)
class Fetched:
    """A video that is whole, in the folder it was fetched to."""

    path: Path
    detail: dict[str, Any]
    """Bytes, sha256, durations (seconds), size, codecs, format, yt-dlp's version."""


class FetchError(Exception):
    """A video could not be fetched; `failure` says of which class that is."""

    def __init__(self, failure: FailureClass, message: str) -> None:
        super().__init__(message)
        self.failure = failure


class Fetcher(Child):
    """A child process that fetches. It is started at need and dies, with all that it started, when its parent does."""

    def __init__(self, settings: FetchSettings) -> None:
        super().__init__("pipeline.download.ytdlp:fetch")
        self._settings = settings
        # yt-dlp, and what it calls, quote addresses in their messages, some of them decoded or in pieces.
        self._secrets = secrets_of(settings.proxy, settings.site_url, *getproxies().values())

    def fetch(self, video_id: str, folder: Path) -> Fetched:
        """Fetch into `folder`, an empty one, and check that the file is whole.

        Raises FetchError, InputError for cookies that can't be read, and ToolError when the process can't start.
        """
        try:
            kind, *answer = self.call(video_id, folder, self._settings, limit_s=self._settings.kill_after_s)
        except ChildError as error:
            if error.reason == "start":
                raise _not_started(error, self._secrets) from None
            name = "timeout" if error.reason == "timeout" else "crashed"
            raise FetchError(FAILURE_CLASSES[name], masked(f"the fetching process {error}", self._secrets)) from None
        if kind == "failed":
            name, message = answer
            raise FetchError(FAILURE_CLASSES[name], masked(message, self._secrets))
        path, detail = answer
        return Fetched(Path(path), detail)


def check(settings: FetchSettings) -> list[str]:
    """See that yt-dlp can use the settings, without asking any site; returns what of them it passes over, for people.

    Raises InputError for those that it can't use, and ToolError when it can't be started.
    """
    for kind, address in getproxies().items() if settings.proxy is None else ():
        if kind in ("http", "https", "all") and (fault := proxy_fault(address)):
            raise InputError(f"{kind}_proxy of the environment: {masked_setting('proxy', address)!r} {fault}")
    try:
        with Child("pipeline.download.ytdlp:check") as child:
            notes: list[str] = child.call(settings, limit_s=START_LIMIT_S)
    except ChildError as error:
        raise _not_started(error, secrets_of(settings.proxy, *getproxies().values())) from None
    return notes


def _not_started(error: ChildError, secrets: tuple[str, ...]) -> ToolError:
    return ToolError(masked(f"the process that runs yt-dlp {error}; run mcn doctor to see what is wrong", secrets))
