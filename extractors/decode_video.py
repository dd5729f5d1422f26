"""One video file to rows of frames: PyAV, and decord where a scan proves that it counts them right and none can be
passed over."""

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import av
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from PIL import Image

from extractors.decode import Decoded, DecodeSettings, DecodeSummary, FrameBatch, MediaInfo
from extractors.errors import MediaError
from extractors.frames_decord import DecordError, decord_frames
from extractors.frames_pyav import decoded_frames
from extractors.media_container import open_media, video_stream
from extractors.media_file import MediaFile
from extractors.media_scan import MediaScan, scan_media
from extractors.timeline import frame_size, parse_frame_size, row_count, source_frame_on_screen

Frame = NDArray[np.uint8]

LOST, DAMAGED = "could not be decoded", "show frames decoded from damaged data"


def decode_video(file: MediaFile, settings: DecodeSettings, without_decord: bool = False) -> Iterator[Decoded]:
    """A MediaInfo, then FrameBatch by FrameBatch, then a DecodeSummary; holds one batch and one frame at a time.

    Frame k shows the source frame on screen at k / frame_fps seconds, cropped, turned and stretched as a player shows
    it, resized by antialiased bilinear; each `frames_per_row`-th is a row's. A row without a frame that came out whole
    is masked. Raises MediaError.
    """
    try:
        yield from _decode(file, settings, without_decord)
    except MemoryError:
        raise
    except av.error.FFmpegError as error:
        raise MediaError("undecodable", f"{file.path}: FFmpeg stopped: {error.strerror}") from error


