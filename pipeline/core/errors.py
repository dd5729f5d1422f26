"""Errors meant for the person at the keyboard."""

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """Something the user gave can't be used: one line that says which input, what is wrong and how to mend it.

    The command line prints the message alone and exits with status 2.
    """


def suggest(unknown: str, known: Iterable[str]) -> str:
    """A phrase that names the known word nearest to `unknown`, or lists all of them if none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(unknown, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
