"""The HDF5 file of clip embeddings (docs/search.md): written aside, read back, renamed; its vectors read by row.

Datasets of a file of V videos and C clips, every one contiguous:

    videos/id [V] text, videos/offsets [V + 1]        clips of each video: offsets[v] to offsets[v + 1]
    clips/times [C, 2] float64                        start and end, s
    clips/text [bytes], clips/text_offsets [C + 1]    UTF-8
    present/MODALITY [C] uint8                        1 where the clip has it; its rows are zero elsewhere
    vectors/SPACE/MODALITY [C, D] float16 or float32
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.core.files import Closeable, digest_of_json, write_aside
from pipeline.core.hdf5 import Attributes, DatasetLayout, LayoutError, read_hdf5, write_hdf5
from pipeline.core.hdf5 import Layout as HDF5Layout
from pipeline.core.video_ids import is_media_name

if TYPE_CHECKING:
    from pipeline.clips.rules import ClipSpan  # it brings PyTorch, which readers do without

SCHEMA = 1
ATTRIBUTES = frozenset(("schema", "kind", "made_of", "paths", "digests", "digest"))
"""Of the root."""
BLOCK_BYTES = 1 << 24

Array = NDArray[Any]


@dataclass(frozen=True)
class MadeOf:
    """All that the embeddings follow from: equal values give equal bytes on one machine."""

    checkpoint: str
    """sha256 of the checkpoint's file."""
    scheme: dict[str, Any]
    """The pairing scheme as a plain mapping."""
    manifest: dict[str, str]
    """`name` and `digest`."""
    split: str
    clips: str
    """`captions` or `windows`."""
    window_seconds: float
    rules: dict[str, Any]
    """How training cut clips."""
    precision: str
    """`float16` or `float32`."""
    normalised: bool
    """Whether vectors have length 1, so that an inner product is a cosine."""
    widths: dict[str, dict[str, int]]
    """Space -> modality -> D."""

    @property
    def modalities(self) -> list[str]:
        """All modalities of all spaces, sorted."""
        return sorted({modality for of_space in self.widths.values() for modality in of_space})

    @property
    def key(self) -> str:
        """sha256 of all this."""
        return digest_of_json(asdict(self))


@dataclass(frozen=True)
class IndexedClip:
    """One clip as a reader is shown it; times in seconds."""

    video_id: str
    start: float
    end: float
    caption: str


def vectors_name(space: str, modality: str) -> str:
    """The dataset of a modality's vectors in a space."""
    return f"vectors/{space}/{modality}"


Layout = dict[str, tuple[tuple[int, ...], Any]]
"""Shape and type of each dataset, in the order in which they are made."""


def _layout(made_of: MadeOf, ids: Any, videos: int, clips: int, text_bytes: int) -> Layout:
    datasets: Layout = {
        "videos/id": ((videos,), ids),
        "videos/offsets": ((videos + 1,), "<i8"),
        "clips/times": ((clips, 2), "<f8"),
        "clips/text_offsets": ((clips + 1,), "<i8"),
        "clips/text": ((text_bytes,), "u1"),
    }
    datasets |= {f"present/{modality}": ((clips,), "u1") for modality in made_of.modalities}
    stored = {"float16": "<f2", "float32": "<f4"}[made_of.precision]
    for space, widths in sorted(made_of.widths.items()):
        datasets |= {vectors_name(space, m): ((clips, width), stored) for m, width in sorted(widths.items())}
    return datasets


def _write(
    path: Path, made_of: MadeOf, paths: Mapping[str, str], layout: Layout, blocks: Iterable[tuple[str, Array]]
) -> None:
    """Fill the datasets from the front by `blocks` (dataset, rows), read all back, rename to `path`."""
    digests = {name: hashlib.sha256() for name in layout}
    filled = dict.fromkeys(layout, 0)
    with write_aside(path) as aside:
        with write_hdf5(aside, "w") as file:
            for name, (shape, dtype) in layout.items():
                file.create_dataset(name, shape, dtype, track_times=False)
            for name, rows in blocks:
                stored = np.ascontiguousarray(rows, layout[name][1])
                if len(stored):
                    file[name][filled[name] : filled[name] + len(stored)] = stored
                digests[name].update(stored.tobytes())
                filled[name] += len(stored)
            hexdigests = {name: digest.hexdigest() for name, digest in digests.items()}
            short = [name for name, (shape, _) in layout.items() if filled[name] != shape[0]]
            assert not short, f"rows are lacking in {short}"
            file.attrs["schema"] = np.int64(SCHEMA)
            file.attrs["kind"] = "embeddings"
            file.attrs["made_of"] = json.dumps(asdict(made_of), sort_keys=True)
            file.attrs["paths"] = json.dumps(dict(paths), sort_keys=True)
            file.attrs["digests"] = json.dumps(hexdigests, sort_keys=True)
            file.attrs["digest"] = digest_of_json({"made_of": asdict(made_of), "digests": hexdigests})
        problem = damage(aside)
        if problem:
            raise OSError(f"{path}: what was written can't be read back: {problem}")


