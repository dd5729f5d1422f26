"""The decoder's own process: it serves one parent, can be killed at any moment, and reads no file but the one named."""

import fcntl
import importlib
import os
import resource
import select
import signal
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from extractors.confinement import nothing_else_opens
from extractors.decode import DecodeSettings
from extractors.errors import DecoderError, MediaError
from extractors.media_file import MediaFile

READY = "ready"


def serve(descriptor: int, function: str, settings: DecodeSettings) -> None:
    """Sends READY once the decoders have decoded a made clip; then, for each (function, path, arguments) received, what
    the function yields, or the error it raises.

    A function is named as module:function, and called with the MediaFile, the settings and the arguments; the one given
    here is imported before READY. Returns when the parent closes the connection. Stdin is a pipe that the parent never
    writes to: its end is the parent's end.
    """
    # The parent says when to stop: an interrupt from the terminal reaches it too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_parent()
    _imported(function)
    _imported("extractors.self_check:check_decoders")()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (settings.memory_limit_bytes, settings.memory_limit_bytes))
    with Connection(descriptor) as connection:
        try:
            connection.send(READY)
            while True:
                function, path, arguments = connection.recv()
                for message in _messages(function, path, settings, arguments):
                    connection.send(message)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return


def _imported(function: str) -> Callable[..., Any]:
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


def _messages(function: str, path: str, settings: DecodeSettings, arguments: dict[str, Any]) -> Iterator[Any]:
    """What `function` yields. Only a MediaError is the file's fault; any other is the decoder's own."""
    try:
        decode = _imported(function)
        with MediaFile(path) as file, nothing_else_opens():
            try:
                yield from decode(file, settings, **arguments)
            finally:
                if file.error is not None:
                    raise MediaError("unreadable", f"{path}: can't be read from the disk: {file.error.strerror}")
    except (MediaError, DecoderError) as error:
        yield error
    except MemoryError:
        yield out_of_memory(path, settings)
    except Exception as error:
        yield DecoderError(f"decoding stopped on {type(error).__name__}: {' '.join(str(error).split())} (at {path})")


def out_of_memory(path: str, settings: DecodeSettings) -> MediaError:
    """The error for a video that takes more than the settings allow."""
    limit = settings.memory_limit_bytes / 2**30
    return MediaError("memory", f"{path}: decoding it exceeds the memory limit of {limit:.1f} GiB")


def _die_with_parent() -> None:
    """Has the kernel end this process when stdin closes, even while a decoder holds the interpreter lock (Linux)."""
    stdin = sys.stdin.fileno()
    if sys.platform == "linux":
        # A parent-death signal would follow the thread that started this process, which may end long before its parent.
        signal.signal(signal.SIGIO, signal.SIG_DFL)
        fcntl.fcntl(stdin, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(stdin, fcntl.F_SETFL, fcntl.fcntl(stdin, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([stdin], [], [], 0)[0]:
        sys.exit(0)
