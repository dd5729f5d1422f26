"""Captions to words, and words to vectors: the published rule for words, Word2vec by gensim.

gensim takes a second and 60 MB to load: only what handles vectors does.
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from extractors.errors import WeightsError

if TYPE_CHECKING:
    from gensim.models import KeyedVectors

_WORD = re.compile(r"[\w']+")
_LARGEST_WIDTH = 10_000
_LARGEST_VOCABULARY = 50_000_000
_HEADER_BYTES = 64
_BINARY = (".bin", ".kv")
_TEXT = (".txt", ".vec")


def words(text: str) -> list[str]:
    """Runs of letters, digits, underscores and apostrophes, in order and as written: no lower-casing, no stop words."""
    return _WORD.findall(text)


def train_vectors(
    sentences: Iterable[Sequence[str]], *, width: int = 300, min_count: int = 1, epochs: int = 20, seed: int = 0
) -> KeyedVectors:
    """Word2vec (skip-gram over 5 words to either side, negative sampling) on sentences; `width`-d, raw as trained.

    `sentences` is gone through several times and never held, so it must be an iterable that can begin again. The same
    sentences in the same order give the same vectors, bit by bit, in any process of one machine: one worker trains.
    Raises ValueError when no word is left.
    """
    if not any(sentence for sentence in sentences):
        raise ValueError("word vectors need captions: no sentence has a word")
    from gensim.models import Word2Vec

    return Word2Vec(
        sentences=sentences, vector_size=width, window=5, min_count=min_count, epochs=epochs, seed=seed, sg=1, workers=1
    ).wv


def load_vectors(path: Path) -> KeyedVectors:
    """Word vectors from a word2vec file: binary (.bin, or .kv as `save_vectors` writes), text (.txt, .vec), either .gz.

    Nothing in the file is executed: gensim's own .kv is a pickle and is refused. Raises WeightsError.
    """
    from gensim.models import KeyedVectors

    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if suffix not in (*_BINARY, *_TEXT):
        raise WeightsError(f"{path}: word vectors end in {', '.join((*_BINARY, *_TEXT))}, with or without .gz")
    if path.suffix != ".gz":
        _check_header(path, binary=suffix in _BINARY)
    try:
        vectors = KeyedVectors.load_word2vec_format(str(path), binary=suffix in _BINARY)
    except Exception as error:  # A hostile or torn file may raise anything.
        first_line = (str(error).splitlines() or [""])[0]
        raise WeightsError(
            f"{path}: not a word2vec file ({type(error).__name__}: {first_line[:120]}); fetch it again or convert it"
        ) from None
    if not len(vectors) or not bool(np.isfinite(vectors.vectors).all()):
        raise WeightsError(f"{path}: holds no words, or NaN or infinity; fetch it again or train vectors from captions")
    return vectors


def _check_header(path: Path, *, binary: bool) -> None:
    """The first line says how much gensim allocates, so it is checked against the size of the file first."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            head = file.read(_HEADER_BYTES)
    except OSError as error:
        raise WeightsError(f"{path}: word vectors can't be read: {error.strerror}") from None
    if head.startswith(b"\x80"):
        raise WeightsError(
            f"{path}: a pickle, which can run code when it is read; load it where you trust it and write it with "
            "save_word2vec_format(PATH, binary=True)"
        )
    match = re.match(rb"(\d{1,9}) (\d{1,6})\s*\n", head)
    if not match:
        raise WeightsError(f"{path}: not a word2vec file: its first line is not NUMBER-OF-WORDS WIDTH")
    number, width = int(match[1]), int(match[2])
    least = number * (width * (4 if binary else 2) + 1)
    if not (0 < number <= _LARGEST_VOCABULARY and 0 < width <= _LARGEST_WIDTH) or least > size:
        raise WeightsError(
            f"{path}: its first line promises {number} words of {width} numbers, too many for {size} bytes; "
            "the file is cut short, fetch it again"
        )


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


def vectors_digest(vectors: KeyedVectors) -> str:
    """Hexadecimal sha256 over the words in their order and their vectors as little-endian float32."""
    digest = hashlib.sha256()
    keys: Any = vectors.index_to_key
    digest.update("\n".join(keys).encode())
    digest.update(f"\0{vectors.vectors.shape}\0".encode())
    digest.update(np.ascontiguousarray(vectors.vectors, dtype="<f4").data)
    return digest.hexdigest()
