"""Copies of what training reads of a data set's shards, on a local disk (docs/data-format.md, "Staged copy")."""

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from pipeline.clips.dataset import FeatureDataset
from pipeline.clips.rules import ClipRules
from pipeline.core import signals
from pipeline.core.errors import InputError
from pipeline.core.files import ASIDE, AlreadyThereError, remove, write_aside
from pipeline.core.hdf5 import write_hdf5
from pipeline.core.lease import LeaseLostError, locked
from pipeline.core.reporting import Progress
from pipeline.dataset.schema import Field, fields
from pipeline.dataset.shard_plans import shard_path
from pipeline.dataset.shard_reader import FeatureFile, digests_of

GIB = 1 << 30
_BLOCK_BYTES = 32 << 20
_SPARE_BYTES = 64 << 20
"""Left free on the disk: logs and locks need room too."""
_CURE = "see `mcn verify`"


class _UnreadableError(InputError):
    """The shard itself can't be read: no reason to go on without a copy."""


def stage(dataset: FeatureDataset, rules: ClipRules, folder: Path, budget_gib: float) -> list[str]:
    """Copy what `rules` read of the manifest's shards to `folder`, in the shards' order, and read from there.

    Copies of an earlier run are used again. Copying ends when the next copy would take all copies beyond `budget_gib`,
    when the disk is full or this process is asked to stop; what isn't copied is read in place. Returns notes that say
    how much is where. Several processes may stage to one folder: one copies, the others wait for it. InputError when
    a shard can't be read or isn't what was frozen.
    """
    shards = list(dataset.manifest.shards)
    contents = {name: str(dataset.manifest.shards[name]["content"]) for name in shards}
    copies = {name: _copy_path(folder, name, contents[name], rules) for name in shards}
    layout = _copied(dataset, rules)
    reason = ""
    if not all(_is_whole(copies[name], contents[name], layout) for name in shards):
        try:
            with locked(folder / "staging.json", f"staging to {folder}", patient=True):
                # What a process that was killed has left half written: the lock says that none is at work.
                for path in folder.glob(f".[0-9]*-*.h5.*{ASIDE}"):
                    remove(path)
                reason = _copy_missing(dataset.folder, layout, copies, contents, budget_gib * GIB)
        except _UnreadableError:
            raise
        except (InputError, LeaseLostError) as error:
            reason = "asked to stop" if signals.asked_to_stop() else str(error)
    staged = [name for name in shards if _is_whole(copies[name], contents[name], layout)]
    for name in staged:
        dataset.read_from(name, copies[name])
    size = sum(copies[name].stat().st_size for name in staged)
    notes = [f"{len(staged)} of {len(shards)} shards ({size / GIB:.1f} GiB) are read from their copies in {folder}"]
    if len(staged) < len(shards):
        notes.append(f"{len(shards) - len(staged)} shards are read from {dataset.folder}: {reason}")
    return notes


def _copy_path(folder: Path, name: str, content: str, rules: ClipRules) -> Path:
    """A copy's name tells all that it depends on: the shard, its content, and what of it is there."""
    held = "+".join([*sorted(rules.streams), *([rules.audio] if rules.audio != "none" else [])])
    return folder / f"{name}-{content[:16]}-{held}.h5"


def _copied(dataset: FeatureDataset, rules: ClipRules) -> list[Field]:
    """What of a shard a copy holds: of the large datasets those that `rules` read."""
    read = {*rules.streams, rules.audio}
    return [field for field in fields(dataset.identity) if not field.large or field.digest in read]


def _is_whole(copy: Path, content: str, layout: list[Field]) -> bool:
    """Whether an earlier copy is there, not cut short (HDF5 looks at the file's length), with all that is read."""
    try:
        with FeatureFile(copy) as file:
            return all(field.name in file.hdf5 for field in layout) and file.attributes.get("content") == content
    except (InputError, OSError, KeyError, ValueError, RuntimeError):
        return False


def _copy_missing(
    dataset: Path, layout: list[Field], copies: dict[str, Path], contents: dict[str, str], budget: float
) -> str:
    """Copy shard by shard; returns why it ended before the last, or nothing."""
    used = 0
    with Progress("stage", len(copies), "shard") as progress:
        for number, (name, copy) in enumerate(copies.items()):
            shard = shard_path(dataset, name)
            if signals.asked_to_stop():
                return "asked to stop"
            size = _size(shard, layout)
            if used + size > budget:
                return f"--stage-budget is {budget / GIB:g} GiB"
            if not _is_whole(copy, contents[name], layout):
                if size + _SPARE_BYTES > shutil.disk_usage(copy.parent).free:
                    return f"{copy.parent} is full"
                try:
                    remove(copy)
                    with write_aside(copy, exclusive=True) as aside:
                        _copy(shard, aside, contents[name], layout)
                        _verify(aside, shard)
                except AlreadyThereError:
                    pass  # a process that has lost its lock has made the same copy
                except _UnreadableError:
                    raise
                except (InputError, OSError, RuntimeError) as error:
                    return f"{copy.parent}: {str(error).splitlines()[0]}"
            used += size
            progress.to(number + 1, f"{used / GIB:.1f} GiB")
    return ""


@contextmanager
def _reading(shard: Path) -> Iterator[None]:
    """What goes wrong while the block reads the shard is the shard's fault, not the local disk's."""
    try:
        yield
    except InputError as error:
        raise _UnreadableError(str(error)) from None
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise _UnreadableError(f"{shard}: can't be read ({reason}); {_CURE}") from None


def _size(shard: Path, layout: list[Field]) -> int:
    """Bytes that a copy takes, some kilobytes of HDF5's own apart."""
    with _reading(shard), FeatureFile(shard, _CURE) as file:
        return sum(file.hdf5[field.name].nbytes for field in layout)


def _copy(shard: Path, aside: Path, content: str, layout: list[Field]) -> None:
    with FeatureFile(shard, _CURE) as file, write_hdf5(aside, "w") as copy:
        with _reading(shard):
            attributes, source = dict(file.attributes), file.hdf5
        del attributes["digest"]
        for name, value in {**attributes, "kind": "copy", "content": content}.items():
            copy.attrs[name] = value if isinstance(value, str) else np.int64(value)
        for name in (
            *(field.name for field in layout),
            *(f"digests/{field.digest}" for field in layout if field.digest),
        ):
            with _reading(shard):
                values = source[name]
                entry_bytes = values.dtype.itemsize * math.prod(values.shape[1:])
            written = copy.create_dataset(name, values.shape, values.dtype)
            step = max(1, _BLOCK_BYTES // entry_bytes)
            for first in range(0, len(values), step):
                with _reading(shard):
                    block = values[first : first + step]
                written[first : first + step] = block


def _verify(aside: Path, shard: Path) -> None:
    """Read the copy back and hold each video against the shard's digests."""
    with FeatureFile(aside) as copied:
        for index, video_id in enumerate(copied.video_ids):
            digests = digests_of(copied.video(index, texts=False))
            for name, stated in copied.stored_digests(index).items():
                if stated != digests[name]:
                    raise _UnreadableError(
                        f"{shard}: {name} of video {video_id}, copied to {aside.parent}, doesn't match its sha256; "
                        f"{_CURE}"
                    )
