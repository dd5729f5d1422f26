"""Reading shards and parts (docs/data-format.md): one video at a time, one contiguous read a dataset."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.core.files import digest_of_json
from pipeline.core.records import Caption, VideoFeatures, Words

SCHEMA = 1
DAVENET_WIDTH, LOGMEL_BANDS = 1024, 40
ATTRIBUTES = ("schema", "kind", "name", "identity", "circumstance", "plan", "digest")
"""Of the root of every file."""

Array = NDArray[Any]


def columns(video: VideoFeatures) -> dict[str, tuple[str, Array]]:
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


def texts_of(video: VideoFeatures) -> dict[str, str]:
    """Digest name -> the video's own text in a dataset of fixed-length texts."""
    return {"id": video.video_id, "decoder": video.decoder}


def digests_of(video: VideoFeatures) -> dict[str, bytes]:
    """Digest name -> sha256 of the video's own bytes (docs/data-format.md)."""
    digests = {
        name: hashlib.sha256(np.ascontiguousarray(a).tobytes()).digest() for name, (_, a) in columns(video).items()
    }
    # A fixed-length text is padded to the file's longest, which is none of the video's own.
    digests |= {name: hashlib.sha256(text.encode()).digest() for name, text in texts_of(video).items()}
    words = hashlib.sha256()
    for index in range(len(video.captions)):
        words.update(b"".join(word.encode() + b"\0" for word in video.words.of_caption(index)) + b"\0")
    lengths = np.array([len(caption.text.encode()) for caption in video.captions], np.int64)
    return digests | {"words": words.digest(), "text_lengths": hashlib.sha256(lengths.tobytes()).digest()}


@dataclass(frozen=True)
class _Index:
    """What is small in a file of N videos and C captions, and told of every video: read once after opening."""

    feature_fps: int
    audio_rate: str
    duration: Array
    logmel_start: Array
    decoder: Array
    rows: Array
    """[N + 1], as the other places: where each video's rows begin and end."""
    audio: Array
    logmel: Array
    captions: Array
    video_mask: NDArray[np.bool_]
    audio_mask: NDArray[np.bool_]
    times: Array
    """[C, 2] start and end, s."""
    word_offsets: Array
    words: Array
    descriptor: int
    """Of the open file."""
    bytes: int
    """Its size when it was opened."""
    large: dict[str, h5py.Dataset]
    """Name -> dataset of rows, log-mel frames and texts: read a video at a time. A staged copy lacks some."""


def _read_index(file: h5py.File) -> _Index:
    identity = json.loads(file.attrs["identity"])
    names = [f"rows/{stream}" for stream in identity["streams"]]
    names += ["audio/davenet", "logmel/frames", "captions/text", "captions/text_offsets"]
    descriptor = file.id.get_vfd_handle()
    return _Index(
        descriptor=descriptor,
        bytes=os.fstat(descriptor).st_size,
        feature_fps=identity["feature_fps"],
        audio_rate=identity["audio"]["rate"],
        duration=file["videos/duration"][:],
        logmel_start=file["videos/logmel_start"][:],
        decoder=file["videos/decoder"][:],
        rows=file["rows/offsets"][:],
        audio=file["audio/offsets"][:],
        logmel=file["logmel/offsets"][:],
        captions=file["captions/offsets"][:],
        video_mask=file["rows/video_mask"][:].astype(bool),
        audio_mask=file["audio/mask"][:].astype(bool),
        times=file["captions/times"][:],
        word_offsets=file["captions/word_offsets"][:],
        words=file["captions/words"][:],
        large={name: file[name] for name in names if name in file},
    )


