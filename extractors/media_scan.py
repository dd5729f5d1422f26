"""What a media file holds, measured from its packets: stated frame counts and durations are not trusted."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from extractors.container_cropping import container_cropping
from extractors.decode import LONGEST_DURATION_S
from extractors.errors import MediaError
from extractors.frames_pyav import Display, decoded_frames, orientation
from extractors.media_container import (
    JUMP_S,
    LATEST_TICK,
    MOST_ERRORS,
    Clock,
    audio_stream,
    cut_short,
    error_text,
    errors_of_ffmpeg,
    open_media,
    time_zero,
    timed_packets,
    video_stream,
)
from extractors.media_file import MediaFile
from extractors.timeline import GRID_FPS

WIDEST_ASPECT = 16
_SOUND_OUTLASTS_S = 1.0
# decord's old FFmpeg reports damage in H.264. In VP8 and VP9 it shows other pictures than a newer one and says nothing,
# and PyAV decodes these as fast.
_DECORD_CODEC = "h264"
_DECORD_PIXELS = frozenset({"yuv420p", "yuvj420p"})
_DECORD_CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2": (4, b"ftyp"), "matroska,webm": (0, b"\x1a\x45\xdf\xa3")}
"""Container -> where its signature stands: by it every FFmpeg, however old, takes the file for the same format."""
_DECORD_BYTES = 2**29
"""decord gets a file's bytes in memory."""


@dataclass(frozen=True)
class MediaScan:
    """The video stream of a file, every packet of it timed."""

    pts: NDArray[np.int64]
    """presentation time stamps on one clock, ascending and distinct, in ticks of the stream; shape (packets,)"""
    ends: NDArray[np.int64]
    """tick at which the packet's frame leaves the screen: the next one's, or its own end where a gap follows"""
    time_base: Fraction
    """seconds a tick"""
    zero: Fraction
    """seconds on the same clock that a player calls zero"""
    duration: float
    """seconds from time zero to the end of the last frame"""
    display: Display
    display_width: float
    """after cropping, rotation and pixel shape; not rounded"""
    display_height: float
    first_frame: NDArray[np.uint8]
    """the first frame that can be decoded, as displayed, RGB at the stored resolution, (height, width, 3)"""
    has_audio: bool
    in_order: bool
    """packets carry no presentation times, or not their own: the n-th frame decoded has the n-th time"""
    reordered: bool
    """packets are shown in another order than they are decoded in: it has frames that no other is decoded from"""
    why_not_decord: str
    """why it isn't proved that decord counts frames as they are shown; empty where it is"""
    notes: tuple[str, ...]


