"""Ids are checked before they reach a path or a URL."""

import re
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import InputError
from pipeline.core.video_ids import check_media_name, check_video_id, is_media_name, is_video_id

ALPHABET = string.ascii_letters + string.digits + "_-"


@given(st.text(ALPHABET, min_size=11, max_size=11))
def test_eleven_characters_of_the_alphabet_are_an_id(text: str) -> None:
    assert check_video_id(text, "list.csv line 2") == text


@given(st.text(max_size=70))
@settings(max_examples=50)
def test_an_id_is_nothing_else(text: str) -> None:
    assert is_video_id(text) == (len(text) == 11 and set(text) <= set(ALPHABET))
    assert is_media_name(text) == (1 <= len(text) <= 64 and set(text) <= set(ALPHABET))


@pytest.mark.parametrize(
    "text",
    ["", "../../etc/a", "abcdefghijk\n", "abcdefghij", "abcdefghijkl", "abc def ghi", "äbcdefghijk", "a/b/c/d/e/f"],
)
def test_a_bad_id_is_named_in_one_printable_line(text: str) -> None:
    with pytest.raises(InputError) as caught:
        check_video_id(text, "list.csv line 7")
    message = str(caught.value)
    assert message.startswith("list.csv line 7: ") and ascii(text) in message
    assert message.isascii() and message.isprintable()


def test_a_long_one_is_not_repeated_whole() -> None:
    with pytest.raises(InputError) as caught:
        check_media_name("x" * 100_000, "media")
    assert len(str(caught.value)) < 250


def test_names_of_own_media_may_be_up_to_64_long() -> None:
    assert check_media_name("-" * 64, "media") == "-" * 64
    with pytest.raises(InputError, match=re.escape("1 to 64")):
        check_media_name("-" * 65, "media")
