"""Whether a media file is whole, how long it is, what it shows at a moment: questions to the decoder's process."""

import io
from collections.abc import Iterator

import av
from av.container import InputContainer
from PIL import Image

from extractors.decode import DecodeSettings, MediaFacts, Picture, StatedDuration
from extractors.errors import MediaError
from extractors.frames_pyav import Display, orientation
from extractors.media_container import audio_stream, open_media, video_stream
from extractors.media_file import MediaFile

# Loads its plug-ins, JPEG's among them: while a file is read, nothing can be opened.
Image.preinit()

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
            cut = _begins_as_mp4(file) or isinstance(error, EOFError)
            raise MediaError("truncated" if cut else "undecodable", f"can't be read as a video: {error}") from error


def _begins_as_mp4(file: MediaFile) -> bool:
    """Whether a file that can't be opened is the first part of an MP4, whose index comes last."""
    file.seek(4)
    return file.read(4) == b"ftyp"


def _measure(container: InputContainer, stated_duration: float | None) -> MediaFacts:
    stream = video_stream(container)
    if stream is None:
        raise MediaError("undecodable", "has no video stream")
    context = stream.codec_context
    packets, has_picture = 0, False
    ends = {index: 0.0 for index in range(len(container.streams))}
    for packet in container.demux():
        if packet.size == 0:
            continue
        if packet.is_corrupt:
            raise MediaError("truncated", f"a packet near {ends[packet.stream_index]:.1f} s is cut short")
        if packet.pts is not None and packet.time_base is not None:
            end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
            ends[packet.stream_index] = max(ends[packet.stream_index], end)
        if packet.stream_index == stream.index:
            packets += 1
            has_picture = has_picture or bool(packet.decode())
    if not has_picture and not context.decode(None):
        raise MediaError("undecodable", "no picture can be decoded")
    if packets < stream.frames:
        raise MediaError("truncated", f"{packets} of {stream.frames} pictures are there")
    # Time zero is the container's start where that is positive (a negative one is codec priming).
    zero = max(0, container.start_time or 0) / av.time_base
    video_end, all_end = ends[stream.index] - zero, max(ends.values()) - zero
    own = (container.duration or 0) / av.time_base
    if all_end < own - _CONTAINER_TOLERANCE_S:
        raise MediaError("truncated", f"ends at {all_end:.1f} s of {own:.1f} s")
    stated = stated_duration or 0.0
    if video_end < stated - max(_SITE_TOLERANCE_S, _SITE_TOLERANCE_SHARE * stated):
        raise MediaError("truncated", f"ends at {video_end:.1f} s of {stated:.1f} s")
    sound = audio_stream(container, stream)
    codec = sound.codec_context.name if sound is not None else ""
    return MediaFacts(round(video_end, 6), context.width, context.height, context.name, codec)


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
    container.seek(max(0, int(seconds / stream.time_base)), stream=stream)
    shown = None
    for frame in container.decode(stream):
        shown = frame
        if frame.time is not None and frame.time >= seconds:
            break
    if shown is None:
        raise MediaError("undecodable", f"{path}: has no frame at {seconds:.2f} s")
    turn = orientation(shown)
    box = (height, width) if turn.transpose else (width, height)
    scale = min(1.0, box[0] / shown.width, box[1] / shown.height)
    small = shown.reformat(max(1, round(shown.width * scale)), max(1, round(shown.height * scale)), threads=1)
    buffer = io.BytesIO()
    Image.fromarray(Display(turn).picture(small)).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
