"""Where a video's file lies: in the folder that `mcn download` fills, or in a user's own."""

import hashlib
import os
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

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

    def __init__(self, places: dict[str, tuple[str, str]]) -> None:
        self._places = places

    def __getitem__(self, video_id: str) -> Path:
        folder, suffix = self._places[video_id]
        return Path(folder, video_id + suffix)

    def __contains__(self, video_id: object) -> bool:
        return video_id in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


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
    places: dict[str, tuple[str, str]] = {}
    shared: dict[tuple[str, str], tuple[str, str]] = {}
    result = MediaFolder({})
    for parent, name in _files(folder):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() not in MEDIA_SUFFIXES:
            continue
        if stem in passed_over:
            continue
        if not is_media_name(stem):
            result.misnamed.append(Path(parent, name))
        elif stem in places:
            first = Path(places[stem][0], stem + places[stem][1])
            result.duplicates.setdefault(stem, [first]).append(Path(parent, name))
        else:
            places[stem] = shared.setdefault((parent, suffix), (parent, suffix))
    result.paths = MediaPaths({video_id: places[video_id] for video_id in sorted(places)})
    result.duplicates = dict(sorted(result.duplicates.items()))
    return result


class MediaFinder:
    """Finds one video's file at a time: where a download puts it, or else by a scan of the folder, made once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._scanned: Mapping[str, Path] | None = None

    def find(self, video_id: str) -> Path | None:
        """The video's file, or None. InputError if the folder is missing or can't be read."""
        path = fetched_path(self._folder, video_id)
        if path is None and self._scanned is None:
            self._scanned = find_media(self._folder).paths
        if path is None and self._scanned is not None and video_id in self._scanned:
            path = self._scanned[video_id]
        return path if path is not None and path.is_file() else None


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    """Folder and name of every file that isn't hidden."""
    if folder.is_file():
        yield str(folder.parent), folder.name
        return

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: can't be read: {error.strerror}; a folder of media files is wanted")

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield parent, name
