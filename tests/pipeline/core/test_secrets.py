"""Passwords are masked in addresses, headers, queries and options, and nothing else is."""

import time
from typing import Any

import pytest

from pipeline.commands import COMMANDS
from pipeline.core.config import as_plain, settings_in
from pipeline.core.secrets import masked, masked_setting, masked_words, secrets_of
from pipeline.download.settings import DownloadSettings

PASSWORD = "hunter-2-swordfish"


@pytest.mark.parametrize(
    "text",
    [
        "http://user:{}@proxy.example:3128",
        "Unable to connect to socks5h://user:{}@127.0.0.1:1 (refused)",
        "user:{}@proxy.example:3128: no such proxy",
        "https://{}@host/x",
        "https:/user:{}@host/caption.json: no such file",
        "http://user:p@{}@host:80",
        "https://host/list.csv?part=2&access_token={}&x=1",
        "https://host/v?expire=1&sig={}",
        "https://bucket/key?X-Amz-Signature={}",
        "{{'Proxy-Authorization': 'Basic {}'}}",
        "Authorization: Bearer {}",
    ],
)
def test_credentials_in_text_are_masked_and_the_rest_stays(text: str) -> None:
    shown = masked(text.format(PASSWORD))
    assert PASSWORD not in shown and "***" in shown
    for word in ("proxy.example:3128", "127.0.0.1:1", "host", "refused", "no such", "part=2", "expire=1"):
        assert (word in shown) == (word in text)


@pytest.mark.parametrize(
    "text",
    [
        "see https://www.youtube.com/@handle and write to a.b@example.org",
        "at 12:30@home, 5:6",
        "/data/a=b/c@d/x.csv line 3: expected 4 fields",
        "http://127.0.0.1:8000/watch?v=abcdefghijk&t=5",
        "space a:b -> c",
    ],
)
def test_other_text_stays(text: str) -> None:
    assert masked(text) == text


def test_a_command_line_loses_its_secrets_alone() -> None:
    words = f"mcn run a.yaml --proxy u:p/{PASSWORD}@h:1 --s3_secret_access_key {PASSWORD} "
    words += f"--s3_access_key_id={PASSWORD} --azure_connection_string={PASSWORD} "
    words += f"--set download.proxy=http://u:{PASSWORD}@h:2 --workers 2 --ids x.csv"
    shown = " ".join(masked_words(words.split()))
    assert PASSWORD not in shown
    assert shown.startswith("mcn run a.yaml --proxy ***@h:1 --s3_secret_access_key *** ")
    assert shown.endswith("--set download.proxy=http://***@h:2 --workers 2 --ids x.csv")


def test_settings_are_masked_by_name_at_any_depth() -> None:
    download = {"proxy": f"user:{PASSWORD}@h:1", "headers": {"Cookie": PASSWORD}, "ids": "x.csv"}
    stages: dict[str, dict[str, Any]] = {"download": download}
    stages["extract"] = {"options": [f"--s3_session_token={PASSWORD}", f"https://a:{PASSWORD}@b"], "token": PASSWORD}
    shown = masked_setting("stages", stages)
    assert PASSWORD not in str(shown)
    assert shown["download"]["ids"] == "x.csv" and shown["extract"]["token"] == "***"
    settings = DownloadSettings(ids="i.csv", out="o", proxy=f"http://user:{PASSWORD}@h:1")  # type: ignore[arg-type]
    assert as_plain(settings)["proxy"] == "http://***@h:1" and PASSWORD in settings.proxy


@pytest.mark.parametrize("stage", COMMANDS)
def test_no_setting_is_taken_for_a_secret_by_its_name(stage: str) -> None:
    """What is written must be what is read again."""
    if not COMMANDS[stage].experiment:
        assert {n: masked_setting(n, "as it is") for n in settings_in(COMMANDS[stage].settings_class())} == {
            n: "as it is" for n in settings_in(COMMANDS[stage].settings_class())
        }


def test_a_message_may_quote_the_password_decoded_or_in_a_header() -> None:
    secrets = secrets_of("http://us%40er:p%2Fss-word@h:1", None, "", "no-credentials:80")
    for quoted in ("p%2Fss-word", "p/ss-word", "us@er:p/ss-word", "dXNAZXI6cC9zcy13b3Jk"):
        assert masked(f"Port could not be cast to integer value as {quoted!r}", secrets).endswith("'***'")
    assert masked("no-credentials:80 as it is", secrets) == "no-credentials:80 as it is"


@pytest.mark.parametrize("unit", ["a", "a:", "a:/", "?key", ":@", "x:y", "authorization ", "a=b", "?a.", "a://"])
def test_long_text_takes_no_longer_than_it_is(unit: str) -> None:
    began = time.process_time()
    masked(unit * (300_000 // len(unit)) + "@=:")
    assert time.process_time() - began < 2


def test_a_password_of_three_letters_is_not_looked_for_by_itself() -> None:
    assert masked("the cat sat: fish", secrets_of("http://u:cat@h:1", "http://u:fish@h:1")) == "the cat sat: ***"