def scan_media(file: MediaFile) -> MediaScan:
    """Reads every packet of a file and decodes its first frame.

    MediaError: "no-video-stream", "zero-length" (no frame), "undecodable".
    """
    path = file.path
    with open_media(file) as container:
        stream = video_stream(container)
        if stream is None:
            raise MediaError("no-video-stream", f"{path}: holds no video stream")
        if not stream.time_base:
            raise MediaError("undecodable", f"{path}: its video has no time base")
        sound = audio_stream(container, stream)
        clock = Clock(container)
        packets = _Packets()
        with errors_of_ffmpeg() as errors:
            sound_end = _read(container, stream, sound, clock, packets, errors)
        if not packets.count:
            raise MediaError("zero-length", f"{path}: its video stream holds no frame")
        in_order = container.format.name == "avi" or packets.untimed
        time_base, zero, rate = stream.time_base, time_zero(container, stream, sound), stream.average_rate
        lost = [*_damage(errors), *cut_short(container, clock)]
        packets.damaged |= bool(lost)
        why_not = _why_not_decord(file, container, stream, packets)
        pixel_aspect = stream.sample_aspect_ratio or Fraction(1)
        crop = container_cropping(file, container.format.name, _track_number(container, stream))

    times = packets.times(in_order)
    if not times.pts.size:
        raise MediaError("undecodable", f"{path}: its video frames carry no time stamps")
    if max(-int(times.pts[0]), int(times.pts[-1])) > LATEST_TICK:
        raise MediaError("undecodable", f"{path}: its time stamps are beyond what can be counted")
    frame = _first_frame(file)
    if in_order and frame.dts is not None:
        # FFmpeg's player shows a frame when the decoder gives it, some packets after its own.
        times = times.after_packets(int(np.searchsorted(times.pts, frame.dts)), _interval(times.pts, time_base, rate))
    ends, last = _ends(times, time_base, rate)
    end = last * time_base - zero
    duration = float(end)
    if duration <= 0:
        raise MediaError("zero-length", f"{path}: its video ends before time zero")
    if duration > LONGEST_DURATION_S:
        raise MediaError("undecodable", f"{path}: its time stamps reach {duration / 3600:.0f} hours")
    display = Display(orientation(frame), crop if crop is not None and crop.fits(frame.width, frame.height) else None)
    first_frame = display.picture(frame)
    height, width = first_frame.shape[:2]
    display_width = float(width / pixel_aspect if display.turn.transpose else width * pixel_aspect)
    if not 1 / WIDEST_ASPECT <= display_width / height <= WIDEST_ASPECT:
        raise MediaError("undecodable", f"{path}: a frame of {display_width:.0f}x{height} is not a picture")
    if display != Display():
        why_not = why_not or "the picture is turned or cropped for display"
    return MediaScan(
        pts=times.pts,
        ends=ends,
        time_base=time_base,
        zero=zero,
        duration=duration,
        display=display,
        display_width=display_width,
        display_height=float(height),
        first_frame=first_frame,
        has_audio=sound is not None,
        in_order=in_order,
        reordered=packets.pts != sorted(packets.pts),
        why_not_decord=why_not,
        notes=(*lost, *_notes(clock, zero, duration, None if sound_end is None else float(sound_end - zero))),
    )


@dataclass(frozen=True)
class _Times:
    pts: NDArray[np.int64]
    durations: NDArray[np.int64]

    def after_packets(self, count: int, interval: Fraction) -> "_Times":
        """Each at the time of the packet `count` later; the last ones follow on at the interval."""
        following = [int(self.pts[-1]) + round(number * interval) for number in range(1, count + 1)]
        pts = [*self.pts[count:], *following]
        return _Times(np.array(pts, np.int64), np.array([*self.durations[count:], *[0] * count], np.int64))


@dataclass
class _Packets:
    """What the packets of the video stream say, in decoding order."""

    pts: list[int] = field(default_factory=list)
    dts: list[int] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)
    count: int = 0
    untimed: bool = False
    damaged: bool = False
    newest_key: int | None = None
    late: bool = False
    """a packet after a key frame is shown before it: the group is open, and counting frames from it goes wrong"""

    def add(self, packet: "Packet[Stream]") -> None:
        self.count += 1
        self.damaged |= packet.is_corrupt or packet.is_discard
        if packet.is_discard:
            return
        self.untimed |= packet.pts is None
        pts = packet.pts if packet.pts is not None else packet.dts
        if pts is None:
            return
        self.late |= not packet.is_keyframe if self.newest_key is None else pts < self.newest_key
        if packet.is_keyframe:
            self.newest_key = pts if self.newest_key is None else max(self.newest_key, pts)
        self.pts.append(pts)
        self.dts.append(packet.dts if packet.dts is not None else pts)
        self.durations.append(packet.duration or 0)

    def times(self, in_order: bool) -> _Times:
        stamps = self.dts if in_order else self.pts
        pts, where = np.unique(np.asarray(stamps, np.int64), return_index=True)
        return _Times(pts, np.asarray(self.durations, np.int64)[where])


