"""The data set's word vectors: given, or trained on the training captions; frozen at the first run as words.kv."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from extractors.errors import WeightsError
from extractors.text import load_vectors, save_vectors, train_vectors, vectors_digest, words
from pipeline.core.errors import InputError
from pipeline.core.files import csv_lines, write_aside
from pipeline.dataset.caption_store import Captions

if TYPE_CHECKING:
    from gensim.models import KeyedVectors


_LONGEST_WORD = 1 << 16
"""Bytes of a word, and of a number as text."""
_LONGEST_NUMBER = 64
_BLOCK = 1 << 20
_MOST_UNPACKED = 20
"""Bytes of vectors in a byte of a .gz: numbers hardly shrink."""
_ALWAYS_UNPACKED = 64 << 20


def read_vectors(path: Path) -> KeyedVectors:
    """The word vectors in a file; InputError when it is missing, broken or of no known form.

    A file whose words have no end, or a .gz that unpacks to far more than numbers would, is refused before gensim makes
    room for it.
    """
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: not a regular file; expected word vectors")
        if path.is_file():
            _check_extent(path)
        return load_vectors(path)
    except WeightsError as error:
        raise InputError(str(error)) from None
    except (EOFError, zlib.error) as error:
        raise InputError(f"{path}: not a whole .gz ({error}); fetch it again") from None
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror or error}") from None


def _check_extent(path: Path) -> None:
    """InputError unless the file's words and numbers are as many and as long as its first line says."""
    packed = path.suffix == ".gz"
    room = max(_ALWAYS_UNPACKED, _MOST_UNPACKED * path.stat().st_size) if packed else path.stat().st_size
    file: IO[bytes]
    with cast(IO[bytes], gzip.open(path)) if packed else open(path, "rb") as file:
        head = re.match(rb"(\d{1,9}) (\d{1,6})\s*\n", file.readline(64))
        if head is None:
            if packed:
                raise InputError(f"{path}: not a word2vec file: its first line is not NUMBER-OF-WORDS WIDTH")
            return  # what else it is, its reader tells
        number, width = int(head[1]), int(head[2])
        binary = Path(path.stem if packed else path.name).suffix in (".bin", ".kv")
        least = number * (width * (4 if binary else 2) + 1)
        if not number or not width or least > room:
            raise InputError(
                f"{path}: its first line promises {number} words of {width} numbers, too many for {room} bytes; "
                "fetch it again"
            )
        words = _binary_words(file, width, room) if binary else _text_words(file, width, room)
        if next(islice(words, number - 1, None), None) is None:
            raise InputError(
                f"{path}: its first line promises {number} words of {width} numbers, and it ends before, has a word "
                f"of more than {_LONGEST_WORD} bytes, or unpacks to more than {room} bytes; fetch it again"
            )


def _binary_words(file: IO[bytes], width: int, room: int) -> Iterator[bool]:
    """True for each word that is followed by its vector, until one isn't."""
    block, start, read = b"", 0, 0
    while True:
        end = block.find(b" ", start, start + _LONGEST_WORD) + 1
        if end and end + 4 * width <= len(block):
            start = end + 4 * width
            yield True
            continue
        if len(block) - start >= _LONGEST_WORD + 4 * width or read > room:
            return
        more = file.read(max(_BLOCK, 4 * width))
        if not more:
            return
        block, start, read = block[start:] + more, 0, read + len(more)


def _text_words(file: IO[bytes], width: int, room: int) -> Iterator[bool]:
    """True for each line that isn't too long, until one is."""
    longest, read = _LONGEST_WORD + _LONGEST_NUMBER * width, 0
    while (line := file.readline(longest)) and read <= room:
        if len(line) == longest and not line.endswith(b"\n"):
            return
        read += len(line)
        yield True


def read_split(path: Path) -> dict[str, str]:
    """Read a csv video_id,split; InputError names the file and line of what is wrong."""
    splits: dict[str, str] = {}
    for where, row in csv_lines(path, ("video_id", "split")):
        if not row["video_id"] or row["split"] not in ("train", "heldout"):
            raise InputError(f"{where}: split must be train or heldout, not {row['split']!r}")
        splits[row["video_id"]] = row["split"]
    return splits


class _Sentences:
    """The captions' words, a caption at a time, videos by id; may be gone through again and again."""

    def __init__(self, captions: Captions, chosen: frozenset[str] | None) -> None:
        self._captions, self._chosen = captions, chosen
        self.captions = self.videos = 0

    def __iter__(self) -> Iterator[list[str]]:
        self.captions = self.videos = 0
        for video_id, lines in self._captions.items():
            if self._chosen is None or video_id in self._chosen:
                self.videos += 1
                for line in lines:
                    if sentence := words(line.text):
                        self.captions += 1
                        yield sentence


def freeze_words(path: Path, captions: Captions | None, given: Path | None, split: Path | None) -> tuple[str, str]:
    """Write word vectors to `path`; returns their digest and an announcement ("" for none).

    `given`: a file of vectors; else they are trained on all captions of the source, or of `split`'s training videos,
    whether these videos are at hand or not: a data set that grows needs no others later.
    """
    if given is not None:
        vectors = read_vectors(given)
        _save(vectors, path)
        return vectors_digest(vectors), ""
    chosen = None
    if split is not None:
        chosen = frozenset(video_id for video_id, side in read_split(split).items() if side == "train")
    sentences = _Sentences(captions, chosen) if captions is not None else None
    if sentences is None or not any(sentences):
        return "", "no captions to train word vectors on: the data set has no words.kv, text can't be trained on"
    vectors = train_vectors(sentences)
    _save(vectors, path)
    source = f"{sentences.captions} captions of {sentences.videos} videos"
    kind = "the training split" if split is not None else "all videos: give --split to leave held-out videos out"
    return vectors_digest(vectors), f"word vectors were trained on {source} ({kind}), {len(vectors)} words"


def _save(vectors: KeyedVectors, path: Path) -> None:
    with write_aside(path) as aside:
        save_vectors(vectors, aside)


def check_given(given: Path, frozen: str, folder: Path) -> None:
    """InputError unless the vectors in `given` are those frozen with the data set (`frozen`: their digest)."""
    if vectors_digest(read_vectors(given)) != frozen:
        raise InputError(f"{given}: not the word vectors that {folder} was made with; leave out --word-vectors")
