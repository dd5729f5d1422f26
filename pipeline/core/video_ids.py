"""Video ids, checked before one reaches a path, a URL or a log line."""

import re

from pipeline.core.errors import InputError

_VIDEO_ID = re.compile(r"[A-Za-z0-9_-]{11}")
_MEDIA_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def is_video_id(text: str) -> bool:
    """Whether `text` is 11 characters of A-Z a-z 0-9 _ -, as YouTube's ids are."""
    return _VIDEO_ID.fullmatch(text) is not None


def is_media_name(text: str) -> bool:
    """Whether `text` may name a user's own video: 1 to 64 characters of A-Z a-z 0-9 _ -."""
    return _MEDIA_NAME.fullmatch(text) is not None


def check_video_id(text: str, where: str) -> str:
    """Return `text` if it is a video id; otherwise InputError that begins with `where` (a file and line, say)."""
    if not is_video_id(text):
        raise InputError(f"{where}: {_shown(text)} is not a video id: expected 11 characters of A-Z a-z 0-9 _ -")
    return text


def check_media_name(text: str, where: str) -> str:
    """Return `text` if it may name a user's own video; otherwise InputError that begins with `where`."""
    if not is_media_name(text):
        raise InputError(f"{where}: {_shown(text)} can't name a video: expected 1 to 64 characters of A-Z a-z 0-9 _ -")
    return text


def _shown(text: str) -> str:
    # ascii(), so that control and look-alike characters show for what they are.
    return ascii(text if len(text) <= 80 else text[:77] + "...")
