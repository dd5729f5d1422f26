"""Named facts as lines of text: what is long is cut, and says so; JSON has all of it."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.core.terminal_text import count, duration, plain, size

_ITEMS_SHOWN, _LINES_SHOWN = 6, 60


def facts_lines(facts: Mapping[str, Any]) -> list[str]:
    """A line or more for each fact; a fact's name says its unit: `bytes...`, `seconds...`."""
    return list(_told(facts, "  "))


def _told(facts: Mapping[str, Any], indent: str) -> Iterator[str]:
    names = list(facts)[:_LINES_SHOWN]
    width = max((len(plain(name, 60)) for name in names), default=0)
    for name in names:
        label, value = plain(name, 60), facts[name]
        if isinstance(value, Mapping) and value:
            yield f"{indent}{label}"
            yield from _told(value, indent + "  ")
        elif isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
            for number, one in enumerate(value[:_ITEMS_SHOWN]):
                yield f"{indent}{label} {number + 1} of {len(value)}"
                if isinstance(one, Mapping):
                    yield from _told(one, indent + "  ")
        else:
            yield f"{indent}{label:<{width}}  {_shown(name, value)}"
    if len(facts) > len(names):
        yield f"{indent}and {len(facts) - len(names)} more: --json has them"


def _shown(name: str, value: Any) -> str:
    if value is None or value == "" or value == [] or value == {}:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return _number(name, value)
    if isinstance(value, list | tuple):
        shown = ", ".join(plain(one, 60) for one in value[:_ITEMS_SHOWN])
        more = len(value) - _ITEMS_SHOWN
        return f"{shown} and {more} more" if more > 0 else shown
    return plain(value, 160)


def _number(name: str, value: float) -> str:
    kind = name.split()[0]
    if kind == "bytes" and value >= 1000:
        return f"{count(value)} ({size(value)})"
    if kind == "seconds" and value >= 120:
        return f"{value:,.10g} ({duration(value)})"
    return count(value) if isinstance(value, int) else f"{value:,.6g}"
