"""Writing shards and parts in HDF5, by docs/data-format.md: aside, verified against what went in, renamed."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.core.files import write_aside
from pipeline.core.hdf5 import write_hdf5
from pipeline.core.records import VideoFeatures
from pipeline.dataset.shard_check import verify
from pipeline.dataset.shard_reader import DAVENET_WIDTH, LOGMEL_BANDS, SCHEMA, Array, FeatureFile, columns, digests_of

__all__ = ["FLOAT16_MAX", "SCHEMA", "FeatureFile", "Origin", "to_float16", "verify", "write_part", "write_shard"]

FLOAT16_MAX = 65504.0


@dataclass(frozen=True)
class Origin:
    """What a part or shard says of itself: the Identity it was made under, the Provenance, and its place."""

    name: str
    identity: dict[str, Any]
    provenance: dict[str, Any]
    plan: str = ""
    """Digest of the plan; empty in a part."""


def to_float16(values: NDArray[np.float32], what: str) -> NDArray[np.float16]:
    """Halve the precision; ValueError if a value is NaN, infinite or beyond 65,504 in magnitude."""
    if not np.isfinite(values).all() or (values.size and np.abs(values).max() > FLOAT16_MAX):
        raise ValueError(f"{what}: a value is NaN or beyond 65,504, which half precision can't hold")
    return values.astype(np.float16)


class _Growing:
    """Fills preallocated contiguous datasets from the front."""

    def __init__(self, file: h5py.File) -> None:
        self.file, self.filled = file, dict[str, int]()

    def append(self, dataset: str, values: Array) -> None:
        start = self.filled.get(dataset, 0)
        if len(values):
            self.file[dataset][start : start + len(values)] = values
        self.filled[dataset] = start + len(values)


@dataclass(frozen=True)
class _Sizes:
    """How much room one video takes; known before its rows are read."""

    video_id: str
    rows: int
    audio: int
    logmel: int
    caption_bytes: tuple[int, ...]
    caption_words: tuple[int, ...]
    table: tuple[str, ...]


def _sizes(video: VideoFeatures) -> _Sizes:
    return _Sizes(
        video.video_id,
        len(video.video_mask),
        len(video.audio_mask),
        0 if video.logmel is None else len(video.logmel),
        tuple(len(caption.text.encode()) for caption in video.captions),
        tuple(int(n) for n in np.diff(video.words.offsets)),
        # Of a table that it shares with other videos, its own words alone: theirs may be damaged, or forgotten.
        tuple(video.words.table[i] for i in np.unique(video.words.ids)),
    )


def _offsets(counts: Sequence[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)


def _write(
    path: Path, kind: str, origin: Origin, sizes: list[_Sizes], videos: Callable[[], Iterator[VideoFeatures]]
) -> None:
    """Write the file aside in one pass over `videos`, verify it by reading it back, rename it to `path`."""
    table = sorted({word for size in sizes for word in size.table})
    encoded = [word.encode() for word in table]
    position = {word: index for index, word in enumerate(table)}
    identity = origin.identity
    with write_aside(path, exclusive=kind == "shard") as aside:
        with write_hdf5(aside, "w") as file:
            file.attrs["schema"] = np.int64(SCHEMA)
            for name, text in {
                "kind": kind,
                "name": origin.name,
                "identity": json.dumps(identity, sort_keys=True),
                "circumstance": json.dumps(origin.provenance, sort_keys=True),
                "plan": origin.plan,
                "digest": "",
            }.items():
                file.attrs[name] = text
            count, rows = len(sizes), sum(size.rows for size in sizes)
            audio, captions = sum(size.audio for size in sizes), sum(len(size.caption_bytes) for size in sizes)
            file["videos/id"] = np.array([size.video_id.encode() for size in sizes], "S")
            file["rows/offsets"] = _offsets([size.rows for size in sizes])
            file["audio/offsets"] = _offsets([size.audio for size in sizes])
            file["logmel/offsets"] = _offsets([size.logmel for size in sizes])
            file["captions/offsets"] = _offsets([len(size.caption_bytes) for size in sizes])
            file["captions/text_offsets"] = _offsets([n for size in sizes for n in size.caption_bytes])
            file["captions/word_offsets"] = _offsets([n for size in sizes for n in size.caption_words])
            file["words/offsets"] = _offsets([len(word) for word in encoded])
            file["words/text"] = np.frombuffer(b"".join(encoded), np.uint8)
            room: dict[str, tuple[tuple[int, ...], Any]] = {
                "videos/duration": ((count,), "<f8"),
                "videos/logmel_start": ((count,), "<f8"),
                "videos/decoder": ((count,), "S16"),
                "rows/video_mask": ((rows,), "u1"),
                "audio/mask": ((audio,), "u1"),
                "logmel/frames": ((sum(size.logmel for size in sizes), LOGMEL_BANDS), "<f2"),
                "captions/times": ((captions, 2), "<f8"),
                "captions/text": ((sum(sum(size.caption_bytes) for size in sizes),), "u1"),
                "captions/words": ((sum(sum(size.caption_words) for size in sizes),), "<i4"),
            }
            for stream, settings in identity["streams"].items():
                room[f"rows/{stream}"] = ((rows, settings["width"]), "<f2")
            if identity["audio"]["store"] != "logmel":
                room["audio/davenet"] = ((audio, DAVENET_WIDTH), "<f2")
            for dataset, (shape, dtype) in room.items():
                file.create_dataset(dataset, shape, dtype)
            growing = _Growing(file)
            digests: dict[str, list[bytes]] = {}
            for video in videos():
                for dataset, values in columns(video).values():
                    growing.append(dataset, values)
                growing.append(
                    "captions/words", np.array([position[video.words.table[i]] for i in video.words.ids], np.int32)
                )
                for name, digest in digests_of(video).items():
                    digests.setdefault(name, []).append(digest)
            for name, of_videos in digests.items():
                file[f"digests/{name}"] = np.frombuffer(b"".join(of_videos), "V32")
        with FeatureFile(aside) as written:
            seal = written.seal()
        with write_hdf5(aside, "r+") as file:
            file.attrs["digest"] = seal
        problems = verify(aside)
        if problems:
            raise OSError(f"{path}: what was written can't be read back: {problems[0]}")


def write_part(path: Path, video: VideoFeatures, origin: Origin) -> None:
    """Write one finished video; the part exists whole or not at all."""
    _write(path, "part", origin, [_sizes(video)], lambda: iter([video]))


def write_shard(path: Path, parts: Sequence[Path], origin: Origin) -> None:
    """Join parts into a closed shard, in the order given, one video in memory at a time.

    A shard that another worker has closed meanwhile is kept: AlreadyThereError.
    """
    sizes = []
    for part in parts:
        with FeatureFile(part) as file:
            if file.identity != origin.identity:
                raise InputError(f"{part}: made with other settings than {path}; delete it to have it computed anew")
            sizes += [_sizes(video) for video in file.videos(streams=(), audio=False, logmel=True)]

    def videos() -> Iterator[VideoFeatures]:
        for part in parts:
            with FeatureFile(part) as file:
                yield from file.videos()

    _write(path, "shard", origin, sizes, videos)
