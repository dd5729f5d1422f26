"""The data set's word vectors: given, or trained on the training captions; frozen at the first run as words.kv."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from gensim.models import KeyedVectors

from extractors.errors import WeightsError
from extractors.text import load_vectors, save_vectors, train_vectors, vectors_digest, words
from pipeline.errors import InputError
from pipeline.files import write_aside
from pipeline.records import Caption


def read_split(path: Path) -> dict[str, str]:
    """Read a csv video_id,split; InputError names the file and line of what is wrong."""
    splits: dict[str, str] = {}
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if not {"video_id", "split"} <= set(reader.fieldnames or ()):
                raise InputError(f"{path} line 1: columns video_id,split are wanted")
            for row in reader:
                if not row["video_id"] or row["split"] not in ("train", "heldout"):
                    raise InputError(
                        f"{path} line {reader.line_num}: split must be train or heldout, not {row['split']!r}"
                    )
                splits[row["video_id"]] = row["split"]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; a csv video_id,split is wanted") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: can't be read as csv: {error}") from None
    return splits


def freeze_words(
    path: Path, captions: Mapping[str, Sequence[Caption]], given: Path | None, split: Path | None
) -> tuple[str, str]:
    """Write word vectors to `path`; returns their digest and an announcement ("" for none).

    `given`: a file of vectors; else they are trained on the captions of `split`'s training videos, or of all.
    """
    try:
        vectors = load_vectors(given) if given is not None else None
    except WeightsError as error:
        raise InputError(str(error)) from None
    if vectors is not None:
        _save(vectors, path)
        return vectors_digest(vectors), ""
    if split is not None:
        splits = read_split(split)
        captions = {video_id: lines for video_id, lines in captions.items() if splits.get(video_id) == "train"}
    sentences = [words(caption.text) for lines in captions.values() for caption in lines]
    sentences = [sentence for sentence in sentences if sentence]
    if not sentences:
        return "", "no captions to train word vectors on: the data set has no words.kv, text can't be trained on"
    vectors = train_vectors(sentences)
    _save(vectors, path)
    source = f"{len(sentences)} captions of {len(captions)} videos"
    kind = "the training split" if split is not None else "all videos: give --split to leave held-out videos out"
    return vectors_digest(vectors), f"word vectors were trained on {source} ({kind}), {len(vectors)} words"


def _save(vectors: KeyedVectors, path: Path) -> None:
    with write_aside(path) as aside:
        save_vectors(vectors, aside)


def check_given(given: Path, frozen: str, folder: Path) -> None:
    """InputError unless the vectors in `given` are those frozen with the data set (`frozen`: their digest)."""
    try:
        digest = vectors_digest(load_vectors(given))
    except WeightsError as error:
        raise InputError(str(error)) from None
    if digest != frozen:
        raise InputError(f"{given}: not the word vectors that {folder} was made with; leave out --word-vectors")
