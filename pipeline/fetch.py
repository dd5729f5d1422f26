"""Fetching one video by yt-dlp, in a child process that is killed when the clock says so.

yt-dlp's YoutubeDL is not safe to share between threads, and a transfer may hang for good: a `Fetcher` has a process of
its own, which serves one video after the other and is replaced when it had to be killed.
"""

import multiprocessing
import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal, Self

from pipeline.failure_classes import FAILURE_CLASSES, FailureClass

Site = Literal["youtube", "sample"]

_STARTING_S = 60.0


@dataclass(frozen=True)
class FetchSettings:
    """How one video is fetched."""

    site: Site = "youtube"
    site_url: str = "https://www.youtube.com"
    format: str = "18/b[ext=mp4][vcodec^=avc1]/bv*+ba"
    format_sort: tuple[str, ...] = ("res:360", "vcodec:h264", "acodec:aac", "+size", "+br")
    sleep_requests: float = 0.0
    sleep_interval: float = 0.0
    max_sleep_interval: float = 0.0
    retries: int = 4
    retry_wait_s: float = 5.0
    time_limit_s: float = 900.0
    """Wall clock of one video; yt-dlp's own sleeps come on top."""
    socket_timeout_s: float = 20.0
    cookies: Path | None = None
    proxy: str | None = None

    @property
    def kill_after_s(self) -> float:
        """Seconds after which the child is killed: two formats and twenty requests may each sleep."""
        return self.time_limit_s + 2 * self.max_sleep_interval + 20 * self.sleep_requests


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


class Fetcher:
    """A child process that fetches. The child is started at need and dies with its parent, even a killed one."""

    def __init__(self, settings: FetchSettings) -> None:
        self._settings = settings
        self._process: Any = None
        self._connection: Connection | None = None

    def fetch(self, video_id: str, folder: Path) -> Fetched:
        """Fetch into `folder`, an empty one, and check that the file is whole. Raises FetchError."""
        connection = self._started()
        connection.send((video_id, str(folder)))
        if not connection.poll(self._settings.kill_after_s):
            self.close()
            raise FetchError(FAILURE_CLASSES["timeout"], f"not done in {self._settings.time_limit_s:g} s: killed")
        try:
            kind, *answer = connection.recv()
        except (EOFError, OSError):
            code = self._exit_code()
            raise FetchError(FAILURE_CLASSES["crashed"], f"the fetching process died with status {code}") from None
        if kind == "failed":
            name, message = answer
            raise FetchError(FAILURE_CLASSES[name], message)
        path, detail = answer
        return Fetched(Path(path), detail)

    def close(self) -> None:
        """Kill the child, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._exit_code()

    def _exit_code(self) -> int | None:
        assert self._process is not None and self._connection is not None
        self._process.join()
        code: int | None = self._process.exitcode
        self._connection.close()
        self._process = self._connection = None
        return code

    def _started(self) -> Connection:
        if self._process is not None and not self._process.is_alive():
            self._exit_code()
        if self._connection is None:
            context = multiprocessing.get_context("spawn")
            self._connection, far = context.Pipe()
            self._process = context.Process(target=_serve, args=(far, self._settings), daemon=True, name="fetch")
            self._process.start()
            far.close()
            # Loading yt-dlp is no part of the first video's time.
            if not self._connection.poll(_STARTING_S):
                self.close()
                raise FetchError(FAILURE_CLASSES["crashed"], f"the fetching process did not start in {_STARTING_S:g} s")
            with suppress(EOFError, OSError):
                self._connection.recv()
        assert self._connection is not None
        return self._connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _serve(connection: Connection, settings: FetchSettings) -> None:
    threading.Thread(target=_die_with_parent, daemon=True).start()
    from pipeline import ytdlp  # only the child pays for loading it

    connection.send("ready")
    while True:
        try:
            video_id, folder = connection.recv()
        except EOFError:
            return
        connection.send(ytdlp.fetch(video_id, Path(folder), settings))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
