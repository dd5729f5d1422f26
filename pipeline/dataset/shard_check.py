"""Whether a shard or part is sound: all that opening it asks for, own digests, values that can be numbers."""

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from pipeline.core.child import Child, ChildError
from pipeline.core.errors import InputError
from pipeline.dataset.shard_reader import FeatureFile, digests_of

MEMORY_BYTES = 8 << 30
"""Address space of a process that checks files."""
SECONDS_A_FILE = 60.0
"""Longest check of one file, reading at 20 MB/s apart."""


def verify(path: Path) -> list[str]:
    """Read a part or shard whole, check it against the format and its own checksums; a line per problem."""
    try:
        with FeatureFile(path) as file:
            problems = list(_wrong_content(file))
    except (OSError, KeyError, ValueError, TypeError, IndexError, RuntimeError, OverflowError, MemoryError) as error:
        problems = [f"not a whole shard: {(str(error) or type(error).__name__).splitlines()[0]}"]
    except InputError as error:
        return [str(error)]
    return [f"{path}: {problem}" for problem in problems]


def _wrong_content(file: FeatureFile) -> Iterator[str]:
    """What opening it leaves to be looked at; a lone byte that no video owns is found too."""
    names: list[str] = []
    file.hdf5.visit(names.append)
    for name in names:
        found = file.hdf5[name]
        if len(found.attrs):
            yield f"{name} has attributes"
        if isinstance(found, h5py.Dataset) and found.maxshape != found.shape:
            yield f"{name} can grow"
    file.table()
    offsets = file.hdf5["captions/text_offsets"]
    if (int(offsets[0]), int(offsets[-1])) != (0, len(file.hdf5["captions/text"])):
        yield "captions/text_offsets doesn't lead from the first to the last byte of captions/text"
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
