"""Media that gave no features, moved aside within their folder so that a bounded download may go on; never deleted."""

import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.core.files import fsync_folder, weight_of
from pipeline.core.formatting import size

FOLDER = ".undecodable"
"""In the media folder; hidden, so that no look for media finds what is in it."""


def files_aside(media: Path) -> Iterator[Path]:
    """The files that were moved aside, of all videos."""
    folder = media / FOLDER
    return (path for path in sorted(folder.iterdir()) if not path.is_dir()) if folder.is_dir() else iter(())


def aside_of(media: Path, video_id: str) -> list[Path]:
    """The files of one video that were moved aside."""
    return [path for path in files_aside(media) if path.name.partition(".")[0] == video_id]


def weight_aside(media: Path) -> tuple[int, int]:
    """Number and bytes of the files that were moved aside."""
    return sum(1 for _ in files_aside(media)), weight_of(media / FOLDER)


def remark_aside(media: Path) -> list[str]:
    """What a summary says of the files that were moved aside: a line, or none."""
    number, weight = weight_aside(media)
    if not number:
        return []
    return [
        f"{number} media files that gave no features lie in {media / FOLDER}, {size(weight)}: delete them to make "
        "room, or move them back and extract with --ask-again"
    ]


def move_aside(media: Path, path: Path) -> Path:
    """Rename a media file into the folder; returns where it is then. One of that name that is there already stays."""
    folder = media / FOLDER
    if not folder.is_dir():
        folder.mkdir(exist_ok=True)
        fsync_folder(media)
    target, number = folder / path.name, 1
    while target.exists():
        number += 1
        target = folder / f"{path.stem}.{number}{path.suffix}"
    os.rename(path, target)
    fsync_folder(folder)
    fsync_folder(path.parent)
    return target
