"""What a study compares: arms, each a pairing scheme and what else differs from the reference."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.core.errors import InputError, suggest

BUILTIN_ARMS: dict[str, dict[str, Any]] = {
    "shared": {"scheme": "shared"},
    "disjoint": {"scheme": "disjoint"},
    "fine-and-coarse": {"scheme": "fine-and-coarse"},
    "fine-and-coarse-mmv": {"scheme": "fine-and-coarse-mmv"},
    "video-text": {"scheme": "video-text"},
    "video-audio": {"scheme": "video-audio"},
    "audio-text": {"scheme": "audio-text"},
    "without-cluster": {"scheme": "shared", "cluster_weight": 0.0},
    "without-reconstruct": {"scheme": "shared", "reconstruction_weight": 0.0},
    "sum-of-terms": {"scheme": "disjoint", "term_weights": "sum"},
    "permuted-captions": {"scheme": "shared", "permute_captions": True},
}
"""Name -> training settings that differ. The last two are controls: L is a plain sum; text says nothing."""


@dataclass(frozen=True)
class Arm:
    """One kind of model that is trained with every seed."""

    name: str
    train: dict[str, Any] = field(default_factory=dict)
    """Its own training settings, the scheme among them."""


def arms_from(given: Any, where: str) -> tuple[Arm, ...]:
    """The arms of a list: names of built-in ones, or mappings with `name` and training settings.

    InputError, beginning with `where`, for an unknown name, one given twice, or what is no arm.
    """
    if not isinstance(given, list) or not given:
        raise InputError(f"{where}: a list of arms is wanted, such as [shared, disjoint]")
    arms = []
    for entry in given:
        if isinstance(entry, Mapping):
            values = {str(key).replace("-", "_"): value for key, value in entry.items()}
            name = values.pop("name", None)
            if not isinstance(name, str) or not name.replace("-", "").replace("_", "").isalnum():
                raise InputError(f"{where}: an arm of its own needs a `name` of letters, digits, - and _")
            arms.append(Arm(name, {"scheme": "shared"} | values))
        elif entry in BUILTIN_ARMS:
            arms.append(Arm(str(entry), dict(BUILTIN_ARMS[entry])))
        else:
            raise InputError(f"{where}: unknown arm {entry!r}; {suggest(str(entry), BUILTIN_ARMS)}")
    names = [arm.name for arm in arms]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{where}: arm {twice[0]} is given twice")
    return tuple(arms)
