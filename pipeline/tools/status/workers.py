"""The models' side of `mcn status`: which epoch each has reached, by the files beside its checkpoint."""

import csv
import io
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.errors import InputError
from pipeline.core.files import read_json
from pipeline.tools.status.status_work import Worker, workers

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
    return [_state(folder, now) for folder in folders]


def _state(folder: Path, now: float) -> ModelState:
    last = last_row(folder / "metrics.csv")
    epochs = _settings(folder).get("epochs")
    found = workers({folder.name: folder / "lock.json"}, now)
    return ModelState(
        folder.name,
        int(last.pop("epoch", 0)),
        epochs if isinstance(epochs, int) else None,
        {name: value for name, value in last.items() if name != "step"},
        found[0] if found else None,
    )


def _settings(folder: Path) -> dict[str, Any]:
    with suppress(InputError):
        content = read_json(folder / "settings.json")
        if isinstance(content, dict):
            return content
    return {}


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