def _decode(file: MediaFile, settings: DecodeSettings, without_decord: bool) -> Iterator[Decoded]:
    scan = scan_media(file)
    if without_decord:
        scan = replace(scan, why_not_decord=scan.why_not_decord or "it was asked for")
    size = parse_frame_size(settings.frame_size) or frame_size(scan.display_width, scan.display_height)
    rows, of_row = row_count(scan.duration, settings.feature_fps), settings.frames_per_row
    count = row_count(scan.duration, settings.frame_fps)
    on_screen = source_frame_on_screen(scan.pts, scan.ends, scan.time_base, scan.zero, count, settings.frame_fps)
    notes = list(scan.notes)
    if not (on_screen[::of_row] >= 0).any():
        # So short that it falls between two rows: the row before it shows its first frame.
        first = int((scan.pts[0] * scan.time_base - scan.zero) * settings.feature_fps)
        on_screen[min(max(first, 0), rows - 1) * of_row] = 0
        notes.append("its frames lie between two rows: the row before them shows the first frame")
    yield MediaInfo(scan.duration, *size, rows, scan.has_audio)

    shown = np.zeros(count, dtype=np.bool_)
    decoding = _Rows(file, scan, on_screen, size)
    frames = iter(decoding)
    while batch := list(islice(frames, settings.frames_per_batch)):
        numbers = np.array([number for number, _ in batch], dtype=np.int64)
        shown[numbers] = True
        yield FrameBatch(numbers, np.stack([frame for _, frame in batch]))
    mask = shown[::of_row]
    if not mask.any():
        raise MediaError("undecodable", f"{file.path}: none of its {rows} rows has a frame that can be decoded")
    damaged = [number // of_row for number in decoding.damaged if number % of_row == 0]
    notes += [*decoding.notes, *_mask_notes(mask, on_screen[::of_row], damaged)]
    if decoding.faults:
        notes.append(
            f"faults while its frames were decoded, which may show them: {decoding.faults}, the first: "
            f"{decoding.first_fault[:160]}"
        )
    if decoding.misplaced:
        notes.append(f"{decoding.misplaced} frames have times out of order and are passed over")
    yield DecodeSummary(mask, "+".join(decoding.decoders), tuple(notes))


class _LostError(Exception):
    """Frames may be lost to those that are passed over: all have to be decoded."""


class _Rows:
    """Iterating gives (row, resized frame) in order; a frame that stays on screen is resized once."""

    def __init__(self, file: MediaFile, scan: MediaScan, on_screen: NDArray[np.int64], size: tuple[int, int]) -> None:
        self._file, self._scan, self._on_screen, self._size = file, scan, on_screen, size
        self.decoders: list[str] = []
        self.notes: list[str] = []
        self.damaged: list[int] = []
        """Rows whose frame came out of damaged data."""
        self.misplaced = 0
        """Frames whose time isn't after that of the frame before."""
        self.faults = 0
        self.first_fault = ""

    def __iter__(self) -> Iterator[tuple[int, Frame]]:
        begin = 0
        if why_not := self._scan.why_not_decord:
            self.notes.append(f"PyAV decoded it: {why_not}")
        else:
            decoder, rows = ("pyav", self._passing_over()) if self._scan.reordered else ("decord", self._by_decord())
            try:
                for row, frame in rows:
                    self._used(decoder)
                    yield row, frame
                    begin = row + 1
                return
            except DecordError as error:
                self.notes.append(f"decord {error}; PyAV decoded {'the rest' if self.decoders else 'it'}")
            except _LostError:
                self.faults, self.first_fault, self.misplaced = 0, "", 0
        for row, frame in self._by_pyav(begin):
            self._used("pyav")
            yield row, frame

    def _passing_over(self) -> Iterator[tuple[int, Frame]]:
        """By PyAV without the frames that neither a row nor another frame needs; _LostError where it isn't all well."""
        wanted = self._on_screen[self._on_screen >= 0]
        shown, rows = 0, len(wanted)
        for row, frame in self._by_pyav(0, frozenset(self._scan.pts[wanted].tolist())):
            shown += 1
            yield row, frame
        if shown < rows:
            raise _LostError

    def _used(self, decoder: str) -> None:
        if decoder not in self.decoders:
            self.decoders.append(decoder)

    def _by_decord(self) -> Iterator[tuple[int, Frame]]:
        chosen = np.unique(self._on_screen[self._on_screen >= 0])
        for number, frame in decord_frames(self._file, self._scan, chosen):
            resized = self._resized(frame)
            yield from ((int(row), resized) for row in np.flatnonzero(self._on_screen == number))

    def _by_pyav(self, begin: int, wanted: frozenset[int] | None = None) -> Iterator[tuple[int, Frame]]:
        rows = deque(int(row) for row in np.flatnonzero(self._on_screen >= 0) if row >= begin)
        with open_media(self._file) as container:
            stream = video_stream(container)
            assert stream is not None
            frames = decoded_frames(container, stream, self._fault, wanted)
            for number, frame, next_number in self._numbered(frames):
                if wanted is not None and (self.faults or frame.is_corrupt or frame.interlaced_frame):
                    raise _LostError
                picture: Frame | None = None
                while rows and self._on_screen[rows[0]] < next_number:
                    row = rows.popleft()
                    if not _stands_for(frame, number, int(self._on_screen[row]), stream.codec_context.name):
                        if wanted is not None:
                            raise _LostError
                        continue
                    if frame.is_corrupt:
                        self.damaged.append(row)
                        continue
                    if picture is None:
                        picture = self._resized(self._scan.display.picture(frame))
                    yield row, picture
                if not rows:
                    return

    def _fault(self, reason: str) -> None:
        self.first_fault = self.first_fault or reason
        self.faults += 1

    def _numbered(self, frames: Iterator[VideoFrame]) -> Iterator[tuple[int, VideoFrame, int]]:
        """(number of its packet in time, frame, number of the next frame), in ascending order of the numbers."""
        before: tuple[int, VideoFrame] | None = None
        for frame in frames:
            # Of packets without presentation times a frame has that of the packet with which it came out.
            stamp = frame.dts if self._scan.in_order else frame.pts
            if stamp is not None:
                number = int(np.searchsorted(self._scan.pts, stamp, side="right")) - 1
            elif self._scan.in_order and before is not None:
                # What the decoder held until the end follows on.
                number = before[0] + 1
            else:
                continue
            if not 0 <= number < self._scan.pts.size or (before is not None and number <= before[0]):
                self.misplaced += 1
                continue
            if before is not None:
                yield *before, number
            before = number, frame
        if before is not None:
            yield *before, self._scan.pts.size

    def _resized(self, frame: Frame) -> Frame:
        return np.asarray(Image.fromarray(frame).resize(self._size, Image.Resampling.BILINEAR))


def _stands_for(frame: VideoFrame, number: int, wanted: int, codec: str) -> bool:
    """Whether a frame is what is shown at packet `wanted`, the packets between having given none.

    A packet of its own gives no frame where it is a picture's second field, or one that VP8 keeps to refer to.
    """
    return wanted == number or (wanted == number + 1 and (frame.interlaced_frame or codec == "vp8"))


def _mask_notes(mask: NDArray[np.bool_], on_screen: NDArray[np.int64], damaged: list[int]) -> Iterator[str]:
    shown = np.flatnonzero(on_screen >= 0)
    before = int(shown[0])
    if before:
        yield f"{before} of {mask.size} rows lie before the video's first frame and are masked"
    gaps = np.flatnonzero(on_screen < 0)[before:]
    for rows, reason in (
        (gaps, "lie in gaps that hold no frame"),
        (np.asarray(damaged, np.int64), DAMAGED),
        (np.setdiff1d(np.flatnonzero(~mask & (on_screen >= 0)), damaged), LOST),
    ):
        if rows.size:
            listed = ", ".join(str(row) for row in rows[:10]) + (", ..." if rows.size > 10 else "")
            yield f"{rows.size} of {mask.size} rows {reason} and are masked: {listed}"