def damage(path: Path) -> str:
    """What is wrong with an embeddings file, all of which is read; "" when it holds what its digests say."""
    with EmbeddingsFile(path) as file:
        digests = file.digests
        for name in sorted(digests):
            digest = hashlib.sha256()
            for rows in file.blocks(name):
                digest.update(np.ascontiguousarray(rows).tobytes())
            if digest.hexdigest() != digests[name]:
                return f"{name} doesn't match its sha256"
    return ""


def write_part(
    path: Path,
    made_of: MadeOf,
    clips: Sequence[tuple[str, Sequence[ClipSpan]]],
    batches: Iterable[tuple[str, Array]],
) -> None:
    """Write the clips of some videos: (id, spans) of each, and `batches` of (dataset, rows) of vectors and presence."""
    spans = [span for _, of_video in clips for span in of_video]
    texts = [span.text.encode() for span in spans]
    ids = np.array([video_id.encode() for video_id, _ in clips], "S")
    counts = [len(of_video) for _, of_video in clips]

    def blocks() -> Iterator[tuple[str, Array]]:
        yield "videos/id", ids
        yield "videos/offsets", np.cumsum([0, *counts])
        yield "clips/times", np.array([(span.start, span.end) for span in spans], np.float64).reshape(-1, 2)
        yield "clips/text_offsets", np.cumsum([0, *map(len, texts)])
        yield "clips/text", np.frombuffer(b"".join(texts), np.uint8)
        yield from batches

    layout = _layout(made_of, ids.dtype, len(clips), len(spans), sum(map(len, texts)))
    _write(path, made_of, {}, layout, blocks())


def join_parts(path: Path, made_of: MadeOf, paths: Mapping[str, str], parts: Sequence[Path]) -> None:
    """Join parts into one file, in the order given, a block in memory at a time.

    `paths` are hints where checkpoint and manifest lie: no part of the file's digest.
    """
    names: list[str] = []
    lengths: dict[str, int] = {}
    ids = np.dtype("S1")
    # One part open at a time: a data set has thousands.
    for path_of_part in parts:
        with EmbeddingsFile(path_of_part) as part:
            if part.made_of != made_of:
                raise InputError(f"{part.path}: made with other settings; delete it to have it computed anew")
            names = names or list(part.digests)
            for name in names:
                lengths[name] = lengths.get(name, 0) + part.dataset(name).shape[0]
            ids = max((ids, part.dataset("videos/id").dtype), key=lambda dtype: dtype.itemsize)

    def blocks() -> Iterator[tuple[str, Array]]:
        for name in names:
            base, last, begun = 0, 0, False
            for path_of_part in parts:
                with EmbeddingsFile(path_of_part) as part:
                    read = hashlib.sha256()
                    for block, rows in enumerate(part.blocks(name)):
                        read.update(np.ascontiguousarray(rows).tobytes())
                        if name.endswith("offsets"):
                            # Each part's offsets begin with 0, which is the end of the part before.
                            yield name, rows[1 if begun and not block else 0 :] + base
                            last = int(rows[-1])
                        else:
                            yield name, rows
                    if read.hexdigest() != part.digests[name]:
                        raise InputError(f"{part.path}: damaged; delete it to have it computed anew")
                base, begun = base + last, True

    layout = _layout(made_of, ids, *(lengths[name] for name in ("videos/id", "clips/times", "clips/text")))
    _write(path, made_of, paths, layout, blocks())


