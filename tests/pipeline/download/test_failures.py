"""Messages as yt-dlp gives them, each in its class; rows of like failures, with probabilities counted by hand."""

import itertools
import math

import pytest

from pipeline.download.failures import (
    FAILURE_CLASSES,
    LEAST_CHANCE,
    chance_of_row,
    classify,
    likeness,
    usual_share,
)

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
    (
        "Unable to download webpage: [SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation of protocol",
        "transient",
    ),
    ("Incomplete data received", "transient"),
    ("Video unavailable. An error occurred. Please try again later.", "transient"),
    ("('Connection aborted.', RemoteDisconnected('Remote end closed connection without response'))", "transient"),
    ("Melde dich an, um zu bestätigen, dass du kein Bot bist", "bot-check"),
    ("Unable to connect to proxy: Tunnel connection failed: 407 Proxy Authentication Required", "network"),
    ("SSL: CERTIFICATE_VERIFY_FAILED certificate verify failed", "network"),
    ("This video may be inappropriate for some users.", "age"),
    ("Melde dich an, um dein Alter zu bestätigen", "age"),
    ("This video is only available to Music Premium members", "payment"),
    ("Video unavailable. This video requires payment to watch.", "payment"),
    ("This video is available to this channel's members on level: Fans (or any higher level).", "members"),
    ("Privates Video. Melde dich an, wenn du Zugriff auf dieses Video hast", "private"),
    ("Please sign in. Use --cookies-from-browser or --cookies for the authentication.", "login"),
    ("The provided YouTube account cookies are no longer valid. They have likely been rotated", "login"),
    ("This video is only available for registered users. Use --cookies", "login"),
    ("This video is no longer available because the uploader has closed their YouTube account.", "terminated"),
    ("Video unavailable. This video contains content from X, who has blocked it on copyright grounds", "copyright"),
    ("This video is no longer available due to a copyright claim by X", "copyright"),
    ("This account has been terminated due to notifications of copyright infringement", "terminated"),
    ("Blocked: X has blocked it in your country on copyright grounds", "geo"),
    ("This live event will begin in a few moments.", "live"),
    ("Premiere will begin shortly", "live"),
    ("This live event has ended.", "live"),
    ("This live stream recording is not available.", "live"),
    ("We're processing this video. Check back later.", "processing"),
    ("The page needs to be reloaded.. The page needs to be reloaded.", "tool"),
    ("The following content is not available on this app.. Watch on the latest version of YouTube.", "tool"),
    ("YouTube is no longer supported in this application or device.", "tool"),
    ("Failed to extract any player response; please report this issue on  https://github.com/yt-dlp", "tool"),
    ("Unable to extract yt initial data", "tool"),
    ("Precondition check failed.", "tool"),
    ("KeyError('videoDetails'); please report this issue on  https://github.com/yt-dlp/yt-dlp/issues", "tool"),
    ("Unable to download API page: HTTP Error 400: Bad Request (caused by <HTTPError 400: Bad Request>)", "tool"),
    ("Unable to download API page: HTTP Error 410: Gone (caused by <HTTPError 410: Gone>)", "tool"),
    ("No video formats found!; please report this issue on  https://github.com/yt-dlp/yt-dlp/issues", "no-format"),
    ("Video unavailable. This content isn’t available.", "unavailable"),
    ("Video unavailable. This content isn’t available, try again later.", "rate-limited"),
    ("Video unavailable. This video is not available", "unavailable"),
    ("HTTP Error 404: Not Found", "unavailable"),
    ("unable to download video data: HTTP Error 404: Not Found", "unavailable"),
    ("Unable to download webpage: HTTP Error 404: Not Found (caused by <HTTPError 404: Not Found>)", "removed"),
    ("This video isn't available anymore", "removed"),
    ("Video unavailable. This video has been removed for violating YouTube's policy on nudity", "removed"),
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
    assert classify("unable to download video data: HTTP Error 403: Forbidden", "nsig extraction failed").name == "tool"
    # What each client met is told by warnings alone.
    nothing = "Failed to extract any player response"
    assert classify(nothing, "Unable to download API page: HTTP Error 429: Too Many Requests").name == "rate-limited"
    assert classify(nothing, "Unable to download API page: The read operation timed out").name == "transient"
    # Without its account any video may look private; what is gone stays gone.
    signed_out = "The provided YouTube account cookies are no longer valid."
    assert (
        classify("Private video", signed_out).name
        == classify("Sign in to confirm your age", signed_out).name
        == "login"
    )
    assert classify("This video has been removed by the uploader", signed_out).name == "removed"
    # A private video stays private, whatever the tool lacks.
    assert classify("Private video", "No supported JavaScript runtime could be found").name == "private"


