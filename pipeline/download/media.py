"""A video's media file: where it lies, in `mcn download`'s folder or in a user's own, and whether it is whole."""

import hashlib
import os
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import av

from pipeline.core.errors import InputError
from pipeline.core.video_ids import is_media_name

MEDIA_SUFFIXES = frozenset(
    ".3gp .avi .flv .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm .wmv".split()  # in lower case
)


def media_path(media: Path, video_id: str, suffix: str = ".mp4") -> Path:
    """`<media>/<first two hex digits of sha256(id)>/<id><suffix>`: some 5,000 files a folder for 1.2 million videos."""
    return media / hashlib.sha256(video_id.encode()).hexdigest()[:2] / f"{video_id}{suffix}"


def fetched_path(media: Path, video_id: str) -> Path | None:
    """The file that `media_path` has given this video, whatever its suffix, or None. Looks at no other folder."""
    for suffix in sorted(MEDIA_SUFFIXES, key=lambda suffix: (suffix != ".mp4", suffix)):
        path = media_path(media, video_id, suffix)
        if path.is_file():
            return path
    return None


class MediaPaths(Mapping[str, Path]):
    """Video id -> its file, in the order of the ids. Folders and suffixes are shared: a million files take 150 MB."""

    def __init__(self, locations: dict[str, tuple[str, str]]) -> None:
        self._locations = locations

    def __getitem__(self, video_id: str) -> Path:
        folder, suffix = self._locations[video_id]
        return Path(folder, video_id + suffix)

    def __iter__(self) -> Iterator[str]:
        return iter(self._locations)

    def __len__(self) -> int:
        return len(self._locations)


@dataclass
class MediaFolder:
    """The media files under a folder."""

    paths: Mapping[str, Path]
    """Video id -> its file."""
    duplicates: dict[str, list[Path]] = field(default_factory=dict)
    """Video id -> all its files, where there are several; `paths` has the first by name."""
    misnamed: list[Path] = field(default_factory=list)
    """Media files whose name can't be an id."""


def find_media(folder: Path, passed_over: Container[str] = ()) -> MediaFolder:
    """All media under `folder` (flat, nested, or itself a file): a file's stem is its id (1 to 64 of A-Z a-z 0-9 _ -).

    Those in `passed_over`, hidden files and folders, unfinished `.part` files and files of other kinds are left
    out. Raises InputError if the folder is missing or can't be read.
    """
    locations: dict[str, tuple[str, str]] = {}
    shared: dict[tuple[str, str], tuple[str, str]] = {}
    result = MediaFolder({})
    for parent, name in _files(folder):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() not in MEDIA_SUFFIXES or stem in passed_over:
            continue
        if not is_media_name(stem):
            result.misnamed.append(Path(parent, name))
        elif stem in locations:
            first = Path(locations[stem][0], stem + locations[stem][1])
            result.duplicates.setdefault(stem, [first]).append(Path(parent, name))
        else:
            locations[stem] = shared.setdefault((parent, suffix), (parent, suffix))
    result.paths = MediaPaths({video_id: locations[video_id] for video_id in sorted(locations)})
    result.duplicates = dict(sorted(result.duplicates.items()))
    return result


class MediaFinder:
    """Finds one video's file at a time: where a download puts it, or else by a scan of the folder, made once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._scanned: Mapping[str, Path] | None = None

    def find(self, video_id: str) -> Path | None:
        """The video's file, or None. InputError if the folder is missing or can't be read."""
        if path := fetched_path(self._folder, video_id):
            return path
        if self._scanned is None:
            self._scanned = find_media(self._folder).paths
        path = self._scanned.get(video_id)
        return path if path is not None and path.is_file() else None


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    """Folder and name of every file that isn't hidden."""
    if folder.is_file():
        yield str(folder.parent), folder.name
        return

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: can't be read: {error.strerror}; expected a folder of media files")

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield parent, name


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
