"""Ids on the list whose videos are gone, in the ways and the words of YouTube."""

from dataclasses import dataclass

DEAD_CLASSES = (
    ("private", "Private video. Sign in if you've been granted access to this video"),
    ("removed", "Video unavailable. This video has been removed by the uploader"),
    ("removed", "This video has been removed for violating YouTube's Community Guidelines"),
    (
        "terminated",
        "Video unavailable. This video is no longer available because the YouTube account associated with this video "
        "has been terminated.",
    ),
    ("age", "Sign in to confirm your age. This video may be inappropriate for some users."),
    ("geo", "Video unavailable. The uploader has not made this video available in your country"),
    (
        "members",
        "Join this channel to get access to members-only content like this video, and other exclusive perks.",
    ),
    ("live", "This live event will begin in a few moments."),
    ("removed", "Video unavailable"),
    ("private", "Private video"),
)
"""(class, message): one dead id for each."""


@dataclass(frozen=True)
class DeadVideo:
    """An id that gives no video, the class of the reason, and what the site says."""

    video_id: str
    reason: str
    message: str


def dead_videos(video_ids: list[str]) -> list[DeadVideo]:
    """One for each of the reasons, in their order; `video_ids` are as many."""
    return [
        DeadVideo(video_id, reason, message)
        for video_id, (reason, message) in zip(video_ids, DEAD_CLASSES, strict=True)
    ]
