"""Captions in, as a stream: `caption.json` or `raw_caption.json` as published, or a csv a video.

Published form: {video_id: {"start": [s], "end": [s], "text": [str]}}, 1.5 GB in one line. Odd lines are counted, never
fatal.
"""

import codecs
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
from pipeline.core.lists import MalformedListError, csv_lines, refuse_other_kinds
from pipeline.core.records import Caption
from pipeline.core.video_ids import is_media_name

LONGEST_ENTRY = 64 << 20
"""Characters that one video's captions may take in the file."""
LONGEST_TEXT = 10_000
"""Characters that are kept of one caption."""
_BLOCK = 4 << 20
# Of the object as a whole: how it begins, what stands before a video's captions, how it ends.
_BEGIN = re.compile(r"[ \t\r\n]*(\{|\Z)")
_KEY = re.compile(r'[ \t\r\n]*([{,])[ \t\r\n]*("(?:[^"\\]|\\.)*")[ \t\r\n]*:[ \t\r\n]*')
_END = {",": re.compile(r"[ \t\r\n]*\}[ \t\r\n]*"), "{": re.compile(r"[ \t\r\n]*\{[ \t\r\n]*\}[ \t\r\n]*")}
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
        raise InputError(f"{source}: no such file; expected a caption.json or a folder of ID.csv")
    if not (source.is_dir() or source.is_file()):
        raise InputError(f"{source}: a pipe or a device; save the captions as a file: they are read more than once")
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
    try:
        for video_id, entry in _entries(path, left_out, on_read):
            if not is_media_name(video_id):
                left_out["video whose name can't be an id"] += 1
            elif video_id in seen:
                left_out["video listed a second time"] += 1
            else:
                seen.add(video_id)
                yield video_id, _captions_of(entry, left_out)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected a caption.json") from None
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}") from None


def _entries(path: Path, left_out: Counter[str], on_read: Callable[[int], object]) -> Iterator[tuple[str, Any]]:
    """(key, value) pairs of the one JSON object in a file, which is decoded block by block."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
    text, key, separator, ended = "", "", "{", False

    def invalid(reason: str) -> InputError:
        where = f"at or after key {key[:80]!a}" if key else "near its start"
        return InputError(f"{path}: not valid JSON {where}: {reason}; download it again")

    with open(path, "rb") as file:
        refuse_other_kinds(path, file.peek(4096)[:4096])
        while not ended:
            # Doubling keeps the work linear however long an entry is.
            size = 2 * len(text)
            while not ended and len(text) <= size:
                block = file.read(_BLOCK)
                ended = not block
                decoded = decoder.decode(block, ended)
                _count_replaced(decoded, left_out)
                text += decoded
                on_read(file.tell())
            if separator == "{" and not _BEGIN.match(text):
                raise InputError(f"{path}: expected one JSON object, video id -> captions")
            start, reason = 0, 'expected "id": {...} or the closing brace'
            while (head := _KEY.match(text, start)) and head[1] == separator:
                try:
                    name, _ = _DECODER.raw_decode(text, head.start(2))
                    value, end = _DECODER.raw_decode(text, head.end())
                except RecursionError:
                    raise invalid("nested too deeply") from None
                except ValueError as error:  # invalid, or incomplete as yet
                    reason = str(error).split(":")[0]
                    break
                if end == len(text) and not ended:  # a number may go on in the next block
                    break
                yield name, value
                key, start, separator = name, end, ","
            text = text[start:]
            if len(text) > LONGEST_ENTRY and not ended:
                raise invalid(f"no complete entry within {LONGEST_ENTRY >> 20} million characters")
    if not _END[separator].fullmatch(text):
        raise invalid(reason)


def _count_replaced(text: str, left_out: Counter[str]) -> None:
    if "\ufffd" in text:
        left_out["characters that aren't UTF-8"] += text.count("\ufffd")


def read_caption_csv(path: Path, left_out: Counter[str]) -> tuple[Caption, ...]:
    """One video's captions from a csv with columns start,end,text (seconds).

    What can't be used is counted in `left_out` by reason: lines, captions, and a file that is none. InputError when it
    can't be read.
    """
    columns = ("start", "end", "text")
    try:
        rows = [row for _, row in csv_lines(path, columns, free=("text",), left_out=left_out, lenient=True)]
    except MalformedListError:
        left_out["file that is no csv with start,end,text"] += 1
        return ()
    entry = {name: [row[name] for row in rows] for name in columns}
    _count_replaced("".join(cell for cells in entry.values() for cell in cells), left_out)
    return _captions_of(entry, left_out)


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
    if isinstance(value, str) and "_" in value:  # which Python takes for a mark of thousands
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
        index = latest.get(text)
        if index is not None and caption.start < kept[index].end:
            kept[index] = Caption(kept[index].start, max(kept[index].end, caption.end), kept[index].text)
        else:
            latest[text] = len(kept)
            kept.append(caption)
    return tuple(kept)
