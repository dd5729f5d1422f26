"""Whether a shard or part is sound: exact types and layout, own digests, values that can be numbers.

Run as a program it checks the files it is given, a line of JSON each: HDF5 may crash on a damaged file, and then takes
that process alone with it.
"""

import json
import os
import resource
import selectors
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from h5py import h5d, h5t

from pipeline.core.errors import InputError
from pipeline.dataset.shard_reader import ATTRIBUTES, DAVENET_WIDTH, LOGMEL_BANDS, FeatureFile, digests_of

MEMORY_BYTES = 8 << 30
"""Address space of a process that checks files."""
SECONDS_A_FILE = 60.0
"""Longest check of one file, reading at 20 MB/s apart."""
_STARTING_S = 60.0

_TYPES = {"f2": h5t.IEEE_F16LE, "f8": h5t.IEEE_F64LE, "i4": h5t.STD_I32LE, "i8": h5t.STD_I64LE, "u1": h5t.STD_U8LE}


def layout(identity: dict[str, Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dataset -> (type, shape behind the first axis) of a file with this Identity; `S`: text, `V32`: digests."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {
        "videos/id": ("S", ()),
        "videos/duration": ("f8", ()),
        "videos/logmel_start": ("f8", ()),
        "videos/decoder": ("S", ()),
        "rows/video_mask": ("u1", ()),
        "audio/mask": ("u1", ()),
        "logmel/frames": ("f2", (LOGMEL_BANDS,)),
        "captions/times": ("f8", (2,)),
        "captions/text": ("u1", ()),
        "captions/words": ("i4", ()),
        "words/text": ("u1", ()),
    }
    for name in ("rows/", "audio/", "logmel/", "captions/", "captions/text_", "captions/word_", "words/"):
        found[f"{name}offsets"] = ("i8", ())
    for stream, settings in identity["streams"].items():
        found[f"rows/{stream}"] = ("f2", (int(settings["width"]),))
    if identity["audio"]["store"] != "logmel":
        found["audio/davenet"] = ("f2", (DAVENET_WIDTH,))
    return found


def digest_names(identity: dict[str, Any]) -> set[str]:
    """Names in the group `digests` of a file with this Identity that holds a video."""
    names = "id duration logmel_start decoder video_mask audio_mask logmel times text text_lengths words".split()
    return {*names, *identity["streams"], *(["davenet"] if identity["audio"]["store"] != "logmel" else [])}


def verify(path: Path) -> list[str]:
    """Read a part or shard whole, hold it against the format and its own digests; a line per problem, none if sound."""
    problems: list[str] = []
    try:
        with FeatureFile(path) as file:
            opened = file._open
            problems += _unknown_names(opened)
            problems += problems or _wrong_types(opened, file.identity, path.stat().st_size)
            problems += problems or list(_misfits(opened))
            if not problems:
                problems += _wrong_content(file, opened)
    except (OSError, KeyError, ValueError, TypeError, IndexError, RuntimeError, OverflowError, MemoryError) as error:
        problems.append(f"not a whole shard: {(str(error) or type(error).__name__).splitlines()[0]}")
    except InputError as error:
        return [str(error)]
    return [f"{path}: {problem}" for problem in problems]


def _unknown_names(file: h5py.File) -> list[str]:
    """Names and links that don't belong: looked at before anything is followed."""
    problems = []
    if set(file.attrs) != set(ATTRIBUTES):
        problems.append(f"its attributes are {', '.join(sorted(file.attrs))}, wanted: {', '.join(sorted(ATTRIBUTES))}")
        return problems
    for attribute in ("kind", "name", "identity", "circumstance", "plan", "digest"):
        if not isinstance(file.attrs[attribute], str):
            problems.append(f"attribute {attribute} is no text")
    if problems:
        return problems
    identity = json.loads(file.attrs["identity"])
    wanted: dict[str, set[str]] = {}
    for name in layout(identity):
        group, _, dataset = name.partition("/")
        wanted.setdefault(group, set()).add(dataset)
    if len(file["videos"]["id"]):
        wanted["digests"] = digest_names(identity)
    if set(file) != set(wanted):
        return [f"its groups are {', '.join(sorted(file))}, wanted: {', '.join(sorted(wanted))}"]
    for group, names in wanted.items():
        if set(file[group]) != names:
            problems.append(f"{group} holds {', '.join(sorted(file[group]))}, wanted: {', '.join(sorted(names))}")
        for name in (group, *(f"{group}/{name}" for name in file[group])):
            if not isinstance(file.get(name, getlink=True), h5py.HardLink):
                problems.append(f"{name} is a link")
            elif len(file[name].attrs):
                problems.append(f"{name} has attributes")
    return problems


def _wrong_types(file: h5py.File, identity: dict[str, Any], file_bytes: int) -> list[str]:
    """Types, shapes and layout, by HDF5's own description: a byte order flipped leaves the bytes as they are."""
    problems = []
    wanted = layout(identity) | {f"digests/{name}": ("V32", ()) for name in file.get("digests", ())}
    for name, (kind, shape) in wanted.items():
        dataset = file[name]
        if not isinstance(dataset, h5py.Dataset):
            problems.append(f"{name} is no dataset")
            continue
        stored, plan = dataset.id.get_type(), dataset.id.get_create_plist()
        if not _is_type(stored, kind):
            problems.append(f"{name} isn't of type {kind}")
        elif len(dataset.shape) != 1 + len(shape) or dataset.shape[1:] != shape or dataset.maxshape != dataset.shape:
            problems.append(f"{name} has the shape {dataset.shape}, wanted: (n, {', '.join(map(str, shape))})")
        elif plan.get_layout() != h5d.CONTIGUOUS or plan.get_nfilters() or plan.get_external_count():
            problems.append(f"{name} isn't contiguous and plain")
        elif dataset.size * stored.get_size() > file_bytes:
            problems.append(f"{name} is said to be larger than the file")
    return problems


def _is_type(stored: Any, kind: str) -> bool:
    if kind == "S":
        return (
            stored.get_class() == h5t.STRING
            and not stored.is_variable_str()
            and stored.get_strpad() == h5t.STR_NULLPAD
            and stored.get_cset() == h5t.CSET_ASCII
        )
    if kind == "V32":
        return stored.get_class() == h5t.OPAQUE and stored.get_size() == 32
    return bool(stored.equal(_TYPES[kind]))


def _misfits(file: h5py.File) -> Iterator[str]:
    """What can be told from sizes alone: every index starts at 0, never falls, and ends where its dataset ends."""
    streams = json.loads(file.attrs["identity"])["streams"]
    owned = {
        "rows/offsets": ["rows/video_mask", *(f"rows/{stream}" for stream in streams)],
        "audio/offsets": ["audio/mask", *(["audio/davenet"] if "davenet" in file["audio"] else [])],
        "logmel/offsets": ["logmel/frames"],
        "captions/offsets": ["captions/times"],
        "captions/text_offsets": ["captions/text"],
        "captions/word_offsets": ["captions/words"],
        "words/offsets": ["words/text"],
    }
    for name, datasets in owned.items():
        offsets = file[name][:]
        if not len(offsets) or offsets[0] != 0 or (np.diff(offsets) < 0).any():
            yield f"{name} is no index"
        elif wrong := [dataset for dataset in datasets if len(file[dataset]) != offsets[-1]]:
            yield f"{name} ends at {offsets[-1]}, but {wrong[0]} holds {len(file[wrong[0]])}"
    for name in ("rows/video_mask", "audio/mask"):
        if (file[name][:] > 1).any():
            yield f"{name} holds values other than 0 and 1"
    for name in ("rows/offsets", "audio/offsets", "logmel/offsets", "captions/offsets"):
        if len(file[name]) != len(file["videos/id"]) + 1:
            yield f"{name} has {len(file[name])} entries for {len(file['videos/id'])} videos"


def _wrong_content(file: FeatureFile, opened: h5py.File) -> list[str]:
    problems = []
    ids = file.video_ids
    if len(set(ids)) < len(ids):
        problems.append("holds a video twice")
    for index, video in enumerate(file.videos()):
        for name, digest in digests_of(video).items():
            if opened[f"digests/{name}"][index].tobytes() != digest:
                problems.append(f"{name} of video {ascii(video.video_id)} doesn't match its sha256")
        for name, rows in {**video.video, "davenet": video.audio, "logmel": video.logmel}.items():
            if rows is not None and not np.isfinite(rows).all():
                problems.append(f"{name} of video {video.video_id} holds NaN or infinity")
    if opened.attrs["digest"] != file.seal():
        problems.append("its attributes (name, plan, Identity or Provenance) don't match their sha256")
    return problems


class ShardChecker:
    """Checks files in a process of its own: one that crashes or stops HDF5 costs itself alone. A context manager."""

    def __init__(self, seconds: float = SECONDS_A_FILE) -> None:
        self._seconds = seconds
        self._child: subprocess.Popen[bytes] | None = None

    def check(self, path: Path) -> list[str]:
        """The file's problems, as `verify` tells them."""
        child = self._child = self._child or subprocess.Popen(
            [sys.executable, "-m", "pipeline.dataset.shard_check"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(),
            bufsize=0,  # a line read ahead would hide from `select`
        )
        assert child.stdin is not None and child.stdout is not None
        limit = _STARTING_S + self._seconds + (path.stat().st_size / 20e6 if path.exists() else 0)
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            with suppress(BrokenPipeError):
                child.stdin.write(json.dumps(str(path)).encode() + b"\n")
                child.stdin.flush()
            # The child says first that it has begun: loading its libraries is no part of the file's time.
            begun = child.stdout.readline() if selector.select(limit) else b""
            answer = child.stdout.readline() if begun and selector.select(limit - _STARTING_S) else b""
        if not answer:
            self.close()
            return [f"{path}: checking it crashes or stops the HDF5 library: damaged"]
        problems: list[str] = json.loads(answer)
        return problems

    def close(self) -> None:
        """End the process."""
        if self._child is not None:
            assert self._child.stdin is not None and self._child.stdout is not None
            self._child.kill()
            self._child.wait()
            with suppress(BrokenPipeError):
                self._child.stdin.close()
            self._child.stdout.close()
        self._child = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def environment() -> dict[str, str]:
    """For a child that must import what this process does."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def _serve() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    for line in sys.stdin:
        print(flush=True)
        print(json.dumps(verify(Path(json.loads(line)))), flush=True)


if __name__ == "__main__":
    _serve()
