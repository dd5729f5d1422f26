"""What a run that is on has measured of itself: its downloads' ledger, its shards' receipts, its models' reports."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.errors import InputError
from pipeline.core.files import read_json
from pipeline.core.ledger import latest_states
from pipeline.dataset.shard_plans import closed_names, read_receipt
from pipeline.download.failures import FAILURE_CLASSES

_PAUSE_S = 600.0
"""A longer time between two videos is a pause of the download, not its pace."""
_ENOUGH = 20
"""Videos below which a pace says little."""


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
        elif latest.outcome == "failed" and _is_gone(latest.reason):
            gone += 1
        else:
            continue
        times.append(latest.time)
    if not alive + gone:
        return None
    times.sort()
    gaps = [after - before for before, after in zip(times, times[1:], strict=False) if after - before < _PAUSE_S]
    hourly = 3600 * len(gaps) / sum(gaps) if len(gaps) >= _ENOUGH and sum(gaps) > 0 else None
    return DownloadsSoFar(alive, gone, _mean(sizes), _mean(durations), hourly)


def _is_gone(reason: str) -> bool:
    failure = FAILURE_CLASSES.get(reason)
    return failure is not None and failure.permanent


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
    found = [receipt for name in closed_names(dataset) if (receipt := read_receipt(dataset, name))]
    seconds = sum(receipt.seconds for receipt in found)
    if not seconds:
        return None
    return ShardsSoFar(
        len(found), sum(len(receipt.video_ids) for receipt in found), seconds, sum(receipt.bytes for receipt in found)
    )


def report_so_far(path: Path) -> dict[str, Any] | None:
    """A stage's own report beside its output, or None where there is none that is whole and did work."""
    try:
        content = read_json(path)
        if content["done"] > 0 and content["seconds"] > 0 and isinstance(content["detail"], dict):
            return dict(content)
    except (InputError, KeyError, TypeError):
        pass
    return None
