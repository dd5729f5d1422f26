"""Text for a terminal: nothing in it moves the cursor, numbers read well, and long facts are cut."""

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any


def plain(text: object, longest: int = 300) -> str:
    """`text` on one line, cut to `longest` characters; what isn't printable is shown as an escape."""
    line = " ".join(str(text).split())
    line = line if len(line) <= longest else line[: longest - 3] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def quoted(text: str) -> str:
    """`text` in quotes, cut to 80 characters, with all but ASCII as escapes: look-alike characters show as they are."""
    return ascii(text if len(text) <= 80 else text[:77] + "...")


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


def aligned(rows: Sequence[Sequence[str]], right: Container[int]) -> list[str]:
    """Rows of cells as lines whose columns begin, or for those numbered in `right` end, below one another."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


_ITEMS_SHOWN, _LINES_SHOWN = 6, 60


def facts_lines(facts: Mapping[str, Any]) -> list[str]:
    """A line or more for each fact; a fact's name says its unit: `bytes...`, `seconds...`."""
    return list(_format_facts(facts, "  "))


def _format_facts(facts: Mapping[str, Any], indent: str) -> Iterator[str]:
    names = list(facts)[:_LINES_SHOWN]
    width = max((len(plain(name, 60)) for name in names), default=0)
    for name in names:
        label, value = plain(name, 60), facts[name]
        if isinstance(value, Mapping) and value:
            yield f"{indent}{label}"
            yield from _format_facts(value, indent + "  ")
        elif isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
            for number, one in enumerate(value[:_ITEMS_SHOWN]):
                yield f"{indent}{label} {number + 1} of {len(value)}"
                if isinstance(one, Mapping):
                    yield from _format_facts(one, indent + "  ")
        else:
            yield f"{indent}{label:<{width}}  {_format_value(name, value)}"
    if len(facts) > len(names):
        yield f"{indent}and {len(facts) - len(names)} more: --json has them"


def _format_value(name: str, value: Any) -> str:
    if value is None or value == "" or value == [] or value == {}:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return _format_number(name, value)
    if isinstance(value, list | tuple):
        shown = ", ".join(plain(one, 60) for one in value[:_ITEMS_SHOWN])
        more = len(value) - _ITEMS_SHOWN
        return f"{shown} and {more} more" if more > 0 else shown
    return plain(value, 160)


def _format_number(name: str, value: float) -> str:
    kind = name.split()[0]
    if kind == "bytes" and value >= 1000:
        return f"{count(value)} ({size(value)})"
    if kind == "seconds" and value >= 120:
        return f"{value:,.10g} ({duration(value)})"
    return count(value) if isinstance(value, int) else f"{value:,.6g}"