class VectorRows(Closeable):
    """Reads rows of one dataset of vectors as float32, without HDF5 and without mapping the file into memory."""

    def __init__(self, path: Path, offset: int, dtype: np.dtype[Any], shape: tuple[int, int]) -> None:
        self.path, self.count, self.width = path, *shape
        self._offset, self._dtype = offset, dtype
        self._descriptor = os.open(path, os.O_RDONLY)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def read(self, rows: Array) -> NDArray[np.float32]:
        """Rows [n, D] by number, in the order given; InputError for one that isn't there or finite."""
        if len(rows) and not 0 <= rows.min() <= rows.max() < self.count:
            raise InputError(f"{self.path}: holds {self.count} vectors, and none of a number asked for; index anew")
        rows_read = np.empty((len(rows), self.width), self._dtype)
        size = rows_read.strides[0]
        offsets = (rows.astype(np.int64) * size + self._offset).tolist()
        if hasattr(os, "posix_fadvise"):
            # A disk that is asked for all of them first reads them side by side.
            for offset in offsets:
                os.posix_fadvise(self._descriptor, offset, size, os.POSIX_FADV_WILLNEED)
        for index, offset in enumerate(offsets):
            _fill(self.path, self._descriptor, rows_read[index], offset)
        sound = np.isfinite(rows_read).all(axis=1)
        if not sound.all():
            wrong = int(rows[~sound][0])
            raise InputError(
                f"{self.path}: clip {wrong} has NaN or infinity in its vector; embed anew with `mcn embed`"
            )
        return rows_read.astype(np.float32)

    def blocks(self, block_bytes: int = BLOCK_BYTES) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(first row, rows [n, D]) of the whole dataset, `block_bytes` of float32 at a time."""
        step = max(1, block_bytes // (4 * self.width))
        for first in range(0, self.count, step):
            rows = np.empty((min(step, self.count - first), self.width), self._dtype)
            _fill(self.path, self._descriptor, rows, self._offset + first * rows.strides[0])
            yield first, rows.astype(np.float32)


def _fill(path: Path, descriptor: int, rows: Array, offset: int) -> None:
    """Fill contiguous `rows` with the file's bytes from `place` on."""
    view = rows.view(np.uint8).data.cast("B")
    while view:
        read = os.preadv(descriptor, [view], offset)
        if not read:
            raise InputError(f"{path}: was cut short; make it anew with `mcn embed`")
        view, offset = view[read:], offset + read


def _layout_of_file(attributes: Attributes, names: frozenset[str]) -> HDF5Layout:
    """What a file with these attributes holds."""
    if set(attributes) != ATTRIBUTES or attributes["kind"] != "embeddings":
        raise LayoutError("no embeddings of this program")
    if attributes["schema"] != SCHEMA:
        raise LayoutError(f"schema {attributes['schema']}, this program reads {SCHEMA}")
    made_of, _, digests = _described(attributes)
    layout = _layout(made_of, "S", 0, 0, 0)
    if set(digests) != set(layout):
        raise LayoutError("its digests aren't those of its datasets")
    return {name: DatasetLayout(dtype, shape[1:]) for name, (shape, dtype) in layout.items()}


def _described(attributes: Attributes) -> tuple[MadeOf, dict[str, str], dict[str, str]]:
    """What the embeddings are made of, paths and digests; ValueError when these can't be told."""
    content, paths, digests = (json.loads(str(attributes[name])) for name in ("made_of", "paths", "digests"))
    made_of = MadeOf(**{field.name: content[field.name] for field in fields(MadeOf)})
    if attributes["digest"] != digest_of_json({"made_of": asdict(made_of), "digests": digests}):
        raise LayoutError("its attributes were changed")
    texts = [made_of.checkpoint, made_of.split, made_of.clips, *made_of.manifest.values()]
    texts += [made_of.scheme["name"], *paths.values(), *digests.values()]
    texts += [text for space in made_of.scheme["spaces"] for text in (space["name"], *space["pairs"])]
    widths = [width for of_space in made_of.widths.values() for width in of_space.values()]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a text is none")
    if not widths or not all(type(width) is int and width > 0 for width in widths):
        raise ValueError("a width is none")
    return made_of, dict(paths), dict(digests)


def _check_lengths(lengths: Mapping[str, int]) -> None:
    videos, clips = lengths["videos/id"], lengths["clips/times"]
    expected = {"videos/offsets": videos + 1, "clips/text_offsets": clips + 1}
    for name, length in lengths.items():
        if name.startswith(("present/", "vectors/")):
            expected[name] = clips
        if length != expected.get(name, length):
            raise LayoutError(f"{name} has {length} entries, expected: {expected[name]}")


