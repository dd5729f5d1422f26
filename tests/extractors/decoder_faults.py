"""Decoders that go wrong, for a decoder process to be told of by name."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from extractors.decode import Decoded, DecodeSettings, FrameBatch, MediaInfo
from extractors.decode_video import decode_video
from extractors.errors import MediaError
from extractors.media_file import MediaFile


def by_name(file: MediaFile, settings: DecodeSettings, without_decord: bool = False) -> Iterator[Decoded]:
    """Does what the file's name says, and decodes any other file."""
    match "" if without_decord else Path(file.path).stem:
        case "hang":
            # PyDLL keeps the interpreter lock, as decord does: no thread or signal handler of Python runs meanwhile.
            ctypes.PyDLL(None).sleep(1000)
        case "hang-later":
            yield MediaInfo(9.0, 2, 2, 9, False)
            yield FrameBatch(np.array([0]), np.zeros((1, 2, 2, 3), np.uint8))
            ctypes.PyDLL(None).sleep(1000)
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "exit":
            sys.stderr.write("first words\nlast words\n")
            sys.stderr.flush()
            os._exit(3)
        case "hoard":
            np.zeros(2**40, dtype=np.uint8)
        case "bad-alloc":
            sys.stderr.write("terminate called after throwing an instance of 'std::bad_alloc'\n")
            sys.stderr.flush()
            os.abort()
        case "bug":
            raise KeyError("surprise")
        case "modules":
            raise MediaError("undecodable", " ".join(sys.modules))
        case "endless":
            yield MediaInfo(9.0, 2, 2, 9, False)
            while True:
                yield FrameBatch(np.array([0]), np.zeros((1, 512, 512, 3), np.uint8))
        case "open":
            open(__file__).close()
        case "connect":
            socket.socket().close()
        case "start":
            subprocess.Popen(["true"]).wait()
        case _:
            yield from decode_video(file, settings, without_decord)


def by_pyav_alone(file: MediaFile, settings: DecodeSettings) -> Iterator[Decoded]:
    """Decodes as if decord could not."""
    yield from decode_video(file, settings, without_decord=True)
