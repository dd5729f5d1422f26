"""The sound of one media file to 16 kHz mono samples, by PyAV: in order, on the clock of the file's picture."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from typing import NamedTuple

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.filter import Graph
from av.packet import Packet
from av.stream import Stream
from numpy.typing import NDArray

from extractors.decode import LONGEST_DURATION_S, DecodeSettings, SoundChunk, SoundSummary
from extractors.errors import MediaError
from extractors.feature_format import SAMPLE_RATE
from extractors.media_container import (
    Clock,
    audio_stream,
    cut_short,
    decoded,
    open_media,
    time_zero,
    timed_packets,
    video_stream,
)
from extractors.media_file import MediaFile

_LONGEST_SAMPLES = round(LONGEST_DURATION_S * SAMPLE_RATE)
_CHUNK_SAMPLES = 10 * SAMPLE_RATE
_LONGEST_GAP_S = 10
"""What FFmpeg's resampler fills by itself: it counts samples in 32 bits."""
Samples = NDArray[np.int16]


def decode_audio(file: MediaFile, settings: DecodeSettings) -> Iterator[SoundChunk | SoundSummary]:
    """SoundChunk by SoundChunk, then a SoundSummary; of a file without sound the summary alone.

    Mixed down to mono and resampled. Priming samples are trimmed, and gaps within the stream are filled with silence,
    so that sample n is heard at start + n / 16000 seconds from time zero, as frames are counted. A stream that breaks
    gives what was decoded, with a note. MediaError "undecodable" for what is no media file.
    """
    del settings  # one decoder, one rate
    decoding = _Sound(file)
    try:
        yield from _chunks(decoding)
    except MemoryError:
        raise
    except av.error.FFmpegError as error:
        raise MediaError("undecodable", f"{file.path}: FFmpeg stopped in its sound: {error.strerror}") from error
    yield SoundSummary(decoding.has_audio, decoding.start, tuple(decoding.notes()))


def _chunks(decoding: "_Sound") -> Iterator[SoundChunk]:
    """In messages of about ten seconds: a frame of sound has some 20 ms."""
    waiting: list[Samples] = []
    for samples in decoding:
        waiting.append(samples)
        if sum(map(len, waiting)) >= _CHUNK_SAMPLES:
            yield SoundChunk(np.concatenate(waiting))
            waiting = []
    if waiting:
        yield SoundChunk(np.concatenate(waiting))


class _Kind(NamedTuple):
    """What a filter graph is made for."""

    rate: int
    format: str
    layout: str


class _Sound:
    """Iterating gives the samples from time zero on, in pieces."""

    def __init__(self, file: MediaFile) -> None:
        self._file = file
        self.has_audio = False
        self.start = 0.0
        self._faults = 0
        self._first_fault = ""
        self._cut_short: list[str] = []
        self._gaps: list[float] = []
        self._count = 0

    def __iter__(self) -> Iterator[Samples]:
        first: int | None = None
        for position, samples in self._placed():
            if first is None:
                first = max(position, 0)
                self.start = first / SAMPLE_RATE
                # What lies before time zero is priming.
                samples = samples[max(-position, 0) :]
            else:
                missing = position - first - self._count
                for begin in range(0, min(missing, _LONGEST_SAMPLES - self._count), _CHUNK_SAMPLES):
                    yield self._counted(np.zeros(min(missing - begin, _CHUNK_SAMPLES), np.int16))
                samples = samples[max(-missing, 0) :]
            yield self._counted(samples)
            if self._count >= _LONGEST_SAMPLES:
                return

    def _counted(self, samples: Samples) -> Samples:
        samples = samples[: _LONGEST_SAMPLES - self._count]
        self._count += len(samples)
        return samples

    def notes(self) -> Iterator[str]:
        if self._faults:
            yield f"audio: {self._faults} faults while it was decoded, the first: {self._first_fault[:160]}"
        yield from (f"audio: {note}" for note in self._cut_short)
        if self._gaps:
            yield f"audio: {len(self._gaps)} gaps of up to {max(self._gaps):.1f} s are filled with silence"
        if self.has_audio and not self._count:
            yield "audio: no sample could be decoded"

    def _placed(self) -> Iterator[tuple[int, Samples]]:
        """(number of the first sample from time zero on, samples)."""
        with open_media(self._file) as container:
            video = video_stream(container)
            stream = audio_stream(container, video)
            self.has_audio = stream is not None
            if stream is None or stream.codec_context is None or not stream.time_base:
                return
            stream.codec_context.thread_count = 1
            zero = time_zero(container, video, stream)
            clock = Clock(container)
            packets = timed_packets(container, [video, stream] if video is not None else [stream], clock)
            try:
                yield from self._resampled(stream, packets, zero, _stated_end(container, stream))
            except MemoryError:
                raise
            except av.error.FFmpegError as error:
                # A sound that can't be mixed down costs no picture.
                self._fault(error.strerror)
            self._cut_short = list(cut_short(container, clock))

    def _resampled(
        self, stream: AudioStream, packets: "Iterator[Packet[Stream]]", zero: Fraction, stated_end: Fraction | None
    ) -> Iterator[tuple[int, Samples]]:
        graph: Graph | None = None
        kind: _Kind | None = None
        expected: Fraction | None = None
        assert stream.time_base is not None
        for frame, is_last in _with_last(self._frames(stream, packets)):
            if frame.pts is None or not frame.sample_rate or not frame.samples:
                continue
            of_frame = _Kind(frame.sample_rate, frame.format.name, frame.layout.name)
            begins = frame.pts * stream.time_base
            gap = begins - expected if expected is not None else Fraction(0)
            expected = begins + Fraction(frame.samples, frame.sample_rate)
            if gap > _LONGEST_GAP_S:
                self._gaps.append(float(gap))
            if graph is None or kind != of_frame or gap > _LONGEST_GAP_S:
                if graph is not None:
                    yield from _pulled(graph, None, zero)
                graph, kind = _resampling(of_frame, stream.time_base), of_frame
            frame.time_base = stream.time_base
            pieces = _pulled(graph, frame, zero)
            if is_last:
                yield from _without_last(chain(pieces, _pulled(graph, None, zero)), _surplus(frame, stated_end))
            else:
                yield from pieces

    def _frames(self, stream: AudioStream, packets: "Iterator[Packet[Stream]]") -> Iterator[AudioFrame]:
        for frame in decoded(stream, packets, self._fault):
            if frame.is_corrupt:
                self._fault("samples decoded from damaged data")
            yield frame

    def _fault(self, reason: str | None) -> None:
        self._faults += 1
        self._first_fault = self._first_fault or reason or "unknown"


