"""What is printed: nothing of a user's files in it moves the cursor, forges a line's direction or shows a password.

Names, ids and texts come from files that others made. Instead of every place that prints, the streams take care.
"""

import codecs
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from pipeline.core.secrets import masked

# Control characters but tab and line feed, line separators, what turns the direction of the text after it, halves of
# a character (bytes of a file name that aren't UTF-8).
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]")


def escaped(text: str) -> str:
    """`text` with its control characters as JSON writes them, so that JSON stays the same JSON: `\\u001b`."""
    return _UNSAFE.sub(lambda match: json.dumps(match[0])[1:-1], text)


def one_line(text: object) -> str:
    """`text` escaped, line feeds and tabs too."""
    return escaped(str(text)).replace("\n", "\\n").replace("\t", "\\t")


def _as_json_writes_it(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


# Python's own "backslashreplace" writes \xe9, which no JSON has.
codecs.register_error("mcn-escape", _as_json_writes_it)


class SafeStream:
    """A text stream that escapes and masks what is written to `raw`; a character that `raw` can't encode is escaped.

    What can't be written never ends the work: it is lost, and `failure` says why. Only where the reader of `results`
    has gone is nobody left to work for, and BrokenPipeError is raised. `raw` is None where the stream was closed.
    """

    def __init__(self, raw: TextIO | None, results: bool = False, control: bool = False) -> None:
        self.raw, self._results, self._control = raw, results, control
        self.failure: OSError | None = None

    @property
    def encoding(self) -> str:
        """The character set of `raw`."""
        return getattr(self.raw, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Write `text`, safe; returns its length, as streams do."""
        shown = text if self._control else masked(escaped(text))
        shown = shown.encode(self.encoding, "mcn-escape").decode(self.encoding)
        self._try(lambda raw: raw.write(shown))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of `lines`."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Hand on what is buffered."""
        self._try(lambda raw: raw.flush())

    def isatty(self) -> bool:
        """Whether a person looks on."""
        return self.raw is not None and not self.raw.closed and self.raw.isatty()

    def _try(self, write: Callable[[TextIO], object]) -> None:
        if self.raw is None or self.raw.closed or self.failure is not None:
            return
        try:
            write(self.raw)
        except OSError as error:
            self.failure = error
            # What is still buffered would fail again at the end of the process, with a traceback of Python's.
            with suppress(OSError, ValueError):
                _to_nowhere(self.raw.fileno())
            if self._results and isinstance(error, BrokenPipeError):
                raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


def _to_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def fill_standard_descriptors() -> None:
    """Open the null device in place of standard input, output or error that was closed.

    Else the next file to be opened takes its number, and what a library in C prints goes into that file.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free number is given, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def raw_stream(stream: TextIO) -> TextIO:
    """The stream for this program's own control sequences, such as a progress bar's; it raises no error either."""
    return cast(TextIO, SafeStream(_raw(stream), control=True))


def _raw(stream: TextIO | None) -> TextIO | None:
    return stream.raw if isinstance(stream, SafeStream) else stream


@contextmanager
def safe_output() -> Iterator[SafeStream]:
    """Standard output, which is given, and error are `SafeStream`s while the block runs, and stay so after an error
    that nobody catches: Python prints its traceback when the block has been left."""
    if isinstance(sys.stdout, SafeStream) and isinstance(sys.stderr, SafeStream):
        yield sys.stdout
        return
    before, caught = (sys.stdout, sys.stderr), True
    output, messages = SafeStream(_raw(sys.stdout), results=True), SafeStream(_raw(sys.stderr))
    sys.stdout, sys.stderr = cast(TextIO, output), cast(TextIO, messages)
    try:
        yield output
    except Exception:
        caught = False
        raise
    finally:
        with suppress(BrokenPipeError):
            output.flush()
        messages.flush()
        if caught:
            sys.stdout, sys.stderr = before
