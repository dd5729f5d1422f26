"""A media file opened by PyAV: the streams that a player chooses, and their packets on one clock."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

import av

# PyAV imports these when it meets subtitles, and while a file is read nothing can be opened.
import av.subtitles.codeccontext
import av.subtitles.stream
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.format import Flags
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from extractors.errors import DecoderError, MediaError
from extractors.media_file import MediaFile

# Only containers that hold their own frames: a playlist would name other files, or hosts, for FFmpeg to open.
CONTAINERS = "mov,matroska,mpegts,mpeg,avi,flv,asf,ogg,ivf,nut,rm,dv,wav,mp3,aac,flac"
_OPEN_OPTIONS = {"protocol_whitelist": "none", "format_whitelist": CONTAINERS}
_READ_BYTES = 2**18

JUMP_S = 10.0
"""A clock that goes ahead by more has jumped, as for FFmpeg's own player; less is a gap in the stream."""
_CUT_SHORT_S = 0.3
_MOST_JOINS = 100
MOST_ERRORS = 1000
LATEST_TICK = 2**62
"""Sums of two ticks are 64-bit integers up to here."""
_BACK_S = {True: 0.1, False: 1.0}

av.logging.set_level(av.logging.PANIC)


def open_media(file: MediaFile) -> InputContainer:
    """Opens a file from its beginning, in an accepted container; MediaError "undecodable" otherwise."""
    file.seek(0)
    try:
        return av.open(file, "r", buffer_size=_READ_BYTES, options=dict(_OPEN_OPTIONS), metadata_errors="replace")
    except MemoryError:
        raise
    except av.error.OptionNotFoundError as error:
        raise DecoderError(f"PyAV {av.__version__} knows other options: {error.strerror}") from error
    except av.error.FFmpegError as error:
        reason = error.strerror or str(error)
        raise MediaError("undecodable", f"{file.path}: is not a video file that FFmpeg can open ({reason})") from error


def video_stream(container: InputContainer) -> VideoStream | None:
    """The stream that a player shows, or None; a cover picture is no video.

    As for the FFmpeg program: one marked as default before others, the largest picture, the first.
    """
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    return max(streams, key=_picture_rank, default=None)


def audio_stream(container: InputContainer, video: VideoStream | None) -> AudioStream | None:
    """The stream that a player plays with `video`: of its program, one marked as default, most channels, the first."""
    streams = list(container.streams.audio)
    if _has_programs(container) and video is not None:
        of_program = container.streams.best("audio", video)
        return of_program if isinstance(of_program, AudioStream) else None
    return max(streams, key=_sound_rank, default=None)


def _picture_rank(stream: VideoStream) -> tuple[bool, bool, int]:
    context = stream.codec_context
    pixels = context.width * context.height if context is not None else 0
    return context is not None, bool(stream.disposition & Disposition.default), pixels


def _sound_rank(stream: AudioStream) -> tuple[bool, bool, int]:
    context = stream.codec_context
    return context is not None, bool(stream.disposition & Disposition.default), context.channels if context else 0


def _has_programs(container: InputContainer) -> bool:
    return container.format.name == "mpegts"


def _clock_may_jump(container: InputContainer) -> bool:
    """Whether the format's clock wraps and begins anew by design (MPEG transport and program streams)."""
    return bool(container.format.flags & cast(int, Flags.ts_discont.value))


def time_zero(container: InputContainer, video: VideoStream | None, sound: AudioStream | None) -> Fraction:
    """Seconds on the streams' clock that a player calls zero.

    A negative start is codec priming, which is trimmed, so zero stays zero; but where the clock wraps, it is the start.
    Of several programs, that of the streams chosen.
    """
    chosen = [stream for stream in (video, sound) if stream is not None]
    starts = [one.start_time * one.time_base for one in chosen if one.start_time is not None and one.time_base]
    if _has_programs(container) and starts:
        return min(starts)
    start_us = container.start_time or 0
    start = Fraction(start_us if _clock_may_jump(container) else max(start_us, 0), av.time_base)
    # FFmpeg states the start in whole microseconds; the tick it was rounded from makes durations exact.
    time_base = next((stream.time_base for stream in chosen if stream.time_base), Fraction(1))
    tick = round(start / time_base) * time_base
    return tick if abs(tick - start) <= Fraction(1, av.time_base) else start


@dataclass
class _Stream:
    """Where one stream is on the common clock, in its own ticks."""

    base: Fraction
    back: int
    ahead: int
    shift: int = 0
    offset: int = 0
    """Which of the clock's offsets the shift is of."""
    last: int | None = None
    expected: int = 0
    end: int | None = None
    """Where the last in time of its packets ends."""

    def follows(self, time: int) -> bool:
        return self.last is None or self.last - self.back <= time <= self.expected + self.ahead


