"""Frames of clips for the page: from the media where they still are, and no more than keep the file small."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.download.media import MediaFinder
from pipeline.experiment.page import thumbnail

MOST_FRAMES = 60
"""Of at most 200x150, some 6 kB each."""


class Frames:
    """Gives data URLs until `MOST_FRAMES` are given."""

    def __init__(self, media: Path | None) -> None:
        self._finder = None if media is None else MediaFinder(media)
        self._left = MOST_FRAMES
        self.lacking = 0
        """Clips whose frame could not be had, or came after the last."""

    @property
    def any(self) -> bool:
        """Whether there are media to take frames from."""
        return self._finder is not None

    def of(self, clip: Mapping[str, Any]) -> str:
        """The frame in the middle of a clip (`video_id`, `start`, `end` in seconds); "" where there is none."""
        if self._finder is None:
            return ""
        path = self._finder.find(clip["video_id"]) if self._left else None
        picture = thumbnail(path, (clip["start"] + clip["end"]) / 2) if path is not None else ""
        self._left -= bool(picture)
        self.lacking += not picture
        return picture
