"""Fetching one video by yt-dlp, in a child process that is killed when the clock says so.

yt-dlp's YoutubeDL is not safe to share between threads, and a transfer may hang for good: a `Fetcher` has a process of
its own, which serves one video after the other and is replaced when it had to be killed.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipeline.download.failures import FAILURE_CLASSES, FailureClass
from pipeline.download.settings import FetchSettings

_STARTING_S = 60.0


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
    """A child process that fetches. It is started at need and dies, with all that it started, when its parent does."""

    def __init__(self, settings: FetchSettings) -> None:
        self._settings = settings
        self._child: tuple[subprocess.Popen[bytes], Connection] | None = None

    def fetch(self, video_id: str, folder: Path) -> Fetched:
        """Fetch into `folder`, an empty one, and check that the file is whole. Raises FetchError."""
        kind, *answer = self._ask(video_id, folder)
        if kind == "failed":
            name, message = answer
            raise FetchError(FAILURE_CLASSES[name], message)
        path, detail = answer
        return Fetched(Path(path), detail)

    def _ask(self, video_id: str, folder: Path) -> tuple[Any, ...]:
        limit = self._settings.time_limit_s
        try:
            process, connection = self._child = self._child or _start(self._settings)
            # Loading yt-dlp is no part of the first video's time.
            if not connection.poll(_STARTING_S):
                raise FetchError(FAILURE_CLASSES["crashed"], f"the fetching process did not start in {_STARTING_S:g} s")
            connection.recv()
            connection.send((video_id, str(folder)))
            if not connection.poll(self._settings.kill_after_s):
                raise FetchError(FAILURE_CLASSES["timeout"], f"not done in {limit:g} s: killed")
            answer: tuple[Any, ...] = connection.recv()
            return answer
        except FetchError:
            self.close()
            raise
        except (EOFError, OSError):
            code = self.close()
            raise FetchError(FAILURE_CLASSES["crashed"], f"the fetching process died with status {code}") from None

    def close(self) -> int | None:
        """Kill the child and what it started, if there is one; returns its exit status."""
        if self._child is None:
            return None
        (process, connection), self._child = self._child, None
        code = process.poll()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        connection.close()
        assert process.stdin is not None
        process.stdin.close()
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _start(settings: FetchSettings) -> tuple[subprocess.Popen[bytes], Connection]:
    # A plain process: one spawned by multiprocessing would import the parent's main program, hence all of Beam.
    near, far = multiprocessing.Pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.download.ytdlp", str(far.fileno())],
        pass_fds=[far.fileno()],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        start_new_session=True,
    )
    far.close()
    near.send(settings)
    return process, near
