"""A video's media file: where it lies, in `mcn download`'s folder, a user's own or a store, and whether it is whole."""

import hashlib
import os
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from extractors.decode import MediaFacts, StatedDuration
from extractors.decoder_process import shared_decoder
from extractors.errors import MediaError
from pipeline.core.errors import InputError
from pipeline.core.files import Closeable
from pipeline.core.remote import Store, address_of
from pipeline.core.video_ids import is_media_name

MEDIA_SUFFIXES = frozenset(
    ".3gp .avi .flv .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm .wmv".split()  # in lower case
)

_CLASSES = {"truncated": "truncated", "timeout": "timeout"} | dict.fromkeys(
    ("crashed", "memory", "missing-file", "unreadable"), "crashed"
)
"""Kind of MediaError -> failure class of downloads, where that isn't `undecodable`."""


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
    irregular: list[Path] = field(default_factory=list)
    """What is named like a media file and is none: links to nothing, pipes, devices."""


def find_media(folder: Path, passed_over: Container[str] = ()) -> MediaFolder:
    """All media under `folder` (flat, nested, or itself a file): a file's stem is its id (1 to 64 of A-Z a-z 0-9 _ -).

    Those in `passed_over`, hidden files and folders, unfinished `.part` files and files of other kinds are left
    out, and so is what is no regular file. Raises InputError if the folder is missing or can't be read.
    """
    locations: dict[str, tuple[str, str]] = {}
    shared: dict[tuple[str, str], tuple[str, str]] = {}
    result = MediaFolder({})
    for parent, name, is_regular in _files(folder):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() not in MEDIA_SUFFIXES or stem in passed_over:
            continue
        if not is_regular:
            result.irregular.append(Path(parent, name))
        elif not is_media_name(stem):
            result.misnamed.append(Path(parent, name))
        elif stem in locations:
            first = Path(locations[stem][0], stem + locations[stem][1])
            result.duplicates.setdefault(stem, [first]).append(Path(parent, name))
        else:
            locations[stem] = shared.setdefault((parent, suffix), (parent, suffix))
    result.paths = MediaPaths({video_id: locations[video_id] for video_id in sorted(locations)})
    result.duplicates = dict(sorted(result.duplicates.items()))
    return result


class MediaFinder(Closeable):
    """Finds one video's file at a time: where a download puts it, or else by a scan of the folder, made once."""

    def __init__(self, folder: Path) -> None:
        if address := address_of(folder):
            raise InputError(f"{address}: only `mcn extract` reads media at an address; give a local folder as --media")
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

    def begin(self) -> None:
        """Say that another shard is begun."""

    def release(self, video_id: str) -> None:
        """Say that the video's file is no longer read."""

    def close(self) -> None:
        """Let go of all files."""


def _files(folder: Path) -> Iterator[tuple[str, str, bool]]:
    """Folder and name of all that isn't hidden, and whether it is a regular file or a link to one."""
    if address := address_of(folder):
        for parent, names in Store(address).walk():
            if not parent.startswith(".") and "/." not in parent:
                # An object at the address itself has no name below it.
                places = (Path(folder, parent, name) for name in names if not name.startswith("."))
                yield from ((str(place.parent), place.name, True) for place in places)
        return
    if not folder.is_dir():
        if not folder.exists():
            raise InputError(f"{folder}: can't be read: no such folder; expected a folder of media files")
        yield str(folder.parent), folder.name, folder.is_file()
        return
    try:
        with os.scandir(folder) as entries:
            listed = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda one: one.name)
            # Of a million files the folder's own listing tells the kind: none is looked at.
            kinds = [(entry, entry.is_dir(follow_symlinks=False), entry.is_file()) for entry in listed]
    except OSError as error:
        raise InputError(
            f"{error.filename}: can't be read: {error.strerror}; expected a folder of media files"
        ) from None
    yield from ((str(folder), entry.name, is_regular) for entry, is_folder, is_regular in kinds if not is_folder)
    for entry, is_folder, _ in kinds:
        if is_folder:
            yield from _files(Path(entry.path))


class BrokenMedia(Exception):
    """The file is not a whole video; `reason` names the failure class (`truncated`, `undecodable`, ...)."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def check_media(path: Path, stated_duration: float | None = None) -> MediaFacts:
    """Measure a file in the decoder's process; `stated_duration` in seconds is the site's, often rounded.

    Raises BrokenMedia when it isn't a whole video, as `extractors.measure` says; DecoderError when that can't be told.
    """
    try:
        return shared_decoder().answer("extractors.measure:measure", path, MediaFacts, site_duration=stated_duration)
    except MediaError as error:
        raise BrokenMedia(_CLASSES.get(error.kind, "undecodable"), str(error)) from None


def stated_seconds(path: Path) -> float:
    """The duration that the container states, good enough to balance shards; 1.0 where there is none."""
    try:
        return max(1.0, shared_decoder().answer("extractors.measure:stated_duration", path, StatedDuration).seconds)
    except MediaError:
        return 1.0
