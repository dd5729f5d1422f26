"""Reading shards and parts (docs/data-format.md): one video at a time, one contiguous read a dataset."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
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
from pipeline.core.hdf5 import (
    Attributes,
    Contents,
    DatasetLayout,
    Layout,
    LayoutError,
    PlainFile,
    read_hdf5,
    shown,
)
from pipeline.core.records import Caption, VideoFeatures, Words
from pipeline.core.video_ids import is_media_name
from pipeline.dataset.schema import ATTRIBUTES, COPY_ATTRIBUTES, FIELDS, SCHEMA, Field, fields

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


def _layout(attributes: Attributes, names: frozenset[str]) -> Layout:
    """What a file with these attributes holds, and of what it may lack, what is there."""
    schema = attributes.get("schema")
    if schema != SCHEMA:
        raise LayoutError(f"schema {schema}, this program reads {SCHEMA}")
    copied = attributes["kind"] == "copy"
    stored = [f for f in fields(_parsed(attributes, "identity")) if not (copied and f.large) or f.name in names]
    layout = {field.name: DatasetLayout(field.dtype, field.shape) for field in stored}
    if any(name.startswith("digests/") for name in names):  # a file of no video has none
        layout |= {f"digests/{field.digest}": DatasetLayout("V32") for field in stored if field.digest}
    return layout


def _exact_layout(attributes: Attributes, names: frozenset[str]) -> Layout:
    layout, kind = _layout(attributes, names), attributes["kind"]
    expected = {"shard": ATTRIBUTES, "part": ATTRIBUTES, "copy": COPY_ATTRIBUTES}.get(str(kind))
    if expected is None:
        raise LayoutError(f"neither a shard nor a part, but {shown(str(kind))}")
    if set(attributes) != set(expected):
        listed = (", ".join(sorted(map(shown, some))) for some in (attributes, expected))
        raise LayoutError("its attributes are {}, expected: {}".format(*listed))
    _parsed(attributes, "circumstance")
    return layout


def _parsed(attributes: Attributes, name: str) -> dict[str, Any]:
    return dict(json.loads(str(attributes[name])))


def _check_lengths(lengths: Mapping[str, int], layout: list[Field]) -> None:
    """LayoutError unless datasets of the same index, one entry a video or a caption, are equally long."""
    counts: dict[str | None, int] = {"": lengths["videos/id"]}
    stored = [field for field in layout if field.name in lengths]
    for field in stored:
        entries = lengths[field.name] - field.is_index
        if entries < 0 or (field.index is not None and counts.setdefault(field.index, entries) != entries):
            expected = counts.get(field.index, 0) + field.is_index
            raise LayoutError(f"{field.name} has {lengths[field.name]} entries, expected: {expected}")
    for name in (f"digests/{field.digest}" for field in stored if field.digest):
        if lengths.get(name, 0) != counts[""]:
            raise LayoutError(f"{name} has {lengths.get(name, 0)} entries, expected: {counts['']}")


def _check_values(small: dict[str, Array], lengths: Mapping[str, int], identity: dict[str, Any]) -> None:
    """ValueError unless the values that are held in memory can be what they stand for."""
    counts: dict[str | None, int] = {}
    layout = [field for field in fields(identity) if field.name in lengths]
    for field in layout:
        counts.setdefault(field.index, lengths[field.name] - field.is_index)
    for field in (field for field in layout if not field.large):
        values = small[field.name]
        # A copy lacks what some offsets lead into.
        end = counts.get(field.name, values[-1] if field.is_index else 0)
        if field.is_index and (values[0] != 0 or values[-1] != end or (np.diff(values) < 0).any()):
            raise ValueError(f"{field.name} isn't an ascending list of offsets from 0 to {end}")
        if field.is_mask and values.size and values.max() > 1:
            raise ValueError(f"{field.name} holds values other than 0 and 1")
    for name in ("videos/duration", "videos/logmel_start", "captions/times"):
        if not np.isfinite(small[name]).all():
            raise ValueError(f"{name} holds NaN or infinity")
    seconds, rows = small["videos/duration"], np.diff(small["rows/offsets"])
    if (seconds < 0).any() or (seconds * identity["feature_fps"] > rows + 1).any():
        raise ValueError("videos/duration doesn't fit the number of rows")
    times, words = small["captions/times"], small["captions/words"]
    if (times[:, 0] < 0).any() or (times[:, 1] <= times[:, 0]).any():
        raise ValueError("captions/times holds a time that is negative, or an end that isn't after its start")
    if ((words < 0) | (words >= lengths["words/offsets"] - 1)).any():
        raise ValueError("captions/words points past the table of words")


class FeatureFile(Closeable):
    """Reads a shard, a part or a staged copy. Opened at first use, again in each process (HDF5 handles don't survive a
    fork).

    Raises InputError, which ends with `cure`, when the file is missing or isn't what docs/data-format.md describes: by
    its layout when it is opened, by the values that all videos share when the first video is read. Of a `damaged` file
    what is left can be read: lengths, offsets and values may be wrong, and names there that aren't known.
    """

    def __init__(
        self, path: Path, cure: str = "repair it: mcn verify DATASET --repair", *, damaged: bool = False
    ) -> None:
        self.path = path
        self._cure, self._damaged = cure, damaged
        self._file: PlainFile | None = None
        self._known: Contents | None = None
        self._process = -1
        self._contents: _Contents | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None, "_process": -1, "_contents": None}

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        self._contents = None
        if self._file is not None and self._process == os.getpid():
            self._file.hdf5.close()
        self._file = None

    def _refused(self, reason: object) -> InputError:
        return InputError(f"{self.path}: {reason}; {self._cure}")

    @property
    def _opened(self) -> PlainFile:
        if self._file is None or self._process != os.getpid():
            self._contents = None
            try:
                layout = _layout if self._damaged else _exact_layout
                self._file = read_hdf5(self.path, layout, self._damaged, self._known)
                self._process = os.getpid()
                contents = self._file.contents
                if not self._damaged and contents is not self._known:
                    _check_lengths(contents.lengths, fields(_parsed(contents.attributes, "identity")))
                self._known = contents
            except LayoutError as error:
                self.close()
                raise self._refused(error) from None
        return self._file

    @property
    def hdf5(self) -> h5py.File:
        """The open file."""
        return self._opened.hdf5

    def _read(self) -> _Contents:
        file = self._opened
        if self._contents is None:
            identity = self.identity
            size = os.fstat(file.hdf5.id.get_vfd_handle()).st_size
            layout = fields(identity)
            small = {field.name: file.values(field.name) for field in layout if not field.large}
            stored = file.contents.lengths
            large = {field.name: file.hdf5[field.name] for field in layout if field.large and field.name in stored}
            try:
                if not self._damaged:
                    _check_values(small, stored, identity)
                table = tuple(_texts(small.pop("words/text"), small.pop("words/offsets")))
            except ValueError as error:
                raise self._refused(str(error).splitlines()[0]) from None
            self._contents = _Contents(identity, small, large, table, size)
        return self._contents

    @property
    def attributes(self) -> Attributes:
        """Of the root, as they are stored."""
        return self._opened.contents.attributes

    @property
    def identity(self) -> dict[str, Any]:
        """The Identity under which the rows were made."""
        return _parsed(self.attributes, "identity")

    @property
    def provenance(self) -> dict[str, Any]:
        """What is only recorded: versions, device, host, time."""
        return _parsed(self.attributes, "circumstance")

    @property
    def kind(self) -> str:
        """`shard`, `part` or, of a staged copy, `copy`."""
        return str(self.attributes["kind"])

    @property
    def name(self) -> str:
        """Of the shard that it is, or is a part of."""
        return str(self.attributes["name"])

    @property
    def plan(self) -> str:
        """Digest of the plan this shard closes; empty in a part."""
        return str(self.attributes["plan"])

    @property
    def video_ids(self) -> list[str]:
        """Ids in stored order."""
        ids = [video_id.decode("ascii", "replace") for video_id in self._opened.values("videos/id")]
        if not self._damaged:
            for video_id in ids:
                if not is_media_name(video_id):
                    raise self._refused(f"{video_id[:80]!a} can't name a video")
            if len(set(ids)) < len(ids):
                raise self._refused("holds a video twice")
        return ids

    def caption_counts(self) -> list[int]:
        """Captions of each video, in stored order."""
        return [int(count) for count in np.diff(self._opened.values("captions/offsets"))]

    def durations(self) -> list[float]:
        """Seconds of each video, in stored order."""
        return [float(seconds) for seconds in self._opened.values("videos/duration")]

    def stored_digests(self, index: int) -> dict[str, bytes]:
        """Digest name -> what the file states as sha256 of video number `index`; see `digests_of`."""
        return {name: stated[index].tobytes() for name, stated in self.hdf5["digests"].items()}

    def content_digest(self) -> str:
        """sha256 over the videos' own digests: equal for equal datasets, whatever the Provenance."""
        total = hashlib.sha256()
        file = self._opened
        for name in sorted(name for name in file.contents.lengths if name.startswith("digests/")):
            total.update(name.removeprefix("digests/").encode() + b"\0" + file.values(name).tobytes())
        return total.hexdigest()

    def seal(self) -> str:
        """sha256 over the root's other attributes and the content: what attribute `digest` must hold."""
        stated = {name: str(self._opened.contents.attributes[name]) for name in ATTRIBUTES if name != "digest"}
        return digest_of_json(stated | {"content": self.content_digest()})

    def is_sealed(self) -> bool:
        """Whether nobody has changed its attributes (name, plan, Identity, Provenance) since it was written."""
        return set(ATTRIBUTES) <= set(self.attributes) and self.attributes["digest"] == self.seal()

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
        meanwhile, InputError when its values can't be those of a video.
        """
        contents = self._read()
        try:
            return self._video(contents, index, streams, audio, logmel, texts)
        except (KeyError, ValueError, TypeError, IndexError, OverflowError) as error:
            reason = (str(error).splitlines() or [""])[0] or type(error).__name__
            raise self._refused(f"video number {index} can't be read ({shown(reason)})") from None

    def _video(
        self, contents: _Contents, index: int, streams: Sequence[str] | None, audio: bool, logmel: bool, texts: bool
    ) -> VideoFeatures:
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
            if not 0 <= offsets[0] <= offsets[-1] <= len(large["captions/text"]) or (np.diff(offsets) < 0).any():
                raise ValueError("captions/text_offsets points elsewhere than to its texts")
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
