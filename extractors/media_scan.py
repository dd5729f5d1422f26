"""What a media file holds, measured from its packets: stated frame counts and durations are not trusted."""

from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from extractors.decode import LONGEST_DURATION_S
from extractors.errors import MediaError
from extractors.frames_pyav import Orientation, decoded_frames, displayed, open_media, orientation, video_stream
from extractors.timeline import GRID_FPS

WIDEST_ASPECT = 16


@dataclass(frozen=True)
class MediaScan:
    """The video stream of a file, every frame of it timed."""

    pts: NDArray[np.int64]
    """presentation time stamps, ascending and distinct, in ticks of the stream; shape (frames,)"""
    times: NDArray[np.float64]
    """the same in seconds from time zero"""
    duration: float
    """seconds from time zero to the end of the last frame"""
    display_width: float
    """after rotation and pixel shape; not rounded"""
    display_height: float
    orientation: Orientation
    first_pts: int
    """time stamp of the first frame that can be decoded"""
    first_frame: NDArray[np.uint8]
    """that frame as displayed, RGB at the stored resolution, (height, width, 3)"""
    one_packet_per_frame: bool
    """the n-th frame in time is the n-th packet in time, none damaged: a decoder that counts frames can be trusted"""
    has_audio: bool


def scan_media(path: str) -> MediaScan:
    """Reads every packet of a file's video stream and decodes its first frame. `path` comes from `check_path`.

    MediaError: "no-video-stream", "zero-length" (no frame), "undecodable".
    """
    with open_media(path) as container:
        stream = video_stream(container)
        if stream is None:
            raise MediaError("no-video-stream", f"{path}: holds no video stream")
        has_audio = bool(container.streams.audio)
        time_base = stream.time_base
        if not time_base:
            raise MediaError("undecodable", f"{path}: its video has no time base")
        packets = _packet_times(container, stream)
        if not packets.packets:
            raise MediaError("zero-length", f"{path}: its video stream holds no frame")
        if not packets.pts.size:
            raise MediaError("undecodable", f"{path}: its video frames carry no time stamps")
        zero = _time_zero(container.start_time, time_base)
        pixel_aspect = stream.sample_aspect_ratio or Fraction(1)
        end = (int(packets.pts[-1]) + _last_duration(packets, stream)) * time_base - zero

    duration = float(end)
    if duration <= 0:
        raise MediaError("zero-length", f"{path}: its video ends before time zero")
    if duration > LONGEST_DURATION_S:
        raise MediaError("undecodable", f"{path}: its time stamps reach {duration / 3600:.0f} hours")
    frame = _first_frame(path)
    turn = orientation(frame)
    first_frame = displayed(frame, turn)
    height, width = first_frame.shape[:2]
    display_width = float(width / pixel_aspect if turn.transpose else width * pixel_aspect)
    if not 1 / WIDEST_ASPECT <= display_width / height <= WIDEST_ASPECT:
        raise MediaError("undecodable", f"{path}: a frame of {display_width:.0f}x{height} is not a picture")
    return MediaScan(
        pts=packets.pts,
        times=packets.pts.astype(np.float64) * float(time_base) - float(zero),
        duration=duration,
        display_width=display_width,
        display_height=float(height),
        orientation=turn,
        first_pts=frame.pts or 0,
        first_frame=first_frame,
        one_packet_per_frame=packets.sound and packets.pts.size == packets.packets,
        has_audio=has_audio,
    )


class _PacketTimes(NamedTuple):
    pts: NDArray[np.int64]
    last_duration: int
    packets: int
    sound: bool


def _packet_times(container: InputContainer, stream: VideoStream) -> _PacketTimes:
    pts: list[int] = []
    durations: list[int] = []
    packets = 0
    sound = True
    try:
        for packet in container.demux(stream):
            if not packet.size:
                continue
            packets += 1
            sound &= not (packet.is_corrupt or packet.is_discard)
            if packet.pts is not None and not packet.is_discard:
                pts.append(packet.pts)
                durations.append(packet.duration or 0)
    except MemoryError:
        raise
    except av.error.FFmpegError:
        # A file cut short: the packets before the cut are good.
        sound = False
    stamps, where = np.unique(np.asarray(pts, dtype=np.int64), return_index=True)
    return _PacketTimes(stamps, durations[where[-1]] if pts else 0, packets, sound)


def _time_zero(start_us: int | None, time_base: Fraction) -> Fraction:
    """Seconds. A negative start is codec priming, which is trimmed, so zero stays zero."""
    start = Fraction(max(start_us or 0, 0), av.time_base)
    # FFmpeg states the start in whole microseconds; the tick it was rounded from makes durations exact.
    tick = round(start / time_base) * time_base
    return tick if abs(tick - start) <= Fraction(1, av.time_base) else start


def _last_duration(packets: _PacketTimes, stream: VideoStream) -> Fraction:
    """Ticks for which the last frame is shown; where the file doesn't say, the median interval between frames."""
    if packets.last_duration > 0:
        return Fraction(packets.last_duration)
    if packets.pts.size > 1:
        return Fraction(float(np.median(np.diff(packets.pts))))
    assert stream.time_base is not None
    return 1 / ((stream.average_rate or Fraction(GRID_FPS)) * stream.time_base)


def _first_frame(path: str) -> VideoFrame:
    with open_media(path) as container:
        stream = video_stream(container)
        frame = next(decoded_frames(container, stream), None) if stream else None
    if frame is None:
        raise MediaError("undecodable", f"{path}: none of its frames can be decoded")
    return frame
