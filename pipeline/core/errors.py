"""Errors meant for the person at the keyboard."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class InputError(Exception):
    """Something the user gave can't be used: one line that says which input, what is wrong and how to mend it.

    The command line prints the message alone and exits with status 2.
    """


class ToolError(Exception):
    """What the program works with fails on this machine: a library, a device, a disk. One line, charged to no input.

    The command line prints the message alone and exits with status 1.
    """


@contextmanager
def tool_errors(what: str, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Raise an error of the block as a ToolError that begins with `what`; InputError, ToolError and `but` stay."""
    try:
        yield
    except Exception as error:
        if isinstance(error, (InputError, ToolError, *but)):
            raise
        raise ToolError(f"{what}: {type(error).__name__}: {' '.join(str(error).split())[:400]}".rstrip(": ")) from error


def suggest(unknown: str, known: Iterable[str]) -> str:
    """A phrase that names the known word nearest to `unknown`; if none is near, all of them, or --help where they are
    many. `-` and `_` count as the same."""
    names = {name.replace("-", "_").strip("_"): name for name in sorted(known)}
    near = difflib.get_close_matches(unknown.replace("-", "_").strip("_"), names, n=1)
    if near:
        return f"did you mean {names[near[0]]!r}?"
    return f"known: {', '.join(names.values())}" if len(names) < 40 else "see --help"


def suggest_path(path: Path) -> str:
    """`; did you mean 'X'?` for the file or folder nearest to a missing one; "" where none is near."""
    with suppress(OSError):
        near = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=1)
        return f"; did you mean {str(path.with_name(near[0]))!r}?" if near else ""
    return ""
