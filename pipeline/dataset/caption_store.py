"""`captions.h5`: all captions of a source in a compact file beside the data set, one video's at a time in memory.

A caption file of 1.5 GB is read once, as a stream; workers then look up their videos' captions by id.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.core.files import write_aside
from pipeline.core.hdf5 import Attributes, DatasetLayout, Layout, LayoutError, PlainFile, read_hdf5, write_hdf5
from pipeline.core.records import Caption
from pipeline.core.reporting import Progress
from pipeline.core.video_ids import is_media_name
from pipeline.dataset.captions import caption_identity, drop_overlapping_repeats, read_caption_csv, read_caption_file
from pipeline.dataset.folder import forgotten, is_forgotten

FILE = "captions.h5"
SCHEMA = 1
ATTRIBUTES = frozenset(("schema", "identity", "left_out"))
"""Of the root."""
_FLUSH_BYTES = 16 << 20
_DATASETS = {
    "videos/id": DatasetLayout("S", chunked=True),
    "videos/place": DatasetLayout("<i8", (4,), chunked=True),
    "videos/sha256": DatasetLayout("V32", chunked=True),
    "captions/times": DatasetLayout("<f8", (2,), chunked=True),
    "captions/text_bytes": DatasetLayout("<i4", chunked=True),
    "captions/text": DatasetLayout("u1", chunked=True),
}


def _layout(attributes: Attributes, names: frozenset[str]) -> Layout:
    if set(attributes) != ATTRIBUTES:
        raise LayoutError("no captions of this program")
    if attributes["schema"] != SCHEMA:
        raise LayoutError(f"schema {attributes['schema']}, this program reads {SCHEMA}")
    return _DATASETS


class CaptionStore:
    """Reads `captions.h5`. Opened at first use, again in each process. InputError when the file is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: PlainFile | None = None
        self._process = -1
        self._ids: NDArray[np.bytes_] = np.zeros(0, "S1")

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_file": None, "_process": -1, "_ids": np.zeros(0, "S1")}

    def _broken(self, reason: object) -> InputError:
        text = (str(reason).splitlines() or ["damaged"])[0]
        return InputError(f"{self.path}: {text}; delete it: the next extraction makes it anew from --captions")

    @property
    def _open(self) -> PlainFile:
        if self._file is None or self._process != os.getpid():
            try:
                self._file = read_hdf5(self.path, _layout)
                self._process = os.getpid()
                self._check(self._file)
            except (LayoutError, OSError, KeyError, ValueError, TypeError, RuntimeError, RecursionError) as error:
                self.close()
                raise self._broken(error) from None
        return self._file

    def _check(self, file: PlainFile) -> None:
        """Read the ids; LayoutError and ValueError when they, or what the attributes say, can't be those of a store."""
        attributes, lengths = file.contents.attributes, file.contents.lengths
        for names in (("videos/id", "videos/place", "videos/sha256"), ("captions/times", "captions/text_bytes")):
            if len({lengths[name] for name in names}) != 1:
                raise LayoutError(f"{', '.join(names)} differ in length")
        self._ids = file.values("videos/id")
        if (self._ids[1:] <= self._ids[:-1]).any():
            raise LayoutError("videos/id isn't in ascending order")
        for name, kind in (("identity", str), ("left_out", int)):
            if not all(isinstance(value, kind) for value in dict(json.loads(str(attributes[name]))).values()):
                raise LayoutError(f"attribute {name} is none of a store")

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        if self._file is not None and self._process == os.getpid():
            self._file.hdf5.close()
        self._file = None

    def __len__(self) -> int:
        return self.lengths["videos/id"]

    @property
    def lengths(self) -> Mapping[str, int]:
        """Number of entries of each dataset."""
        return self._open.contents.lengths

    @property
    def identity(self) -> dict[str, str]:
        """Which source, read how: the Identity's entry on captions."""
        return dict(json.loads(str(self._open.contents.attributes["identity"])))

    @property
    def left_out(self) -> dict[str, int]:
        """What of the source could not be used: reason -> how often."""
        return dict(json.loads(str(self._open.contents.attributes["left_out"])))

    def of(self, video_id: str) -> tuple[Caption, ...]:
        """The video's captions in time order; none if the source has none."""
        _ = self._open
        row = int(np.searchsorted(self._ids, video_id.encode()))
        if row >= len(self._ids) or self._ids[row] != video_id.encode():
            return ()
        return self._at(row)

    def items(self) -> Iterator[tuple[str, tuple[Caption, ...]]]:
        """Every video's id and captions, ids ascending."""
        _ = self._open
        for row, video_id in enumerate(self._ids):
            yield video_id.decode(), self._at(row)

    def _at(self, row: int) -> tuple[Caption, ...]:
        file, video_id = self._open.hdf5, self._ids[row].decode("ascii", "replace")
        try:
            first, count, text_first, text_bytes = (int(n) for n in file["videos/place"][row])
            if not is_media_name(video_id) or min(first, count, text_first, text_bytes) < 0:
                raise ValueError(f"video {video_id[:80]!a} can't be one")
            times = file["captions/times"][first : first + count]
            lengths = file["captions/text_bytes"][first : first + count]
            text = file["captions/text"][text_first : text_first + text_bytes].tobytes()
            digest = file["videos/sha256"][row].tobytes()
            if _digest(self._ids[row], times, lengths, text) != digest:
                raise ValueError(f"the captions of {video_id} don't match their sha256")
            ends = np.cumsum(lengths, dtype=np.int64)
            if len(times) != count or len(text) != text_bytes or (lengths < 0).any() or (ends[-1:] != text_bytes).any():
                raise ValueError(f"the captions of {video_id} lie elsewhere than it says")
            if not np.isfinite(times).all() or (times[:, 0] < 0).any() or (times[:, 1] <= times[:, 0]).any():
                raise ValueError(f"a caption of {video_id} has no time")
            return tuple(
                Caption(float(start), float(end), text[last - length : last].decode())
                for (start, end), length, last in zip(times, lengths, ends, strict=True)
            )
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise self._broken(error) from None


