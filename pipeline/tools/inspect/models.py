"""What a checkpoint, a pairing scheme or word vectors hold."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from extractors.errors import WeightsError
from extractors.text import load_vectors, vectors_digest
from models.pairing import BUILTIN_SCHEMES, Scheme, SchemeError, builtin_scheme, scheme_from_dict
from pipeline.core.config import load_yaml
from pipeline.core.errors import InputError
from pipeline.core.files import digest_of_json
from pipeline.dataset.folder import read_description
from pipeline.tools.inspect.scheme import SchemeDescription, describe
from pipeline.training.checkpoint import load_checkpoint

LARGEST_VECTORS = 1 << 30
"""Bytes of word vectors that are read whole, for their digest."""
_WORDS_SHOWN = 10


def builtin_or_none(name: str) -> Scheme | None:
    """The built-in scheme of that name, if there is one."""
    return builtin_scheme(name) if name in BUILTIN_SCHEMES else None


def scheme_of_file(path: Path) -> Scheme:
    """The scheme of a YAML file. InputError when it holds none, or one that makes no sense."""
    content = load_yaml(path)
    if "spaces" not in content:
        raise InputError(f"{path}: holds no pairing scheme (name, spaces); built in: {', '.join(BUILTIN_SCHEMES)}")
    try:
        return scheme_from_dict(content)
    except SchemeError as error:
        raise InputError(f"{path}: {error}") from None


def scheme_facts(scheme: SchemeDescription) -> dict[str, Any]:
    """A scheme's description as JSON values."""
    facts = asdict(scheme)
    for space in facts["spaces"]:
        space["pairs"] = ["-".join(pair) for pair in space["pairs"]]
    return facts


def inspect_checkpoint(path: Path) -> tuple[dict[str, Any], SchemeDescription]:
    """Facts of a checkpoint file, or of the one in a model's folder, and its scheme at its sizes.

    InputError when it is missing, cut short or none.
    """
    content = load_checkpoint(path)
    try:
        sizes = dict(content["model_settings"])
        sizes["video_streams"] = tuple(sizes["video_streams"])
        scheme = describe(scheme_from_dict(content["scheme"]), sizes)
        history = content["history"]
        last = dict(history[-1]) if history else {}
        facts = {
            "epochs": int(content["epoch"]),
            "of epochs": content["settings"].get("epochs"),
            "steps of the next epoch": content.get("step"),
            "manifest": content["manifest"],
            "videos": content.get("videos"),
            "last epoch's figures": {name: value for name, value in last.items() if name != "epoch"},
            "scheme": scheme.name,
            "parameters": scheme.parameters,
            "identity's digest": digest_of_json(content["identity"]),
            "words": content["words"],
            "precision": content.get("precision"),
            "settings": content["settings"],
            "model settings": content["model_settings"],
            "identity": content["identity"],
        }
    except (SchemeError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise InputError(f"{path}: a checkpoint that doesn't fit itself ({reason}); train again") from None
    return facts, scheme


def inspect_vectors(path: Path) -> dict[str, Any]:
    """Facts of a word2vec file. InputError when it is none, or cut short."""
    size = path.stat().st_size
    if size > LARGEST_VECTORS:
        raise InputError(
            f"{path}: {size / 2**30:.1f} GiB of word vectors aren't read whole just to look; inspect the words.kv of a "
            "data set made with them"
        )
    try:
        vectors = load_vectors(path)
    except WeightsError as error:
        raise InputError(str(error)) from None
    digest = vectors_digest(vectors)
    facts = {
        "words": len(vectors),
        "width": int(vectors.vector_size),
        "digest": digest,
        "first words": list(vectors.index_to_key[:_WORDS_SHOWN]),
    }
    if (path.parent / "dataset.json").exists():
        facts["those of the data set"] = read_description(path.parent).get("words") == digest
    return facts
