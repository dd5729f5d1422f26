"""Text for a terminal: nothing in it moves the cursor or can't be shown, and numbers read well."""

import sys


def plain(text: object, longest: int = 300) -> str:
    """`text` on one line, cut to `longest` characters; what isn't printable, or not in the terminal's character set,
    is shown as an escape."""
    line = " ".join(str(text).split())
    line = line if len(line) <= longest else line[: longest - 3] + "..."
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def count(number: float) -> str:
    """A number with thousands apart, three digits where it is small."""
    return f"{number:,.0f}" if abs(number) >= 100 or number == int(number) else f"{number:.3g}"


def size(number: float) -> str:
    """Bytes in the unit that fits: 1,500 is `1.5 kB`."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if abs(number) < 1000 or unit == "TB":
            break
        number /= 1000
    return f"{number:,.0f} {unit}" if unit == "bytes" or abs(number) >= 100 else f"{number:.3g} {unit}"


def duration(seconds: float) -> str:
    """Seconds in the unit that fits: 5,400 is `90 min`."""
    for unit, length, most in (("s", 1.0, 120.0), ("min", 60.0, 7200.0), ("hours", 3600.0, 172_800.0)):
        if seconds < most:
            return f"{count(round(seconds / length, 1) if unit == 'hours' else round(seconds / length))} {unit}"
    return f"{count(round(seconds / 86400, 1))} days"
