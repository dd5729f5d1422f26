"""Settings that name addresses: what lies there is fetched to this machine, and checked, before a stage begins.

A stage sees local files alone. Copies lie in the folder of caches, one for each address; a file that the store has not
changed is fetched once. What can't be done at an address is refused before anything is fetched.
"""

import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from extractors.cache_folder import FOLDER, cache_folder
from extractors.weight_specs import mapped_weights, weight_items
from pipeline.core.config import flag_of, settings_in
from pipeline.core.errors import InputError
from pipeline.core.files import write_aside
from pipeline.core.formatting import size as size_text
from pipeline.core.remote import Store, Stored, address_of
from pipeline.dataset.manifest import MANIFESTS, read_manifest
from pipeline.dataset.shard_check import ShardChecker
from pipeline.dataset.shard_plans import read_receipt
from pipeline.dataset.shard_reader import FeatureFile

_TEXTS = ("weights", "davenet_weights", "path")
"""Settings whose text may name a file."""
_MAPPED = "weights"
"""The one that may give several, each for a stream."""
_OF_WORK = ("parts", "leases")
"""Folders of a data set that a reader doesn't need."""
_RECORD = "fetched.jsonl"

Result = TypeVar("Result")


def with_copies(settings: Any, stage: str, written: Collection[str], kept: Collection[str]) -> Any:
    """The settings with local paths in the place of addresses, save those of `kept`, which the stage reads itself.

    InputError for an address in one of `written`, or of media that the stage doesn't read itself.
    """
    places: dict[str, Any] = {}
    for name, given in _addresses(settings):
        if name in kept:
            continue
        for address in given.values():
            where = f"mcn {stage}: {flag_of(name)}: {address}"
            if name in written:
                raise InputError(f"{where}: what is written or changed must be a local folder; upload it afterwards")
            if name == "media":
                raise InputError(f"{where}: only `mcn extract` reads media at an address; give a local folder")
        places[name] = given
    copies = {
        name: {path: _copy(address, is_manifest=name == "manifest") for path, address in given.items()}
        for name, given in places.items()
    }
    return _replaced(settings, copies) if copies else settings


def _addresses(settings: Any) -> Iterator[tuple[str, dict[Any, str]]]:
    """Setting -> its values that are addresses, with these."""
    if not dataclasses.is_dataclass(settings):
        return
    known = settings_in(typing.cast(type, type(settings)))
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            yield from _addresses(value)
            continue
        kinds = (known[field.name].type, *typing.get_args(known[field.name].type)) if field.name in known else ()
        values = value if isinstance(value, tuple) else (value,)
        wanted: list[Any] = [one for one in values if isinstance(one, Path) and Path in kinds]
        texts = [one for one in values if isinstance(one, str) and field.name in _TEXTS and "://" in one]
        for text in texts:
            wanted += [spec for _, spec in weight_items(text)] if field.name == _MAPPED else [text]
        if given := {one: address for one in wanted if (address := address_of(one))}:
            yield field.name, given


def _replaced(settings: Any, copies: Mapping[str, Mapping[Any, Path]]) -> Any:
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            changes[field.name] = _replaced(value, copies)
        elif field.name in copies:
            local = copies[field.name]
            if isinstance(value, tuple):
                changes[field.name] = tuple(local.get(one, one) for one in value)
            elif field.name == _MAPPED:
                changes[field.name] = mapped_weights(value, lambda spec, local=local: str(local.get(spec, spec)))  # type: ignore[misc]
            else:
                changes[field.name] = str(local[value]) if isinstance(value, str) else local[value]
    return dataclasses.replace(settings, **changes)


def _copy(address: str, is_manifest: bool) -> Path:
    """A local copy of a file or folder; of a manifest's with the data set around it, as far as it needs that."""
    if not is_manifest:
        return copy_of(address)
    root, folder, name = address.rsplit("/", 2) if address.count("/") > 3 else ("", "", "")
    if folder != MANIFESTS:
        raise InputError(f"{address}: expected the address of a manifest, DATASET/{MANIFESTS}/NAME.json")
    manifest = copy_of(root, lambda file: file == f"{MANIFESTS}/{name}") / MANIFESTS / name
    shards = read_manifest(manifest).shards

    def is_needed(file: str) -> bool:
        top, stem = PurePosixPath(file).parts[0], PurePosixPath(file).stem
        return top != "ledger" and (top != "shards" or stem in shards)

    return copy_of(root, is_needed) / MANIFESTS / name


