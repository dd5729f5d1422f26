"""A text as a vector of an index's space, by the very model whose embeddings the index holds."""

import difflib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from extractors.text import words
from pipeline.core.errors import InputError
from pipeline.core.files import sha256_of_file
from pipeline.core.formatting import plain
from pipeline.search.index import IndexDescription, recorded_place
from pipeline.search.vector_index import Floats
from pipeline.training.checkpoint import FILE, TrainedModel, open_trained


def check_checkpoint(
    folder: Path, description: IndexDescription, given: Path | None, embeddings: Path | None = None
) -> Path:
    """The checkpoint's file; InputError unless it is there and the one that the index in `folder` was made with."""
    path = given or recorded_place(folder, description, "checkpoint", embeddings)
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; give the one that {folder} was made with by --checkpoint")
    if sha256_of_file(path) != description.made_of["checkpoint"]:
        raise InputError(
            f"{folder}: an index of another checkpoint than {path}; give the right --checkpoint, or embed anew"
        )
    return path


def open_model(
    folder: Path,
    description: IndexDescription,
    checkpoint: Path | None,
    manifest: Path | None,
    embeddings: Path | None = None,
) -> TrainedModel:
    """The model of an index; it and its manifest are where they were, or as far from the embeddings, unless given."""
    path = check_checkpoint(folder, description, checkpoint, embeddings)
    recorded = recorded_place(folder, description, "manifest", embeddings)
    return open_trained(path, manifest or (recorded if recorded.is_file() else None))


def embed_query(model: TrainedModel, space: str, text: str) -> tuple[Floats, list[str]]:
    """A text's vector [D], and a line for each word that has no part in it. InputError when none has."""
    query_words = words(text)
    if not query_words:
        raise InputError("the query is empty: give a few words, as they would be said in a video")
    vocabulary = model.vectors.key_to_index
    unknown = list(dict.fromkeys(word for word in query_words if word not in vocabulary))
    known = [word for word in query_words if word in vocabulary]
    if not known:
        hints = [hint for word in unknown[:5] if (hint := _near(word, vocabulary))]
        raise InputError(
            f"the query has no word that the model knows: {plain(', '.join(unknown), 120)}"
            + (f"; near ones: {', '.join(hints)}" if hints else "; try words as captions have them, in lower case")
        )
    notes = []
    for word in unknown:
        hint = _near(word, vocabulary)
        notes.append(f"unknown word left out: {plain(word, 40)}" + (f" (did you mean {hint}?)" if hint else ""))
    if late := known[model.rules.max_words :]:
        notes.append(f"the model reads {model.rules.max_words} words, left out: {plain(' '.join(late), 120)}")
    embedded = model.embed_texts([text])
    vector = embedded.vectors[space]["text"][0].float().numpy()
    return np.ascontiguousarray(vector, np.float32), notes


def _near(word: str, vocabulary: Iterable[str]) -> str:
    """The known word nearest to an unknown one; "" when none is near. Looks at those with the same beginning alone."""
    lower = word.lower()
    alike = [known for known in vocabulary if known[:1].lower() == lower[:1] and abs(len(known) - len(word)) <= 2]
    if lower in alike:
        return lower
    return (difflib.get_close_matches(lower, alike, n=1, cutoff=0.6) or [""])[0]
