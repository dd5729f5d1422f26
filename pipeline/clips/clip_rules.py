"""How clips are cut out of videos: one value that training, held-out scores and evaluation share."""

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class ClipRules:
    """What a clip holds; the defaults are the mended rules, each docstring says what was published."""

    streams: tuple[str, ...] = ("resnet152",)
    """Video streams, side by side in a row."""
    audio: Literal["davenet", "logmel", "none"] = "davenet"
    """What is read of the sound: frozen rows, log-mel for a DaveNet in training, nothing."""
    min_seconds: float = 10.0
    """Captions grow by their neighbours to at least this long. Published: 10."""
    max_words: int = 20
    """First words with a vector that are kept. Published: 20."""
    bounds: Literal["half-open", "inclusive"] = "half-open"
    """A clip's rows: those whose time lies in [start, end); or, as published, int(start * fps) to int(end * fps)."""
    word_order: Literal["time", "absorbed"] = "time"
    """Neighbours' words follow the caption's own in the order of time; or, as published, as they were taken up."""
    logmel_frames: int = 1000
    """Log-mel frames of a clip, from its start on; 100 a second. Published: 1000, so 10 s of however long a clip."""
    clamp_logmel_start: bool = True
    """Start at frame 0 at the earliest. Published: off; a clip that starts before 12.5 ms so has no sound at all."""
    logmel_padding: Literal["silence", "loudest"] = "silence"
    """What fills a short clip's frames: -80 dB, or as published 0 dB, which is the recording's loudest."""

    def without_sound(self) -> "ClipRules":
        """The same clips, of which no sound is read."""
        return replace(self, audio="none")
