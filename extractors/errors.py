"""What goes wrong with media and weights, in words for the user."""

from typing import Literal, get_args

MediaErrorKind = Literal[
    "missing-file",
    "unreadable",
    "no-video-stream",
    "zero-length",
    "undecodable",
    "truncated",
    "timeout",
    "memory",
    "crashed",
]
MEDIA_ERROR_KINDS: tuple[MediaErrorKind, ...] = get_args(MediaErrorKind)


class MediaError(Exception):
    """One media file gives no features; the files beside it are not concerned.

    `kind` is what a ledger counts by; the message is one line.
    """

    def __init__(self, kind: MediaErrorKind, message: str) -> None:
        # Both are handed to Exception, so that the error survives pickling on its way out of the decoder's process.
        super().__init__(kind, message)
        self.kind: MediaErrorKind = kind
        self.message = " ".join(message.split())

    def __str__(self) -> str:
        return self.message


class DecoderError(RuntimeError):
    """The decoder doesn't work on this machine: a library is missing, of another version, or fails by itself.

    It is charged to no video. The message is one line.
    """


class LibraryError(RuntimeError):
    """A library that a step needs doesn't load on this machine, whatever the file.

    It is charged to no video. The message is one line that says how to mend it.
    """


class UnstorableError(ValueError):
    """Features hold NaN or a value that float16 can't hold; the message names the network."""


class WeightsError(ValueError):
    """A weights name or file can't be used; the message is one line that says why and how to mend it."""