class CaptionFolder:
    """A folder of ID.csv, which may grow; read when asked for, with the same methods as `CaptionStore`."""

    def __init__(self, path: Path, drop_overlaps: bool) -> None:
        self.path, self._drop = path, drop_overlaps
        self._left_out: Counter[str] = Counter()

    @property
    def left_out(self) -> dict[str, int]:
        """What of the files read so far could not be used: reason -> how often."""
        return dict(self._left_out)

    def of(self, video_id: str) -> tuple[Caption, ...]:
        """The video's captions in time order; none if it has no file."""
        path = self.path / f"{video_id}.csv"
        if not is_media_name(video_id) or not path.is_file():
            return ()
        captions = read_caption_csv(path, self._left_out)
        return drop_overlapping_repeats(captions) if self._drop else captions

    def items(self) -> Iterator[tuple[str, tuple[Caption, ...]]]:
        """Every video's id and captions, ids ascending."""
        for name in sorted(os.listdir(self.path)):
            stem, suffix = os.path.splitext(name)
            if suffix == ".csv" and is_media_name(stem):
                yield stem, self.of(stem)

    def close(self) -> None:
        """Nothing is open."""


Captions = CaptionStore | CaptionFolder


def open_captions(dataset: Path, identity: Mapping[str, str], source: Path | None) -> Captions | None:
    """The captions that a data set was made with: its store, or the folder `source`; None without captions.

    `identity`: the Identity's entry on captions.
    """
    if not identity["format"]:
        return None
    if identity["format"] == "csv":
        if source is None:
            raise InputError(f"{dataset}: made with a folder of captions; give it as --captions again")
        return CaptionFolder(source, identity["overlaps"] == "dropped")
    return CaptionStore(dataset / FILE)


