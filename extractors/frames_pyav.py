"""Frames through PyAV, a maintained FFmpeg: in order, from the start, each known by its time stamp."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple, cast

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from extractors.decode import FFMPEG_OPEN_OPTIONS
from extractors.errors import MediaError


class Orientation(NamedTuple):
    """How a stored frame is turned for display: transposed first, then flipped."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    def apply(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The frame as displayed; (height, width, 3) in, the same or (width, height, 3) out."""
        if self.transpose:
            frame = frame.swapaxes(0, 1)
        if self.flip_x:
            frame = frame[:, ::-1]
        if self.flip_y:
            frame = frame[::-1]
        return np.ascontiguousarray(frame)


def open_media(path: str) -> InputContainer:
    """Opens a file in an accepted container; MediaError "undecodable" otherwise."""
    try:
        return av.open(path, options=dict(FFMPEG_OPEN_OPTIONS), metadata_errors="replace")
    except MemoryError:
        raise
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MediaError("undecodable", f"{path}: is not a video file that FFmpeg can open ({reason})") from error


def video_stream(container: InputContainer) -> VideoStream | None:
    """The stream that a player shows, or None; a cover picture is no video."""
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
        return None
    return stream


def displayed(frame: VideoFrame, turn: Orientation) -> NDArray[np.uint8]:
    """The frame as displayed, RGB at the stored resolution, shape (height, width, 3)."""
    # POINT repeats chroma, as FFmpeg's converter for 8-bit video does whatever is asked: deeper video comes out alike.
    # The converter is made anew for each frame, and would start a thread for each processor.
    return turn.apply(cast(NDArray[np.uint8], frame.to_ndarray(format="rgb24", interpolation="POINT", threads=1)))


def orientation(frame: VideoFrame) -> Orientation:
    """The frame's display matrix, (a b u), (c d v), (x y w) with x' = ax + cy and y' = bx + dy, to the quarter turn.

    To be asked of one frame alone: asking makes a frame refer to itself, and it stays until Python looks for cycles.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return Orientation()
    a, b, _, c, d = np.frombuffer(cast(bytes, matrix), dtype=np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, flip_x=a < 0, flip_y=d < 0)
    return Orientation(True, flip_x=c < 0, flip_y=b < 0)


def decoded_frames(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Every frame that comes out whole, in presentation order; damaged packets are passed over."""
    if stream.codec_context is None:
        return
    # Videos are decoded side by side in processes of their own, which threads would only multiply.
    stream.codec_context.thread_count = 1
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except MemoryError:  # PyAV's own is both
            raise
        except av.error.FFmpegError:
            packet = None
        try:
            # A file cut short ends without the empty packet that makes the decoder give up the frames it still holds.
            frames = stream.decode(packet)
        except av.error.EOFError:
            return
        except MemoryError:
            raise
        except av.error.FFmpegError:
            frames = []
        yield from (frame for frame in frames if frame.pts is not None and not frame.is_corrupt)
        if packet is None:
            return


def pyav_frames(path: str, by_pts: Mapping[int, int], turn: Orientation) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """For each frame whose time stamp is a key of `by_pts`: the value, and the frame as `displayed`.

    Frames come in presentation order, one at a time; one that can't be decoded is left out.
    """
    waiting = dict(by_pts)
    with open_media(path) as container:
        stream = video_stream(container)
        if stream is None:
            return
        for frame in decoded_frames(container, stream):
            assert frame.pts is not None
            if frame.pts in waiting:
                yield waiting.pop(frame.pts), displayed(frame, turn)
                if not waiting:
                    return
