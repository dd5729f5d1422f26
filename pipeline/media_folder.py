"""Where a video's file lies: in the folder that `mcn download` fills, or in a user's own."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import InputError
from pipeline.video_ids import is_media_name

MEDIA_SUFFIXES = frozenset(
    ".3gp .avi .flv .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm .wmv".split()  # in lower case
)


def media_path(media: Path, video_id: str, suffix: str = ".mp4") -> Path:
    """`<media>/<first two hex digits of sha256(id)>/<id><suffix>`: some 5,000 files a folder for 1.2 million videos."""
    return media / hashlib.sha256(video_id.encode()).hexdigest()[:2] / f"{video_id}{suffix}"


def fetched_path(media: Path, video_id: str) -> Path | None:
    """The file that `media_path` has given this video, whatever its suffix, or None. Looks at no other folder."""
    for suffix in sorted(MEDIA_SUFFIXES):
        path = media_path(media, video_id, suffix)
        if path.is_file():
            return path
    return None


@dataclass
class MediaFolder:
    """The media files under a folder."""

    paths: dict[str, Path]
    """Video id -> its file."""
    duplicates: dict[str, list[Path]] = field(default_factory=dict)
    """Video id -> all its files, where there are several; `paths` has the first by name."""
    misnamed: list[Path] = field(default_factory=list)
    """Media files whose name can't be an id."""


def find_media(folder: Path) -> MediaFolder:
    """All media under `folder` (flat, nested, or itself a file): a file's stem is its id (1 to 64 of A-Z a-z 0-9 _ -).

    Hidden files and folders, unfinished `.part` files and files of other kinds are passed over. Raises InputError if
    the folder is missing or can't be read.
    """
    found: dict[str, list[Path]] = {}
    result = MediaFolder({})
    for path in _files(folder):
        if path.suffix.lower() not in MEDIA_SUFFIXES:
            continue
        if is_media_name(path.stem):
            found.setdefault(path.stem, []).append(path)
        else:
            result.misnamed.append(path)
    result.paths = {video_id: paths[0] for video_id, paths in sorted(found.items())}
    result.duplicates = {video_id: paths for video_id, paths in sorted(found.items()) if len(paths) > 1}
    return result


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_file():
        yield folder
        return

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: can't be read: {error.strerror}; a folder of media files is wanted")

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(parent, name)