def _read(
    container: InputContainer,
    stream: VideoStream,
    sound: AudioStream | None,
    clock: Clock,
    packets: _Packets,
    errors: list[tuple[int, str, str]],
) -> Fraction | None:
    """Adds the video's packets; returns the end of the sound in seconds on the clock."""
    sound_end: Fraction | None = None
    try:
        for packet in timed_packets(container, [stream, sound] if sound else [stream], clock):
            # Of a file that is damaged throughout they would take more memory than its frames.
            del errors[MOST_ERRORS:]
            if packet.stream_index == stream.index:
                packets.add(packet)
            elif packet.pts is not None and packet.time_base:
                end = (packet.pts + (packet.duration or 0)) * packet.time_base
                sound_end = end if sound_end is None else max(sound_end, end)
    except MemoryError:
        raise
    except av.error.FFmpegError:
        # A file cut short: the packets before the cut are good.
        packets.damaged = True
    return sound_end


def _interval(pts: NDArray[np.int64], time_base: Fraction, rate: Fraction | None) -> Fraction:
    """The usual one between two frames, in ticks."""
    if pts.size > 1:
        return Fraction(float(np.median(np.diff(pts))))
    return 1 / ((rate or Fraction(GRID_FPS)) * time_base)


def _ends(times: _Times, time_base: Fraction, rate: Fraction | None) -> tuple[NDArray[np.int64], Fraction]:
    """When each frame leaves the screen, in ticks; and the end of the last one, to a fraction of a tick."""
    pts, durations, usual = times.pts, times.durations, _interval(times.pts, time_base, rate)
    following = np.append(pts[1:], pts[-1])
    own = pts + np.where(durations > 0, durations, round(usual))
    # A slide may stay for long, and its container says so; what no packet vouches for is a gap, and nothing is shown.
    gap = (following - pts) * float(time_base) > JUMP_S
    ends = np.where(gap & (own < following), own, following)
    last = int(pts[-1]) + (Fraction(int(durations[-1])) if durations[-1] > 0 else usual)
    ends[-1] = np.iinfo(np.int64).max
    return ends, last


def _why_not_decord(file: MediaFile, container: InputContainer, stream: VideoStream, packets: _Packets) -> str:
    context = stream.codec_context
    signature = _DECORD_CONTAINERS.get(container.format.name)
    if signature is None:
        return f"its container is {container.format.name}"
    file.seek(signature[0])
    if file.read(len(signature[1])) != signature[1]:
        return "its container has no signature at its beginning"
    if file.size > _DECORD_BYTES:
        return f"it is larger than {_DECORD_BYTES // 2**20} MiB"
    if context is None or context.name != _DECORD_CODEC or context.pix_fmt not in _DECORD_PIXELS:
        return f"its video is {context.name + ' ' + str(context.pix_fmt) if context else 'unknown'}"
    if len(container.streams.video) != 1:
        return "it holds several video streams"
    if packets.untimed or packets.damaged or len(set(packets.pts)) != packets.count:
        return "the file's packets and frames do not match"
    if packets.late:
        return "pictures are shown before the key frame that they follow"
    return ""


def _track_number(container: InputContainer, stream: VideoStream) -> int:
    return [other.index for other in container.streams.video].index(stream.index)


def _first_frame(file: MediaFile) -> VideoFrame:
    with open_media(file) as container:
        stream = video_stream(container)
        frame = next(decoded_frames(container, stream), None) if stream else None
    if frame is None:
        raise MediaError("undecodable", f"{file.path}: none of its frames can be decoded")
    return frame


def _damage(errors: list[tuple[int, str, str]]) -> Iterator[str]:
    if errors:
        first = error_text(*errors[0][1:])
        yield f"the file is damaged: {len(errors)} errors while it was read, the first: {first}"


def _notes(clock: Clock, zero: Fraction, duration: float, sound_end: float | None) -> Iterator[str]:
    for where, jump in clock.joins[:3]:
        at = float(where - zero)
        yield f"its clock jumps by {float(jump):.1f} s at {at:.1f} s: what follows is put right after it"
    if len(clock.joins) > 3:
        yield f"its clock jumps {len(clock.joins)} times"
    if sound_end is not None and sound_end > duration + _SOUND_OUTLASTS_S:
        yield f"the sound goes on for {sound_end - duration:.1f} s after the last picture: rows end with the picture"
