"""Captions in, as a stream: `caption.json` or `raw_caption.json` as published, or a csv a video.

Published form: {video_id: {"start": [s], "end": [s], "text": [str]}}, 1.5 GB in one line. Odd lines are counted, never
fatal.
"""

import codecs
import csv
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import InputError
from pipeline.core.files import sha256_of_file
from pipeline.core.records import Caption
from pipeline.core.video_ids import is_media_name

LONGEST_ENTRY = 64 << 20
"""Characters that one video's captions may take in the file."""
LONGEST_TEXT = 10_000
"""Characters that are kept of one caption."""
_BLOCK = 4 << 20
_SPACE = re.compile(r"[ \t\r\n]*")
# Control characters save the white ones, and halves of surrogate pairs, which UTF-8 can't hold.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def _integer(text: str) -> float:
    # Python reads no number of thousands of digits, and would have it spoil the whole file; it is no time anyway.
    return int(text) if len(text) <= 400 else math.inf


_DECODER = json.JSONDecoder(parse_int=_integer)


def caption_identity(source: Path | None, drop_overlaps: bool) -> dict[str, str]:
    """The Identity's entry on captions; reads the whole file for its sha256. A folder of csv files, which grows, has no
    sha256."""
    overlaps = "dropped" if drop_overlaps else "kept"
    if source is None:
        return {"source": "", "format": "", "sha256": "", "rule": "published", "overlaps": overlaps}
    if not source.exists():
        raise InputError(f"{source}: no such file; a caption.json or a folder of ID.csv is wanted")
    kind, digest = ("csv", "") if source.is_dir() else ("json", sha256_of_file(source))
    return {"source": source.name, "format": kind, "sha256": digest, "rule": "published", "overlaps": overlaps}


def read_caption_file(
    path: Path, left_out: Counter[str], on_read: Callable[[int], object] = lambda read: None
) -> Iterator[tuple[str, tuple[Caption, ...]]]:
    """Each video's id and captions, in time order, as the file gives them; one video in memory at a time.

    What can't be used is counted in `left_out` by reason. `on_read` is told the bytes read so far. Raises InputError
    when the file isn't of the published form, is cut short or can't be read.
    """
    seen: set[str] = set()
    for video_id, entry in _Entries(path, left_out, on_read):
        if not is_media_name(video_id):
            left_out["video whose name can't be an id"] += 1
        elif video_id in seen:
            left_out["video listed a second time"] += 1
        else:
            seen.add(video_id)
            yield video_id, _captions_of(entry, left_out)


class _Entries:
    """Iterates over (key, value) of one JSON object; the file is decoded block by block."""

    def __init__(self, path: Path, left_out: Counter[str], on_read: Callable[[int], object]) -> None:
        self._path, self._left_out, self._on_read = path, left_out, on_read
        self._text, self._at, self._ended, self._key = "", 0, False, ""

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
        try:
            with open(self._path, "rb") as file:

                def more() -> None:
                    block = file.read(_BLOCK)
                    self._ended = not block
                    new = decoder.decode(block, self._ended)
                    self._left_out["characters that aren't UTF-8"] += new.count("\ufffd")
                    self._text, self._at = self._text[self._at :] + new, 0
                    self._on_read(file.tell())

                yield from self._entries(more)
        except FileNotFoundError:
            raise InputError(f"{self._path}: no such file; the captions' caption.json is wanted") from None
        except OSError as error:
            raise InputError(f"{self._path}: can't be read: {error.strerror}") from None
        self._left_out += Counter()

    def _entries(self, more: Callable[[], None]) -> Iterator[tuple[str, Any]]:
        if self._next(more) != "{":
            raise InputError(f"{self._path}: wanted one object, video id -> captions")
        self._at += 1
        sign = self._next(more)
        while sign != "}":
            self._key = self._value(more)
            if not isinstance(self._key, str) or self._next(more) != ":":
                raise self._broken("an id and a colon are wanted")
            self._at += 1
            yield self._key, self._value(more)
            sign = self._next(more)
            if sign not in ",}":
                raise self._broken("a comma is wanted")
            if sign == ",":
                self._at += 1
        self._at += 1
        if self._next(more, at_end="") != "":
            raise self._broken("text after the end")

    def _next(self, more: Callable[[], None], at_end: str | None = None) -> str:
        """The next character that isn't white."""
        while True:
            match = _SPACE.match(self._text, self._at)
            assert match is not None
            self._at = match.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                if at_end is None:
                    raise self._broken("it is cut short")
                return at_end
            more()

    def _value(self, more: Callable[[], None]) -> Any:
        self._next(more)
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except RecursionError:
                raise self._broken("brackets a thousand deep") from None
            except ValueError as error:  # broken, or not all read yet
                if self._ended:
                    raise self._broken(str(error).split(":")[0]) from None
                if len(self._text) - self._at > LONGEST_ENTRY:
                    raise self._broken(f"an entry of more than {LONGEST_ENTRY >> 20} million characters") from None
            else:
                # A number may go on in the next block.
                if end < len(self._text) or self._ended:
                    self._at = end
                    return value
            # Doubling keeps the work linear however long the entry is.
            wanted = 2 * (len(self._text) - self._at)
            more()
            while len(self._text) < wanted and not self._ended:
                more()

    def _broken(self, reason: str) -> InputError:
        place = f"at or after key {str(self._key)[:80]!a}" if self._key else "near its start"
        return InputError(f"{self._path}: not valid JSON {place}: {reason}; fetch it again")


