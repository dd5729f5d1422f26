"""The data set's word vectors: given, or trained on the training captions; frozen at the first run as words.kv."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from extractors.errors import WeightsError
from extractors.text import train_vectors, vectors_digest, words
from extractors.word_vector_file import load_vectors, save_vectors
from pipeline.core.errors import InputError
from pipeline.core.files import write_aside
from pipeline.core.lists import left_out_note
from pipeline.core.video_ids import read_split
from pipeline.dataset.caption_store import Captions

if TYPE_CHECKING:
    from gensim.models import KeyedVectors


def read_vectors(path: Path, left_out: Counter[str] | None = None) -> KeyedVectors:
    """The word vectors in a file, as `load_vectors` reads them; InputError when it is missing, broken or none."""
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: not a regular file; expected word vectors")
    try:
        return load_vectors(path, left_out)
    except WeightsError as error:
        raise InputError(str(error)) from None


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
        left_out = Counter[str]()
        vectors = read_vectors(given, left_out)
        _save(vectors, path)
        return vectors_digest(vectors), "".join(left_out_note(given, left_out))
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
