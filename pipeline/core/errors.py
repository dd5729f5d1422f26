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


def suggest_path(path: Path, others: Iterable[str] = ()) -> str:
    """`; did you mean 'X'?` for the file or folder nearest to a missing one, or the nearest of `others`; "" where none
    is near. Of a path in a missing folder each part is looked for."""
    found, parts = Path(path.anchor), list(path.parts[1 if path.anchor else 0 :])
    with suppress(OSError):
        while parts:
            part = parts.pop(0)
            if (found / part).exists() or part == "..":
                found /= part
                continue
            names = [entry.name for entry in found.iterdir() if entry.name.startswith(".") <= part.startswith(".")]
            known = sorted(names if parts or found.parts else [*names, *others])
            # A name is often given without its suffix, or with another.
            stems = {Path(name).stem: name for name in reversed(known)}
            near = difflib.get_close_matches(part, known, n=1) or [
                stems[stem] for stem in difflib.get_close_matches(Path(part).stem, stems, n=1)
            ]
            if not near:
                return ""
            found /= near[0]
        return f"; did you mean {str(found)!r}?"
    return ""


_NAMED = 5


def suggest_below(folder: Path, patterns: Iterable[str], named_by_folder: bool = False) -> str:
    """`; did you mean 'X'?` for what lies below a folder that was given in its place, the first few where there are
    several; "" where nothing matches any of the glob `patterns`. `named_by_folder`: X is the folder of what matches."""
    with suppress(OSError):
        paths = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
        below = [str(path.parent if named_by_folder else path) for path in paths]
        if len(below) == 1:
            return f"; did you mean {below[0]!r}?"
        more = f" and {len(below) - _NAMED} more" if len(below) > _NAMED else ""
        return f"; it holds {', '.join(below[:_NAMED])}{more}: give one" if below else ""
    return ""
