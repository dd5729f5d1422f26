"""`mcn status RUN`: where the whole stands. It only reads."""

import json
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from pipeline.core.report import StageReport
from pipeline.tools.status.text import draw
from pipeline.tools.status.view import StatusView


@dataclass(frozen=True)
class StatusSettings:
    """What is looked at, and how it is told."""

    run: Path
    """Data set folder, media folder, or the folder of `mcn run`."""
    media: Path | None = None
    """Media folder; default: the one that the data set, or the run, was made from."""
    ids: Path | None = None
    """csv of the ids asked for; default: the one that the run was given."""
    watch: bool = False
    """Look again and again until Ctrl-C."""
    every: float = 10.0
    """Seconds between looks, with --watch."""
    json: bool = False
    """Print JSON: one object, or with --watch one a line."""

    def __post_init__(self) -> None:
        if self.every <= 0:
            raise ValueError("every must be above 0 seconds")


def run(settings: StatusSettings) -> StageReport:
    """Print where things stand, once or with `watch` until Ctrl-C. InputError when `run` is no such folder."""
    report = StageReport("status", unit="look")
    view = StatusView(settings.run, settings.media, settings.ids)
    with suppress(KeyboardInterrupt):
        while True:
            status = view.look(time.time())
            report.detail = as_json(status)
            if settings.json:
                print(json.dumps(report.detail, indent=None if settings.watch else 2), flush=True)
            else:
                draw(status, clear=settings.watch and sys.stdout.isatty())
            report.done += 1
            if not settings.watch:
                break
            time.sleep(settings.every)
    return report.finish()


def as_json(value: Any) -> Any:
    """Dataclasses as JSON objects, their properties `hourly`, `finished` and `videos` among the fields."""
    if is_dataclass(value) and not isinstance(value, type):
        shown = {one.name: as_json(getattr(value, one.name)) for one in fields(value)}
        more = {name: getattr(value, name) for name in ("hourly", "finished", "videos") if hasattr(value, name)}
        return shown | more
    if isinstance(value, dict):
        return {str(key): as_json(one) for key, one in value.items()}
    return [as_json(one) for one in value] if isinstance(value, list | tuple) else value
