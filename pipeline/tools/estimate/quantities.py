"""Figures of an estimate: each says where it comes from, and a sum of which a part is unknown is unknown."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pipeline.core.formatting import aligned, count

Origin = Literal["measured", "cited", "given", "arithmetic", "unknown"]


@dataclass(frozen=True)
class Figure:
    """One number and its origin."""

    stage: str
    name: str
    """What is counted, with its unit."""
    value: float | None
    """None where it is unknown."""
    origin: Origin
    """`measured`: by a probe here, or of this run so far. `cited`: from a source that is named. `given`: in the study
    or by a flag. `arithmetic`: from other figures, as `source` says."""
    source: str


class Figures:
    """Figures in the order they were added, each under the stage of the view through which it was added."""

    def __init__(self, stage: str = "", figures: list[Figure] | None = None) -> None:
        self.all: list[Figure] = [] if figures is None else figures
        self._stage = stage

    def of(self, stage: str) -> "Figures":
        """The same figures, to which those of `stage` are added."""
        return Figures(stage, self.all)

    def add(self, name: str, value: float | None, origin: Origin, source: str) -> Figure:
        """Add a figure; without a value its origin is `unknown`."""
        self.all.append(Figure(self._stage, name, value, origin if value is not None else "unknown", source))
        return self.all[-1]

    def sum(self, name: str, how: Callable[..., float], source: str, *of: Figure) -> Figure:
        """Add what `how` makes of the values of `of`; unknown where one of them is, naming the first such."""
        lacking = next((figure for figure in of if figure.value is None), None)
        if lacking is not None:
            return self.add(name, None, "unknown", f"needs {lacking.stage}: {lacking.name}")
        return self.add(name, how(*(figure.value for figure in of)), "arithmetic", source)

    def table(self) -> str:
        """All figures as lines of text."""
        rows = [("stage", "figure", "value", "origin", "from")]
        stage = ""
        for f in self.all:
            value = "?" if f.value is None else count(f.value)
            rows.append((f.stage if f.stage != stage else "", f.name, value, f.origin, f.source))
            stage = f.stage
        return "\n".join(aligned(rows, right=(2,)))
