"""How fast something goes just now, by the times at which it was done."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WINDOWS_H = (1.0, 6.0, 24.0, 7 * 24.0)
"""Recent pasts, in hours: the shortest that holds ENOUGH is measured."""
ENOUGH = 20
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
