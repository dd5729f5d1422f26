"""A frozen data set as training and evaluation see it: videos by id, clips drawn from captions, words as vectors."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gensim.models import KeyedVectors
from numpy.typing import NDArray

from extractors.errors import WeightsError
from extractors.text import load_vectors, vectors_digest
from models import ClipInputs
from pipeline.dataset_folder import read_description
from pipeline.errors import InputError
from pipeline.feature_file import DAVENET_WIDTH, FeatureFile
from pipeline.files import digest_of_json
from pipeline.manifest import read_manifest
from pipeline.receipts import shard_path
from pipeline.records import Caption, VideoFeatures

NATIVE_AUDIO_FPS = 6.25
"""DaveNet's own rate: an output every 160 ms."""

TABLES_KEPT = 64
"""Shards whose words are kept in memory."""

AUDIO_SECONDS = 10.0
"""A clip's frozen audio vector is the mean of the rows within its first 10 s: what the published model hears of it."""


@dataclass(frozen=True)
class ClipFeatures:
    """One clip, ready for a batch. R rows, W words."""

    video_id: str
    start: float
    end: float
    video: NDArray[np.float32]
    """[R, V]: the rows with a frame, in time order; R = 0 without one."""
    audio: NDArray[np.float32] | None
    """[1024]: mean DaveNet row, or None without sound."""
    words: NDArray[np.float32]
    """[W, 300] vectors of the words that have one."""


class FeatureDataset:
    """Random access to a manifest's videos; the first `cache_bytes` read are kept in memory.

    Raises InputError when the manifest is none, or a shard is gone, broken or not the one that was frozen.
    """

    def __init__(self, manifest: Path, cache_bytes: int = 1 << 30) -> None:
        self.path = manifest
        self.manifest = read_manifest(manifest)
        self.folder = manifest.resolve().parent.parent
        self.description: dict[str, Any] = read_description(self.folder)
        self.identity: dict[str, Any] = self.description["identity"]
        if (digest_of_json(self.identity), self.description["words"]) != (self.manifest.identity, self.manifest.words):
            raise InputError(f"{manifest}: frozen of another data set than {self.folder}; put it back where it was")
        self._files: list[FeatureFile] = []
        self._tables: dict[int, tuple[str, ...]] = {}
        self._place: dict[str, tuple[int, int]] = {}
        self._cache: dict[tuple[str, tuple[str, ...]], VideoFeatures] = {}
        self._cache_room = cache_bytes
        chosen = set(self.manifest.video_ids)
        for name, frozen in self.manifest.shards.items():
            path = shard_path(self.folder, name)
            cure = f"see `mcn verify {self.folder} --repair`, or freeze another manifest"
            if not path.exists():
                raise InputError(f"{manifest}: its shard {path} is gone; {cure}")
            file = FeatureFile(path)
            if file.content_digest() != frozen["content"]:
                raise InputError(f"{path}: not the shard that {manifest} froze; {cure}")
            for index, video_id in enumerate(file.video_ids):
                if video_id in chosen:
                    self._place[video_id] = (len(self._files), index)
            self._files.append(file)
            file.close()
        absent = chosen - self._place.keys()
        if absent:
            raise InputError(f"{manifest}: {len(absent)} of its videos are in none of its shards, e.g. {min(absent)}")

    @property
    def video_ids(self) -> list[str]:
        """All ids, sorted."""
        return sorted(self._place)

    def without_captions(self) -> set[str]:
        """Ids of the videos from which no clip can be drawn; reads no rows."""
        found = set()
        for file in self._files:
            counts = file.caption_counts()
            found |= {
                video_id for video_id, count in zip(file.video_ids, counts, strict=True) if not count
            } & self._place.keys()
            file.close()
        return found

    def stream_width(self, stream: str) -> int:
        """Values per row of a video stream; InputError names the streams there are."""
        streams = self.identity["streams"]
        if stream not in streams:
            raise InputError(f"{self.folder}: no video stream {stream!r}; it has: {', '.join(streams)}")
        return int(streams[stream]["width"])

    def video(self, video_id: str, streams: tuple[str, ...]) -> VideoFeatures:
        """Features of one video: the rows of `streams`, DaveNet rows, captions."""
        key = (video_id, streams)
        if key in self._cache:
            return self._cache[key]
        file, index = self._place[video_id]
        if file not in self._tables:
            if len(self._tables) >= TABLES_KEPT:
                self._tables.pop(next(iter(self._tables)))
            self._tables[file] = self._files[file].table()
        video = self._files[file].video(index, video_id, self._tables[file], streams, logmel=False)
        # A data set may have more shards than a process may have open files.
        self._files[file].close()
        size = sum(rows.nbytes for rows in video.video.values()) + (0 if video.audio is None else video.audio.nbytes)
        if size <= self._cache_room:
            self._cache_room -= size
            self._cache[key] = video
        return video

    def word_vectors(self) -> KeyedVectors:
        """The vectors frozen with this data set; InputError if they are missing or were changed."""
        path = self.folder / "words.kv"
        if not self.description.get("words"):
            raise InputError(f"{self.folder}: no word vectors; extract with --captions, or give --word-vectors")
        try:
            vectors = load_vectors(path)
        except WeightsError as error:
            raise InputError(str(error)) from None
        if vectors_digest(vectors) != self.description["words"]:
            raise InputError(f"{path}: not the vectors this data set was made with; restore the file")
        return vectors


