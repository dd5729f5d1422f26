"""Decoders that go wrong, for a decoder process to be told of by name."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator

import numpy as np

import extractors.decode_video
from extractors.decode import Decoded, DecodeSettings, FrameBatch, MediaInfo
from extractors.decode_video import decode_video
from extractors.errors import MediaError
from extractors.frames_decord import DecordError


def by_name(path: str, settings: DecodeSettings) -> Iterator[Decoded]:
    """Does what the file's name says, and decodes any other file."""
    match os.path.basename(path).partition(".")[0]:
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
        case _:
            yield from decode_video(path, settings)


def by_pyav_alone(path: str, settings: DecodeSettings) -> Iterator[Decoded]:
    """Decodes as if decord could not."""

    def refusing(*arguments: object) -> Iterator[tuple[int, np.ndarray]]:
        raise DecordError("is away")

    extractors.decode_video.decord_frames = refusing  # type: ignore[assignment]
    yield from decode_video(path, settings)
