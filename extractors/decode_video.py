"""One video file to rows of frames: decord first, PyAV for what decord can't open or breaks on."""

from collections.abc import Iterable, Iterator
from itertools import islice

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from extractors.decode import Decoded, DecodeSettings, DecodeSummary, FrameBatch, MediaInfo, check_path
from extractors.errors import MediaError
from extractors.frames_decord import DecordError, decord_frames
from extractors.frames_pyav import pyav_frames
from extractors.media_scan import MediaScan, scan_media
from extractors.timeline import frame_size, parse_frame_size, row_count, row_times, source_frame_on_screen

av.logging.set_level(av.logging.PANIC)

Frame = NDArray[np.uint8]


def decode_video(path: str, settings: DecodeSettings) -> Iterator[Decoded]:
    """A MediaInfo, then FrameBatch by FrameBatch, then a DecodeSummary; holds one batch and one frame at a time.

    Row k shows the source frame on screen at k / feature_fps seconds, turned and stretched as a player shows it,
    resized by antialiased bilinear. A row without a frame that can be decoded is masked. Raises MediaError.
    """
    path = check_path(path)
    scan = scan_media(path)
    width, height = parse_frame_size(settings.frame_size) or frame_size(scan.display_width, scan.display_height)
    rows = row_count(scan.duration, settings.feature_fps)
    on_screen = source_frame_on_screen(scan.times, row_times(rows, settings.feature_fps), scan.duration)
    yield MediaInfo(scan.duration, width, height, rows, scan.has_audio)

    mask = np.zeros(rows, dtype=np.bool_)
    frames = _Frames(path, scan, np.unique(on_screen[on_screen >= 0]))
    resized = _rows(frames, on_screen, (width, height))
    while batch := list(islice(resized, settings.frames_per_batch)):
        numbers = np.array([row for row, _ in batch], dtype=np.int64)
        mask[numbers] = True
        yield FrameBatch(numbers, np.stack([frame for _, frame in batch]))
    if not mask.any():
        raise MediaError("undecodable", f"{path}: none of its {rows} rows has a frame that can be decoded")
    yield DecodeSummary(mask, "+".join(frames.decoders), (*frames.notes, *_mask_notes(mask, on_screen)))


class _Frames:
    """The chosen source frames of a video in order, and the decoders that gave them."""

    def __init__(self, path: str, scan: MediaScan, chosen: NDArray[np.int64]) -> None:
        self.path = path
        self.scan = scan
        self.chosen = chosen
        self.decoders: list[str] = []
        self.notes: list[str] = []

    def __iter__(self) -> Iterator[tuple[int, Frame]]:
        done = -1
        try:
            for number, frame in decord_frames(self.path, self.scan, self.chosen):
                self._used("decord")
                yield number, frame
                done = number
            return
        except DecordError as error:
            self.notes.append(f"decord {error}; PyAV decoded {'the rest' if self.decoders else 'it'}")
        missing = self.chosen[self.chosen > done]
        pts = {int(self.scan.pts[number]): int(number) for number in missing}
        for number, frame in pyav_frames(self.path, pts, self.scan.orientation):
            self._used("pyav")
            yield number, frame

    def _used(self, decoder: str) -> None:
        if decoder not in self.decoders:
            self.decoders.append(decoder)


def _rows(
    frames: Iterable[tuple[int, Frame]], on_screen: NDArray[np.int64], size: tuple[int, int]
) -> Iterator[tuple[int, Frame]]:
    """(row, resized frame); a source frame that stays on screen is resized once and given to each of its rows."""
    for number, frame in frames:
        resized = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR))
        first, end = np.searchsorted(on_screen, [number, number + 1])
        yield from ((row, resized) for row in range(int(first), int(end)))


def _mask_notes(mask: NDArray[np.bool_], on_screen: NDArray[np.int64]) -> Iterator[str]:
    late = int((on_screen < 0).sum())
    if late:
        yield f"{late} of {mask.size} rows lie before the video's first frame and are masked"
    lost = np.flatnonzero(~mask & (on_screen >= 0))
    if lost.size:
        listed = ", ".join(str(row) for row in lost[:10]) + (", ..." if lost.size > 10 else "")
        yield f"{lost.size} of {mask.size} rows could not be decoded and are masked: {listed}"
