"""Rates: how fast something goes just now, and what a run has measured of itself so far."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.core.files import read_json
from pipeline.core.ledger import latest_states
from pipeline.dataset.shard_plans import closed_names, whole_receipts
from pipeline.download.failures import FAILURE_CLASSES, UNKNOWN

WINDOWS_H = (1.0, 6.0, 24.0, 7 * 24.0)
"""Recent pasts, in hours: the shortest that holds ENOUGH is measured."""
ENOUGH = 20
"""Events below which a pace says little."""
_SHORTEST_H = 1 / 3600


@dataclass(frozen=True)
class Rate:
    """So many in so many hours up to now."""

    count: int
    hours: float

    @property
    def hourly(self) -> float:
        """How many an hour."""
        return self.count / self.hours


def recent_rate(times: NDArray[np.float64], now: float) -> Rate | None:
    """The rate in the shortest of the recent pasts with enough events, else in a day; None where nothing was done.

    `times`: of events, in seconds since 1970, in no order; those after `now` are of a host whose clock is ahead. What
    began within that past is measured from its beginning; pauses count, since they will come again.
    """
    if not len(times):
        return None
    began = float(times.min())
    counts = {window: int((times >= now - 3600 * window).sum()) for window in WINDOWS_H}
    window = next((window for window in WINDOWS_H if counts[window] >= ENOUGH), 24.0)
    if not counts[window]:
        return None
    return Rate(counts[window], max(_SHORTEST_H, min(window, (now - began) / 3600)))


def hours_left(left: float, rate: Rate | None) -> float | None:
    """Hours until `left` are done at this rate; None where it isn't known."""
    if left <= 0:
        return 0.0
    return left / rate.hourly if rate else None


_PAUSE_S = 600.0
"""A longer time between two videos is a pause of the download, not its pace."""


@dataclass(frozen=True)
class DownloadsSoFar:
    """What the downloads' ledger holds."""

    alive: int
    gone: int
    """Never to be asked for again."""
    mean_bytes: float | None
    mean_seconds: float | None
    """Duration of a video."""
    hourly: float | None
    """Videos settled in an hour of work by all who download into this folder."""


def downloads_so_far(media: Path) -> DownloadsSoFar | None:
    """None when no video has been settled yet."""
    alive = gone = 0
    sizes, durations, times = [], [], []
    for state in latest_states(media / "ledger", "download").values():
        latest = state.latest
        if latest.outcome == "done":
            alive += 1
            sizes += [latest.detail["bytes"]] if latest.detail.get("bytes") else []
            durations += [latest.detail["duration"]] if latest.detail.get("duration") else []
        elif latest.outcome == "failed" and FAILURE_CLASSES.get(latest.reason, UNKNOWN).action == "permanent":
            gone += 1
        else:
            continue
        times.append(latest.time)
    if not alive + gone:
        return None
    times.sort()
    gaps = [after - before for before, after in zip(times, times[1:], strict=False) if after - before < _PAUSE_S]
    hourly = 3600 * len(gaps) / sum(gaps) if len(gaps) >= ENOUGH and sum(gaps) > 0 else None
    return DownloadsSoFar(alive, gone, _mean(sizes), _mean(durations), hourly)


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


@dataclass(frozen=True)
class ShardsSoFar:
    """What the closed shards' receipts hold."""

    shards: int
    videos: int
    seconds: float
    bytes: int


def shards_so_far(dataset: Path) -> ShardsSoFar | None:
    """None without a closed shard. Nothing is written: a shard without a receipt is passed over."""
    receipts = whole_receipts(dataset, closed_names(dataset))
    seconds = sum(receipt.seconds for receipt in receipts)
    if not seconds:
        return None
    videos = sum(len(receipt.video_ids) for receipt in receipts)
    return ShardsSoFar(len(receipts), videos, seconds, sum(receipt.bytes for receipt in receipts))


def report_so_far(path: Path) -> dict[str, Any] | None:
    """A stage's own report beside its output, or None where there is none that is whole and did work."""
    try:
        content = read_json(path)
        if content["done"] > 0 and content["seconds"] > 0 and isinstance(content["detail"], dict):
            return dict(content)
    except (InputError, KeyError, TypeError):
        pass
    return None
