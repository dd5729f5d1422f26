"""A video's frames to the clips of its rows, no more of them at once than a clip spans."""

from collections import deque
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from extractors.decode import DecodeSettings
from extractors.network import ClipShape
from extractors.timeline import GRID_FPS

Frame = NDArray[np.uint8]


class ClipWindow:
    """Takes the frames of one video in order, gives each row's clip once its last frame has gone by.

    Frame i of row k's clip of n is the one at (k / feature_fps + (i - n // 2) / clip fps) seconds, so that frame n // 2
    is the row's own. In place of one that isn't there (before the video, after it, in a gap) stands the clip's frame
    before it, or where there is none, the first that is there. A row without a frame of its own has no clip.
    """

    def __init__(self, clip: ClipShape, settings: DecodeSettings) -> None:
        """ValueError where frames at the settings' `frame_fps` don't hold those of the clip."""
        grid_step = GRID_FPS // settings.frame_fps
        if clip.step % grid_step:
            raise ValueError(f"clips at {clip.fps:g} frames a second can't be had of {settings.frame_fps} a second")
        self._of_row = settings.frames_per_row
        self._offsets = (np.arange(clip.frames) - clip.frames // 2) * (clip.step // grid_step)
        self._frames: dict[int, Frame] = {}
        self._rows: deque[int] = deque()
        """Frame numbers of rows whose clips lack frames yet."""

    def push(self, numbers: NDArray[np.int64], frames: NDArray[np.uint8]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Add frames (n, H, W, 3) of these numbers (n,); gives (row, clip (T, H, W, 3)) of those that became complete.

        Frames are copied.
        """
        for number, frame in zip(numbers.tolist(), frames, strict=True):
            self._frames[number] = frame.copy()
            if number % self._of_row == 0:
                self._rows.append(number)
            while self._rows and self._rows[0] + self._offsets[-1] <= number:
                yield self._clip(self._rows.popleft())
            following = self._rows[0] if self._rows else (number // self._of_row + 1) * self._of_row
            for gone in [held for held in self._frames if held < following + self._offsets[0]]:
                del self._frames[gone]

    def finish(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """The clips that reach beyond the last frame."""
        while self._rows:
            yield self._clip(self._rows.popleft())
        self._frames.clear()

    def __len__(self) -> int:
        """Number of frames held."""
        return len(self._frames)

    def _clip(self, own: int) -> tuple[int, NDArray[np.uint8]]:
        wanted = [self._frames.get(own + offset) for offset in self._offsets.tolist()]
        shown = next(frame for frame in wanted if frame is not None)
        clip = []
        for frame in wanted:
            shown = frame if frame is not None else shown
            clip.append(shown)
        return own // self._of_row, np.stack(clip)
