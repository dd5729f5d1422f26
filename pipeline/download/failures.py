"""Why a video could not be fetched, and what follows from it: for the video, and from a row of like failures for all.

The wording is that of yt-dlp and, quoted by it, of YouTube, which may reword or translate its own: what matches nothing
is `unknown`, never `removed`, and what may pass is never for good. The order of the classes matters ("Sign in" begins
three of them).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, lgamma, log
from typing import Literal

Action = Literal["stop", "permanent", "later", "retry"]

_LEAST_SHARE = 0.01
"""However seldom a failure was so far, that many videos may fail so: rare ones come together too."""


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
    share: float = _LEAST_SHARE
    """Share of a list's videos that may be expected to fail so, before this folder's own ledger says more."""


SITE_WIDE = "site-wide"
"""Class of a row of like failures that is taken for the site's or the session's own."""

_TABLE = (
    FailureClass(
        "bot-check",
        "stop",
        (r"confirm you're not a bot", r"requiring a captcha challenge", r"kein bot bist"),
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
            r"network is (unreachable|down)|no route to host|host is unreachable|connection refused",
            r"unable to connect to proxy|ProxyError|proxy authentication required|tunnel connection failed",
            r"HTTP Error 407",
            r"CERTIFICATE_VERIFY_FAILED",
        ),
        "the site can't be reached from here; check the connection (and --proxy), then run again",
    ),
    FailureClass(
        "age",
        "permanent",
        (
            r"confirm your age|bestätigen.*\balter\b|\balter\b.*bestätigen",
            r"AGE_(CHECK|VERIFICATION)_REQUIRED",
            r"age[- ]restricted",
            r"inappropriate for some users",
        ),
        share=0.05,
    ),
    FailureClass(
        "payment",
        "permanent",
        (
            r"requires payment|paid (video|content)|pay to watch",
            r"(YouTube|Music) Premium|premium (members|subscribers)",
            r"(buy|purchase|rent) (it|this)|\b(rental|rented|purchased)\b|rent or (buy|purchase)",
        ),
    ),
    FailureClass("members", "permanent", (r"members[- ]only", r"join this channel", r"available to .*members")),
    FailureClass(
        "private",
        "permanent",
        (
            r"private video|video is private|has been made private",
            r"privates video|video ist privat|vidéo privée|v[ií]deo (es )?privado|video privato|privévideo",
        ),
        share=0.1,
    ),
    FailureClass(
        "login",
        "stop",
        (
            r"cookies are no longer valid",
            r"\b(sign|log) ?in\b|registered users|login (details|required)|LOGIN_REQUIRED|melde dich an",
        ),
        "the site wants a signed-in account, or has signed this one out; export its cookies anew and give them by "
        "--cookies, or wait some hours without, then run again",
    ),
    FailureClass(
        "terminated",
        "permanent",
        (
            r"account associated with this video has been (terminated|closed|suspended)",
            r"account has been (terminated|closed|suspended)|closed (their|his|her) (YouTube )?account",
            r"this channel (does not exist|was removed|has been (removed|terminated))",
        ),
        share=0.1,
    ),
    FailureClass(
        "geo",
        "permanent",
        (
            r"not made this video available in your country",
            r"blocked it in your country",
            r"not available (in your (country|location|region|area)|from your location)",
        ),
        share=0.05,
    ),
    FailureClass("copyright", "permanent", (r"\bcopyright",), share=0.05),
    FailureClass("drm", "permanent", (r"DRM protected", r"known to use DRM")),
    FailureClass(
        "live",
        "later",
        (
            r"LIVE_STREAM_OFFLINE|is_upcoming",
            r"premieres?\b.*\b(in|on|at|shortly|soon|begins?|starts?)\b",
            r"live (event|stream)\b.*\b(will begin|begins|starts|has ended|is over|is offline)",
            r"live stream recording is not available",
        ),
    ),
    FailureClass("processing", "later", (r"processing this video|(still|is|being) (being )?process(ed|ing)",)),
    FailureClass(
        "tool",
        "stop",
        (
            r"no supported JavaScript runtime",
            r"(signature|nsig|n[- ]challenge|challenge) (extraction|solving)( has)? failed|nsig",
            r"only images are available",
            r"ffmpeg (is )?not (found|installed)|ffmpeg could not be found",
            r"page needs to be reloaded",
            r"not available on this (app|device)|latest version of YouTube|(update|upgrade) (the|your) (YouTube )?app",
            r"no longer supported (in|on|by|for) (this|your) (app|application|device|browser)",
            r"failed to extract|unable to extract|cannot identify player|failed to parse",
            r"precondition check failed|request contains an invalid argument",
            # yt-dlp's own word for an error that it didn't expect, whatever it was.
            r"(?s:\A(?!.*(no video formats|HTTP Error|timed out)).*please report this issue on)",
            r"API (page|JSON): HTTP Error 4(00|10)",
        ),
        "yt-dlp no longer understands the site; upgrade it with its runtime: pip install -U 'yt-dlp[default,deno]'",
    ),
    FailureClass("truncated", "retry", (r"content too short", r"ContentTooShort", r"IncompleteRead", r"more expected")),
    FailureClass(
        "transient",
        "retry",
        (
            r"HTTP Error (408|5\d\d)",
            r"timed out|timeout",
            r"connection (aborted|reset|broken|closed)|remote end closed|RemoteDisconnected|did not get any data",
            r"UNEXPECTED_EOF|EOF occurred|\[SSL\b|SSLError",
            r"incomplete data received|broken pipe",
            r"(an error occurred|something went wrong|technical difficulties|unknown error)",
            r"giving up after",
        ),
    ),
    FailureClass(
        "unavailable",
        "retry",
        (
            r"this (video|content) (is not|isn't) available(?! any ?more)",
            r"(?s:\A(?!.*unable to download webpage: HTTP Error 4(04|10)).*HTTP Error 4(04|10))",
        ),
        share=0.05,
    ),
    FailureClass(
        "removed",
        "permanent",
        (
            r"(has been|was) (removed|deleted|taken down)|violat(es|ed|ing) YouTube's",
            r"video unavailable",
            r"this video is (no longer available|unavailable)",
            r"this video isn't available any ?more",
            r"unable to download webpage: HTTP Error 4(04|10)",
        ),
        share=0.3,
    ),
    FailureClass("forbidden", "retry", (r"HTTP Error 403",)),
    FailureClass("no-format", "retry", (r"requested format is not available", r"no video formats found")),
    FailureClass("timeout", "retry"),
    FailureClass("crashed", "retry"),
    FailureClass("undecodable", "retry"),
    FailureClass(
        "decoder", "stop", (), "what was fetched can't be checked on this machine; run mcn doctor to see what is wrong"
    ),
    FailureClass(
        SITE_WIDE,
        "stop",
        advice="that is less likely the videos' own fault than the site's, this address's or yt-dlp's: upgrade it (pip "
        "install -U 'yt-dlp[default,deno]') or wait, then run again; if it is the videos', run again with "
        "--least-chance 0",
    ),
    FailureClass("unknown", "retry"),
)

FAILURE_CLASSES = {failure.name: failure for failure in _TABLE}
"""Name -> class, in the order in which they are tried."""
UNKNOWN = FAILURE_CLASSES["unknown"]

_VAGUE = ("unknown", "no-format", "forbidden", "tool")
"""Classes of errors whose reason yt-dlp may have told in a warning before."""
_FOR_ACCOUNTS = ("age", "payment", "members", "private")
"""Classes that an account may see otherwise."""

LEAST_CHANCE = 1e-4
"""Probability below which a row of like failures is taken for the site's or session's own (`least_chance`)."""
_PRIOR_VIDEOS = 20
"""Videos that a class's `share` weighs as much as, beside those of the ledger."""


