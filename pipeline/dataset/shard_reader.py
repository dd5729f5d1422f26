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

from models.settings import MEL_BANDS
from pipeline.core.errors import InputError
from pipeline.core.files import Closeable, digest_of_json
from pipeline.core.records import Caption, VideoFeatures, Words
from pipeline.dataset.schema import ATTRIBUTES, FIELDS, SCHEMA, Field, fields

Array = NDArray[Any]


def columns(video: VideoFeatures) -> dict[str, Array]:
    """Digest name -> the video's own values as they are stored; those of its captions' lengths and words apart."""
    stored = {
        field.digest: np.atleast_1d(np.asarray(value, field.dtype))
        for field in FIELDS
        if field.attribute and (value := getattr(video, field.attribute)) is not None
    }
    stored.setdefault("logmel", np.zeros((0, MEL_BANDS), np.float16))
    texts = b"".join(caption.text.encode() for caption in video.captions)
    stored["times"] = np.array([(c.start, c.end) for c in video.captions], np.float64).reshape(-1, 2)
    return stored | {"text": np.frombuffer(texts, np.uint8)} | video.video


def digests_of(video: VideoFeatures) -> dict[str, bytes]:
    """Digest name -> sha256 of the video's own bytes (docs/data-format.md)."""
    content = {name: _content(values) for name, values in columns(video).items()}
    content["text_lengths"] = np.array([len(c.text.encode()) for c in video.captions], np.int64).tobytes()
    lines = (video.words.of_caption(index) for index in range(len(video.captions)))
    content["words"] = b"".join(b"".join(word.encode() + b"\0" for word in line) + b"\0" for line in lines)
    return {name: hashlib.sha256(values).digest() for name, values in content.items()}


def _content(values: Array) -> bytes:
    # A text is padded to the file's longest, which is none of the video's own.
    return bytes(values[0]) if values.dtype.kind == "S" else values.tobytes()


@dataclass(frozen=True)
class _Contents:
    """What is read once after opening."""

    identity: dict[str, Any]
    small: dict[str, Array]
    """Name -> values of every dataset that isn't large, the table of words apart."""
    large: dict[str, h5py.Dataset]
    """A staged copy lacks some."""
    table: tuple[str, ...]
    bytes: int
    """Of the file when it was opened."""


