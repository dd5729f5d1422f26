"""Fetching one video by yt-dlp, in a child process that is killed when the clock says so.

yt-dlp's YoutubeDL is not safe to share between threads, and a transfer may hang for good: a `Fetcher` has a process of
its own, which serves one video after the other and is replaced when it had to be killed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import getproxies

from pipeline.core.child import Child, ChildError
from pipeline.core.secrets import masked, secrets_of
from pipeline.download.failures import FAILURE_CLASSES, FailureClass
from pipeline.download.settings import FetchSettings


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
        """Fetch into `folder`, an empty one, and check that the file is whole. Raises FetchError."""
        try:
            kind, *answer = self.call(video_id, folder, self._settings, limit_s=self._settings.kill_after_s)
        except ChildError as error:
            name = "timeout" if error.reason == "timeout" else "crashed"
            raise FetchError(FAILURE_CLASSES[name], masked(f"the fetching process {error}", self._secrets)) from None
        if kind == "failed":
            name, message = answer
            raise FetchError(FAILURE_CLASSES[name], masked(message, self._secrets))
        path, detail = answer
        return Fetched(Path(path), detail)
