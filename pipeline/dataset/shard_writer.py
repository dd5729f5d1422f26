"""Writing shards and parts in HDF5, by docs/data-format.md: aside, verified against what went in, renamed."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.core.files import write_aside
from pipeline.core.hdf5 import write_hdf5
from pipeline.core.records import VideoFeatures
from pipeline.dataset.schema import SCHEMA, fields
from pipeline.dataset.shard_check import verify
from pipeline.dataset.shard_reader import FeatureFile, columns, digests_of


@dataclass(frozen=True)
class Origin:
    """What a part or shard says of itself: the Identity it was made under, the Provenance, and its place."""

    name: str
    identity: dict[str, Any]
    provenance: dict[str, Any]
    plan: str = ""
    """Digest of the plan; empty in a part."""


class BadValuesError(ValueError):
    """Values that half precision can't hold: NaN, infinite or beyond 65,504 in magnitude."""


def to_float16(values: NDArray[np.float32], what: str) -> NDArray[np.float16]:
    """Halve the precision; BadValuesError if a value is NaN, infinite or beyond 65,504 in magnitude."""
    largest = np.finfo(np.float16).max
    if not (np.abs(values) <= largest).all():
        raise BadValuesError(f"{what}: a value is NaN or beyond {largest:,.0f}, which half precision can't hold")
    return values.astype(np.float16)


@dataclass(frozen=True)
class _Outline:
    """How much room a video takes, known before its rows are read, and its words."""

    video_id: str
    counts: dict[str, Sequence[int]]
    """Dataset of offsets -> how many entries belong to the video, or to each of its captions."""
    words: frozenset[str]


def _outline(video: VideoFeatures) -> _Outline:
    counts = {
        "rows/offsets": [len(video.video_mask)],
        "audio/offsets": [len(video.audio_mask)],
        "logmel/offsets": [0 if video.logmel is None else len(video.logmel)],
        "captions/offsets": [len(video.captions)],
        "captions/text_offsets": [len(caption.text.encode()) for caption in video.captions],
        "captions/word_offsets": np.diff(video.words.offsets).tolist(),
    }
    # Of a table that it shares with other videos, its own words alone: theirs may be damaged, or forgotten.
    return _Outline(video.video_id, counts, frozenset(video.words.table[i] for i in np.unique(video.words.ids)))


def _offsets(counts: Iterable[int]) -> NDArray[np.int64]:
    return np.cumsum([0, *counts], dtype=np.int64)


def _write(
    path: Path,
    kind: str,
    origin: Origin,
    outlines: list[_Outline],
    videos: Callable[[], Iterator[VideoFeatures]],
    replace: bool = False,
) -> None:
    """Write the file aside in one pass over `videos`, verify it by reading it back, rename it to `path`."""
    layout = fields(origin.identity)
    words = sorted({word for outline in outlines for word in outline.words})
    word_ids = {word: index for index, word in enumerate(words)}
    encoded = [word.encode() for word in words]
    known = {
        field.name: _offsets(count for outline in outlines for count in outline.counts[field.name])
        for field in layout
        if field.is_index and field.index is not None
    }
    known["videos/id"] = np.array([outline.video_id.encode() for outline in outlines], "S")
    known["words/offsets"] = _offsets(map(len, encoded))
    known["words/text"] = np.frombuffer(b"".join(encoded), np.uint8)
    attributes = {
        "schema": np.int64(SCHEMA),
        "kind": kind,
        "name": origin.name,
        "identity": json.dumps(origin.identity, sort_keys=True),
        "circumstance": json.dumps(origin.provenance, sort_keys=True),
        "plan": origin.plan,
        "digest": "",
    }
    with write_aside(path, exclusive=not replace) as aside:
        with write_hdf5(aside, "w") as file:
            for name, value in attributes.items():
                file.attrs[name] = value
            for field in layout:
                if field.name in known:
                    file[field.name] = known[field.name]
                else:
                    length = known[field.index][-1] if field.index else len(outlines)
                    file.create_dataset(field.name, (length, *field.shape), field.dtype)
            dataset_of = {field.digest: field.name for field in layout if field.name not in known}
            filled = Counter[str]()
            digests = defaultdict[str, list[bytes]](list)
            for video in videos():
                ids = np.array([word_ids[video.words.table[i]] for i in video.words.ids], np.int32)
                for digest, values in (columns(video) | {"words": ids}).items():
                    if digest in dataset_of and len(values):
                        name = dataset_of[digest]
                        file[name][filled[name] : filled[name] + len(values)] = values
                        filled[name] += len(values)
                for name, sha256 in digests_of(video).items():
                    digests[name].append(sha256)
            for name, of_videos in digests.items():
                file[f"digests/{name}"] = np.frombuffer(b"".join(of_videos), "V32")
        with FeatureFile(aside) as written:
            seal = written.seal()
        with write_hdf5(aside, "r+") as file:
            file.attrs["digest"] = seal
        problems = verify(aside)
        if problems:
            raise OSError(f"{path}: what was written can't be read back: {problems[0]}")


def write_part(path: Path, video: VideoFeatures, origin: Origin, replace: bool = True) -> None:
    """Write one finished video; the part exists whole or not at all.

    Without `replace` one that another worker has written is kept: AlreadyThereError.
    """
    _write(path, "part", origin, [_outline(video)], lambda: iter([video]), replace)


def write_shard(path: Path, parts: Sequence[Path], origin: Origin, without: Collection[str] = ()) -> None:
    """Join parts, or a shard, into a closed shard, in the order given, one video in memory at a time.

    Videos whose ids are among `without` are left out. A shard that another worker has closed meanwhile is kept:
    AlreadyThereError.
    """

    def videos(**what: Any) -> Iterator[VideoFeatures]:
        for part in parts:
            with FeatureFile(part) as file:
                if file.identity != origin.identity:
                    raise InputError(
                        f"{part}: made with other settings than {path}; delete it to have it computed anew"
                    )
                kept = (index for index, video_id in enumerate(file.video_ids) if video_id not in without)
                yield from (file.video(index, **what) for index in kept)

    _write(path, "shard", origin, [_outline(video) for video in videos(streams=(), audio=False)], videos)