class FeatureFile(Closeable):
    """Reads a shard, a part or a staged copy. Opened at first use, again in each process (HDF5 handles don't survive a
    fork).

    Raises InputError, which ends with `cure`, when the file is missing or isn't what docs/data-format.md describes.
    """

    def __init__(self, path: Path, cure: str = "repair it: mcn verify DATASET --repair") -> None:
        self.path = path
        self._cure = cure
        self._file: h5py.File | None = None
        self._process = -1
        self._contents: _Contents | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_cure": self._cure, "_file": None, "_process": -1, "_contents": None}

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        self._contents = None
        if self._file is not None and self._process == os.getpid():
            self._file.close()
        self._file = None

    @property
    def hdf5(self) -> h5py.File:
        """The open file."""
        if self._file is None or self._process != os.getpid():
            self._contents = None
            try:
                self._file = h5py.File(self.path, "r", locking=False)
            except OSError as error:
                reason = (
                    f"not a whole HDF5 file ({str(error).splitlines()[0]})" if self.path.exists() else "no such file"
                )
                raise InputError(f"{self.path}: {reason}; {self._cure}") from None
            self._process = os.getpid()
            schema = self._file.attrs.get("schema")
            if schema != SCHEMA:
                self.close()
                raise InputError(f"{self.path}: schema {schema}, this program reads {SCHEMA}")
        return self._file

    def _read(self) -> _Contents:
        file = self.hdf5
        if self._contents is None:
            identity = self.identity
            size = os.fstat(file.id.get_vfd_handle()).st_size
            layout = fields(identity)
            small = {field.name: file[field.name][:] for field in layout if not field.large}
            large = {field.name: file[field.name] for field in layout if field.large and field.name in file}
            table = tuple(_texts(small.pop("words/text"), small.pop("words/offsets")))
            self._contents = _Contents(identity, small, large, table, size)
        return self._contents

    @property
    def identity(self) -> dict[str, Any]:
        """The Identity under which the rows were made."""
        return dict(json.loads(self.hdf5.attrs["identity"]))

    @property
    def provenance(self) -> dict[str, Any]:
        """What is only recorded: versions, device, host, time."""
        return dict(json.loads(self.hdf5.attrs["circumstance"]))

    @property
    def kind(self) -> str:
        """`shard`, `part` or, of a staged copy, `copy`."""
        return str(self.hdf5.attrs["kind"])

    @property
    def name(self) -> str:
        """Of the shard that it is, or is a part of."""
        return str(self.hdf5.attrs["name"])

    @property
    def plan(self) -> str:
        """Digest of the plan this shard closes; empty in a part."""
        return str(self.hdf5.attrs["plan"])

    @property
    def video_ids(self) -> list[str]:
        """Ids in stored order."""
        return [video_id.decode() for video_id in self.hdf5["videos/id"][:]]

    def caption_counts(self) -> list[int]:
        """Captions of each video, in stored order."""
        return [int(count) for count in np.diff(self.hdf5["captions/offsets"][:])]

    def durations(self) -> list[float]:
        """Seconds of each video, in stored order."""
        return [float(seconds) for seconds in self.hdf5["videos/duration"][:]]

    def stored_digests(self, index: int) -> dict[str, bytes]:
        """Digest name -> what the file states as sha256 of video number `index`; see `digests_of`."""
        return {name: stated[index].tobytes() for name, stated in self.hdf5["digests"].items()}

    def content_digest(self) -> str:
        """sha256 over the videos' own digests: equal for equal datasets, whatever the Provenance."""
        total = hashlib.sha256()
        for name, stated in sorted(self.hdf5.get("digests", {}).items()):
            total.update(name.encode() + b"\0" + stated[:].tobytes())
        return total.hexdigest()

    def seal(self) -> str:
        """sha256 over the root's other attributes and the content: what attribute `digest` must hold."""
        attributes = self.hdf5.attrs
        stated = {name: str(attributes[name]) for name in ATTRIBUTES if name != "digest"}
        return digest_of_json(stated | {"content": self.content_digest()})

    def is_sealed(self) -> bool:
        """Whether nobody has changed its attributes (name, plan, Identity, Provenance) since it was written."""
        return bool(self.hdf5.attrs.get("digest") == self.seal())

    def table(self) -> tuple[str, ...]:
        """The file's words, sorted; the ids of `VideoFeatures.words` point into it."""
        return self._read().table

    def videos(self, streams: Sequence[str] | None = None, audio: bool = True) -> Iterator[VideoFeatures]:
        """All videos in stored order; see `video`."""
        for index in range(len(self.video_ids)):
            yield self.video(index, streams, audio)

    def video(
        self,
        index: int,
        streams: Sequence[str] | None = None,
        audio: bool = True,
        logmel: bool = True,
        texts: bool = True,
    ) -> VideoFeatures:
        """Video number `index`: one contiguous read a dataset.

        `streams` None means all that are there; `audio`, `logmel` and `texts` say whether to read those. Captions
        without their texts have empty ones; their words are always there. OSError when the file was cut short
        meanwhile.
        """
        contents = self._read()
        small, large = contents.small, contents.large
        # HDF5 reads zeros past a file's end.
        if os.fstat(self.hdf5.id.get_vfd_handle()).st_size < contents.bytes:
            raise OSError(f"{self.path.name} was cut short")

        def span(offsets: str) -> slice:
            first, last = small[offsets][index : index + 2]
            return slice(first, last)

        def value(field: Field) -> Any:
            if field.index:
                values = (large if field.large else small)[field.name][span(field.index)]
                return values.astype(bool) if field.is_mask else values
            entry = small[field.name][index]
            return entry.decode() if isinstance(entry, bytes) else float(entry)

        skipped = {name for name, is_read in (("davenet", audio), ("logmel", logmel)) if not is_read}
        attributes = {
            field.attribute: value(field)
            for field in FIELDS
            if field.attribute and field.digest not in skipped and (field.name in small or field.name in large)
        }
        if streams is None:
            streams = [name.removeprefix("rows/") for name in large if name.startswith("rows/")]
        captions = span("captions/offsets")
        times = small["captions/times"][captions].tolist()
        lines = [""] * len(times)
        if texts:
            offsets = large["captions/text_offsets"][captions.start : captions.stop + 1]
            lines = _texts(large["captions/text"][offsets[0] : offsets[-1]], offsets - offsets[0])
        word_offsets = small["captions/word_offsets"][captions.start : captions.stop + 1]
        words = small["captions/words"][word_offsets[0] : word_offsets[-1]]
        return VideoFeatures(
            **{"audio": None, "logmel": None} | attributes,
            feature_fps=contents.identity["feature_fps"],
            video={stream: large[f"rows/{stream}"][span("rows/offsets")] for stream in streams},
            captions=tuple(Caption(start, end, text) for (start, end), text in zip(times, lines, strict=True)),
            words=Words(contents.table, words, word_offsets - word_offsets[0]),
            audio_rate=contents.identity["audio"]["rate"],
        )


def _texts(text: Array, offsets: Array) -> list[str]:
    """The UTF-8 texts of `text` [bytes], text n at `offsets[n]` to `offsets[n + 1]`."""
    joined = text.tobytes()
    return [joined[a:b].decode() for a, b in pairwise(offsets.tolist())]
