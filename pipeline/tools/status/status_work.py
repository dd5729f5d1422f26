"""Who is at work, as far as leases tell."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.core.lease import EXPIRES_S, is_gone, read_lease
from pipeline.download.budget import SCRATCH

_CLOCKS_APART_S = 300.0
"""Clocks of hosts, and of the shared folder's, may differ by so much."""


@dataclass(frozen=True)
class Worker:
    """The holder of a lease."""

    what: str
    """What it works on: `shard 000123`, `planning`, `download 1 of 2`, ..."""
    host: str
    process: int
    state: Literal["at work", "silent", "ended"]
    """`ended`: it ran on this machine and is gone. `silent`: no sign of it for longer than a lease lasts, by a clock
    that may differ from its own."""
    seconds: float
    """Since its last sign of life, by this machine's clock."""

    @property
    def alive(self) -> bool:
        """Whether it seems to be at work."""
        return self.state == "at work"


def workers(leases: dict[str, Path], now: float) -> list[Worker]:
    """The holders of those leases that are there. `leases`: what is worked on -> path; `now`: seconds since 1970."""
    found = []
    for what, path in leases.items():
        try:
            seconds = max(0.0, now - path.stat().st_mtime)
        except OSError:
            continue
        lease = read_lease(path)
        if lease is None:
            continue
        holder = lease[0]
        silent = seconds > EXPIRES_S + _CLOCKS_APART_S
        state: Literal["at work", "silent", "ended"] = "silent" if silent else "at work"
        try:
            state = "ended" if is_gone(holder) else state
            found.append(Worker(what, str(holder.host), int(holder.pid), state, round(seconds, 1)))
        except (TypeError, ValueError):
            continue
    return found


def dataset_leases(dataset: Path) -> dict[str, Path]:
    """What may be worked on in a data set -> its lease."""
    return {
        f"shard {path.stem}" if path.stem.isdigit() else path.stem: path
        for path in sorted((dataset / "leases").glob("*.json"))
        if not path.name.startswith(".")
    }


def media_leases(media: Path) -> dict[str, Path]:
    """What may be worked on in a media folder -> its lease."""
    found = {}
    for path in sorted((media / SCRATCH).glob("*.json")):
        kind, _, rest = path.stem.partition("-")
        if kind == "download":
            found[f"download {rest.replace('-', ' ')}"] = path
        elif kind == "freeing":
            found[f"extraction that deletes media ({rest})"] = path
    return found
