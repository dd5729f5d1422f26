"""Clips out of a video's rows: which rows, which sound, which words, and a batch of them (clip_rules.py)."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from gensim.models import KeyedVectors
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from extractors.feature_format import AUDIO_FPS, HOP, LOUDEST_DB, SAMPLE_RATE, SILENCE_DB, WINDOW
from models.clips import ClipInputs
from models.settings import AUDIO_WIDTH, MEL_BANDS
from pipeline.clips.rules import AUDIO_SECONDS, ClipRules
from pipeline.core.records import VideoFeatures

_ALIGNMENT = 64
"""Bytes. Sums over memory at other addresses may round otherwise, and equal runs must be equal to the bit."""

_LARGEST_FINITE = 0x7BFF
"""Bits of 65,504. Read as unsigned numbers, halves up to it are in order; those above are negative, infinite or NaN."""


@dataclass(frozen=True, slots=True)
class ClipFeatures:
    """One clip, ready for a batch. W words."""

    video_id: str
    start: float
    end: float
    video: NDArray[np.float16]
    """[V]: the maximum over the clip's rows, the streams side by side; zeros without a row."""
    has_video: bool
    audio: NDArray[Any] | None
    """[1024] float32, the mean DaveNet row; or [frames, 40] float16, log-mel; None without sound."""
    words: Sequence[int]
    """[W]: the rows of the word vectors that belong to its words; a word without a vector has none."""


def clip_rows(start: float, end: float, feature_fps: float, rows: int) -> slice:
    """Rows of the half-open clip [start, end): those whose time lies in it, or else the one on screen at its start."""
    first = math.ceil(start * feature_fps - 1e-9)
    last = min(math.ceil(end * feature_fps - 1e-9), rows)
    if last <= first:
        first = math.floor(start * feature_fps + 1e-9)
        last = first + 1
    return slice(min(max(first, 0), rows), min(max(last, 0), rows))


def inclusive_clip_rows(start: float, end: float, feature_fps: float, rows: int) -> slice:
    """Rows int(start * fps) to int(end * fps), both included, as published (Chen et al.'s data loader)."""
    first, last = int(start * feature_fps), int(end * feature_fps) + 1
    return slice(min(max(first, 0), rows), min(max(last, 0), rows))


