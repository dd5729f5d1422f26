"""Captions in: `caption.json` as published, {video_id: {"start": [s], "end": [s], "text": [str]}}."""

import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ijson

from pipeline.errors import InputError
from pipeline.records import Caption


@dataclass
class CaptionFile:
    """Captions of the videos asked for, in time order, and how many lines were left out for what reason."""

    captions: dict[str, tuple[Caption, ...]]
    left_out: Counter[str] = field(default_factory=Counter)


def read_captions(path: Path, wanted: Collection[str]) -> CaptionFile:
    """Read the captions of the videos in `wanted`; the file is read as a stream, others' captions are not kept.

    A line whose text is not a string, is empty, or whose times are not finite with 0 <= start < end is left out and
    counted. Raises InputError naming the file and the key (the video) when the structure is not the published one.
    """
    found = CaptionFile({})
    video_id = ""
    try:
        with open(path, "rb") as file:
            if next(ijson.basic_parse(file))[0] != "start_map":
                raise InputError(f"{path}: wanted one object, video id -> captions")
            file.seek(0)
            for video_id, entry in ijson.kvitems(file, "", use_float=True):
                if video_id in wanted:
                    found.captions[video_id] = _captions_of(entry, f"{path}: key {video_id!r}", found.left_out)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; the captions' caption.json is wanted") from None
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}") from None
    except (ijson.JSONError, UnicodeDecodeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "cut short"
        # The parser reads 64 kB at a time, so that the last key it gave lies somewhat before the fault.
        place = f"some way after key {video_id!r}" if video_id else "near its start"
        raise InputError(f"{path}: not valid JSON {place}: {reason}; fetch it again") from None
    return found


def _captions_of(entry: Any, where: str, left_out: Counter[str]) -> tuple[Caption, ...]:
    if not isinstance(entry, dict) or not all(isinstance(entry.get(name), list) for name in ("start", "end", "text")):
        raise InputError(f'{where}: wanted {{"start": [...], "end": [...], "text": [...]}}')
    starts, ends, texts = entry["start"], entry["end"], entry["text"]
    if not len(starts) == len(ends) == len(texts):
        raise InputError(
            f"{where}: {len(starts)} starts, {len(ends)} ends and {len(texts)} texts; the same number is wanted"
        )
    captions = []
    for start, end, text in zip(starts, ends, texts, strict=True):
        if not isinstance(text, str):
            left_out["text is not a string"] += 1
        elif not text.strip():
            left_out["empty text"] += 1
        elif not all(isinstance(t, int | float) and not isinstance(t, bool) and math.isfinite(t) for t in (start, end)):
            left_out["time is not a number"] += 1
        elif not 0 <= start < end:
            left_out["reversed or negative time"] += 1
        else:
            captions.append(Caption(float(start), float(end), text))
    return tuple(sorted(captions, key=lambda caption: (caption.start, caption.end)))
