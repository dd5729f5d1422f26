"""Why a video could not be fetched, and what follows from it.

The wording is that of yt-dlp and, quoted by it, of YouTube, which may reword or translate its own: what matches nothing
is `unknown`, never `removed`. The order of the classes matters ("Sign in" begins two of them).
"""

import re
from dataclasses import dataclass
from typing import Literal

Action = Literal["stop", "permanent", "later", "retry"]


@dataclass(frozen=True)
class FailureClass:
    """One kind of failure."""

    name: str
    action: Action
    """`stop`: the fault is the session's and every video would meet it: no other is asked for now, and the video is not
    charged; `permanent`: the video is not asked for again; `later`: it is asked for again after some time; `retry`: it
    is tried again at once, a limited number of times."""
    patterns: tuple[str, ...] = ()
    """Regular expressions, tried in any case; `'` stands for the typographic apostrophe too."""
    advice: str = ""
    """What the user can do; the session's faults have one."""


_TABLE = (
    FailureClass(
        "bot-check",
        "stop",
        (r"sign in to confirm you're not a bot", r"requiring a captcha challenge"),
        "the site takes this address for a robot; wait some hours, then run again with longer --sleep-interval",
    ),
    FailureClass(
        "rate-limited",
        "stop",
        (
            r"has been rate-limited by YouTube",
            r"your IP is likely being blocked",
            r"HTTP Error 429|Too Many Requests",
            r"this content isn't available, try again later",
        ),
        "the site asks for fewer requests; wait an hour or more, then run again with longer --sleep-interval",
    ),
    FailureClass(
        "tool",
        "stop",
        (
            r"no supported JavaScript runtime",
            r"(signature|nsig|n[- ]challenge|challenge) (extraction|solving)( has)? failed|nsig",
            r"only images are available",
            r"ffmpeg (is )?not (found|installed)|ffmpeg could not be found",
        ),
        "yt-dlp no longer understands the site; upgrade it with its runtime: pip install -U 'yt-dlp[default,deno]'",
    ),
    FailureClass(
        "no-room",
        "stop",
        (r"No space left on device", r"Disk quota exceeded", r"Errno 28\b", r"Read-only file system"),
        "the media folder can't take more; make room or choose another --out",
    ),
    FailureClass(
        "media-budget",
        "stop",
        advice="the media have reached --media-budget, and no `mcn extract --follow --delete-media` is at work to free "
        "it; start one, or raise the budget",
    ),
    FailureClass(
        "network",
        "stop",
        (
            r"failed to resolve|name or service not known|temporary failure in name resolution|getaddrinfo failed",
            r"network is unreachable|no route to host|connection refused",
            r"unable to connect to proxy|ProxyError",
            r"CERTIFICATE_VERIFY_FAILED",
        ),
        "the site can't be reached from here; check the connection (and --proxy), then run again",
    ),
    FailureClass("age", "permanent", (r"confirm your age", r"AGE_(CHECK|VERIFICATION)_REQUIRED", r"age[- ]restricted")),
    FailureClass("members", "permanent", (r"members[- ]only", r"join this channel", r"requires payment to watch")),
    FailureClass("private", "permanent", (r"private video", r"video is private")),
    FailureClass(
        "terminated",
        "permanent",
        (r"account associated with this video has been (terminated|closed)", r"account has been terminated"),
    ),
    FailureClass(
        "geo",
        "permanent",
        (
            r"not made this video available in your country",
            r"blocked it in your country",
            r"not available (in your (country|location)|from your location)",
        ),
    ),
    FailureClass("drm", "permanent", (r"DRM protected", r"known to use DRM")),
    FailureClass(
        "live",
        "later",
        (r"LIVE_STREAM_OFFLINE", r"premieres? in\b", r"premiere will begin", r"live event will begin", r"is_upcoming"),
    ),
    FailureClass(
        "removed",
        "permanent",
        (
            r"has been removed",
            r"video unavailable",
            r"this video is (no longer available|unavailable|not available)",
            r"this video isn't available any ?more",
        ),
    ),
    FailureClass("truncated", "retry", (r"content too short", r"ContentTooShort", r"IncompleteRead", r"more expected")),
    FailureClass("forbidden", "retry", (r"HTTP Error 403",)),
    FailureClass("no-format", "retry", (r"requested format is not available", r"no video formats found")),
    FailureClass("timeout", "retry"),
    FailureClass("crashed", "retry"),
    FailureClass("undecodable", "retry"),
    FailureClass(
        "transient",
        "retry",
        (
            r"HTTP Error 5\d\d",
            r"timed out|timeout",
            r"connection (aborted|reset|broken)|remote end closed|RemoteDisconnected|did not get any data",
            r"giving up after",
        ),
    ),
    FailureClass(
        "decoder", "stop", (), "what was fetched can't be checked on this machine; run mcn doctor to see what is wrong"
    ),
    FailureClass("unknown", "retry"),
)

FAILURE_CLASSES = {failure.name: failure for failure in _TABLE}
"""Name -> class, in the order in which they are tried."""
UNKNOWN = FAILURE_CLASSES["unknown"]


def classify(message: str, warnings: str = "") -> FailureClass:
    """The class of yt-dlp's error message. Its warnings tell a video that has no usable format from a tool too old."""
    failure = _match(message)
    if failure.name in ("unknown", "no-format", "forbidden") and _match(warnings).action == "stop":
        return _match(warnings)
    return failure


def _match(text: str) -> FailureClass:
    text = text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    for failure in _TABLE:
        if any(re.search(pattern, text, re.IGNORECASE) for pattern in failure.patterns):
            return failure
    return UNKNOWN