class Clock:
    """Puts packets on one clock where the file's own begins anew or jumps, so that one part follows the other.

    A jump of any stream moves all, as FFmpeg's player does it; packets that the jump overtook keep the clock before.
    """

    def __init__(self, container: InputContainer) -> None:
        may_jump = _clock_may_jump(container)
        self._back = Fraction(_BACK_S[may_jump])
        self._ahead = Fraction(JUMP_S) if may_jump else None
        self._offsets = [Fraction(0)]
        self._streams: dict[int, _Stream] = {}
        self.joins: list[tuple[Fraction, Fraction]] = []
        """(where, seconds by which the file's clock jumps there)"""

    def place(self, packet: "Packet[Stream]") -> None:
        """Moves a packet's time stamps. To be called with all packets of the streams read, in the file's order."""
        stamp = packet.dts if packet.dts is not None else packet.pts
        if stamp is None or not packet.time_base:
            return
        stream = self._streams.get(packet.stream_index)
        if stream is None:
            ahead = LATEST_TICK if self._ahead is None else round(self._ahead / packet.time_base)
            stream = _Stream(packet.time_base, round(self._back / packet.time_base), ahead)
            self._streams[packet.stream_index] = stream
        if stream.offset != len(self._offsets) - 1 or not stream.follows(stamp + stream.shift):
            self._choose(stream, stamp)
        stream.last = stamp + stream.shift
        stream.expected = stream.last + (packet.duration or 0)
        shown = stamp if packet.pts is None else packet.pts
        end = shown + stream.shift + (packet.duration or 0)
        stream.end = end if stream.end is None else max(stream.end, end)
        if stream.shift:
            packet.pts, packet.dts = _moved(packet.pts, stream.shift), _moved(packet.dts, stream.shift)

    def end(self) -> Fraction | None:
        """Seconds at which the last packet placed so far ends."""
        return max((one.end * one.base for one in self._streams.values() if one.end is not None), default=None)

    def _choose(self, stream: _Stream, stamp: int) -> None:
        newest = len(self._offsets) - 1
        for offset in range(newest, max(newest - 2, -1), -1):
            shift = round(self._offsets[offset] / stream.base)
            if stream.follows(stamp + shift):
                stream.shift, stream.offset = shift, offset
                return
        where, before = stream.expected * stream.base, stamp + stream.shift
        if len(self.joins) < _MOST_JOINS:
            self.joins.append((where, before * stream.base - where))
        stream.shift, stream.offset = stream.expected - stamp, newest + 1
        self._offsets.append(stream.shift * stream.base)


@contextmanager
def errors_of_ffmpeg() -> Iterator[list[tuple[int, str, str]]]:
    """(level, component, message) of the errors that FFmpeg reports within the block; it is silent elsewhere.

    That there is one, of which level and component, is FFmpeg's word; its text may be the file's.
    """
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as messages:
            yield messages
    finally:
        av.logging.set_level(av.logging.PANIC)


def error_text(component: str, message: str) -> str:
    """An error of `errors_of_ffmpeg` on one line of printable characters."""
    text = "".join(character for character in message.strip()[:120] if character.isprintable())
    return f"FFmpeg's {component}: {text}"


def cut_short(container: InputContainer, clock: Clock) -> Iterator[str]:
    """A line where packets end well before the container's own duration: what else came, the file has lost."""
    end, stated = clock.end(), (container.duration or 0) / av.time_base
    if end is not None:
        reached = float(end) - (container.start_time or 0) / av.time_base
        if reached < stated - _CUT_SHORT_S:
            yield f"the file ends at {reached:.1f} s of the {stated:.1f} s that its container states"


def _moved(stamp: int | None, shift: int) -> int | None:
    return stamp + shift if stamp is not None and abs(stamp + shift) <= LATEST_TICK else None


def timed_packets(container: InputContainer, streams: list[Stream], clock: Clock) -> "Iterator[Packet[Stream]]":
    """The packets of the streams in the file's order, on one clock. Raises FFmpegError where the file breaks off."""
    while True:
        try:
            for packet in container.demux(streams):
                if packet.size:
                    clock.place(packet)
                    yield packet
            return
        except IndexError:
            # PyAV doesn't know a stream that appears in the middle; what is left is read with it in the list.
            continue


def decoded(
    stream: VideoStream | AudioStream,
    packets: "Iterator[Packet[Stream]]",
    fault: Callable[[str], None],
    begin: Callable[["Packet[Stream]"], None] = lambda packet: None,
) -> Iterator[Any]:
    """Every frame of a stream that comes out, in presentation order; `fault` is called with what is wrong with some.

    `begin` is called with each packet before it is decoded.
    """
    while True:
        try:
            packet = next(packets, None)
        except MemoryError:  # PyAV's own is both
            raise
        except av.error.FFmpegError as error:
            fault(error.strerror or "unknown")
            packet = None
        if packet is not None and packet.stream_index != stream.index:
            continue
        if packet is not None:
            if packet.is_corrupt:
                fault("a packet is cut short")
            begin(packet)
        try:
            # A file cut short ends without the empty packet that makes the decoder give up the frames it still holds.
            with errors_of_ffmpeg() as errors:
                frames = stream.decode(packet)
            # Not every decoder marks what it made of damage.
            for _, component, message in errors:
                fault(error_text(component, message))
        except av.error.EOFError:
            return
        except MemoryError:
            raise
        except av.error.FFmpegError as error:
            fault(error.strerror or "unknown")
            frames = []
        yield from frames
        if packet is None:
            return
