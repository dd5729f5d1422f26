"""Whether a shard or part is sound: exact types and layout, own digests, values that can be numbers."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5t

from pipeline.core.child import Child, ChildError
from pipeline.core.errors import InputError
from pipeline.dataset.schema import ATTRIBUTES, Field, fields
from pipeline.dataset.shard_reader import FeatureFile, digests_of

MEMORY_BYTES = 8 << 30
"""Address space of a process that checks files."""
SECONDS_A_FILE = 60.0
"""Longest check of one file, reading at 20 MB/s apart."""


def verify(path: Path) -> list[str]:
    """Read a part or shard whole, check it against the format and its own checksums; a line per problem."""
    try:
        with FeatureFile(path) as file:
            problems = (
                _unknown_names(file.hdf5)
                or _wrong_types(file.hdf5, fields(file.identity), path.stat().st_size)
                or list(_wrong_lengths(file.hdf5, fields(file.identity)))
                or list(_wrong_content(file))
            )
    except (OSError, KeyError, ValueError, TypeError, IndexError, RuntimeError, OverflowError, MemoryError) as error:
        problems = [f"not a whole shard: {(str(error) or type(error).__name__).splitlines()[0]}"]
    except InputError as error:
        return [str(error)]
    return [f"{path}: {problem}" for problem in problems]


def _unknown_names(file: h5py.File) -> list[str]:
    """Names and links that don't belong: looked at before anything is followed."""
    if set(file.attrs) != set(ATTRIBUTES):
        return [f"its attributes are {_listed(file.attrs)}, expected: {_listed(ATTRIBUTES)}"]
    problems = [f"attribute {a} is no text" for a in ATTRIBUTES if a != "schema" and not isinstance(file.attrs[a], str)]
    if problems:
        return problems
    layout = fields(json.loads(file.attrs["identity"]))
    expected = defaultdict[str, set[str]](set)
    for field in layout:
        group, _, name = field.name.partition("/")
        expected[group].add(name)
    if len(file["videos"]["id"]):
        expected["digests"] = {field.digest for field in layout if field.digest}
    if set(file) != set(expected):
        return [f"its groups are {_listed(file)}, expected: {_listed(expected)}"]
    for group, names in expected.items():
        if set(file[group]) != names:
            problems.append(f"{group} holds {_listed(file[group])}, expected: {_listed(names)}")
        for name in (group, *(f"{group}/{name}" for name in file[group])):
            if not isinstance(file.get(name, getlink=True), h5py.HardLink):
                problems.append(f"{name} is a link")
            elif len(file[name].attrs):
                problems.append(f"{name} has attributes")
    return problems


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _wrong_types(file: h5py.File, layout: list[Field], file_bytes: int) -> list[str]:
    """Types, shapes and layout, by HDF5's own description: a byte order flipped leaves the bytes as they are."""
    problems = []
    digests = [Field(f"digests/{name}", "V32") for name in file.get("digests", ())]
    for name, dtype, shape in ((field.name, field.dtype, field.shape) for field in (*layout, *digests)):
        dataset = file[name]
        if not isinstance(dataset, h5py.Dataset):
            problems.append(f"{name} is no dataset")
            continue
        stored, plan = dataset.id.get_type(), dataset.id.get_create_plist()
        if not _is_type(stored, dtype):
            problems.append(f"{name} isn't of type {dtype}")
        elif len(dataset.shape) != 1 + len(shape) or dataset.shape[1:] != shape or dataset.maxshape != dataset.shape:
            problems.append(f"{name} has the shape {dataset.shape}, expected: (n, {', '.join(map(str, shape))})")
        elif plan.get_layout() != h5d.CONTIGUOUS or plan.get_nfilters() or plan.get_external_count():
            problems.append(f"{name} isn't contiguous and plain")
        elif dataset.size * stored.get_size() > file_bytes:
            problems.append(f"{name} has a size beyond that of the file")
    return problems


def _is_type(stored: Any, dtype: str) -> bool:
    if dtype.startswith("S"):
        return (
            stored.get_class() == h5t.STRING
            and not stored.is_variable_str()
            and stored.get_strpad() == h5t.STR_NULLPAD
            and stored.get_cset() == h5t.CSET_ASCII
        )
    if dtype == "V32":
        return stored.get_class() == h5t.OPAQUE and stored.get_size() == 32
    return bool(stored.equal(h5t.py_create(np.dtype(dtype))))


def _wrong_lengths(file: h5py.File, layout: list[Field]) -> Iterator[str]:
    """What sizes alone show: every index starts at 0, never falls, and ends where its datasets end."""
    counts = {"": len(file["videos/id"])}
    for name in (field.name for field in layout if field.is_index):
        offsets = file[name][:]
        if not len(offsets) or offsets[0] != 0 or (np.diff(offsets) < 0).any():
            yield f"{name} isn't an ascending list of offsets from 0"
        else:
            counts[name] = int(offsets[-1])
    for field in layout:
        length = len(file[field.name])
        if field.index in counts and length != counts[field.index] + field.is_index:
            yield f"{field.name} has {length} entries, expected: {counts[field.index] + field.is_index}"
        if field.is_mask and (file[field.name][:] > 1).any():
            yield f"{field.name} holds values other than 0 and 1"


def _wrong_content(file: FeatureFile) -> Iterator[str]:
    ids = file.video_ids
    if len(set(ids)) < len(ids):
        yield "holds a video twice"
    for index, video in enumerate(file.videos()):
        stated = file.stored_digests(index)
        for name, digest in digests_of(video).items():
            if stated[name] != digest:
                yield f"{name} of video {ascii(video.video_id)} doesn't match its sha256"
        for name, rows in {**video.video, "davenet": video.audio, "logmel": video.logmel}.items():
            if rows is not None and not np.isfinite(rows).all():
                yield f"{name} of video {video.video_id} holds NaN or infinity"
    if not file.is_sealed():
        yield "its attributes (name, plan, Identity or Provenance) don't match their sha256"


class ShardChecker(Child):
    """Checks files in a process of its own: one that crashes or stops HDF5 costs itself alone. A context manager."""

    def __init__(self, seconds: float = SECONDS_A_FILE) -> None:
        super().__init__("pipeline.dataset.shard_check:verify", MEMORY_BYTES)
        self._seconds = seconds

    def check(self, path: Path) -> list[str]:
        """The file's problems, as `verify` tells them; InputError when no process can be started to look for them."""
        problems: list[str]
        try:
            problems = self.call(path, limit_s=self._seconds + (path.stat().st_size / 20e6 if path.exists() else 0))
        except ChildError as error:
            if error.reason == "start":
                raise InputError(f"{path}: the process that reads it {error}; rerun") from None
            problems = [f"{path}: checking it crashes or stops the HDF5 library: damaged"]
        return problems