def logmel_frame(seconds: float) -> int:
    """The frame at `seconds` after frame 0, as librosa counts: floor((samples - 200) / 160), negative below 12.5 ms."""
    return (int(seconds * SAMPLE_RATE) - WINDOW // 2) // HOP


def clip_logmel(logmel: NDArray[np.float16], start: float, end: float, rules: ClipRules) -> NDArray[np.float16]:
    """Log-mel frames [n, 40] of the clip from `start` to `end` seconds after frame 0; n <= `rules.logmel_frames`.

    Without the clamp a negative first frame counts from the recording's end, as a slice does: a clip that begins with
    the recording so comes out empty.
    """
    first, last = logmel_frame(start), logmel_frame(end)
    if rules.clamp_logmel_start:
        first, last = max(first, 0), max(last, 0)
    return logmel[first:last][: rules.logmel_frames]


def is_finite(rows: NDArray[np.float16]) -> bool:
    """Whether no value is NaN or infinite; far faster than by floating point."""
    bits = rows.view(np.uint16)
    return not rows.size or bool(bits.max() <= _LARGEST_FINITE or (bits & 0x7FFF).max() <= _LARGEST_FINITE)


def known_words(words: Iterable[str], vectors: KeyedVectors) -> list[int]:
    """The rows of `vectors` of those words that have one, in their order."""
    return [vectors.key_to_index[word] for word in words if word in vectors.key_to_index]


def cut_clip(
    video: VideoFeatures, start: float, end: float, words: Sequence[str], vectors: KeyedVectors, rules: ClipRules
) -> ClipFeatures:
    """Features of the clip from `start` to `end` seconds, with the first `rules.max_words` of `words` that have a
    vector."""
    return Cutter(video, rules).cut(start, end, known_words(words, vectors))


class Cutter:
    """Cuts clips out of one video, whose rows must be finite."""

    def __init__(self, video: VideoFeatures, rules: ClipRules) -> None:
        self._video, self._rules = video, rules
        self._bounds = clip_rows if rules.bounds == "half-open" else inclusive_clip_rows
        self._always_shown = bool(video.video_mask.all())
        self._streams = [_ordered(video.video[stream]) for stream in rules.streams]
        self._width = sum(stream.shape[1] for stream in self._streams)
        self._sound: NDArray[np.float32] | None = None
        if rules.audio == "davenet" and video.audio is not None:
            # torch converts halves some ten times faster than NumPy does.
            self._sound = torch.from_numpy(video.audio).float().numpy()
            self._always_heard = bool(video.audio_mask.all())

    def cut(self, start: float, end: float, words: Sequence[int] = ()) -> ClipFeatures:
        """The clip from `start` to `end` seconds, with the first `rules.max_words` of `words`, rows of word vectors."""
        video, rules = self._video, self._rules
        rows = self._bounds(start, end, video.feature_fps, len(video.video_mask))
        streams = [stream[rows] for stream in self._streams]
        if not self._always_shown:
            streams = [stream[video.video_mask[rows]] for stream in streams]
        has_video = bool(streams) and len(streams[0]) > 0
        if has_video:
            pooled = [np.maximum.reduce(stream, axis=0).view(np.float16) for stream in streams]
            largest = pooled[0] if len(pooled) == 1 else np.concatenate(pooled)
        else:
            largest = np.zeros(self._width, np.float16)
        audio: NDArray[Any] | None = None
        if self._sound is not None:
            audio = self._mean_sound(self._sound, start, end)
        elif rules.audio == "logmel" and video.logmel is not None:
            frames = clip_logmel(video.logmel, start - video.logmel_start, end - video.logmel_start, rules)
            audio = frames if len(frames) else None
        return ClipFeatures(video.video_id, start, end, largest, has_video, audio, words[: rules.max_words])

    def _mean_sound(self, sound: NDArray[np.float32], start: float, end: float) -> NDArray[np.float32] | None:
        """The mean row [1024] of the clip's first 10 s; None without sound."""
        video = self._video
        native = video.audio_rate == "native"
        zero, fps = (video.logmel_start, AUDIO_FPS) if native else (0.0, float(video.feature_fps))
        span = clip_rows(start - zero, min(end, start + AUDIO_SECONDS) - zero, fps, len(video.audio_mask))
        heard = sound[span] if self._always_heard else sound[span][video.audio_mask[span]]
        if not len(heard):
            return None
        mean: NDArray[np.float32] = np.add.reduce(heard, axis=0)
        mean /= len(heard)
        return mean


def _ordered(rows: NDArray[np.float16]) -> NDArray[Any]:
    """The rows as numbers whose order is the same, and fast to tell.

    Halves that aren't negative are ordered as their bits are: integers are compared some 20 times faster.
    """
    bits = rows.view(np.uint16)
    return bits if not bits.size or bits.max() <= _LARGEST_FINITE else rows


@dataclass(frozen=True)
class CutClips:
    """A batch of B clips whose words are still rows of the word vectors, which is far less to hand over.

    Tensors are as `collate` describes them.
    """

    video: Tensor | None
    has_video: Tensor | None
    audio: Tensor | None
    has_audio: Tensor | None
    audio_frames: Tensor | None
    words: Tensor
    """`(B, max_words)` int64, -1 where there is no word."""

    def share(self) -> None:
        """Move the tensors to memory that another process can read; RuntimeError when there is no room for them."""
        for field in fields(self):
            tensor = getattr(self, field.name)
            if tensor is not None:
                tensor.share_memory_()

    def inputs(self, vectors: KeyedVectors) -> ClipInputs:
        """The batch with the vectors of its words."""
        rows = self.words.numpy()
        known = rows >= 0
        spoken = _aligned_empty((*rows.shape, vectors.vector_size), np.float32)
        if known.any():
            np.take(np.asarray(vectors.vectors, np.float32), rows, axis=0, out=spoken, mode="clip")
        spoken[~known] = 0
        return ClipInputs(
            self.video,
            self.has_video,
            self.audio,
            self.has_audio,
            self.audio_frames,
            torch.from_numpy(spoken),
            torch.from_numpy(known),
        )


class ClipBatch:
    """Room for a batch of `count` clips, filled clip by clip, so that a video is let go once its clips are cut."""

    def __init__(self, count: int, rules: ClipRules, video_width: int, audio_width: int = AUDIO_WIDTH) -> None:
        self._filled, self._count = 0, count
        self._video = _aligned_empty((count, 1, video_width), np.float16)
        self._has_video = np.zeros((count, 1), bool)
        self._words = np.full((count, rules.max_words), -1, np.int64)
        self._has_audio = np.zeros(count, bool)
        self._padding = 0.0
        self._audio: NDArray[Any] | None = None
        self._frames: NDArray[np.int64] | None = None
        if rules.audio == "davenet":
            self._audio = _aligned_empty((count, audio_width), np.float32)
        elif rules.audio == "logmel":
            self._audio = _aligned_empty((count, MEL_BANDS, rules.logmel_frames), np.float16)
            self._frames = np.zeros(count, np.int64)
            self._padding = SILENCE_DB if rules.logmel_padding == "silence" else LOUDEST_DB

    def add(self, clip: ClipFeatures) -> None:
        """Fill the next place, padding and all: the room holds anything before."""
        index = self._filled
        self._filled += 1
        self._video[index, 0] = clip.video
        self._has_video[index] = clip.has_video
        self._words[index, : len(clip.words)] = clip.words
        self._has_audio[index] = clip.audio is not None
        if self._audio is None:
            return
        if self._frames is None:
            self._audio[index] = 0 if clip.audio is None else clip.audio
            return
        frames = 0 if clip.audio is None else len(clip.audio)
        if clip.audio is not None:
            self._audio[index, :, :frames] = clip.audio.T
        self._audio[index, :, frames:] = self._padding
        self._frames[index] = frames

    def clips(self) -> CutClips:
        """The batch; AssertionError while it isn't full."""
        assert self._filled == self._count, f"{self._filled} of {self._count} clips"
        seen, heard = self._video.shape[2] > 0, self._audio is not None
        return CutClips(
            torch.from_numpy(self._video) if seen else None,
            torch.from_numpy(self._has_video) if seen else None,
            None if self._audio is None else torch.from_numpy(self._audio),
            torch.from_numpy(self._has_audio) if heard else None,
            None if self._frames is None else torch.from_numpy(self._frames),
            torch.from_numpy(self._words),
        )


def _aligned_empty(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """An array that holds anything, at an address like those of torch's own tensors.

    NumPy asks for large pages: they are first written in a fourth of the time that torch's small ones take.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % _ALIGNMENT
    return memory[first : first + size].view(dtype).reshape(shape)


def collate(
    clips: Sequence[ClipFeatures], rules: ClipRules, vectors: KeyedVectors, audio_width: int = AUDIO_WIDTH
) -> ClipInputs:
    """A batch of B > 0 clips, by the same `rules` and of the same word vectors by which they were cut.

    `video` is `(B, 1, V)` float16, each clip's maximum; `words` `(B, max_words, E)` float32, padded with zeros; `audio`
    `(B, 1024)` float32, or with log-mel `(B, 40, logmel_frames)` float16 in dB, padded as the rules say and so all
    padding for a clip without sound. What a clip is given doesn't depend on the others in the batch.
    """
    batch = ClipBatch(len(clips), rules, len(clips[0].video), audio_width)
    for clip in clips:
        batch.add(clip)
    return batch.clips().inputs(vectors)
