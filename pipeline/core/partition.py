"""`--part I/N`: the share of one of N processes that work on the same list without a cluster's software."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.core.errors import InputError

_PART = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")


@dataclass(frozen=True)
class Part:
    """Part `index` of `count`, counted from 1."""

    index: int = 1
    count: int = 1

    def owns(self, number: int) -> bool:
        """Whether plan `number`, or a video whose hash is `number`, belongs to this part."""
        return number % self.count == self.index - 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def find_part(text: str, environment: Mapping[str, str] = os.environ) -> Part:
    """The part that `text` ("I/N") names; for "" that of SLURM's array task, or the whole.

    InputError when `text` isn't I/N with 1 <= I <= N, or SLURM's variables make no sense.
    """
    if text:
        match = _PART.fullmatch(text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise InputError(f"--part {text}: expected I/N with 1 <= I <= N, e.g. 2/8")
        return Part(int(match[1]), int(match[2]))
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return Part()
    try:
        task, first, count, step = (
            int(environment.get(f"SLURM_ARRAY_TASK_{name}", default))
            for name, default in (("ID", ""), ("MIN", "0"), ("COUNT", "1"), ("STEP", "1"))
        )
        part = Part((task - first) // step + 1, count)
    except (ValueError, ZeroDivisionError):
        raise InputError("SLURM_ARRAY_TASK_ID, _MIN, _COUNT and _STEP aren't integers; give --part I/N") from None
    # An array such as 1,5,7 has no even step: these variables don't tell its tasks their index.
    if (task - first) % step or not 1 <= part.index <= part.count:
        raise InputError(
            f"SLURM's array task {task} isn't one of {count} tasks from {first} on by steps of {step}; give --part I/N"
        )
    return part
