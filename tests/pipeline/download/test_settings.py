"""Settings that can't work are refused before any video is asked for."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.core.secrets import masked
from pipeline.download.settings import DownloadSettings, FetchSettings, proxy_fault


@pytest.mark.parametrize(
    "address",
    [
        "socks5://host:1080",
        "http://user:p%2Fass@host:3128/",
        "https://[::1]:8",
        "host:3128",
        "SOCKS5H://host",
        "user:pw@host",
    ],
)
def test_proxies_that_can_work(address: str) -> None:
    assert proxy_fault(address) == ""


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("sock5://x", "scheme"),
        ("ftp://host:21", "scheme"),
        ("://host", "scheme"),
        ("socks5://", "HOST"),
        ("http://:3128", "HOST"),
        ("http://host:port", "HOST"),
        ("http://host:99999", "HOST"),
        ("http://user:pa/55w0rd@host:1", "percent-encode"),
        ("http://user:12/34@host:1", "percent-encode"),
        ("user:pa?55w0rd@host:1", "percent-encode"),
        ("http://user:1#2@host:1", "percent-encode"),
        ("http://ho st:1", "HOST"),
        ("http://a..b:1", "HOST"),
        ("http://[::1:1", "HOST"),
    ],
)
def test_proxies_that_cannot_work(address: str, words: str) -> None:
    assert words in proxy_fault(address)
    assert masked(proxy_fault(address)) == proxy_fault(address)
    with pytest.raises(ValueError, match="proxy") as told:
        DownloadSettings(ids=Path("ids.csv"), out=Path("out"), proxy=address)
    assert "55w0rd" not in str(told.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"socket_timeout_s": 1e12}, "at most"),
        ({"time_limit_s": 1e7}, "at most"),
        ({"max_sleep_interval": 1e9}, "at most"),
        ({"least_chance": 1.0}, "least_chance"),
        ({"least_chance": -0.1}, "least_chance"),
    ],
)
def test_numbers_that_no_clock_counts_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DownloadSettings(ids=Path("ids.csv"), out=Path("out"), **values)


def test_the_longest_wait_for_an_answer_can_be_counted_in_milliseconds() -> None:
    longest = FetchSettings(time_limit_s=86400, max_sleep_interval=86400 * 64, sleep_requests=86400 * 64)
    assert longest.kill_after_s * 1000 < 2**31
    assert FetchSettings(max_sleep_interval=20, sleep_requests=0.5).kill_after_s == 900 + 40 + 10