def _with_last(frames: Iterator[AudioFrame]) -> Iterator[tuple[AudioFrame, bool]]:
    before: AudioFrame | None = None
    for frame in frames:
        if before is not None:
            yield before, False
        before = frame
    if before is not None:
        yield before, True


def _stated_end(container: InputContainer, stream: AudioStream) -> Fraction | None:
    """Seconds at which an MP4's index ends its sound, within the last frame: an encoder has filled that up."""
    if not container.format.name.startswith("mov,") or not stream.frames or not stream.duration or not stream.time_base:
        return None
    return ((stream.start_time or 0) + stream.duration) * stream.time_base


def _surplus(frame: AudioFrame, stated_end: Fraction | None) -> int:
    """16 kHz samples of the last frame that lie past the stated end; none where that isn't within the frame."""
    if stated_end is None or frame.pts is None or frame.time_base is None:
        return 0
    begin = frame.pts * frame.time_base
    end = begin + Fraction(frame.samples, frame.sample_rate)
    return round((end - stated_end) * SAMPLE_RATE) if begin < stated_end < end else 0


def _without_last(pieces: Iterable[tuple[int, Samples]], count: int) -> Iterator[tuple[int, Samples]]:
    """The pieces without their last `count` samples."""
    waiting = list(pieces)
    for _, samples in reversed(waiting.copy()):
        if count < len(samples):
            break
        count -= len(samples)
        waiting.pop()
    for position, samples in waiting[:-1]:
        yield position, samples
    if waiting:
        position, samples = waiting[-1]
        yield position, samples[: len(samples) - count]


def _resampling(kind: _Kind, time_base: Fraction) -> Graph:
    graph = Graph()
    source = graph.add_abuffer(sample_rate=kind.rate, format=kind.format, layout=kind.layout, time_base=time_base)
    # As long as the time stamps agree with the samples they are not touched; a gap is filled, an overlap is cut.
    resample = graph.add("aresample", f"{SAMPLE_RATE}:async=1")
    mono = graph.add("aformat", f"sample_fmts=s16:channel_layouts=mono:sample_rates={SAMPLE_RATE}")
    sink = graph.add("abuffersink")
    graph.link_nodes(source, resample, mono, sink)
    graph.configure()
    return graph


def _pulled(graph: Graph, frame: AudioFrame | None, zero: Fraction) -> Iterator[tuple[int, Samples]]:
    graph.push(frame)
    while True:
        try:
            resampled = graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        assert isinstance(resampled, AudioFrame) and resampled.pts is not None and resampled.time_base is not None
        position = round((resampled.pts * resampled.time_base - zero) * SAMPLE_RATE)
        yield position, resampled.to_ndarray().reshape(-1).astype(np.int16, copy=False)
