"""Crossing of factors by minimisation: each new level is the one that is rarest beside the levels already given.

Pocock and Simon's sequential assignment ("Sequential treatment assignment with balancing for prognostic factors in the
controlled clinical trial", Biometrics 1975), here for all pairs of factors at once, weighted by seconds.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

Spans = Sequence[tuple[Mapping[str, str], float]]
"""What a level stands beside: (factor -> level, seconds) of each span it covers."""

_OWN_WEIGHT = 1 / 16
"""Weight of a level's own seconds against those it shares with another level: enough to break ties."""


class Balance:
    """Seconds that any two levels of two factors have spent together so far."""

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random
        self._seconds: defaultdict[tuple[str, str, str, str], float] = defaultdict(float)
        self._own: defaultdict[tuple[str, str], float] = defaultdict(float)

    def choose(self, factor: str, levels: Sequence[str], beside: Spans) -> str:
        """The level of `factor` that adds least to the sum of squares of all pair tables, recorded; ties are drawn."""
        costs = [self._cost(factor, level, beside) for level in levels]
        rarest = [level for level, cost in zip(levels, costs, strict=True) if cost <= min(costs) + 1e-9]
        level = rarest[int(self._random.integers(len(rarest)))]
        self.record(factor, level, beside)
        return level

    def record(self, factor: str, level: str, beside: Spans) -> None:
        """Count a level that is given and was not chosen here."""
        for given, seconds in beside:
            self._own[factor, level] += seconds
            for other, other_level in given.items():
                self._seconds[factor, level, other, other_level] += seconds
                self._seconds[other, other_level, factor, level] += seconds

    def _cost(self, factor: str, level: str, beside: Spans) -> float:
        own = self._own[factor, level] * _OWN_WEIGHT
        return sum(
            seconds * (own + sum(self._seconds[factor, level, other, at] for other, at in given.items()))
            for given, seconds in beside
        )
