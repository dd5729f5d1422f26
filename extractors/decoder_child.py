"""The decoder's own process: it serves one parent, and can be killed at any moment."""

import fcntl
import importlib
import os
import resource
import select
import signal
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

from extractors.decode import Decoded, DecodeSettings
from extractors.errors import MediaError

READY = "ready"

Decode = Callable[[str, DecodeSettings], Iterator[Decoded]]


def serve(descriptor: int, decode: str, settings: DecodeSettings) -> None:
    """Sends READY; then for each path received what `decode` (module:function) yields, or the MediaError it raises.

    Returns when the parent closes the connection. Stdin is a pipe that the parent never writes to: its end is the
    parent's end.
    """
    # The parent says when to stop: an interrupt from the terminal reaches it too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_parent()
    module, _, function = decode.partition(":")
    decode_video: Decode = getattr(importlib.import_module(module), function)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (settings.memory_limit_bytes, settings.memory_limit_bytes))
    with Connection(descriptor) as connection:
        try:
            connection.send(READY)
            while True:
                path = connection.recv()
                for message in _messages(path, decode_video, settings):
                    connection.send(message)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return


def _messages(path: str, decode_video: Decode, settings: DecodeSettings) -> Iterator[Decoded | MediaError]:
    try:
        yield from decode_video(path, settings)
    except MediaError as error:
        yield error
    except MemoryError:
        yield out_of_memory(path, settings)
    except Exception as error:
        yield MediaError("undecodable", f"{path}: decoding stopped on {type(error).__name__}: {error}")


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
