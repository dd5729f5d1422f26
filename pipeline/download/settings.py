"""Settings of `mcn download`, and of fetching one video."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pipeline.core.errors import suggest
from pipeline.core.records import EXTRACTED, NO_FEATURES
from pipeline.core.secrets import masked_setting
from pipeline.download.failures import FAILURE_CLASSES, LEAST_CHANCE

Site = Literal["youtube", "sample"]

_PROXY_SCHEMES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")
_LONGEST_S = 86400.0
_LONGEST_WAIT_S = 2e6
"""Beyond that many seconds no answer can be waited for: the system counts them in 2**31 milliseconds."""


def proxy_fault(address: str) -> str:
    """Why the address of a proxy can't be used, and how to mend it; "" where it can."""
    scheme, colon, rest = address.rpartition("://")
    if colon and scheme.lower() not in _PROXY_SCHEMES:
        return f"begins with no scheme known; expected one of {', '.join(_PROXY_SCHEMES)}"
    try:
        parts = urlsplit(f"http://{rest}")
        host, _ = (parts.hostname or "").encode("idna"), parts.port
    except ValueError:
        host = b""
    if not host or parts.path.strip("/") or parts.query or parts.fragment or len(rest.split()) != 1:
        # Without an example of user and password, which the output would mask.
        return "isn't SCHEME://HOST:PORT; percent-encode characters such as / ? # @ in a user and password before @HOST"
    return ""


@dataclass(frozen=True, kw_only=True)
class FetchSettings:
    """How one video is fetched."""

    site: Site = "youtube"
    """Where the videos are: youtube, or sample (made by `mcn sample` and served from this machine)."""
    site_url: str = "https://www.youtube.com"
    format: str = "18/b[ext=mp4][vcodec^=avc1]/bv*+ba"
    """yt-dlp's format selector; the default takes 360p, enough for a short side of 256."""
    format_sort: tuple[str, ...] = ("res:360", "vcodec:h264", "acodec:aac", "+size", "+br")
    """yt-dlp's order of preference among formats."""
    sleep_requests: float = 0.0
    """Seconds between requests for information; not used for the sample."""
    sleep_interval: float = 0.0
    """Fewest seconds before a video is fetched; not used for the sample."""
    max_sleep_interval: float = 0.0
    """Most seconds before a video is fetched; not used for the sample."""
    retries: int = 4
    """How often yt-dlp tries again within an attempt."""
    retry_wait_s: float = 5.0
    """Seconds before a retry; doubled with each further one, 60 at most."""
    time_limit_s: float = 900.0
    """Wall clock of one attempt in seconds, its sleeps apart; a hanging one is killed."""
    socket_timeout_s: float = 20.0
    """Seconds without an answer after which yt-dlp gives up a request."""
    cookies: Path | None = None
    """Cookie file of an account, for videos that need one; accounts that download in bulk get banned."""
    proxy: str | None = None
    """Proxy for all requests, such as socks5://host:port; none by default."""

    @property
    def kill_after_s(self) -> float:
        """Seconds after which the child is killed: two formats and twenty requests may each sleep."""
        return min(_LONGEST_WAIT_S, self.time_limit_s + 2 * self.max_sleep_interval + 20 * self.sleep_requests)


@dataclass(frozen=True, kw_only=True)
class DownloadSettings(FetchSettings):
    """Settings of `mcn download`."""

    ids: Path
    """Csv with a column video_id, such as the published HowTo100M_v1.csv."""
    out: Path
    """Folder for the videos and the ledger of all attempts; may be shared by several machines."""
    sample: Path | None = None
    """Folder of the sample to serve while the job runs; for --site sample."""
    site_url: str = ""
    """Address of a sample that is already served, in place of --sample: http://127.0.0.1:PORT."""
    workers: int = 2
    """Videos fetched at a time; the sleeps grow with it, so that this internet address asks no faster."""
    sleep_requests: float = 0.75
    sleep_interval: float = 10.0
    max_sleep_interval: float = 20.0
    proxy: str = ""
    attempts: int = 3
    """How often a video is tried in all, this run and earlier ones together, when the failure may pass."""
    recheck_h: float = 24.0
    """Hours before a video that is not out yet is asked for again."""
    ask_again: tuple[str, ...] = ()
    """Failures of earlier runs to try anew, such as age,geo after adding --cookies or --proxy; `extracted`: videos
    whose media were deleted once their features were stored; `no-features`: those whose media gave none."""
    least_chance: float = LEAST_CHANCE
    """How improbable a row of videos that fail alike must be, by what was seen so far, to be taken for the site's fault
    and to end the run with no video charged; 0: never."""
    part: str = ""
    """I/N: take only part I of N of the videos, by a hash of the id; default: SLURM's array task."""
    media_budget: float = 0.0
    """GiB that the media may take, some videos in flight and a tenth for `.undecodable` more; 0: no bound. Waits for
    room while an `mcn extract --follow --delete-media` makes it."""

    def __post_init__(self) -> None:
        if self.workers < 1 or self.attempts < 1 or self.retries < 0:
            raise ValueError("`workers` and `attempts` must be at least 1, `retries` at least 0")
        if min(self.sleep_requests, self.sleep_interval, self.retry_wait_s, self.recheck_h) < 0:
            raise ValueError("`sleep_requests`, `sleep_interval`, `retry_wait_s` and `recheck_h` can't be negative")
        if self.max_sleep_interval < self.sleep_interval:
            raise ValueError("`max_sleep_interval` must be at least `sleep_interval`")
        if self.time_limit_s <= 0 or self.socket_timeout_s <= 0:
            raise ValueError("`time_limit_s` and `socket_timeout_s` must be above 0")
        # What the system's clocks and timers can count; beyond it each video would fail.
        if max(self.sleep_requests, self.max_sleep_interval, self.time_limit_s, self.socket_timeout_s) > _LONGEST_S:
            raise ValueError(
                "`sleep_requests`, `max_sleep_interval`, `time_limit_s` and `socket_timeout_s` can be "
                f"{_LONGEST_S:g} s at most"
            )
        if not 0 <= self.least_chance < 1:
            raise ValueError("`least_chance` must be at least 0 and below 1")
        if self.site == "sample" and (self.sample is None) == (not self.site_url):
            raise ValueError("`site` sample needs one of `sample` (its folder) and `site_url`")
        if self.site == "youtube" and (self.sample is not None or self.site_url):
            raise ValueError("`sample` and `site_url` go with `site` sample")
        if self.media_budget < 0:
            raise ValueError("`media_budget` can't be negative")
        if self.proxy and (fault := proxy_fault(self.proxy)):
            raise ValueError(f"`proxy` {masked_setting('proxy', self.proxy)!r} {fault}")
        known = (*FAILURE_CLASSES, EXTRACTED, NO_FEATURES)
        for name in self.ask_again:
            if name not in known:
                raise ValueError(f"`ask_again`: no failure {name!r}; {suggest(name, known)}")
