"""Settings of `mcn sample`."""

from dataclasses import dataclass
from pathlib import Path

SHORTEST_ALLOWED_S = 16.0

TEXT, AUDIO = "text", "audio"
"""What can be made uninformative."""


@dataclass(frozen=True)
class SampleSettings:
    """A small HowTo100M of its own, made from a seed without any network."""

    out: Path
    """Folder to write the sample to."""
    seed: int = 0
    """Every byte of the sample follows from it, from the number and length of the videos, and from what is made
    uninformative."""
    videos: int = 52
    """Number of videos; 48 or more for all 12 procedures."""
    seconds: float = 20.0
    """Length of the shortest video in seconds; the longest has 5 s more, the mean is 1 s more."""
    uninformative: str = ""
    """A control: text (captions say what others say, by a permutation of all) or audio (white noise in place of all
    sound); the truth stays as it is."""
    processes: int = 0
    """Processes that draw videos at the same time; 0 takes all cores."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"`seed` must be between 0 and 2^63 - 1, got {self.seed}")
        if not 2 <= self.videos <= 10_000:
            raise ValueError(f"`videos` must be between 2 and 10000, got {self.videos}")
        if not SHORTEST_ALLOWED_S <= self.seconds <= 600:
            raise ValueError(f"`seconds` must be between {SHORTEST_ALLOWED_S:.0f} and 600, got {self.seconds}")
        if self.uninformative not in ("", TEXT, AUDIO):
            raise ValueError(f"`uninformative` must be {TEXT!r}, {AUDIO!r} or empty, got {self.uninformative!r}")
        if self.processes < 0:
            raise ValueError(f"`processes` must be at least 0 (all cores), got {self.processes}")
