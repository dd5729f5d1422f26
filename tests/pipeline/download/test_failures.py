"""Messages as yt-dlp gives them, each in its class."""

import pytest

from pipeline.download.failures import FAILURE_CLASSES, classify

MESSAGES = [
    ("Sign in to confirm you’re not a bot. Use --cookies-from-browser or --cookies", "bot-check"),
    ("Sign in to confirm you're not a bot", "bot-check"),
    ("Video unavailable. YouTube is requiring a captcha challenge before playback", "bot-check"),
    (
        "Video unavailable. This content isn't available, try again later. The current session has been rate-limited "
        "by YouTube for up to an hour",
        "rate-limited",
    ),
    ("All player responses are invalid. Your IP is likely being blocked by Youtube", "rate-limited"),
    ("Unable to download API page: HTTP Error 429: Too Many Requests", "rate-limited"),
    ("No supported JavaScript runtime could be found", "tool"),
    ("[download] unable to write data: [Errno 28] No space left on device", "no-room"),
    ("Unable to download API page: <urlopen error [Errno -3] Temporary failure in name resolution>", "network"),
    ("Failed to establish a new connection: [Errno 111] Connection refused", "network"),
    ("Sign in to confirm your age. This video may be inappropriate for some users", "age"),
    ("Private video. Sign in if you've been granted access to this video", "private"),
    ("Video unavailable. This video is private", "private"),
    ("Video unavailable", "removed"),
    ("Video unavailable. This video has been removed by the uploader", "removed"),
    ("This video has been removed for violating YouTube's Terms of Service", "removed"),
    (
        "Video unavailable. This video is no longer available because the YouTube account associated with this video "
        "has been terminated.",
        "terminated",
    ),
    ("The uploader has not made this video available in your country", "geo"),
    ("Video unavailable. This video contains content from X, who has blocked it in your country", "geo"),
    ("Join this channel to get access to members-only content like this video", "members"),
    ("This video is DRM protected", "drm"),
    ("Premieres in 10 hours", "live"),
    ("This live event will begin in 3 days.", "live"),
    ("content too short (expected 100 bytes and served 50)", "truncated"),
    ("Got error: 2139 bytes read, 2140 more expected. Giving up after 4 retries", "truncated"),
    ("unable to download video data: HTTP Error 403: Forbidden", "forbidden"),
    ("Requested format is not available. Use --list-formats for a list of available formats", "no-format"),
    ("Got error: HTTP Error 503: Service Unavailable. Giving up after 4 retries", "transient"),
    ("The read operation timed out", "transient"),
    ("Das Video ist nicht verfügbar", "unknown"),
    ("", "unknown"),
]


@pytest.mark.parametrize(("message", "name"), MESSAGES)
def test_class_of_a_message(message: str, name: str) -> None:
    assert classify(message).name == name
    assert classify("ERROR: [youtube] abcdefghijk: " + message).name == name


def test_every_class_that_words_lead_to_is_tried() -> None:
    by_words = {failure.name for failure in FAILURE_CLASSES.values() if failure.patterns}
    assert by_words == {name for _, name in MESSAGES} - {"unknown"}


def test_warnings_tell_a_tool_too_old_from_a_video_without_formats() -> None:
    message, warning = "Requested format is not available", "Only images are available for download"
    assert classify(message, warning).name == "tool"
    assert classify(message, "Some harmless warning").name == "no-format"
    # A private video stays private, whatever the tool lacks.
    assert classify("Private video", "No supported JavaScript runtime could be found").name == "private"


def test_the_sessions_faults_say_what_to_do_and_the_videos_own_are_not_the_sessions() -> None:
    for failure in FAILURE_CLASSES.values():
        assert (failure.action == "stop") == bool(failure.advice)
    gone = {"private", "removed", "terminated", "age", "geo", "members", "drm"}
    assert {failure.name for failure in FAILURE_CLASSES.values() if failure.action == "permanent"} == gone