def build_caption_store(
    source: Path, out: Path, drop_overlaps: bool, identity: dict[str, str] | None = None
) -> CaptionStore:
    """Read `source` into `out`, unless that was made from the same bytes in the same way.

    `identity`: of `caption_identity`, where it is known: the file isn't read for it again. Captions of videos that the
    data set has forgotten are left out. InputError when `out` was made from others, or when `source` isn't a caption
    file.
    """
    identity = identity or caption_identity(source, drop_overlaps)
    if out.exists():
        store = CaptionStore(out)
        if store.identity != identity:
            raise InputError(
                f"{out}: made of {store.identity}, asked for {identity}; give those captions or another --out"
            )
        return store
    left_out: Counter[str] = Counter()
    with Progress("captions", source.stat().st_size, "byte") as progress:
        entries = read_caption_file(source, left_out, progress.to)
        if drop_overlaps:
            entries = ((video_id, drop_overlapping_repeats(captions)) for video_id, captions in entries)
        gone = forgotten(out.parent)
        kept = ((video_id, captions) for video_id, captions in entries if not is_forgotten(video_id, gone))
        _write(out, identity, kept, left_out)
    return CaptionStore(out)


def remove_from_store(path: Path, video_ids: Collection[str]) -> None:
    """Write the store anew without these videos."""
    store = CaptionStore(path)
    kept = ((video_id, captions) for video_id, captions in store.items() if video_id not in video_ids)
    _write(path, store.identity, kept, Counter(store.left_out))
    store.close()


def _digest(video_id: bytes, times: NDArray[np.float64], lengths: NDArray[np.int32], text: bytes) -> bytes:
    return hashlib.sha256(video_id + b"\0" + times.tobytes() + lengths.tobytes() + text).digest()


class _Column:
    """A dataset of unknown length, written in blocks."""

    def __init__(self, file: h5py.File, name: str, dtype: str, shape: tuple[int, ...] = ()) -> None:
        self._dataset = file.create_dataset(name, (0, *shape), dtype, maxshape=(None, *shape), chunks=(1 << 16, *shape))
        self._held: list[NDArray[Any]] = []
        self._bytes = 0

    def append(self, values: NDArray[Any]) -> None:
        self._held.append(values)
        self._bytes += values.nbytes
        if self._bytes > _FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        if self._bytes:
            values = np.concatenate(self._held)
            self._dataset.resize(len(self._dataset) + len(values), 0)
            self._dataset[-len(values) :] = values
        self._held, self._bytes = [], 0


def _write(
    out: Path, identity: dict[str, str], entries: Iterable[tuple[str, tuple[Caption, ...]]], left_out: Counter[str]
) -> None:
    ids: list[bytes] = []
    extents: list[tuple[int, int, int, int]] = []
    digests: list[bytes] = []
    with write_aside(out) as aside, write_hdf5(aside, "w") as file:
        columns = (
            _Column(file, "captions/times", "<f8", (2,)),
            _Column(file, "captions/text_bytes", "<i4"),
            _Column(file, "captions/text", "u1"),
        )
        captions_before = bytes_before = 0
        for video_id, captions in entries:
            encoded = [caption.text.encode() for caption in captions]
            times = np.array([(c.start, c.end) for c in captions], "<f8").reshape(-1, 2)
            lengths = np.array([len(text) for text in encoded], "<i4")
            text = b"".join(encoded)
            for column, values in zip(columns, (times, lengths, np.frombuffer(text, np.uint8)), strict=True):
                column.append(values)
            ids.append(video_id.encode())
            extents.append((captions_before, len(captions), bytes_before, len(text)))
            digests.append(_digest(ids[-1], times, lengths, text))
            captions_before += len(captions)
            bytes_before += len(text)
        for column in columns:
            column.flush()
        order = sorted(range(len(ids)), key=ids.__getitem__)
        file["videos/id"] = np.array([ids[i] for i in order], "S") if ids else np.zeros(0, "S1")
        file["videos/place"] = np.array([extents[i] for i in order], "<i8").reshape(-1, 4)
        file["videos/sha256"] = np.frombuffer(b"".join(digests[i] for i in order), "V32")
        file.attrs["schema"] = np.int64(SCHEMA)
        file.attrs["identity"] = json.dumps(identity, sort_keys=True)
        file.attrs["left_out"] = json.dumps({reason: count for reason, count in sorted(left_out.items()) if count})
