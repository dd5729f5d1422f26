"""A data set and its media folder at the full list's size, written straight in the format of docs/data-format.md.

What no start reads is left empty: media files and closed shards hold no byte. Nothing is flushed to the disk.
"""

import base64
import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

GONE, STORED, SPOILT = ("private", "removed", "terminated", "geo"), "stored", "undecodable"
VIDEOS_A_SHARD = 170
"""As many of 6.5 minutes fill a shard of 1 GiB."""
_WRITERS = 16
_SECONDS = 390.0
_BEGAN = 1_700_000_000.0


def video_id(number: int) -> str:
    """An id as the site gives them: 11 characters."""
    return base64.urlsafe_b64encode(hashlib.sha256(f"video {number}".encode()).digest()[:9])[:11].decode()


def fate(number: int) -> str:
    """What has become of video `number`: of twenty, 14 are stored, 1 is spoilt, 4 are gone, 1 was tried three times."""
    turn = number % 20
    return STORED if turn < 14 else SPOILT if turn < 15 else GONE[turn - 15] if turn < 19 else "transient"


def write_list(path: Path, video_ids: Sequence[str]) -> None:
    """A list with the columns of HowTo100M_v1.csv."""
    with open(path, "w", encoding="utf-8") as file:
        file.write("video_id,category_1,category_2,rank,task_id\n")
        for number, name in enumerate(video_ids):
            file.write(f"{name},Food and Entertaining,Recipes,{number % 200},{number % 23611}\n")


def write_captions(path: Path, video_ids: Sequence[str], bytes_a_video: int) -> None:
    """A caption file of about `bytes_a_video` a video; every thousandth video says the same."""
    entries = []
    for kind in range(1000):
        count = max(1, bytes_a_video // 62)
        starts = [round(4.1 * line + kind / 1000, 2) for line in range(count)]
        text = [f"cut onion {kind} into {line} parts and stir them well" for line in range(count)]
        entries.append(json.dumps({"start": starts, "end": [round(start + 5, 2) for start in starts], "text": text}))
    with open(path, "w", encoding="utf-8") as file:
        for number, name in enumerate(video_ids):
            file.write(f'{", " if number else "{"}"{name}": {entries[number % 1000]}')
        file.write("}")


def fill(dataset: Path, media: Path, count: int, circumstance: dict[str, Any]) -> None:
    """Videos 0 to `count`, each with its fate, in plans after those there are, closed with receipts by `circumstance`.

    Media of stored and spoilt videos are there, as after `mcn extract` without --delete-media.
    """
    fates = {video_id(number): fate(number) for number in range(count)}
    _write_ledgers(media / "ledger", "download", _downloads(fates))
    _write_ledgers(dataset / "ledger", "extract", _extractions(fates))
    planned = sorted((i for i in fates if fates[i] in (STORED, SPOILT)), key=_hash)
    for folder in {_hash(name)[:2] for name in planned}:
        (media / folder).mkdir(exist_ok=True)
    for name in planned:
        (media / _hash(name)[:2] / f"{name}.mp4").touch()
    first = len(list((dataset / "plans").iterdir()))
    for begin in range(0, len(planned), VIDEOS_A_SHARD):
        ids = planned[begin : begin + VIDEOS_A_SHARD]
        name = f"{first + begin // VIDEOS_A_SHARD:06d}"
        plan = _write_digested(dataset / "plans" / f"{name}.json", {"schema": 1, "name": name, "video_ids": ids})
        stored = [i for i in ids if fates[i] == STORED]
        (dataset / "shards" / f"{name}.h5").touch()
        receipt = {
            "schema": 1,
            "name": name,
            "plan": plan,
            "video_ids": stored,
            "left_out": {i: SPOILT for i in ids if fates[i] == SPOILT},
            "content": _hash(name),
            "bytes": len(stored) * 6_200_000,
            "seconds": len(stored) * _SECONDS,
            "circumstance": circumstance,
        }
        _write_digested(dataset / "shards" / f"{name}.json", receipt)


def _downloads(fates: dict[str, str]) -> Iterator[dict[str, Any]]:
    for number, (name, became) in enumerate(fates.items()):
        time = _BEGAN + 2.5 * number
        if became == "transient":
            message = "ERROR: [youtube] Unable to download API page: HTTP Error 503: Service Unavailable"
            for attempt in range(1, 4):
                yield _line(name, "download", "failed", became, message, attempt, time, {"seconds": 4.125})
        elif became in GONE:
            message = "ERROR: [youtube] Video unavailable. This video is private or is no longer to be had"
            yield _line(name, "download", "failed", became, message, 1, time, {"seconds": 1.375})
        else:
            detail = {
                "audio_codec": "aac",
                "bytes": 21_000_000 + number,
                "duration": _SECONDS,
                "height": 360,
                "seconds": 14.25,
                "video_codec": "h264",
                "width": 640,
            }
            yield _line(name, "download", "done", "", "", 1, time, detail)


def _extractions(fates: dict[str, str]) -> Iterator[dict[str, Any]]:
    for number, (name, became) in enumerate(fates.items()):
        time = _BEGAN + 86_400 + 2.5 * number
        if became == STORED:
            detail = {"captions": 90, "decoder": "decord", "seconds": _SECONDS, "sound": True}
            yield _line(name, "extract", "done", "", "", 1, time, detail)
        elif became == SPOILT:
            yield _line(name, "extract", "failed", became, "no frame can be decoded", 1, time, {})


def _line(
    name: str, stage: str, outcome: str, reason: str, message: str, attempt: int, time: float, detail: dict[str, Any]
) -> dict[str, Any]:
    return {
        "video_id": name,
        "stage": stage,
        "outcome": outcome,
        "reason": reason,
        "message": message,
        "attempt": attempt,
        "time": time,
        "detail": detail,
    }


def _write_ledgers(folder: Path, stage: str, lines: Iterator[dict[str, Any]]) -> None:
    """The lines, a thousand at a time, to the files of several writers."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [open(folder / f"{stage}-node{n}-{1000 + n}-{n:08x}.jsonl", "wb") for n in range(_WRITERS)]  # noqa: SIM115
    for number, fields in enumerate(lines):
        checked = fields | {"crc32": f"{zlib.crc32(_canonical(fields)):08x}"}
        files[number // 1000 % _WRITERS].write(_canonical(checked) + b"\n")
    for file in files:
        file.close()


def _write_digested(path: Path, content: dict[str, Any]) -> str:
    """Write a JSON object with the digest of its fields; returns the digest."""
    digest = hashlib.sha256(_canonical(content)).hexdigest()
    path.write_text(json.dumps(content | {"digest": digest}, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return digest


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