def classify(message: str, warnings: str = "") -> FailureClass:
    """The class of yt-dlp's error message. Its warnings tell a video that has no usable format from a tool too old, and
    one that needs an account from cookies that no longer are one."""
    failure, warned = _match(message), _match(warnings)
    if failure.name in _VAGUE and warned.action == "stop":
        return warned
    if failure.name == "tool" and warned.name == "transient":
        return warned
    if failure.name in _FOR_ACCOUNTS and warned.name == "login":
        return warned
    return failure


def _match(text: str) -> FailureClass:
    text = text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    for failure in _TABLE:
        if any(re.search(pattern, text, re.IGNORECASE) for pattern in failure.patterns):
            return failure
    return UNKNOWN


def likeness(reason: str, message: str, video_id: str) -> str:
    """What like failures have in common: their class, and of those for good the words too, since a list holds many of
    these, and the site has many words for them."""
    if FAILURE_CLASSES.get(reason, UNKNOWN).action != "permanent":
        return reason
    return " ".join([reason, *re.findall(r"[^\W\d_]+", message.replace(video_id, " ").lower())])


def usual_share(reason: str, past: Mapping[str, int]) -> float:
    """Share of videos that fail as `reason`: the class's own `share`, weighed with what became of earlier ones.

    `past`: class, or `done` -> how many videos.
    """
    prior = _PRIOR_VIDEOS * FAILURE_CLASSES.get(reason, UNKNOWN).share
    return max(_LEAST_SHARE, (prior + past.get(reason, 0)) / (_PRIOR_VIDEOS + sum(past.values())))


def chance_of_row(alike: int, failed: int, runs: int, share: float) -> float:
    """Upper bound of the probability that so many videos fail alike by themselves, each with probability `share`.

    `runs` workers had, since the last success of each, `failed` videos that failed, `alike` of them alike: share **
    alike for one worker and nothing else in between, times the number of ways in which these may stand among the failed
    ones and be spread over the workers.
    """
    return exp(min(0.0, alike * log(share) + _log_choose(failed, alike) + _log_choose(alike + runs - 1, alike)))


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
