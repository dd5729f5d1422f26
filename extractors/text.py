"""Captions to words, and words to vectors: the published rule for words, Word2vec by gensim.

gensim takes a second and 60 MB to load: only what handles vectors does.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from gensim.models import KeyedVectors

_WORD = re.compile(r"[\w']+")


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


def vectors_digest(vectors: KeyedVectors) -> str:
    """Hexadecimal sha256 over the words in their order and their vectors as little-endian float32."""
    digest = hashlib.sha256()
    keys: Any = vectors.index_to_key
    digest.update("\n".join(keys).encode())
    digest.update(f"\0{vectors.vectors.shape}\0".encode())
    digest.update(np.ascontiguousarray(vectors.vectors, dtype="<f4").data)
    return digest.hexdigest()
