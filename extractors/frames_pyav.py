"""Frames through PyAV, a maintained FFmpeg: in order, from the start, each known by its time stamp."""

import math
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from extractors.container_cropping import Cropping
from extractors.media_container import Clock, audio_stream, decoded, timed_packets


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


@dataclass(frozen=True)
class Display:
    """What the container asks of a player: to crop the stored frame first, then to turn it."""

    turn: Orientation = Orientation()
    crop: Cropping | None = None

    def picture(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """The frame as displayed, RGB at the stored resolution, shape (height, width, 3)."""
        # POINT repeats chroma, as FFmpeg's converter for 8-bit video does whatever is asked: deeper video comes out
        # alike. The converter is made anew for each frame, and would start a thread for each processor.
        pixels = cast(NDArray[np.uint8], frame.to_ndarray(format="rgb24", interpolation="POINT", threads=1))
        if self.crop is not None and self.crop.fits(frame.width, frame.height):
            pixels = self.crop.apply(pixels)
        return self.turn.apply(pixels)


def orientation(frame: VideoFrame) -> Orientation:
    """The frame's display matrix, (a b u), (c d v), (x y w) with x' = ax + cy and y' = bx + dy, to the quarter turn.

    To be asked of one frame alone: asking makes a frame refer to itself, and it stays until Python looks for cycles.
    """
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:
        # PyAV knows no side data of kinds newer than itself, such as Exif; the rotation it reads by itself.
        angle = math.radians(frame.rotation)
        a = d = round(math.cos(angle))
        b, c = -round(math.sin(angle)), round(math.sin(angle))
    else:
        if matrix is None:
            return Orientation()
        a, b, _, c, d = np.frombuffer(cast(bytes, matrix), dtype=np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, flip_x=a < 0, flip_y=d < 0)
    return Orientation(True, flip_x=c < 0, flip_y=b < 0)


def decoded_frames(
    container: InputContainer,
    stream: VideoStream,
    fault: Callable[[str], None] = lambda reason: None,
    wanted: Container[int] | None = None,
) -> Iterator[VideoFrame]:
    """Every frame that comes out, in presentation order, on the clock of the scan; a damaged one is `is_corrupt`.

    `fault` is called with what is wrong with some, of which not every decoder marks the frames that it made of damage.
    With `wanted`, presentation times in ticks, frames of other times that no frame is decoded from are passed over.
    """
    context = stream.codec_context
    if context is None:
        return
    if not context.is_open:
        # Videos are decoded side by side in processes of their own, which threads would only multiply.
        context.thread_count = 1

    def pass_over(packet: "Packet[Stream]") -> None:
        if wanted is not None:
            context.skip_frame = "DEFAULT" if packet.pts is None or packet.pts in wanted else "NONREF"

    sound = audio_stream(container, stream)
    packets = timed_packets(container, [stream, sound] if sound else [stream], Clock(container))
    yield from decoded(stream, packets, fault, pass_over)
