"""Files of word vectors, which anyone may have made: word2vec's binary and text, and GloVe's text without a header.

Nothing in a file is executed, and no more is kept in memory than its words and numbers take.
"""

from __future__ import annotations

import codecs
import gzip
import os
import re
import uuid
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from extractors.errors import WeightsError

if TYPE_CHECKING:
    from gensim.models import KeyedVectors

_BINARY = (".bin", ".kv")
_TEXT = (".txt", ".vec")
_HEADER_BYTES = 64
_HEADER = re.compile(rb"(\d{1,9}) (\d{1,6})\s*\n")
_LARGEST_WIDTH = 10_000
_LARGEST_VOCABULARY = 50_000_000
_LONGEST_WORD = 1 << 16
"""Bytes of a word."""
_LONGEST_NUMBER = 64
"""Bytes of a number as text."""
_OF_NUMBERS = b"0123456789+-.eE \r\n"
"""All bytes of numbers as text: read as binary they would pass for vectors."""
_BLOCK = 1 << 20
_BLOCK_ROWS = 1 << 12
_MOST_UNPACKED = 20
"""Bytes of vectors in a byte of a .gz: numbers hardly shrink."""
_ALWAYS_UNPACKED = 64 << 20

EMPTY = "empty line"
REPEATED = "word listed again, its first vector counts"
WITH_SPACES = "word with a space, as no caption's word has one"
NOT_UTF8 = "word that isn't UTF-8"
BEYOND = "rest of the file, after as many words as its first line promises"

Entry = tuple[int, bytes, NDArray[np.float32]]
"""Number of the line (of a binary file: of the word), the word, its vector."""


def load_vectors(path: Path, left_out: Counter[str] | None = None) -> KeyedVectors:
    """Word vectors from a word2vec file: binary (.bin, or .kv as `save_vectors` writes) or text (.txt, .vec), which may
    lack its first line, as GloVe's does; any of them as .gz too.

    What is passed over counts in `left_out`, by reason. gensim's own .kv is a pickle and is refused. Raises
    WeightsError, which names the line (of a binary file: the number of the word) of what is wrong.
    """
    from gensim.models import KeyedVectors

    suffix = Path(path.name.removesuffix(".gz")).suffix
    if suffix not in (*_BINARY, *_TEXT):
        raise WeightsError(f"{path}: word vectors end in {', '.join((*_BINARY, *_TEXT))}, with or without .gz")
    left_out = Counter() if left_out is None else left_out
    try:
        size = path.stat().st_size
        with open(path, "rb") as given:
            packed = given.peek(2)[:2] == b"\x1f\x8b"
            file: IO[bytes] = cast(IO[bytes], gzip.GzipFile(fileobj=given)) if packed else given
            room = max(_ALWAYS_UNPACKED, _MOST_UNPACKED * size) if packed else size
            if suffix in _BINARY:
                words, vectors = _collected(f"{path} word", _binary_entries(path, file, room, left_out), left_out)
            else:
                words, vectors = _collected(f"{path} line", _text_entries(path, file, room, left_out), left_out)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise WeightsError(f"{path}: not a whole .gz ({error}); fetch it again") from None
    except OSError as error:
        raise WeightsError(f"{path}: word vectors can't be read: {error.strerror or error}") from None
    if left_out[WITH_SPACES] > len(words):
        raise WeightsError(f"{path}: most lines have more numbers than the first line tells; fetch it again")
    if not words:
        raise WeightsError(f"{path}: holds no words; fetch it again or train vectors from captions")
    # Not by add_vectors, which holds all of them twice.
    keyed = KeyedVectors(vectors.shape[1])
    keyed.vectors, keyed.index_to_key = vectors, words
    keyed.key_to_index = {word: index for index, word in enumerate(words)}
    keyed.next_index = len(words)
    # Without counts gensim warns when it writes them; descending ones keep the order.
    keyed.expandos["count"] = np.arange(len(words), 0, -1)
    return keyed


def _collected(where: str, entries: Iterator[Entry], left_out: Counter[str]) -> tuple[list[str], NDArray[np.float32]]:
    """Each word once, and its vector."""
    words: dict[str, None] = {}
    blocks: deque[NDArray[np.float32]] = deque()
    while some := list(islice(entries, _BLOCK_ROWS)):
        block = np.stack([row for _, _, row in some])
        # One look at a block is some ten times faster than one at each of its rows.
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
            number, name, _ = some[int(finite.argmin())]
            shown = ascii(name[:80].decode("utf-8", "replace"))
            raise WeightsError(f"{where} {number}: NaN or infinity in the vector of {shown}; fetch it again")
        kept = []
        for index, (_, name, _) in enumerate(some):
            try:
                word = name.decode()
            except UnicodeDecodeError:
                left_out[NOT_UTF8] += 1
                continue
            if word in words:
                left_out[REPEATED] += 1
            elif " " in word:
                left_out[WITH_SPACES] += 1
            else:
                words[word] = None
                kept.append(index)
        blocks.append(block[kept])
    vectors = np.empty((len(words), blocks[0].shape[1] if blocks else 0), np.float32)
    filled = 0
    while blocks:
        block = blocks.popleft()
        vectors[filled : filled + len(block)] = block
        filled += len(block)
    return list(words), vectors


