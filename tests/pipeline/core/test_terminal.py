"""Nothing that is printed moves the cursor, turns the line's direction or forges another line."""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core.terminal import SafeStream, escaped, one_line, raw_stream, safe_output

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


class Refusing(io.StringIO):
    """A stream that takes `room` writings, then raises what it is told."""

    def __init__(self, error: OSError, room: int = 0) -> None:
        super().__init__()
        self.error, self.room = error, room

    def write(self, text: str) -> int:
        if self.room == 0:
            raise self.error
        self.room -= 1
        return super().write(text)


def test_what_can_not_be_written_is_lost_and_remembered() -> None:
    full = Refusing(OSError(errno.ENOSPC, "No space left on device"), room=1)
    stream = SafeStream(full, results=True)
    assert stream.write("kept") == 4 and stream.failure is None
    assert stream.write("lost") == 4 and stream.failure is full.error
    full.room = 1
    assert stream.write("after a gap") == 11 and full.getvalue() == "kept"
    stream.flush()
    closed = SafeStream(None, results=True)
    assert closed.write("nowhere") == 7 and closed.failure is None and not closed.isatty()


def test_only_who_reads_results_is_waited_for() -> None:
    with pytest.raises(BrokenPipeError):
        SafeStream(Refusing(BrokenPipeError()), results=True).write("x")
    for stream in (SafeStream(Refusing(BrokenPipeError())), raw_stream(Refusing(BrokenPipeError()))):
        assert stream.write("x") == 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_json_stays_the_same_json_on_every_terminal(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"caption": "é – 漢 👩 \x1b[0m \x07"}
    out = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", out)
    with safe_output():
        print(json.dumps(said, ensure_ascii=False))
    assert json.loads(out.buffer.getvalue().decode(encoding)) == said  # type: ignore[attr-defined]


def test_a_bar_on_a_terminal_without_its_characters_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    err = io.TextIOWrapper(io.BytesIO(), "latin-1")
    monkeypatch.setattr(sys, "stderr", err)
    with safe_output():
        raw_stream(sys.stderr).write("\r\x1b[A█ é")
    assert err.buffer.getvalue() == b"\r\x1b[A\\u2588 \xe9"  # type: ignore[attr-defined]


FILLED = """
import os, sys
from pipeline.core.terminal import fill_standard_descriptors
fill_standard_descriptors()
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
os.write(2, b"from a library in C")
sys.exit(file)
"""


def test_a_closed_stream_s_number_goes_to_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    for closed in ("2>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-"):
        command = f"{sys.executable} -c '{FILLED}' {path} {closed}"
        status = subprocess.run(["bash", "-c", command], env=os.environ | {"PYTHONPATH": str(Path.cwd())}).returncode
        assert status >= 3 and path.read_bytes() == b""