def clip_rows(start: float, end: float, feature_fps: float, rows: int) -> slice:
    """Rows of the half-open clip [start, end): those whose time lies in it, or else the one on screen at its start."""
    first = int(np.ceil(start * feature_fps - 1e-9))
    last = min(int(np.ceil(end * feature_fps - 1e-9)), rows)
    if last <= first:
        first = int(np.floor(start * feature_fps + 1e-9))
        last = first + 1
    return slice(min(max(first, 0), rows), min(max(last, 0), rows))


def grow_clip(captions: Sequence[Caption], chosen: int, min_seconds: float) -> tuple[int, int]:
    """Grow caption `chosen` by its neighbours to at least `min_seconds`; returns the first and last caption index.

    As published (Chen et al.'s data loader): each step takes the neighbour that gives the shorter span, ties go to
    the previous one, and growth stops at the video's ends.
    """
    first = last = chosen
    while captions[last].end - captions[first].start < min_seconds:
        before = captions[last].end - captions[first - 1].start if first > 0 else np.inf
        after = captions[last + 1].end - captions[first].start if last + 1 < len(captions) else np.inf
        if before == after == np.inf:
            break
        if before <= after:
            first -= 1
        else:
            last += 1
    return first, last


def vectors_of(words: Sequence[str], vectors: KeyedVectors) -> NDArray[np.float32]:
    """Vectors [W, width] of those words that have one, in their order; W = 0 when none has."""
    known = [vectors.key_to_index[word] for word in words if word in vectors.key_to_index]
    return np.asarray(vectors.vectors[known], np.float32).reshape(len(known), vectors.vector_size)


def cut_clip(
    video: VideoFeatures, start: float, end: float, words: Sequence[str], vectors: KeyedVectors, max_words: int
) -> ClipFeatures:
    """Features of the clip [start, end): the streams side by side, the first `max_words` words with a vector."""
    rows = clip_rows(start, end, video.feature_fps, len(video.video_mask))
    seen = [stream[rows][video.video_mask[rows]] for stream in video.video.values()]
    heard = None
    if video.audio is not None:
        native = video.audio_rate == "native"
        zero, fps = (video.logmel_start, NATIVE_AUDIO_FPS) if native else (0.0, video.feature_fps)
        span = clip_rows(start - zero, min(end, start + AUDIO_SECONDS) - zero, fps, len(video.audio_mask))
        sound = video.audio[span][video.audio_mask[span]]
        heard = sound.astype(np.float32).mean(axis=0) if len(sound) else None
    return ClipFeatures(
        video.video_id,
        start,
        end,
        np.concatenate(seen, axis=1).astype(np.float32),
        heard,
        vectors_of(words, vectors)[:max_words],
    )


def collate(clips: Sequence[ClipFeatures], audio_width: int = DAVENET_WIDTH) -> ClipInputs:
    """A batch of B clips, rows and words padded with zeros to the longest; masks say what is there."""
    count = len(clips)
    rows, words = max(1, *(len(clip.video) for clip in clips)), max(1, *(len(clip.words) for clip in clips))
    video = torch.zeros(count, rows, clips[0].video.shape[1])
    video_rows = torch.zeros(count, rows, dtype=torch.bool)
    audio = torch.zeros(count, audio_width)
    text = torch.zeros(count, words, clips[0].words.shape[1])
    known_words = torch.zeros(count, words, dtype=torch.bool)
    for index, clip in enumerate(clips):
        video[index, : len(clip.video)] = torch.from_numpy(clip.video)
        video_rows[index, : len(clip.video)] = True
        if clip.audio is not None:
            audio[index] = torch.from_numpy(clip.audio)
        text[index, : len(clip.words)] = torch.from_numpy(clip.words)
        known_words[index, : len(clip.words)] = True
    has_audio = torch.tensor([clip.audio is not None for clip in clips])
    return ClipInputs(video, video_rows, audio, has_audio, None, text, known_words)
