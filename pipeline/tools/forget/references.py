"""Files beside a data set that name a video, whatever their encoding and compression: own reports, and others'."""

import bz2
import codecs
import gzip
import json
import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import IO, Any

from pipeline.core.figures import is_of_a_report
from pipeline.core.reporting import RunSummary
from pipeline.download.media import MEDIA_SUFFIXES

MOST_BYTES = 1 << 34
"""A compressed file is read up to so many bytes: a small one may hold more than a life is long enough to read."""

_BLOCK_BYTES = 1 << 20
_OVERLAP = 256
"""Bytes, more than the longest id takes in UTF-32 once its zeros are gone."""
_OPENERS: dict[bytes, Callable[[IO[bytes]], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
_ZIP = b"PK\x03\x04"
_UNREADABLE = {
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "rar",
    b"\x04\x22\x4d\x18": "lz4",
    b"\x1f\x9d": "compress",
    b"LZIP": "lzip",
}
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
# Of a zip: an encrypted member is a RuntimeError, an unknown compression a NotImplementedError.
_DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError, ValueError)

_REPORT_KEYS = frozenset(RunSummary("").as_json())
_RESULTS_KEYS = frozenset(("source", "stages", "scores", "processors"))
_PAGE_BEGINS, _PAGE_TITLE = b"<!doctype html>", b"<title>mcn run: "
_STUDY_TITLE = b"<title>mcn report: "


def files_naming(
    tops: Collection[Path],
    video_ids: Collection[str],
    but: Collection[Path],
    unsearched: dict[Path, str] | None = None,
) -> list[Path]:
    """What lies under `tops` whose name or, of a text, content names one of the ids; nothing at or under `but`.

    Texts are searched in UTF-8, UTF-16 and UTF-32, and within .gz, .bz2, .xz and .zip. A compressed file that can't be
    searched to its end is put into `unsearched`, with the reason.
    """
    pattern = _pattern(video_ids)
    naming = set()
    for top in tops:
        for path in top.rglob("*"):
            if any(path.is_relative_to(excluded) for excluded in but):
                continue
            # Of a folder, a pipe or a link that leads nowhere the name alone can tell.
            is_text = path.is_file() and path.suffix.lower() not in MEDIA_SUFFIXES
            content = text_blocks(path) if is_text else iter(())
            try:
                if any(pattern.search(text) for text in chain([os.fsencode(path.name)], content)):
                    naming.add(path)
            except CannotSearchError as error:
                if unsearched is not None:
                    unsearched[path] = str(error)
    return sorted(naming)


def is_report(path: Path) -> bool:
    """Whether this program wrote the file and makes it again: a stage's summary, a run's results or its page, a study's
    report, its figures and tables.

    Told by what is in it, since a name like `results.json` is anyone's.
    """
    try:
        if path.suffix == ".json":
            content = json.loads(path.read_bytes())
            return isinstance(content, dict) and content.keys() in (_REPORT_KEYS, _RESULTS_KEYS)
        if path.suffix == ".html":
            begin = path.read_bytes()[:4096]
            a_run = path.name == "index.html" and _PAGE_TITLE in begin
            return begin.startswith(_PAGE_BEGINS) and (a_run or _STUDY_TITLE in begin)
        return is_of_a_report(path)
    except (OSError, ValueError, RecursionError):
        return False


def figures_of(page: Path) -> list[Path]:
    """The figures and tables beside a study's page, whose drawings are compressed: what they name can't be searched."""
    return sorted(path for path in page.with_name(f"{page.stem}-figures").glob("*") if is_of_a_report(path))


def _pattern(video_ids: Collection[str]) -> re.Pattern[bytes]:
    # `video1` isn't named by `video10`; `ID_0001.jpg` names ID; in JSON `\n` may stand before an id.
    def alone(video_id: str) -> str:
        before = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrt]))" if video_id[0].isalnum() else ""
        after = r"(?![A-Za-z0-9])" if video_id[-1].isalnum() else ""
        return f"{before}{re.escape(video_id)}{after}"

    return re.compile("|".join(map(alone, sorted(video_ids))).encode())


class CannotSearchError(Exception):
    """A compressed file holds more, or something else, than can be read."""


def text_blocks(path: Path) -> Iterator[bytes]:
    """The text of a file in blocks that overlap by more than an id; of UTF-16 and UTF-32 the letters without the zeros.

    Nothing of a file that is neither text nor compressed, or can't be read at all. Raises CannotSearchError.
    """
    try:
        with open(path, "rb") as file:
            begin = file.read(8)
            file.seek(0)
            for magic, name in _UNREADABLE.items():
                if begin.startswith(magic):
                    raise CannotSearchError(f"compressed by {name}")
            if begin.startswith(_ZIP):
                yield from _zipped(file)
                return
            for magic, opener in _OPENERS.items():
                if begin.startswith(magic):
                    with _refused_when_damaged(), opener(file) as unpacked:
                        yield from _unpacked(unpacked, [MOST_BYTES])
                    return
            yield from _plain(file)
    except OSError:
        return


@contextmanager
def _refused_when_damaged() -> Iterator[None]:
    try:
        yield
    except _DAMAGED as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:100]
        raise CannotSearchError(f"can't be unpacked: {reason}") from None


def _zipped(file: IO[bytes]) -> Iterator[bytes]:
    """Names and contents of a zip's members; of one that PyTorch has written, all but the tensors."""
    left = [MOST_BYTES]
    with _refused_when_damaged(), zipfile.ZipFile(file) as archive:
        names = set(archive.namelist())
        for name in archive.namelist():
            yield name.encode("utf-8", "surrogateescape")
            parts = PurePosixPath(name).parts
            if len(parts) > 2 and parts[1] == "data" and f"{parts[0]}/data.pkl" in names:
                continue
            with archive.open(name) as member:
                yield from _unpacked(member, left)


def _unpacked(file: IO[bytes], left: list[int]) -> Iterator[bytes]:
    """All of a compressed file, text or not: an archive within it has zeros between texts. `left`: bytes to go."""
    overlap = b""
    while block := file.read(_BLOCK_BYTES):
        left[0] -= len(block)
        if left[0] < 0:
            raise CannotSearchError(f"holds more than {MOST_BYTES >> 30} GiB")
        text = overlap + block.replace(b"\0", b"")
        yield text
        overlap = text[-_OVERLAP:]


def _plain(file: IO[bytes]) -> Iterator[bytes]:
    overlap, wide = b"", None
    while block := file.read(_BLOCK_BYTES):
        wide = _is_wide(block) if wide is None else wide
        if b"\0" in block and not wide:
            return
        text = overlap + block.replace(b"\0", b"")
        yield text
        overlap = text[-_OVERLAP:]


def _is_wide(block: bytes) -> bool:
    """Whether this is the beginning of a text in UTF-16 or UTF-32: by its mark, or by zeros in every second place."""
    if block.startswith(_WIDE):
        return True
    sample = block[:4096]
    for step in (2, 4):
        shares = sorted(sample[place::step].count(0) / max(1, len(sample[place::step])) for place in range(step))
        if shares[0] < 0.1 and shares[1] > 0.7:
            return True
    return False
