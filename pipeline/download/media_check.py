"""Is a fetched file whole? Every packet is read, none but the first picture is decoded."""

from dataclasses import dataclass
from pathlib import Path

import av

_SITE_TOLERANCE_S = 2.0
_SITE_TOLERANCE_SHARE = 0.02
_CONTAINER_TOLERANCE_S = 0.5


class BrokenMedia(Exception):
    """The file is not a whole video; `reason` names the failure class (`truncated` or `undecodable`)."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class MediaFacts:
    """What was measured of a whole file."""

    duration: float
    """Seconds from time zero to the end of the last video packet."""
    width: int
    height: int
    video_codec: str
    audio_codec: str
    """Empty without an audio track."""


def check_media(path: Path, stated_duration: float | None = None) -> MediaFacts:
    """Measure a file; `stated_duration` in seconds is the site's, often rounded.

    Raises BrokenMedia when it can't be opened, has no video, its first picture can't be decoded, a packet is cut, the
    container lists more than there is, it ends 0.5 s before the container's own duration, or its video ends more than
    2 s and 2 % before the stated one.
    """
    try:
        with av.open(str(path)) as container:
            return _measure(container, stated_duration)
    except (av.FFmpegError, ValueError) as error:
        reason = "truncated" if _begins_as_mp4(path) or isinstance(error, EOFError) else "undecodable"
        raise BrokenMedia(reason, f"can't be read as a video: {error}") from None


def _begins_as_mp4(path: Path) -> bool:
    """Whether a file that can't be opened is the first part of an MP4, whose index comes last."""
    with open(path, "rb") as file:
        return file.read(8)[4:] == b"ftyp"


def _measure(container: av.container.InputContainer, stated_duration: float | None) -> MediaFacts:
    if not container.streams.video:
        raise BrokenMedia("undecodable", "has no video stream")
    stream = container.streams.video[0]
    context = stream.codec_context
    packets, picture = 0, False
    ends = {index: 0.0 for index in range(len(container.streams))}
    for packet in container.demux():
        if packet.size == 0:
            continue
        if packet.is_corrupt:
            raise BrokenMedia("truncated", f"a packet near {ends[packet.stream_index]:.1f} s is cut short")
        if packet.pts is not None and packet.time_base is not None:
            end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
            ends[packet.stream_index] = max(ends[packet.stream_index], end)
        if packet.stream_index == stream.index:
            packets += 1
            picture = picture or bool(packet.decode())
    if not picture and not context.decode(None):
        raise BrokenMedia("undecodable", "no picture can be decoded")
    if packets < stream.frames:
        raise BrokenMedia("truncated", f"{packets} of {stream.frames} pictures are there")
    # Time zero is the container's start where that is positive (a negative one is codec priming).
    zero = max(0, container.start_time or 0) / av.time_base
    video_end, all_end = ends[stream.index] - zero, max(ends.values()) - zero
    own = (container.duration or 0) / av.time_base
    if all_end < own - _CONTAINER_TOLERANCE_S:
        raise BrokenMedia("truncated", f"ends at {all_end:.1f} s of {own:.1f} s")
    stated = stated_duration or 0.0
    if video_end < stated - max(_SITE_TOLERANCE_S, _SITE_TOLERANCE_SHARE * stated):
        raise BrokenMedia("truncated", f"ends at {video_end:.1f} s of {stated:.1f} s")
    audio = container.streams.audio[0].codec_context.name if container.streams.audio else ""
    return MediaFacts(round(video_end, 6), context.width, context.height, context.name, audio)


def stated_seconds(path: Path) -> float:
    """The duration that the container states, good enough to balance shards; 1.0 where there is none."""
    try:
        with av.open(str(path)) as container:
            return max(1.0, (container.duration or 0) / av.time_base)
    except (av.FFmpegError, OSError, ValueError):
        return 1.0
