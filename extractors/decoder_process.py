"""Decoding in a process of its own, which a caller can stop whatever the decoder does.

decord can hang in native code while it holds the interpreter lock, and an old FFmpeg may crash on a damaged file: only
the death of its process, by the wall clock, ends the one, and only a process of its own survives the other.
"""

import atexit
import functools
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from multiprocessing import Pipe
from pathlib import Path
from typing import Self, TypeVar

from extractors.decode import DecodeSettings, DecodeSummary, FrameBatch, MediaInfo
from extractors.decoder_child import READY, out_of_memory
from extractors.errors import DecoderError, MediaError

START_LIMIT_S = 120.0
_QUESTION_LIMIT_S = 120.0
_QUESTION_BYTES = 2 * 2**30
# decord keeps some memory of each file it has read.
VIDEOS_PER_CHILD = 64
_NO_MEMORY = ("bad_alloc", "MemoryError", "Cannot allocate memory")
# Spawned by hand: multiprocessing would import the caller's main module, libraries and all, and refuses its daemons.
_BOOTSTRAP = """
import json, sys
sys.path[:], descriptor, decode, settings = json.loads(sys.argv[1])
from extractors.decode import DecodeSettings
from extractors.decoder_child import serve
serve(descriptor, decode, DecodeSettings(**settings))
"""
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

Answer = TypeVar("Answer")

logger = logging.getLogger(__name__)


class DecoderProcess:
    """Decodes one video at a time; not to be shared by threads, `interrupt` aside.

        with DecoderProcess(settings) as decoder:
            info = decoder.open(path)
            for batch in decoder.batches():
                ...
            summary = decoder.summary

    After an error, or batches left unread, `open` works as ever. The child works one batch ahead and then waits.
    """

    def __init__(self, settings: DecodeSettings, decode: str = "extractors.decode_video:decode_video") -> None:
        """`decode` names, as module:function, what the child calls with the file and the settings to get frames.

        A file on which the child crashes is decoded without decord when it is opened again.
        """
        self.settings = settings
        self._decode = decode
        self._child: _Child | None = None
        self._path = ""
        self._waited_s = 0.0
        self._reading = False
        self._summary: DecodeSummary | None = None
        self._crashed_on: set[str] = set()
        self._interrupted = False

    @property
    def pid(self) -> int | None:
        """The child's process id, while there is one."""
        return self._child.process.pid if self._child else None

    @property
    def summary(self) -> DecodeSummary:
        """Of the video whose batches have been read to the end; RuntimeError before that."""
        if self._summary is None:
            raise RuntimeError("a video's summary is known once all of its batches are read")
        return self._summary

    def open(self, path: str | Path) -> MediaInfo:
        """Begins a video. Raises MediaError, DecoderError."""
        self._summary = None
        # decord's old FFmpeg is what crashes.
        without = {"without_decord": True} if os.path.abspath(path) in self._crashed_on else {}
        info = self._receive(self._begin(self._decode, path, **without))
        assert isinstance(info, MediaInfo)
        return info

    def batches(self) -> Iterator[FrameBatch]:
        """The opened video's frames in order. Raises MediaError, DecoderError, also after some batches."""
        child = self._child
        if child is None or not self._reading:
            raise RuntimeError("open a video first")
        while isinstance(item := self._receive(child), FrameBatch):
            yield item
        assert isinstance(item, DecodeSummary)
        self._reading = False
        self._summary = item

    def results(self, function: str, path: str | Path, last: type, **arguments: object) -> Iterator[object]:
        """What `function` (module:function, in a module of `extractors`) yields of a file, up to the first `last`.

        Raises MediaError, DecoderError.
        """
        child = self._begin(function, path, **arguments)
        while True:
            message = self._receive(child)
            # Before it is given away: a caller that has what it wanted may not come back.
            self._reading = not isinstance(message, last)
            yield message
            if not self._reading:
                return

    def answer(self, function: str, path: str | Path, kind: type[Answer], **arguments: object) -> Answer:
        """The one result, of type `kind`, of a function as in `results`. Raises MediaError, DecoderError."""
        (result,) = self.results(function, path, kind, **arguments)
        assert isinstance(result, kind)
        return result

    def close(self) -> None:
        """Ends the child."""
        if self._child is not None:
            self._child.kill()
        self._child = None
        self._reading = False

    def interrupt(self) -> None:
        """Kill the child, from any thread, and begin nothing until `resume`: who waits for it, or begins, gets an error
        that is no file's fault."""
        self._interrupted = True
        if (child := self._child) is not None:
            child.process.kill()

    def resume(self) -> None:
        """Work again after `interrupt`."""
        self._interrupted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _begin(self, function: str, path: str | Path, **arguments: object) -> "_Child":
        self._path = os.path.abspath(path)
        child = self._ready_child()
        self._waited_s = 0.0
        self._reading = True
        if self._interrupted:
            raise DecoderError(f"decoding was interrupted (at {self._path})")
        child.videos += 1
        try:
            child.connection.send((function, self._path, arguments))
        except OSError:
            raise self._crashed(child) from None
        return child

    def _ready_child(self) -> "_Child":
        child = self._child
        if child is not None and child.process.poll() is not None:
            logger.warning("the decoder process ended between two videos (%s); starting another", child.stderr_tail())
        if child is None or self._reading or child.videos >= VIDEOS_PER_CHILD or child.process.returncode is not None:
            self.close()
            child = self._child = _Child(self._decode, self.settings)
        return child

    def _receive(self, child: "_Child") -> object:
        """The child's next message. The clock runs only here: a slow caller costs the video nothing."""
        began = time.monotonic()
        try:
            if not child.connection.poll(max(0.0, self.settings.time_limit_s - self._waited_s)):
                self.close()
                limit = self.settings.time_limit_s
                raise MediaError("timeout", f"{self._path}: not decoded within {limit:g} s; its decoder was killed")
            message = child.connection.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            raise self._crashed(child) from None
        self._waited_s += time.monotonic() - began
        if isinstance(message, MediaError | DecoderError):
            self._reading = False
            if isinstance(message, DecoderError) or message.kind == "memory":
                self.close()
            raise message
        return message

    def _crashed(self, child: "_Child") -> MediaError:
        words = child.stderr_tail()
        self.close()
        if not self._interrupted:
            self._crashed_on.add(self._path)
        if any(sign in words for sign in _NO_MEMORY):
            return out_of_memory(self._path, self.settings)
        return MediaError("crashed", f"{self._path}: the decoder process crashed on it ({words})")


