"""Who is at work: extraction by its leases, training by the files beside its checkpoints."""

import csv
import io
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.core.errors import InputError
from pipeline.core.files import read_json
from pipeline.core.lease import EXPIRES_S, has_ended, read_lease
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
    holders = []
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
            state = "ended" if has_ended(holder) else state
            holders.append(Worker(what, str(holder.host), int(holder.pid), state, round(seconds, 1)))
        except (TypeError, ValueError):
            continue
    return holders


def dataset_leases(dataset: Path) -> dict[str, Path]:
    """What may be worked on in a data set -> its lease."""
    return {
        f"shard {path.stem}" if path.stem.isdigit() else path.stem: path
        for path in sorted((dataset / "leases").glob("*.json"))
        if not path.name.startswith(".")
    }


def media_leases(media: Path) -> dict[str, Path]:
    """What may be worked on in a media folder -> its lease."""
    leases = {}
    for path in sorted((media / SCRATCH).glob("*.json")):
        kind, _, rest = path.stem.partition("-")
        if kind == "download":
            leases[f"download {rest.replace('-', ' ')}"] = path
        elif kind == "freeing":
            leases[f"extraction that deletes media ({rest})"] = path
    return leases


_TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class ModelState:
    """Where a model's training stands."""

    name: str
    """Of its folder."""
    epoch: int
    """Passes over the training videos that are done."""
    epochs: int | None
    """Passes asked for; None where its settings aren't there."""
    losses: dict[str, float]
    """Term -> mean over the last epoch; empty before the first one ends."""
    worker: Worker | None
    """Who trains it."""

    @property
    def finished(self) -> bool:
        """Whether all passes are done."""
        return self.epochs is not None and self.epoch >= self.epochs


def model_states(models: Path, now: float) -> list[ModelState]:
    """All models in a folder, by name. `now`: seconds since 1970."""
    try:
        folders = sorted(path for path in models.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []
    states = []
    for folder in folders:
        last, epochs = last_row(folder / "metrics.csv"), None
        with suppress(InputError, KeyError, TypeError):
            epochs = read_json(folder / "settings.json")["epochs"]
        trainers = workers({folder.name: folder / "lock.json"}, now)
        states.append(
            ModelState(
                folder.name,
                int(last.pop("epoch", 0)),
                epochs if isinstance(epochs, int) else None,
                {name: value for name, value in last.items() if name != "step"},
                trainers[0] if trainers else None,
            )
        )
    return states


def last_row(path: Path) -> dict[str, float]:
    """The last whole line of a csv, by column, its numbers alone; empty where there is none."""
    try:
        with open(path, "rb") as file:
            header = file.readline(_TAIL_BYTES)
            file.seek(max(len(header), file.seek(0, io.SEEK_END) - _TAIL_BYTES))
            lines = file.read().splitlines(keepends=True)
    except OSError:
        return {}
    whole = [line for line in lines if line.endswith(b"\n") and line.strip()]
    if not whole or not header.endswith(b"\n"):
        return {}
    with suppress(csv.Error):
        names, values = csv.reader([text.decode("utf-8", "replace") for text in (header, whole[-1])])
        row = {}
        for name, value in zip(names, values, strict=False):
            with suppress(ValueError):
                row[name] = float(value)
        return row
    return {}