def _promised(path: Path, line: bytes, room: int, least: Callable[[int], int]) -> tuple[int, int] | None:
    """Number of words and width, as the first line has them; None where it is no such line.

    WeightsError for more than the file can hold: by these numbers room is made. `least`: bytes of a word by its width.
    """
    if line.startswith(b"\x80"):
        raise WeightsError(
            f"{path}: a pickle, which can run code when it is read; load it where you trust it and write it with "
            "save_word2vec_format(PATH, binary=True)"
        )
    match = _HEADER.match(line)
    if not match:
        return None
    number, width = int(match[1]), int(match[2])
    possible = 0 < number <= _LARGEST_VOCABULARY and 0 < width <= _LARGEST_WIDTH
    if not possible or number * least(width) > room:
        raise WeightsError(
            f"{path}: its first line promises {number} words of {width} numbers, too many for {room} bytes; "
            "the file is cut short, fetch it again"
        )
    return number, width


def _short(path: Path, number: int, width: int, room: int) -> WeightsError:
    return WeightsError(
        f"{path}: its first line promises {number} words of {width} numbers, and it ends before, has a word of more "
        f"than {_LONGEST_WORD} bytes, or unpacks to more than {room} bytes; fetch it again"
    )


def _binary_entries(path: Path, file: IO[bytes], room: int, left_out: Counter[str]) -> Iterator[Entry]:
    promised = _promised(path, file.readline(_HEADER_BYTES), room, lambda width: 4 * width + 1)
    if promised is None:
        raise WeightsError(f"{path}: not a word2vec file: its first line is not NUMBER-OF-WORDS WIDTH")
    count, width = promised
    block, start, read, number = b"", 0, 0, 0
    while number < count:
        end = block.find(b" ", start, start + _LONGEST_WORD) + 1
        if end and end + 4 * width <= len(block):
            number += 1
            # Some programs end each vector with a line feed.
            name = block[start : end - 1].lstrip(b"\n")
            if number == 1 and not block[end : end + 4 * width].strip(_OF_NUMBERS):
                raise WeightsError(f"{path}: its first line is of word2vec, its numbers are text; name it .txt")
            yield number, name, np.frombuffer(block, "<f4", width, end)
            start = end + 4 * width
            continue
        more = file.read(max(_BLOCK, 4 * width)) if read <= room else b""
        if not more or len(block) - start >= _LONGEST_WORD + 4 * width:
            raise _short(path, count, width, room)
        block, start, read = block[start:] + more, 0, read + len(more)
    left_out[BEYOND] += bool((block[start:] + file.read(_HEADER_BYTES)).strip(b"\n"))


def _text_entries(path: Path, file: IO[bytes], room: int, left_out: Counter[str]) -> Iterator[Entry]:
    first = file.readline(_LONGEST_WORD + _LONGEST_NUMBER * _LARGEST_WIDTH).removeprefix(codecs.BOM_UTF8)
    promised = _promised(path, first, room, lambda width: 2 * width + 1)
    if not promised and b"\t" in first:
        raise WeightsError(f"{path}: its first line has tabs; expected single spaces between a word and its numbers")
    count, width = promised or (_LARGEST_VOCABULARY, first.rstrip().count(b" "))
    if not promised and not (0 < width <= _LARGEST_WIDTH):
        raise WeightsError(
            f"{path}: not word vectors: its first line is not NUMBER-OF-WORDS WIDTH, nor a word and its numbers"
        )
    longest, read, number = _LONGEST_WORD + _LONGEST_NUMBER * width, 0, 0
    line = file.readline(longest) if promised else first
    while number < count:
        read += len(line)
        if (promised and not line) or read > room or (len(line) >= longest and not line.endswith(b"\n")):
            raise _short(path, count, width, room) if promised else _unbounded(path, room)
        if not line:
            return
        number += 1
        if not promised and not line.strip():
            left_out[EMPTY] += 1
            line = file.readline(longest)
            continue
        name, *numbers = line.rstrip().rsplit(b" ", width)
        yield number + bool(promised), name, _row(f"{path} line {number + bool(promised)}", numbers, width)
        line = file.readline(longest)
    left_out[BEYOND] += bool(line.strip())


def _unbounded(path: Path, room: int) -> WeightsError:
    return WeightsError(
        f"{path}: has a word of more than {_LONGEST_WORD} bytes, or unpacks to more than {room} bytes; fetch it again"
    )


def _row(where: str, numbers: list[bytes], width: int) -> NDArray[np.float32]:
    try:
        if len(numbers) == width:
            # What is too large becomes infinity, which is refused by name.
            with np.errstate(over="ignore"):
                return np.array(list(map(float, numbers)), np.float32)
        found = f"{len(numbers)} of them"
    except ValueError as error:
        found = str(error).partition(": b")[2][:80]
    raise WeightsError(f"{where}: expected {width} numbers after the word, got {found}; fetch the file again")


def save_vectors(vectors: KeyedVectors, path: Path) -> None:
    """Write word2vec's binary format, whole or not at all; every float32 is kept to the bit."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.aside")
    try:
        vectors.save_word2vec_format(str(aside), binary=True)
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