class EmbeddingsFile(Closeable):
    """Reads an embeddings file or one of its parts. InputError when it is missing or none, or holds what can't be."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1
        try:
            file = read_hdf5(path, _layout_of_file)
            self._file = file.hdf5
            self._descriptor = os.dup(file.hdf5.id.get_vfd_handle())
            self._places: dict[str, tuple[int, np.dtype[Any], tuple[int, ...]]] = {}
            self.made_of, self.paths, self.digests = _described(file.contents.attributes)
            self.digest = str(file.contents.attributes["digest"])
            self.clips = file.contents.lengths["clips/times"]
            try:
                _check_lengths(file.contents.lengths)
                self._offsets = file.values("videos/offsets")
                if self._offsets[0] != 0 or self._offsets[-1] != self.clips or (np.diff(self._offsets) < 0).any():
                    raise LayoutError(f"videos/offsets isn't an ascending list of offsets from 0 to {self.clips}")
            except BaseException:
                self.close()
                raise
        except LayoutError as error:
            raise self._unusable(error) from None

    def _unusable(self, reason: object) -> InputError:
        return InputError(f"{self.path}: {reason}; make embeddings with `mcn embed`")

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def dataset(self, name: str) -> h5py.Dataset:
        """A dataset by its name; KeyError without it."""
        return self._file[name]

    def blocks(self, name: str) -> Iterator[Array]:
        """A dataset from the front, some 16 MiB at a time."""
        data = self.dataset(name)
        step = max(1, BLOCK_BYTES // (data.dtype.itemsize * int(np.prod(data.shape[1:], dtype=np.int64))))
        for first in range(0, len(data), step):
            yield data[first : first + step]

    @property
    def video_ids(self) -> list[str]:
        """Ids in stored order."""
        ids = [video_id.decode("ascii", "replace") for video_id in self.dataset("videos/id")[:]]
        for video_id in ids:
            if not is_media_name(video_id):
                raise self._unusable(f"{video_id[:80]!a} can't name a video")
        return ids

    def rows_of(self, video_id: str) -> range:
        """The rows of a video's clips; empty for a video that isn't there."""
        (positions,) = np.nonzero(self.dataset("videos/id")[:] == video_id.encode())
        if not len(positions):
            return range(0)
        first, last = self._offsets[positions[0] : positions[0] + 2].tolist()
        return range(first, last)

    def times(self, rows: range) -> NDArray[np.float64]:
        """Start and end [n, 2] of clips that lie side by side, s."""
        return np.asarray(self.dataset("clips/times")[rows.start : rows.stop])

    def clip(self, row: int) -> IndexedClip:
        """One clip's table entry; InputError where the file has none, or one that can't be."""
        if not 0 <= row < self.clips:
            raise self._unusable(f"it has {self.clips} clips and no clip {row}")
        video = int(np.searchsorted(self._offsets, row, side="right")) - 1
        first, last = self._read("clips/text_offsets", row, row + 2).tolist()
        ((start, end),) = self._read("clips/times", row, row + 1).tolist()
        if not 0 <= first <= last <= len(self.dataset("clips/text")) or not math.isfinite(start + end):
            raise self._unusable(f"clip {row} has no text, or no time")
        video_id = self._read("videos/id", video, video + 1)[0].decode("ascii", "replace")
        text = self._read("clips/text", first, last).tobytes().decode("utf-8", "replace")
        if not is_media_name(video_id):
            raise self._unusable(f"{video_id[:80]!a} can't name a video")
        return IndexedClip(video_id, start, end, text)

    def _read(self, name: str, first: int, last: int) -> Array:
        """Rows of a dataset without HDF5, which takes a millisecond for each handful of bytes."""
        if name not in self._places:
            data = self.dataset(name)
            self._places[name] = (data.id.get_offset() or 0, data.dtype, data.shape)
        offset, dtype, shape = self._places[name]
        rows = np.empty((last - first, *shape[1:]), dtype)
        if rows.size:
            _fill(self.path, self._descriptor, rows, offset + first * rows.strides[0])
        return rows

    def present(self, modality: str) -> NDArray[np.bool_]:
        """[C]: which clips have the modality."""
        return np.asarray(self.dataset(f"present/{modality}")[:]).astype(bool)

    def vectors(self, space: str, modality: str) -> VectorRows:
        """The vectors of a modality in a space; the caller closes them."""
        data = self.dataset(vectors_name(space, modality))
        offset = data.id.get_offset()
        if offset is None:
            raise InputError(f"{self.path}: holds no clips to read; embed a manifest that has some")
        return VectorRows(self.path, offset, data.dtype, data.shape)
