"""A data set's folder: made once with its Identity; whoever can't meet the Identity is refused."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.core.errors import InputError
from pipeline.core.files import AlreadyThereError, read_json, write_json

FORGETTING = "forgetting.json"
"""Journal of a `mcn forget` at work or interrupted."""


def refuse_half_forgotten(folder: Path) -> None:
    """InputError while videos of the data set are half forgotten."""
    if (folder / FORGETTING).exists():
        raise InputError(f"{folder}: a `mcn forget` was interrupted; finish it first: mcn forget --dataset {folder}")


def settle(folder: Path, description: dict[str, Any]) -> dict[str, Any]:
    """Make `folder/dataset.json` from `description`, or check that the one there has the same `identity`.

    Returns what is on disk. Raises InputError naming each field that differs and both values.
    """
    path = folder / "dataset.json"
    with suppress(AlreadyThereError):
        if not path.exists():
            write_json(path, description, exclusive=True)
            return description
    found: dict[str, Any] = read_description(folder)
    differences = _differences(found["identity"], description["identity"], "")
    if differences:
        raise InputError(
            f"{path}: this data set was made with other settings: {'; '.join(differences)}; "
            "use those settings again or another --out"
        )
    return found


def read_description(folder: Path) -> dict[str, Any]:
    """Read `folder/dataset.json`; InputError if it is missing, broken or holds no Identity."""
    path = folder / "dataset.json"
    found = read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("identity"), dict):
        raise InputError(f"{path}: holds no Identity; restore it from a copy or choose another --out")
    return found


def _differences(there: Any, here: Any, name: str) -> list[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        keys = sorted(set(there) | set(here))
        return [
            line for key in keys for line in _differences(there.get(key), here.get(key), f"{name}.{key}".lstrip("."))
        ]
    return [] if there == here else [f"{name} is {there!r} there, {here!r} here"]
