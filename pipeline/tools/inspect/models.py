"""What a checkpoint, a pairing scheme or word vectors hold."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from extractors.text import vectors_digest
from models.pairing import BUILTIN_SCHEMES, Scheme, SchemeError, scheme_from_dict
from pipeline.core.config import load_yaml
from pipeline.core.errors import InputError
from pipeline.core.files import digest_of_json
from pipeline.dataset.folder import read_description
from pipeline.dataset.word_vectors import read_vectors
from pipeline.tools.inspect.scheme import SchemeDescription, describe
from pipeline.training.checkpoint import load_checkpoint

LARGEST_VECTORS = 1 << 30
"""Bytes of word vectors that are read whole, for their digest."""
_WORDS_SHOWN = 10


Inspected = tuple[str, dict[str, Any], SchemeDescription | None]
"""Kind, facts, and the pairing scheme of what has one."""


def inspect_model(path: Path, suffix: str, width: int = 0) -> Inspected:
    """What a checkpoint (`.pt`), a scheme (`.yaml`) or word vectors hold, by the file's suffix.

    `width`: of a scheme's spaces; 0: the default. InputError when the file is missing, broken or holds something else.
    """
    if suffix == ".pt":
        return "checkpoint", *_checkpoint(path)
    if suffix in (".yaml", ".yml"):
        return inspect_scheme(_scheme_of_file(path), width)
    return "word vectors", _vectors(path), None


def inspect_scheme(scheme: Scheme, width: int) -> Inspected:
    """What a scheme makes of a model."""
    described = describe(scheme, {"width": width} if width else None)
    return "scheme", scheme_facts(described), described


def _scheme_of_file(path: Path) -> Scheme:
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


def _checkpoint(path: Path) -> tuple[dict[str, Any], SchemeDescription]:
    """Facts of a checkpoint file, or of the one in a model's folder, and its scheme at its sizes."""
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


def _vectors(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    if size > LARGEST_VECTORS:
        raise InputError(
            f"{path}: {size / 2**30:.1f} GiB of word vectors aren't read whole just to look; inspect the words.kv of a "
            "data set made with them"
        )
    vectors = read_vectors(path)
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
