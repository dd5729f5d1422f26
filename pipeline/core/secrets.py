"""Passwords and tokens: masked wherever settings, commands and messages are written, printed or logged."""

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

MASK = "***"

_SECRET_NAME = re.compile(
    r"passw(or)?d|passphrase|secret|token|credential|authorization|headers?$|connection_string|api_?key|(^|_)key(_id)?$"
)
_ADDRESS_NAME = re.compile(r"(proxy|url|uri|endpoint)$")
_ADDRESS = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://)?.*@", re.DOTALL)
# Every pattern is bounded, or begins at the start of a word: they are applied to all that is printed.
_IN_TEXT = (
    # scheme://user:password@host; with one slash where the address was taken for a path.
    (re.compile(r"""(?<![A-Za-z0-9+.-])([A-Za-z][A-Za-z0-9+.-]{0,30}:/{1,2})[^\s/"'<>]*@"""), rf"\1{MASK}@"),
    # user:password@host:port
    (re.compile(r"""(?<![^\s"'=(,])[^\s/:@="'(,]{1,100}:[^\s/@"']{1,200}@(?=[\w.-]{1,255}:[0-9])"""), f"{MASK}@"),
    (
        re.compile(
            r"""([?&;][\w.%-]{0,60}?(?:token|key|secret|sig|password|passwd|pwd|auth|credential)[\w.%-]{0,30}=)"""
            r"""[^&\s"'#<>]+""",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
    (
        re.compile(
            r"""(\bauthorization["']?\s{0,3}[:=]\s{0,3}["']?)(?:(?:basic|bearer|digest)\s+)?[^\s"',]+""", re.IGNORECASE
        ),
        rf"\1{MASK}",
    ),
)

_SHORTEST = 4
"""Characters of a password that is looked for by itself: a shorter one would be found in half of all words."""


def masked(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` without the credentials in its addresses and headers, and without `secrets`, which are known by value."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    if "@" in text or "=" in text or ":" in text:
        for pattern, instead in _IN_TEXT:
            text = pattern.sub(instead, text)
    return text


def masked_setting(name: str, value: Any) -> Any:
    """The value of setting `name`, a plain value or a collection of these, without what is secret in it."""
    plain = name.lower().replace("-", "_").rpartition(".")[2]
    if value and isinstance(value, str | Mapping | list | tuple) and _SECRET_NAME.search(plain):
        return MASK
    if isinstance(value, Mapping):
        return {key: masked_setting(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        if all(isinstance(inner, str) for inner in value) and not _ADDRESS_NAME.search(plain):
            return type(value)(masked_words(value))
        return type(value)(masked_setting(name, inner) for inner in value)
    if not isinstance(value, str):
        return value
    return _ADDRESS.sub(rf"\1{MASK}@", value) if _ADDRESS_NAME.search(plain) else masked(value)


def masked_words(words: Sequence[str]) -> list[str]:
    """A command line's words without the secrets in `--name value`, `--name=value` and `section.name=value`."""
    shown, before = [], ""
    for word in words:
        name, equals, value = word.partition("=")
        if equals and re.fullmatch(r"[\w.-]+", name):
            shown.append(f"{name}={masked_setting(name, value)}")
        else:
            shown.append(masked_setting(before, word))
        before = word if word.startswith("--") and not equals else ""
    return shown


def secrets_of(*addresses: str | None) -> tuple[str, ...]:
    """What of the addresses' credentials a message may quote: as written, decoded, and as a header says them."""
    secrets = set()
    for address in filter(None, addresses):
        written = address.rpartition("@")[0].rpartition("://")[2]
        for credentials in filter(None, (written, unquote(written))):
            user, colon, password = credentials.partition(":")
            secrets |= {credentials, base64.b64encode(credentials.encode("utf-8", "surrogateescape")).decode()}
            # Where it isn't quoted as it should be, a library cuts the address in the middle of the password.
            secrets |= {password if colon else user, *re.split("[/?#@]", password if colon else user)}
    return tuple(sorted(secret for secret in secrets if len(secret) >= _SHORTEST))
