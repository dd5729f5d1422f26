"""Nothing that is printed moves the cursor, turns the line's direction or forges another line."""

import io
import json
import sys

import pytest

from pipeline.core.terminal import escaped, one_line, raw_stream, safe_output

UNSAFE = "\x1b]0;title\x07\x9b31m\r\x08\x7f\u202e\u2066\u2028\ufeff\udc80"


def test_what_is_unsafe_is_escaped_and_stays_json() -> None:
    shown = escaped(f"a{UNSAFE}b\tc\nd é 漢 👩 –")
    assert not set(UNSAFE) & set(shown) - set("]0;title31m") and shown.endswith("b\tc\nd é 漢 👩 –")
    assert json.loads(escaped(json.dumps({"caption": UNSAFE}, ensure_ascii=False))) == {"caption": UNSAFE}
    assert "\n" not in one_line("a\nb\tc") and one_line("a\nb\tc") == "a\\nb\\tc"


def test_both_streams_are_safe_within_the_block_and_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = io.StringIO(), io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with safe_output():
        print("\x1b[31m http://user:password@host/")
        print("é\x1b[0m", file=sys.stderr, flush=True)
        with safe_output():
            raw_stream(sys.stdout).write("\x1b[H")
        assert not sys.stdout.isatty()
    assert out.getvalue() == "\\u001b[31m http://***@host/\n\x1b[H" and sys.stdout is out
    assert err.buffer.getvalue() == b"\\u00e9\\u001b[0m\n"  # type: ignore[attr-defined]
    with pytest.raises(ValueError), safe_output():
        raise ValueError
    print("\x1b", file=sys.stdout)
    assert out.getvalue().endswith("\\u001b\n")