class FeatureFile:
    """Reads a shard, a part or a staged copy. Opened at first use, again in each process (HDF5 handles don't survive a
    fork).

    Raises InputError, which ends with `cure`, when the file is missing or isn't what docs/data-format.md describes.
    """

    def __init__(self, path: Path, cure: str = "mend it: mcn verify DATASET --repair") -> None:
        self.path = path
        self._cure = cure
        self._file: h5py.File | None = None
        self._process = -1
        self._index: _Index | None = None

    def __enter__(self) -> "FeatureFile":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_cure": self._cure, "_file": None, "_process": -1, "_index": None}

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        self._index = None
        if self._file is not None and self._process == os.getpid():
            self._file.close()
        self._file = None

    @property
    def _open(self) -> h5py.File:
        if self._file is None or self._process != os.getpid():
            self._index = None
            try:
                self._file = h5py.File(self.path, "r", locking=False)
            except OSError as error:
                state = (
                    "no such file"
                    if not self.path.exists()
                    else f"not a whole HDF5 file ({str(error).splitlines()[0]})"
                )
                raise InputError(f"{self.path}: {state}; {self._cure}") from None
            self._process = os.getpid()
            schema = self._file.attrs.get("schema")
            if schema != SCHEMA:
                self.close()
                raise InputError(f"{self.path}: schema {schema}, this program reads {SCHEMA}")
        return self._file

    @property
    def _small(self) -> _Index:
        file = self._open
        if self._index is None:
            self._index = _read_index(file)
        return self._index

    @property
    def identity(self) -> dict[str, Any]:
        """The Identity under which the rows were made."""
        return dict(json.loads(self._open.attrs["identity"]))

    @property
    def provenance(self) -> dict[str, Any]:
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

    def durations(self) -> list[float]:
        """Seconds of each video, in stored order."""
        return [float(seconds) for seconds in self._open["videos/duration"][:]]

    def content_digest(self) -> str:
        """sha256 over the videos' own digests: equal for equal datasets, whatever the Provenance."""
        total = hashlib.sha256()
        for name in sorted(self._open["digests"]) if "digests" in self._open else ():
            total.update(name.encode() + b"\0" + self._open[f"digests/{name}"][:].tobytes())
        return total.hexdigest()

    def seal(self) -> str:
        """sha256 over the root's other attributes and the content: what attribute `digest` must hold."""
        attributes = self._open.attrs
        stated = {name: str(attributes[name]) for name in ATTRIBUTES if name != "digest"}
        return digest_of_json(stated | {"content": self.content_digest()})

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
        texts: bool = True,
    ) -> VideoFeatures:
        """Video number `index`: one contiguous read a dataset.

        `streams` None means all; `audio`, `logmel` and `texts` say whether to read those. Captions without their texts
        have empty ones; their words are always there. OSError when the file was cut short meanwhile.
        """
        small = self._small
        large = small.large
        # HDF5 reads zeros past a file's end.
        if os.fstat(small.descriptor).st_size < small.bytes:
            raise OSError(f"{self.path.name} was cut short")
        if streams is None:
            streams = [name.removeprefix("rows/") for name in large if name.startswith("rows/")]
        first, last = small.rows[index : index + 2]
        audio_first, audio_last = small.audio[index : index + 2]
        logmel_first, logmel_last = small.logmel[index : index + 2]
        caption_first, caption_last = small.captions[index : index + 2]
        word_offsets = small.word_offsets[caption_first : caption_last + 1]
        times = small.times[caption_first:caption_last].tolist()
        lines = _texts(large, caption_first, caption_last) if texts else [""] * len(times)
        return VideoFeatures(
            video_id=video_id,
            duration=float(small.duration[index]),
            feature_fps=small.feature_fps,
            video={name: large[f"rows/{name}"][first:last] for name in streams},
            video_mask=small.video_mask[first:last],
            audio=large["audio/davenet"][audio_first:audio_last] if audio and "audio/davenet" in large else None,
            audio_mask=small.audio_mask[audio_first:audio_last],
            logmel=large["logmel/frames"][logmel_first:logmel_last] if logmel else None,
            logmel_start=float(small.logmel_start[index]),
            captions=tuple(Caption(start, end, text) for (start, end), text in zip(times, lines, strict=True)),
            words=Words(table, small.words[word_offsets[0] : word_offsets[-1]], word_offsets - word_offsets[0]),
            decoder=small.decoder[index].decode(),
            audio_rate=small.audio_rate,
        )


def _texts(large: dict[str, h5py.Dataset], first: int, last: int) -> list[str]:
    """The texts of captions `first` to `last`, the last excluded."""
    offsets = large["captions/text_offsets"][first : last + 1]
    text = large["captions/text"][offsets[0] : offsets[-1]].tobytes()
    return [text[a - offsets[0] : b - offsets[0]].decode() for a, b in pairwise(offsets)]