@functools.cache
def shared_decoder() -> DecoderProcess:
    """One for small questions of this process, to be asked by one thread; it ends with the process."""
    decoder = DecoderProcess(DecodeSettings(time_limit_s=_QUESTION_LIMIT_S, memory_limit_bytes=_QUESTION_BYTES))
    atexit.register(decoder.close)
    return decoder


class _Child:
    """A started decoder process, ready for paths."""

    def __init__(self, decode: str, settings: DecodeSettings) -> None:
        self.videos = 0
        self.connection, theirs = Pipe()
        self._stderr = tempfile.TemporaryFile()
        descriptor = theirs.fileno()
        arguments = json.dumps([[str(folder) for folder in sys.path], descriptor, decode, asdict(settings)])
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOTSTRAP, arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                pass_fds=[descriptor],
                env={**os.environ, **_ONE_THREAD},
            )
        try:
            started = self.connection.poll(START_LIMIT_S) and self.connection.recv() == READY
        except (EOFError, OSError):
            started = False
        if not started:
            words = self.stderr_tail()
            self.kill()
            raise DecoderError(f"the decoder process did not start ({words})")

    def stderr_tail(self) -> str:
        """How the process ended, and the last line it wrote to stderr."""
        try:
            status = self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "no answer"
        ending = f"exit status {status}" if status >= 0 else signal.Signals(-status).name
        self._stderr.seek(0)
        lines = self._stderr.read().decode("utf-8", "replace").split("\n")
        return ": ".join([ending, *[line.strip() for line in lines if line.strip()][-1:]])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.connection.close()
        self._stderr.close()
        if self.process.stdin:
            self.process.stdin.close()