def copy_of(
    address: str, is_needed: Callable[[str], bool] = lambda name: True, shards_as_holes: bool = False
) -> Path:
    """A local copy of the file or folder at an address: of a folder the files that `is_needed` names, without parts and
    leases. Shards are checked whole, and against their receipts.

    With `shards_as_holes`, for who reads receipts alone, it is another copy, in which shards have their sizes and
    nothing else.

    MissingError, InputError and StoreAwayError as `Store` raises them; InputError without room, or for a shard that
    isn't sound.
    """
    store = Store(address)
    kind = "outlines" if shards_as_holes else "copies"
    home = cache_folder() / kind / hashlib.sha256(address.encode()).hexdigest()[:16]
    local = home / PurePosixPath(address).name
    alone = store.stored()
    everything = {"": alone} if alone is not None else store.listing()
    needed = {
        name: stored
        for name, stored in everything.items()
        if name.split("/")[0] not in _OF_WORK and (name == "" or is_needed(name))
    }
    with _only_one(home):
        record = _recorded(home / _RECORD)
        for name in record.keys() - everything.keys():
            (local / name).unlink(missing_ok=True)
        lacking = {
            name: stored
            for name, stored in needed.items()
            if record.get(name) != _state(stored) or _size(local / name) != stored.size
        }
        fetched = {name for name in lacking if not (shards_as_holes and _is_shard(name))}
        _refuse_without_room(home, address, sum(lacking[name].size for name in fetched))
        # Receipts first: each shard is checked against its own.
        for name in sorted(lacking, key=lambda name: (name.endswith(".h5"), name)):
            with write_aside(local / name) as aside:
                if name in fetched:
                    store.fetch(name, aside, lacking[name])
                else:
                    aside.touch()
                    os.truncate(aside, lacking[name].size)
            if name in fetched and _is_shard(name):
                _refuse_unsound(local, name, address)
            with open(home / _RECORD, "a", encoding="utf-8") as file:
                file.write(json.dumps([name, _state(lacking[name])]) + "\n")
    return local


def with_upload(address: str, name: str, make: Callable[[Path], Result]) -> Result:
    """Do `make` in a copy of the data set at an address, shards as holes, and upload the file `name` that it makes.

    One that is in the store stays. InputError where another process has put one there meanwhile.
    """
    store, copy = Store(address), copy_of(address, lambda file: not file.startswith("weights/"), shards_as_holes=True)
    result = make(copy)
    if store.stored(name) is None:
        try:
            store.put_bytes((copy / name).read_bytes(), name, exclusive=store.is_exclusive)
        except FileExistsError:
            (copy / name).unlink()
            raise InputError(f"{address}/{name}: another process has just made it; run this again") from None
        print(f"uploaded: {address}/{name}", flush=True)
    return result


def _is_shard(name: str) -> bool:
    return PurePosixPath(name).parent.name == "shards" and name.endswith(".h5")


def _state(stored: Stored) -> list[Any]:
    return [stored.size, stored.version]


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _recorded(path: Path) -> dict[str, list[Any]]:
    """Name -> state of what was fetched and checked; a line that a kill cut short counts nothing."""
    record: dict[str, list[Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            name, state = json.loads(line)
        except ValueError:
            continue
        record[name] = state
    return record


def _refuse_without_room(home: Path, address: str, size: int) -> None:
    free = shutil.disk_usage(home).free
    if size > free:
        raise InputError(
            f"{address}: {size_text(size)} are to be fetched, {cache_folder()} has room for {size_text(free)}: make "
            f"room, or name another folder by the variable {FOLDER}"
        )


def _refuse_unsound(dataset: Path, name: str, address: str) -> None:
    """InputError, and the file is gone, where a fetched shard isn't sound or isn't what its receipt says."""
    path = dataset / name
    with ShardChecker() as checker:
        problems = checker.check(path)
    receipt = read_receipt(path.parents[1], path.stem)
    if not problems and receipt is not None:
        with FeatureFile(path) as file:
            if file.content_digest() != receipt.content:
                problems = ["not what its receipt says"]
    if problems:
        path.unlink()
        raise InputError(f"{address}/{name}: {problems[0]}; upload it anew from a sound copy")


@contextmanager
def _only_one(home: Path) -> Iterator[None]:
    """One process at a time fetches to a copy; the others wait, and find it there."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = os.open(home / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise InputError(f"{home}: {error.strerror}; name another folder by the variable {FOLDER}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