def read_caption_csv(path: Path, left_out: Counter[str]) -> tuple[Caption, ...]:
    """One video's captions from a csv with columns start,end,text (seconds).

    What can't be used is counted in `left_out` by reason, a file that isn't that too. InputError when it can't be read.
    """
    columns = ("start", "end", "text")
    try:
        with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
            reader = csv.DictReader(_counted(file, left_out), restval="")
            rows = list(reader) if set(columns) <= set(reader.fieldnames or ()) else None
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}") from None
    except csv.Error:
        rows = None
    if rows is None:
        left_out["file that is no csv with start,end,text"] += 1
        return ()
    return _captions_of({name: [row[name] for row in rows] for name in columns}, left_out)


def _counted(lines: Iterator[str], left_out: Counter[str]) -> Iterator[str]:
    """The lines without zero bytes, which `csv` refuses; what was no UTF-8 is counted."""
    for line in lines:
        if "\ufffd" in line:
            left_out["characters that aren't UTF-8"] += line.count("\ufffd")
        yield line.replace("\0", "")


def _captions_of(entry: Any, left_out: Counter[str]) -> tuple[Caption, ...]:
    if not isinstance(entry, dict) or not all(isinstance(entry.get(name), list) for name in ("start", "end", "text")):
        left_out["video without lists start, end and text"] += 1
        return ()
    starts, ends, texts = entry["start"], entry["end"], entry["text"]
    if (sound := _without_fault(starts, ends, texts)) is not None:
        return sound
    if not len(starts) == len(ends) == len(texts):
        left_out["video whose lists differ in length"] += 1
        return ()
    captions = []
    for given_start, given_end, given in zip(starts, ends, texts, strict=True):
        start, end, text = _seconds(given_start), _seconds(given_end), given
        if not isinstance(text, str):
            left_out["text is not a string"] += 1
            continue
        if _UNPRINTABLE.search(text):
            left_out["control characters in a text that is kept"] += 1
            text = _UNPRINTABLE.sub(" ", text)
        if len(text) > LONGEST_TEXT:
            left_out[f"text cut at {LONGEST_TEXT} characters"] += 1
            text = text[:LONGEST_TEXT]
        if not text.strip():
            left_out["empty text"] += 1
        elif not (math.isfinite(start) and math.isfinite(end)):
            left_out["time is not a number"] += 1
        elif not 0 <= start < end:
            left_out["reversed or negative time"] += 1
        else:
            captions.append(Caption(start, end, text))
    return tuple(sorted(captions, key=lambda caption: (caption.start, caption.end)))


def _without_fault(starts: list[Any], ends: list[Any], texts: list[Any]) -> tuple[Caption, ...] | None:
    """The captions of a video whose lines are all as they should be, as nearly all are; None if one may not be.

    Looks at whole lists at once, which is some ten times faster than line by line.
    """
    if not len(starts) == len(ends) == len(texts) or set(map(type, texts)) != {str}:
        return None
    if not set(map(type, starts)) | set(map(type, ends)) <= {int, float}:
        return None
    try:
        first, last = np.array(starts, np.float64), np.array(ends, np.float64)
    except OverflowError:
        return None
    # Comparisons with NaN are false.
    if not (np.all(first >= 0) and np.all(last > first) and np.all(last < np.inf) and np.all(np.diff(first) > 0)):
        return None
    if _UNPRINTABLE.search("".join(texts)) or not all(map(str.strip, texts)) or max(map(len, texts)) > LONGEST_TEXT:
        return None
    return tuple(map(Caption, first.tolist(), last.tolist(), texts))


def _seconds(value: Any) -> float:
    """A time given as a number or its text; NaN for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def drop_overlapping_repeats(captions: Sequence[Caption]) -> tuple[Caption, ...]:
    """Join each caption to the earlier one that has its text and overlaps it, as captions that roll up the screen do.

    `captions` in time order; the one kept reaches from the first's start to the last's end.
    """
    kept: list[Caption] = []
    latest: dict[str, int] = {}
    for caption in captions:
        text = " ".join(caption.text.split())
        place = latest.get(text)
        if place is not None and caption.start < kept[place].end:
            kept[place] = Caption(kept[place].start, max(kept[place].end, caption.end), kept[place].text)
        else:
            latest[text] = len(kept)
            kept.append(caption)
    return tuple(kept)
