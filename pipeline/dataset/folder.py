"""A data set's folder: its Identity, which every worker must meet, and the tombstones of forgotten videos."""

import hashlib
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from extractors.networks import is_video_network
from pipeline.core.errors import InputError, suggest_below
from pipeline.core.files import AlreadyThereError, read_json, write_json
from pipeline.core.provenance import recorded_path
from pipeline.core.video_ids import is_media_name

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
    stored: dict[str, Any] = read_description(folder)
    differences = _differences(stored["identity"], description["identity"], "")
    if differences:
        more = f" and {len(differences) - _NAMED} more" if len(differences) > _NAMED else ""
        raise InputError(
            f"{path}: made with other settings: {'; '.join(differences[:_NAMED])}{more}; give those, or another --out"
        )
    return stored


def read_description(folder: Path) -> dict[str, Any]:
    """Read `folder/dataset.json`; InputError if it is missing, broken or holds no Identity."""
    path = folder / "dataset.json"
    if not path.exists():
        at_hand = suggest_below(folder, ("*/dataset.json",), named_by_folder=True)
        raise InputError(f"{path}: no such file: {folder} is no data set{at_hand}")
    description = read_json(path)
    if not isinstance(description, dict) or not isinstance(description.get("identity"), dict):
        raise InputError(f"{path}: holds no Identity; restore it from a copy or choose another --out")
    return description


def stream_of(folder: Path, identity: dict[str, Any], stream: str) -> dict[str, Any]:
    """What a data set's Identity says of a video stream; InputError names the streams there are."""
    streams: dict[str, dict[str, Any]] = identity.get("streams", {})
    if stream not in streams:
        made = "" if is_video_network(stream) else "; `mcn extract` makes none of that name"
        raise InputError(f"{folder}: no video stream {stream!r}; it has: {', '.join(streams)}{made}")
    return streams[stream]


def made_from(folder: Path, name: str) -> Path | None:
    """The file or folder that setting `name` of the data set's extraction named, where it is now if it has moved
    together with the data set; None where none is recorded. InputError as `read_description`."""
    settings = read_description(folder).get("settings", {})
    recorded = settings.get(name) if isinstance(settings, dict) else None
    return recorded_path(str(recorded), str(settings.get("out", "")), folder) if recorded else None


def _differences(before: Any, now: Any, name: str) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(set(before) | set(now))
        return [
            line for key in keys for line in _differences(before.get(key), now.get(key), f"{name}.{key}".lstrip("."))
        ]
    return [] if before == now else [f"{name} was {_brief(before)}, now {_brief(now)}"]


_NAMED = 3


def _brief(value: Any) -> str:
    """A value of an Identity, of a digest the first digits."""
    return repr(value)[:40] if not (isinstance(value, str) and len(value) == 64) else value[:12]


FILE = "forgotten.json"
SCHEMA = 1


def forgotten(folder: Path) -> frozenset[str]:
    """The sha256 of every forgotten id of a data set or media folder; empty where nothing was forgotten.

    InputError when the file is there but broken: it must not be taken for empty.
    """
    path = folder / FILE
    if not path.exists():
        return frozenset()
    content = read_json(path)
    hashes = content.get("sha256") if isinstance(content, dict) and content.get("schema") == SCHEMA else None
    if not isinstance(hashes, list) or not all(isinstance(digest, str) for digest in hashes):
        raise InputError(f"{path}: not a list of forgotten videos; restore it from a copy")
    return frozenset(hashes)


def tombstone(video_id: str) -> str:
    """What stands for a forgotten id."""
    return hashlib.sha256(video_id.encode()).hexdigest()


def is_forgotten(video_id: str, hashes: Collection[str]) -> bool:
    """Whether `video_id` is among the tombstones in `hashes`."""
    return bool(hashes) and tombstone(video_id) in hashes


def add_tombstones(folder: Path, video_ids: Collection[str]) -> None:
    """Add the ids to `folder`'s tombstones."""
    hashes = forgotten(folder) | {tombstone(video_id) for video_id in video_ids}
    write_json(folder / FILE, {"schema": SCHEMA, "sha256": sorted(hashes)})


def half_forgotten(dataset: Path) -> frozenset[str]:
    """The ids that an interrupted `mcn forget` has yet to finish with; InputError when the journal holds none."""
    path = dataset / FORGETTING
    if not path.exists():
        return frozenset()
    content = read_json(path)
    ids = content.get("ids") if isinstance(content, dict) else None
    if not isinstance(ids, list) or not all(isinstance(video_id, str) and is_media_name(video_id) for video_id in ids):
        raise InputError(f"{path}: not a list of ids; restore it from a copy, or write it anew: {{\"ids\": [...]}}")
    return frozenset(ids)


def kept_out(dataset: Path) -> frozenset[str]:
    """The sha256 of every id that is forgotten or on its way out of the data set."""
    return forgotten(dataset) | {tombstone(video_id) for video_id in half_forgotten(dataset)}
