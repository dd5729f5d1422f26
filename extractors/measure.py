"""Whether a media file is whole, how long it is, what it shows at a moment: questions to the decoder's process."""

import io
from collections.abc import Iterator
from fractions import Fraction

import av
from av.container import InputContainer
from PIL import Image

from extractors.decode import DecodeSettings, MediaFacts, Picture, StatedDuration
from extractors.errors import MediaError, MediaErrorKind
from extractors.frames_pyav import Display, decoded_frames, orientation
from extractors.media_container import Clock, audio_stream, open_media, time_zero, timed_packets, video_stream
from extractors.media_file import MediaFile

# Loads its plug-ins, JPEG's among them: while a file is read, nothing can be opened.
Image.preinit()

_SEEKS_S = (0, 2, 10, 60)
_SITE_TOLERANCE_S = 2.0
_SITE_TOLERANCE_SHARE = 0.02
_CONTAINER_TOLERANCE_S = 0.5


def measure(file: MediaFile, settings: DecodeSettings, site_duration: float | None) -> Iterator[MediaFacts]:
    """What was measured of a whole file; `site_duration` in seconds is the site's, often rounded.

    MediaError "undecodable" when it can't be opened, has no video or its first picture can't be decoded; "truncated"
    when a packet is cut, the container lists more than there is, it ends 0.5 s before the container's own duration, or
    its video ends more than 2 s and 2 % before the site's.
    """
    del settings
    try:
        container = open_media(file)
    except MediaError as error:
        raise MediaError("truncated" if _begins_as_mp4(file) else "undecodable", str(error)) from error
    with container:
        try:
            yield _measure(container, site_duration)
        except MemoryError:
            raise
        except av.error.FFmpegError as error:
            kind: MediaErrorKind = "truncated" if isinstance(error, EOFError) else "undecodable"
            raise MediaError(kind, f"can't be read as a video: {error.strerror}") from error


def _begins_as_mp4(file: MediaFile) -> bool:
    """Whether a file that can't be opened is the first part of an MP4, whose index comes last."""
    file.seek(4)
    return file.read(4) == b"ftyp"


def _measure(container: InputContainer, site_duration: float | None) -> MediaFacts:
    stream = video_stream(container)
    if stream is None or stream.codec_context is None:
        raise MediaError("undecodable", "has no video stream that can be decoded")
    context, sound, clock = stream.codec_context, audio_stream(container, stream), Clock(container)
    context.thread_count = 1
    packets, has_picture, video_end = 0, False, Fraction(0)
    for packet in timed_packets(container, [stream, sound] if sound else [stream], clock):
        if packet.is_corrupt:
            raise MediaError("truncated", f"a packet near {float(clock.end() or 0):.1f} s is cut short")
        if packet.stream_index == stream.index:
            packets += 1
            if packet.pts is not None and packet.time_base:
                video_end = max(video_end, (packet.pts + (packet.duration or 0)) * packet.time_base)
            has_picture = has_picture or bool(stream.decode(packet))
    if not has_picture and not stream.decode(None):
        raise MediaError("undecodable", "no picture can be decoded")
    if packets < stream.frames:
        raise MediaError("truncated", f"{packets} of {stream.frames} pictures are there")
    zero = time_zero(container, stream, sound)
    duration, reached = float(video_end - zero), float((clock.end() or zero) - zero)
    own = (container.duration or 0) / av.time_base
    if reached < own - _CONTAINER_TOLERANCE_S and not clock.joins:
        raise MediaError("truncated", f"ends at {reached:.1f} s of {own:.1f} s")
    stated = site_duration or 0.0
    if duration < stated - max(_SITE_TOLERANCE_S, _SITE_TOLERANCE_SHARE * stated):
        raise MediaError("truncated", f"ends at {duration:.1f} s of {stated:.1f} s")
    codec = sound.codec_context.name if sound is not None and sound.codec_context is not None else ""
    return MediaFacts(round(duration, 6), context.width, context.height, context.name, codec)


def stated_duration(file: MediaFile, settings: DecodeSettings) -> Iterator[StatedDuration]:
    """The duration that the container states; 0 where it states none. MediaError where it can't be opened."""
    del settings
    with open_media(file) as container:
        yield StatedDuration(max(0.0, (container.duration or 0) / av.time_base))


def picture(file: MediaFile, settings: DecodeSettings, seconds: float, width: int, height: int) -> Iterator[Picture]:
    """The frame on screen `seconds` after the start, as a JPEG of at most `width` x `height`. MediaError."""
    del settings
    try:
        with open_media(file) as container:
            yield Picture(_jpeg(container, seconds, width, height, file.path))
    except MemoryError:
        raise
    except av.error.FFmpegError as error:
        raise MediaError("undecodable", f"{file.path}: FFmpeg stopped: {error.strerror}") from error


def _jpeg(container: InputContainer, seconds: float, width: int, height: int, path: str) -> bytes:
    stream = video_stream(container)
    if stream is None or not stream.time_base:
        raise MediaError("no-video-stream", f"{path}: holds no video stream")
    at = int((Fraction(seconds) + time_zero(container, stream, audio_stream(container, stream))) / stream.time_base)
    shown = None
    for earlier_s in _SEEKS_S:
        container.seek(max(0, at - int(earlier_s / stream.time_base)), stream=stream)
        shown = None
        for frame in decoded_frames(container, stream):
            if shown is not None and frame.pts is not None and frame.pts > at:
                break
            shown = frame
        # A stream without an index is sought in by guess, and may begin later than asked for.
        if shown is not None and shown.pts is not None and shown.pts <= at:
            break
    if shown is None:
        raise MediaError("undecodable", f"{path}: has no frame at {seconds:.2f} s")
    turn = orientation(shown)
    box = (height, width) if turn.transpose else (width, height)
    scale = min(1.0, box[0] / shown.width, box[1] / shown.height)
    size = max(1, round(shown.width * scale)), max(1, round(shown.height * scale))
    small = shown.reformat(*size, format="rgb24", threads=1)
    buffer = io.BytesIO()
    Image.fromarray(Display(turn).picture(small)).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
