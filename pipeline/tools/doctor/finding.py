"""What a check of `mcn doctor` says: one line, and how to mend what is wrong."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    state: State
    """`warning`: works, but slowly or not for long. `problem`: a stage will fail or lose something."""
    text: str
    """What was found."""
    mend: str = ""
    """What to do; empty where nothing is wrong."""

    def line(self, check: str) -> str:
        """The finding in one line; `check`: what was looked at, in a word or two."""
        mend = f"; {self.mend}" if self.mend else ""
        return f"{self.state:<8} {check:<16} {' '.join((self.text + mend).split())}"


Check = Callable[[], Finding]


def examine(check: Check) -> Finding:
    """The finding of `check`; whatever it raises is a problem of that check, and no other check suffers."""
    try:
        return check()
    except Exception as error:  # any fault of any library here is what is being looked for
        lines = str(error).splitlines()
        text = f"{type(error).__name__}: {lines[0] if lines else 'without a message'}"
        if isinstance(error, ImportError):
            return Finding("problem", text, "pip install --force-reinstall this package, or what is named")
        if isinstance(error, OSError):
            return Finding("problem", text, "see whether the disk and its rights allow that")
        return Finding("problem", text, "unexpected: the check itself failed; report it with this line")