def test_the_sessions_faults_say_what_to_do_and_the_videos_own_are_not_the_sessions() -> None:
    for failure in FAILURE_CLASSES.values():
        assert (failure.action == "stop") == bool(failure.advice)
    gone = {"private", "removed", "terminated", "age", "geo", "members", "payment", "copyright", "drm"}
    assert {failure.name for failure in FAILURE_CLASSES.values() if failure.action == "permanent"} == gone


@pytest.mark.parametrize("share", [0.01, 0.3])
def test_the_chance_of_a_row_of_one_worker_is_the_share_to_its_length(share: float) -> None:
    for length in range(1, 12):
        assert chance_of_row(length, length, 1, share) == pytest.approx(share**length)


@pytest.mark.parametrize(("workers", "alike"), [(1, 4), (2, 3), (3, 3), (4, 5)])
def test_the_chance_of_workers_rows_is_above_the_true_one_and_near_it(workers: int, alike: int) -> None:
    share = 0.1
    # Each worker's row has length n with probability share ** n * (1 - share): all that sum up to less, taken from 1.
    rows = itertools.product(range(alike), repeat=workers)
    less = math.fsum(share ** sum(row) * (1 - share) ** workers for row in rows if sum(row) < alike)
    assert 1 - less <= chance_of_row(alike, alike, workers, share) * (1 + 1e-9) <= 1.6 * (1 - less)


def test_failures_of_another_kind_in_between_make_a_row_likelier_and_do_not_hide_it() -> None:
    # By counting: of 6 that failed, some 3 are alike.
    assert chance_of_row(3, 6, 1, 0.01) == pytest.approx(math.comb(6, 3) * 0.01**3)
    assert chance_of_row(2000, 5000, 8, 0.99) == 1


def test_rows_of_an_empty_folder_that_are_too_long_for_chance() -> None:
    def shortest(reason: str) -> int:
        share = usual_share(reason, {})
        return next(n for n in itertools.count(1) if chance_of_row(n, n, 1, share) < LEAST_CHANCE)

    assert [shortest(name) for name in ("removed", "unavailable", "unknown", "forbidden")] == [8, 4, 3, 3]


def test_the_folders_own_past_outweighs_what_is_usual() -> None:
    assert usual_share("removed", {}) == pytest.approx(0.3)
    assert usual_share("removed", {"done": 100, "removed": 880}) == pytest.approx((6 + 880) / 1000)
    assert usual_share("unknown", {"done": 60, "unknown": 20}) == pytest.approx((0.2 + 20) / 100)
    # What never happened yet may happen: one video is no row.
    assert usual_share("unknown", {"done": 10**6}) == 0.01


def test_what_is_gone_is_alike_by_its_words_and_all_else_by_its_class() -> None:
    gone = [f"{letter * 11}: Removed {n} days ago" for n, letter in enumerate("abc")]
    assert len({likeness("removed", text, text[:11]) for text in gone}) == 1
    assert likeness("removed", "by the uploader", "") != likeness("removed", "by the user", "")
    assert likeness("removed", "gone", "") != likeness("private", "gone", "")
    assert likeness("unknown", "Fehler", "") == likeness("unknown", "erreur", "")
