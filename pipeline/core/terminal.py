"""What is printed: nothing of a user's files in it moves the cursor, forges a line's direction or shows a password.

Names, ids and texts come from files that others made. Instead of every place that prints, the streams take care.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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


class SafeStream:
    """A text stream that escapes and masks what is written to `raw`; a character that `raw` can't encode is escaped."""

    def __init__(self, raw: TextIO) -> None:
        self.raw = raw

    def write(self, text: str) -> int:
        """Write `text`, safe; returns its length, as streams do."""
        shown = masked(escaped(text))
        encoding = getattr(self.raw, "encoding", None) or "utf-8"
        self.raw.write(shown.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of `lines`."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


def raw_stream(stream: TextIO) -> TextIO:
    """The stream for this program's own control sequences, such as a progress bar's."""
    return stream.raw if isinstance(stream, SafeStream) else stream


@contextmanager
def safe_output() -> Iterator[None]:
    """Standard output and error are `SafeStream`s while the block runs, and stay so after an error that nobody catches:
    Python prints its traceback when the block has been left."""
    before, caught = (sys.stdout, sys.stderr), True
    sys.stdout, sys.stderr = (cast(TextIO, SafeStream(raw_stream(stream))) for stream in before)
    try:
        yield
    except Exception:
        caught = False
        raise
    finally:
        if caught:
            sys.stdout, sys.stderr = before
