"""Shards and parts in HDF5, by docs/data-format.md: written aside, verified against what went in, renamed."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.files import write_aside
from pipeline.records import Caption, VideoFeatures, Words

SCHEMA = 1
FLOAT16_MAX = 65504.0
DAVENET_WIDTH, LOGMEL_BANDS = 1024, 40

Array = NDArray[Any]


@dataclass(frozen=True)
class Origin:
    """What a part or shard says of itself: the Identity it was made under, the Circumstance, and its place."""

    name: str
    identity: dict[str, Any]
    circumstance: dict[str, Any]
    plan: str = ""
    """Digest of the plan; empty in a part."""


def to_float16(values: NDArray[np.float32], what: str) -> NDArray[np.float16]:
    """Halve the precision; ValueError if a value is NaN, infinite or beyond 65,504 in magnitude."""
    if not np.isfinite(values).all() or (values.size and np.abs(values).max() > FLOAT16_MAX):
        raise ValueError(f"{what}: a value is NaN or beyond 65,504, which half precision can't hold")
    return values.astype(np.float16)


def _columns(video: VideoFeatures) -> dict[str, tuple[str, Array]]:
    """Digest name -> (dataset, the video's own array in it), words excepted: their ids depend on the table."""
    texts = b"".join(caption.text.encode() for caption in video.captions)
    empty = np.zeros((0, LOGMEL_BANDS), np.float16)
    columns: dict[str, tuple[str, Array]] = {
        "duration": ("videos/duration", np.array([video.duration], np.float64)),
        "logmel_start": ("videos/logmel_start", np.array([video.logmel_start], np.float64)),
        "decoder": ("videos/decoder", np.array([video.decoder.encode()])),
        "video_mask": ("rows/video_mask", video.video_mask.astype(np.uint8)),
        "audio_mask": ("audio/mask", video.audio_mask.astype(np.uint8)),
        "logmel": ("logmel/frames", empty if video.logmel is None else video.logmel),
        "times": ("captions/times", np.array([(c.start, c.end) for c in video.captions], np.float64).reshape(-1, 2)),
        "text": ("captions/text", np.frombuffer(texts, np.uint8)),
    }
    if video.audio is not None:
        columns["davenet"] = ("audio/davenet", video.audio)
    for stream, rows in video.video.items():
        columns[stream] = (f"rows/{stream}", rows)
    return columns


def _texts(video: VideoFeatures) -> dict[str, str]:
    """Digest name -> the video's own text in a dataset of fixed-length texts."""
    return {"id": video.video_id, "decoder": video.decoder}


def _digests(video: VideoFeatures) -> dict[str, bytes]:
    digests = {
        name: hashlib.sha256(np.ascontiguousarray(a).tobytes()).digest() for name, (_, a) in _columns(video).items()
    }
    # A fixed-length text is padded to the file's longest, which is none of the video's own.
    digests |= {name: hashlib.sha256(text.encode()).digest() for name, text in _texts(video).items()}
    words = hashlib.sha256()
    for index in range(len(video.captions)):
        words.update(b"".join(word.encode() + b"\0" for word in video.words.of_caption(index)) + b"\0")
    lengths = np.array([len(caption.text.encode()) for caption in video.captions], np.int64)
    return digests | {"words": words.digest(), "text_lengths": hashlib.sha256(lengths.tobytes()).digest()}


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
        video.words.table,
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
        with h5py.File(aside, "w", locking=False) as file:
            file.attrs["schema"] = np.int64(SCHEMA)
            for name, text in {
                "kind": kind,
                "name": origin.name,
                "identity": json.dumps(identity, sort_keys=True),
                "circumstance": json.dumps(origin.circumstance, sort_keys=True),
                "plan": origin.plan,
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
                for dataset, values in _columns(video).values():
                    growing.append(dataset, values)
                growing.append(
                    "captions/words", np.array([position[video.words.table[i]] for i in video.words.ids], np.int32)
                )
                for name, digest in _digests(video).items():
                    digests.setdefault(name, []).append(digest)
            for name, of_videos in digests.items():
                file[f"digests/{name}"] = np.frombuffer(b"".join(of_videos), "V32")
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


class FeatureFile:
    """Reads a shard or a part. Opened at first use, again in each process (HDF5 handles don't survive a fork).

    Raises InputError when the file is missing or isn't what docs/data-format.md describes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: h5py.File | None = None
        self._process = -1

    def __enter__(self) -> "FeatureFile":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_file": None, "_process": -1}

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        if self._file is not None and self._process == os.getpid():
            self._file.close()
        self._file = None

    @property
    def _open(self) -> h5py.File:
        if self._file is None or self._process != os.getpid():
            try:
                self._file = h5py.File(self.path, "r", locking=False)
            except OSError as error:
                state = (
                    "no such file"
                    if not self.path.exists()
                    else f"not a whole HDF5 file ({str(error).splitlines()[0]})"
                )
                raise InputError(f"{self.path}: {state}; extract the data set again to have it made anew") from None
            self._process = os.getpid()
            schema = self._file.attrs.get("schema")
            if schema != SCHEMA:
                self.close()
                raise InputError(f"{self.path}: schema {schema}, this program reads {SCHEMA}")
        return self._file

    @property
    def identity(self) -> dict[str, Any]:
        """The Identity under which the rows were made."""
        return dict(json.loads(self._open.attrs["identity"]))

    @property
    def circumstance(self) -> dict[str, Any]:
        """What is only recorded: versions, device, host, time."""
        return dict(json.loads(self._open.attrs["circumstance"]))

    @property
    def video_ids(self) -> list[str]:
        """Ids in stored order."""
        return [video_id.decode() for video_id in self._open["videos/id"][:]]

    @property
    def plan(self) -> str:
        """Digest of the plan this shard closes; empty in a part."""
        return str(self._open.attrs["plan"])

    def caption_counts(self) -> list[int]:
        """Captions of each video, in stored order."""
        return [int(count) for count in np.diff(self._open["captions/offsets"][:])]

    def table(self) -> tuple[str, ...]:
        """The file's words, sorted; the ids of `VideoFeatures.words` point into it."""
        offsets, text = self._open["words/offsets"][:], self._open["words/text"][:].tobytes()
        return tuple(text[a:b].decode() for a, b in zip(offsets, offsets[1:], strict=False))

    def videos(
        self, streams: Sequence[str] | None = None, audio: bool = True, logmel: bool = True
    ) -> Iterator[VideoFeatures]:
        """All videos in stored order; see `video`."""
        table = self.table()
        for index, video_id in enumerate(self.video_ids):
            yield self.video(index, video_id, table, streams, audio, logmel)

    def video(
        self,
        index: int,
        video_id: str,
        table: tuple[str, ...],
        streams: Sequence[str] | None = None,
        audio: bool = True,
        logmel: bool = True,
    ) -> VideoFeatures:
        """Video number `index`: one contiguous read a dataset.

        `streams` None means all; `audio` and `logmel` say whether to read those.
        """
        file = self._open
        identity = self.identity
        first, last = file["rows/offsets"][index : index + 2]
        audio_first, audio_last = file["audio/offsets"][index : index + 2]
        logmel_first, logmel_last = file["logmel/offsets"][index : index + 2]
        caption_first, caption_last = file["captions/offsets"][index : index + 2]
        text_offsets = file["captions/text_offsets"][caption_first : caption_last + 1]
        word_offsets = file["captions/word_offsets"][caption_first : caption_last + 1]
        text = file["captions/text"][text_offsets[0] : text_offsets[-1]].tobytes()
        times = file["captions/times"][caption_first:caption_last]
        captions = tuple(
            Caption(float(start), float(end), text[a - text_offsets[0] : b - text_offsets[0]].decode())
            for (start, end), a, b in zip(times, text_offsets, text_offsets[1:], strict=False)
        )
        return VideoFeatures(
            video_id=video_id,
            duration=float(file["videos/duration"][index]),
            feature_fps=identity["feature_fps"],
            video={
                name: file[f"rows/{name}"][first:last] for name in (identity["streams"] if streams is None else streams)
            },
            video_mask=file["rows/video_mask"][first:last].astype(bool),
            audio=file["audio/davenet"][audio_first:audio_last] if audio and "davenet" in file["audio"] else None,
            audio_mask=file["audio/mask"][audio_first:audio_last].astype(bool),
            logmel=file["logmel/frames"][logmel_first:logmel_last] if logmel else None,
            logmel_start=float(file["videos/logmel_start"][index]),
            captions=captions,
            words=Words(
                table, file["captions/words"][word_offsets[0] : word_offsets[-1]], word_offsets - word_offsets[0]
            ),
            decoder=file["videos/decoder"][index].decode(),
            audio_rate=identity["audio"]["rate"],
        )


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


def verify(path: Path) -> list[str]:
    """Read a part or shard whole and compare it with its own digests; one line per problem, none if it is sound."""
    problems: list[str] = []
    try:
        with FeatureFile(path) as file:
            opened = file._open
            problems += [f"{path}: {problem}" for problem in _misfits(opened)]
            for index, video in enumerate(file.videos()):
                for name, digest in _digests(video).items():
                    if opened[f"digests/{name}"][index].tobytes() != digest:
                        problems.append(f"{path}: {name} of video {video.video_id} doesn't match its sha256")
                for name, rows in {**video.video, "davenet": video.audio, "logmel": video.logmel}.items():
                    if rows is not None and not np.isfinite(rows).all():
                        problems.append(f"{path}: {name} of video {video.video_id} holds NaN or infinity")
    except (OSError, KeyError, ValueError, IndexError, RuntimeError) as error:
        problems.append(f"{path}: not a whole shard: {str(error).splitlines()[0]}")
    except InputError as error:
        problems.append(str(error))
    return problems
