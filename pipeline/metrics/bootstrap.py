"""Percentile bootstrap over videos: clips of one video are not independent, so videos are drawn, with all they hold."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Statistics = Callable[[NDArray[np.int64]], Sequence[float]]
"""Takes indices of items, repeated as drawn, and gives one or several statistics of those items."""


@dataclass(frozen=True)
class Interval:
    """A score with its 95 % percentile bootstrap interval."""

    value: float
    low: float
    high: float

    def as_json(self) -> dict[str, Any]:
        """The interval as JSON values."""
        return {"value": self.value, "low": self.low, "high": self.high}


def bootstrap(statistics: Statistics, owners: Sequence[str], draws: int, seed: int) -> list[Interval]:
    """Intervals of `statistics` over items whose item i belongs to video `owners[i]`.

    Each draw takes as many videos as there are, with replacement, in the order of their names, and all items of each.
    Two scores of the same items are compared by a statistic of their differences: the interval is then paired. Raises
    ValueError without items or draws.
    """
    if not len(owners) or draws < 1:
        raise ValueError("a bootstrap needs at least one item and one draw")
    names, owner = np.unique(np.asarray(owners), return_inverse=True)
    items_of = np.split(np.argsort(owner, kind="stable"), np.cumsum(np.bincount(owner))[:-1])
    drawn = np.random.default_rng(seed).integers(len(names), size=(draws, len(names)))
    found = np.array([statistics(np.concatenate([items_of[video] for video in row])) for row in drawn], np.float64)
    values = statistics(np.arange(len(owners)))
    low, high = np.percentile(found, [2.5, 97.5], axis=0)
    return [
        Interval(float(value), float(below), float(above))
        for value, below, above in zip(values, low, high, strict=True)
    ]
