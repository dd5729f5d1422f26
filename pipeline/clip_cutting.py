"""Clips out of a video's rows: which rows, which sound, which words, and a batch of them (clip_rules.py)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gensim.models import KeyedVectors
from numpy.typing import NDArray
from torch import Tensor

from models import ClipInputs
from pipeline.clip_rules import ClipRules
from pipeline.feature_file import DAVENET_WIDTH, LOGMEL_BANDS
from pipeline.records import Caption, VideoFeatures

NATIVE_AUDIO_FPS = 6.25
"""DaveNet's own rate: an output every 160 ms."""

AUDIO_SECONDS = 10.0
"""A clip's frozen audio vector is the mean of the rows within its first 10 s: what the published model hears of it."""

SILENCE_DB, LOUDEST_DB = -80.0, 0.0
"""The floor and the top of a recording's log-mel."""

_SAMPLE_RATE, _HOP, _HALF_WINDOW = 16000, 160, 200
"""Of the log-mel, in samples."""

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
    words: NDArray[np.float32]
    """[W, E] vectors of the words that have one."""


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
    return (int(seconds * _SAMPLE_RATE) - _HALF_WINDOW) // _HOP


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


def vectors_of(words: Sequence[str], vectors: KeyedVectors) -> NDArray[np.float32]:
    """Vectors [W, width] of those words that have one, in their order; W = 0 when none has."""
    known = [vectors.key_to_index[word] for word in words if word in vectors.key_to_index]
    return np.asarray(vectors.vectors[known], np.float32).reshape(len(known), vectors.vector_size)


def cut_clip(
    video: VideoFeatures, start: float, end: float, words: Sequence[str], vectors: KeyedVectors, rules: ClipRules
) -> ClipFeatures:
    """Features of the clip from `start` to `end` seconds, with the first `rules.max_words` of `words` that have a
    vector."""
    return Cutter(video, rules).cut(start, end, vectors_of(words, vectors)[: rules.max_words])


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

    def cut(self, start: float, end: float, words: NDArray[np.float32]) -> ClipFeatures:
        """The clip from `start` to `end` seconds, with the vectors `words` [W, E]."""
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
        return ClipFeatures(video.video_id, start, end, largest, has_video, audio, words)

    def _mean_sound(self, sound: NDArray[np.float32], start: float, end: float) -> NDArray[np.float32] | None:
        """The mean row [1024] of the clip's first 10 s; None without sound."""
        video = self._video
        native = video.audio_rate == "native"
        zero, fps = (video.logmel_start, NATIVE_AUDIO_FPS) if native else (0.0, float(video.feature_fps))
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


class ClipBatch:
    """Room for a batch of `count` clips, filled clip by clip, so that a video is let go once its clips are cut.

    With `shared` it lies in memory that another process can read, so that handing it over copies nothing.
    """

    def __init__(
        self,
        count: int,
        rules: ClipRules,
        video_width: int,
        word_width: int,
        audio_width: int = DAVENET_WIDTH,
        shared: bool = False,
    ) -> None:
        def room(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            tensor = torch.empty(shape, dtype=dtype)
            return tensor.share_memory_() if shared else tensor

        self._filled = 0
        self._places = np.arange(rules.max_words)
        self._video = room(count, 1, video_width, dtype=torch.float16)
        self._has_video = room(count, 1, dtype=torch.bool)
        self._words = room(count, rules.max_words, word_width)
        self._known = room(count, rules.max_words, dtype=torch.bool)
        self._has_audio = room(count, dtype=torch.bool)
        self._padding = 0.0
        self._audio: Tensor | None = None
        self._frames: Tensor | None = None
        if rules.audio == "davenet":
            self._audio = room(count, audio_width)
        elif rules.audio == "logmel":
            self._audio = room(count, LOGMEL_BANDS, rules.logmel_frames, dtype=torch.float16)
            self._frames = room(count, dtype=torch.int64)
            self._padding = SILENCE_DB if rules.logmel_padding == "silence" else LOUDEST_DB
        # NumPy copies a slice in less time than torch needs to begin.
        self._arrays = {
            name: tensor.numpy()
            for name, tensor in (
                ("video", self._video),
                ("has_video", self._has_video),
                ("words", self._words),
                ("known", self._known),
                ("has_audio", self._has_audio),
                ("audio", self._audio),
                ("frames", self._frames),
            )
            if tensor is not None
        }

    def add(self, clip: ClipFeatures) -> None:
        """Fill the next place, padding and all: the room holds anything before."""
        place, arrays = self._filled, self._arrays
        self._filled += 1
        arrays["video"][place, 0] = clip.video
        arrays["has_video"][place] = clip.has_video
        words = len(clip.words)
        arrays["words"][place, :words] = clip.words
        arrays["words"][place, words:] = 0
        arrays["known"][place] = self._places < words
        arrays["has_audio"][place] = clip.audio is not None
        if self._audio is None:
            return
        if self._frames is None:
            arrays["audio"][place] = 0 if clip.audio is None else clip.audio
            return
        frames = 0 if clip.audio is None else len(clip.audio)
        if clip.audio is not None:
            arrays["audio"][place, :, :frames] = clip.audio.T
        arrays["audio"][place, :, frames:] = self._padding
        arrays["frames"][place] = frames

    def inputs(self) -> ClipInputs:
        """The batch; AssertionError while it isn't full."""
        assert self._filled == len(self._video), f"{self._filled} of {len(self._video)} clips"
        has_video = self._video.shape[2] > 0
        return ClipInputs(
            self._video if has_video else None,
            self._has_video if has_video else None,
            self._audio,
            None if self._audio is None else self._has_audio,
            self._frames,
            self._words,
            self._known,
        )


def collate(clips: Sequence[ClipFeatures], rules: ClipRules, audio_width: int = DAVENET_WIDTH) -> ClipInputs:
    """A batch of B > 0 clips, by the same `rules` by which they were cut.

    `video` is `(B, 1, V)` float16, each clip's maximum; `words` `(B, max_words, E)` float32, padded with zeros; `audio`
    `(B, 1024)` float32, or with log-mel `(B, 40, logmel_frames)` float16 in dB, padded as the rules say and so all
    padding for a clip without sound. What a clip is given doesn't depend on the others in the batch.
    """
    batch = ClipBatch(len(clips), rules, len(clips[0].video), clips[0].words.shape[1], audio_width)
    for clip in clips:
        batch.add(clip)
    return batch.inputs()


def grow_clip(captions: Sequence[Caption], chosen: int, min_seconds: float) -> list[int]:
    """Grow caption `chosen` by its neighbours to at least `min_seconds`; returns the captions' indices as taken up.

    As published (Chen et al.'s data loader): each step takes the neighbour that gives the shorter span, ties go to
    the previous one, and growth stops at the video's ends.
    """
    first = last = chosen
    taken = [chosen]
    while captions[last].end - captions[first].start < min_seconds:
        before = captions[last].end - captions[first - 1].start if first > 0 else np.inf
        after = captions[last + 1].end - captions[first].start if last + 1 < len(captions) else np.inf
        if before == after == np.inf:
            break
        if before <= after:
            first -= 1
            taken.append(first)
        else:
            last += 1
            taken.append(last)
    return taken
