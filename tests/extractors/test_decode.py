import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import extractors.decode_video
import extractors.frames_decord
from extractors import frames_pyav
from extractors.decode import DecodeSettings, DecodeSummary, FrameBatch, MediaInfo
from extractors.decode_video import decode_video
from extractors.errors import MEDIA_ERROR_KINDS, MediaError
from extractors.frames_decord import DecordError, decord_frames
from extractors.media_file import MediaFile
from extractors.media_scan import scan_media

Media = Callable[[str], Path]
FfmpegFrames = Callable[[Path], NDArray[np.uint8]]


def decode(path: Path, **settings: object) -> tuple[MediaInfo, dict[int, NDArray[np.uint8]], DecodeSummary]:
    """Everything that decoding yields, the frames by row."""
    with MediaFile(str(path)) as file:
        info, *batches, summary = decode_video(file, DecodeSettings(**settings))  # type: ignore[arg-type]
    assert isinstance(info, MediaInfo) and isinstance(summary, DecodeSummary)
    rows: list[int] = []
    frames: dict[int, NDArray[np.uint8]] = {}
    for batch in batches:
        assert isinstance(batch, FrameBatch)
        assert batch.frames.dtype == np.uint8
        assert batch.frames.shape[1:] == (info.height, info.width, 3)
        rows += batch.rows.tolist()
        frames |= dict(zip(batch.rows.tolist(), batch.frames, strict=True))
    assert rows == np.flatnonzero(summary.mask).tolist()
    assert summary.mask.shape == (info.rows,)
    return info, frames, summary


def frames_by(decoder: str, path: Path, fps: int = 30) -> dict[int, NDArray[np.uint8]]:
    """Frames at the stored resolution as one decoder gives them, by row."""
    with MediaFile(str(path)) as file:
        scan = scan_media(file)
        size = f"{round(scan.display_width)}x{round(scan.display_height)}"
        settings = DecodeSettings(feature_fps=fps, frame_size=size)
        *messages, summary = decode_video(file, settings, without_decord=decoder == "pyav")
    assert isinstance(summary, DecodeSummary) and summary.decoder == decoder
    batches = [message for message in messages if isinstance(message, FrameBatch)]
    return {int(row): frame for batch in batches for row, frame in zip(batch.rows, batch.frames, strict=True)}


def difference(frame: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    assert frame.shape == other.shape
    return float(np.abs(frame.astype(np.float64) - other).mean())


def resized(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR))


def counted(frame: NDArray[np.uint8]) -> int:
    """The frame number that a picture of one grey level stands for (level 16 + 3 N in limited range)."""
    return round(float(frame.mean()) * (235 - 16) / 255 / 3)


@pytest.mark.parametrize("name", ["plain.mp4", "plain.mkv", "tv.mp4", "bt709.mp4", "full-range.mp4"])
def test_both_decoders_agree_with_ffmpeg_frame_by_frame(media: Media, ffmpeg_frames: FfmpegFrames, name: str) -> None:
    expected = ffmpeg_frames(media(name))
    by_decord, by_pyav = frames_by("decord", media(name)), frames_by("pyav", media(name))
    assert list(by_decord) == list(by_pyav) == list(range(len(expected)))
    for number in range(0, len(expected), 4):
        assert difference(by_decord[number], expected[number]) < 2
        assert difference(by_pyav[number], expected[number]) < 2
        assert difference(by_pyav[number], by_decord[number]) < 2
    # The frames differ from one another by more than decoders do, so the agreement is no accident.
    assert difference(expected[0], expected[4]) > 4


@pytest.mark.parametrize(
    ("name", "decoder"),
    [
        ("silent.mp4", "decord"),
        ("plain.webm", "pyav"),
        ("deep.mp4", "pyav"),
        ("turned-90.mp4", "pyav"),
        ("turned-180.mp4", "pyav"),
        ("turned-270.mp4", "pyav"),
        ("mirrored.mp4", "pyav"),
        ("turned-mirrored.mp4", "pyav"),
        ("av1.mp4", "pyav"),
    ],
)
def test_frames_stand_as_a_player_shows_them(
    media: Media, ffmpeg_frames: FfmpegFrames, name: str, decoder: str
) -> None:
    expected = ffmpeg_frames(media(name))
    info, frames, summary = decode(media(name), feature_fps=5)
    assert summary.decoder == decoder and summary.mask.all()
    assert (info.width, info.height) == ((256, 454) if expected.shape[1] > expected.shape[2] else (454, 256))
    for row, frame in frames.items():
        assert difference(frame, resized(expected[6 * row], (info.width, info.height))) < 2
    assert len(summary.notes) == (decoder != "decord")


@pytest.mark.parametrize(
    ("name", "frame_size", "size"),
    [
        ("plain.mp4", "short-256", (454, 256)),
        ("tv.mp4", "short-256", (340, 256)),
        ("vertical.mp4", "short-256", (256, 454)),
        ("wide-pixels.mp4", "short-256", (512, 256)),
        ("tv.mp4", "454x256", (454, 256)),
    ],
)
def test_frame_sizes(media: Media, name: str, frame_size: str, size: tuple[int, int]) -> None:
    info, frames, _ = decode(media(name), frame_size=frame_size)
    assert (info.width, info.height) == size
    assert len(frames) == info.rows == 2


def test_frames_are_resized_by_antialiased_bilinear_to_the_bit(media: Media) -> None:
    stored = frames_by("decord", media("plain.mp4"), fps=5)
    info, frames, summary = decode(media("plain.mp4"), feature_fps=5)
    assert summary.decoder == "decord" and stored[0].shape != frames[0].shape and frames.keys() == stored.keys()
    for row, frame in frames.items():
        assert np.array_equal(frame, resized(stored[row], (info.width, info.height)))


def test_a_row_at_every_second_before_the_end(media: Media) -> None:
    whole, _, _ = decode(media("ten-seconds.mp4"))
    longer, frames, summary = decode(media("ten-seconds-and-a-bit.mp4"))
    assert (whole.duration, whole.rows) == (10.0, 10)
    assert (longer.duration, longer.rows) == (10.4, 11)
    assert list(frames) == list(range(11)) and summary.notes == ()


@pytest.mark.parametrize("name", ["counted.mp4", "counted-late.mp4"])
def test_frames_between_rows_leave_the_rows_as_they_are(media: Media, name: str) -> None:
    info, rows, summary = decode(media(name))
    with MediaFile(str(media(name))) as file:
        finer, *batches, further = decode_video(file, DecodeSettings(frames_per_row=15))
    assert finer == info and isinstance(further, DecodeSummary) and np.array_equal(further.mask, summary.mask)
    frames = {n: f for b in batches for n, f in zip(b.rows.tolist(), b.frames, strict=True)}  # type: ignore[union-attr]
    assert {number // 15 for number in frames if number % 15 == 0} == rows.keys() and len(frames) > 5 * len(rows)
    assert all(np.array_equal(frames[15 * row], frame) for row, frame in rows.items())
    _, fine, _ = decode(media(name), feature_fps=15)
    assert fine.keys() == frames.keys() and all(np.array_equal(fine[n], frame) for n, frame in frames.items())


def test_a_last_frame_of_unknown_duration_lasts_as_long_as_the_others(media: Media) -> None:
    info, _, _ = decode(media("untimed.flv"), feature_fps=10)
    assert info.duration == pytest.approx(2.0) and info.rows == 20
    alone, _, _ = decode(media("one-frame.flv"))
    assert alone.duration == pytest.approx(0.1) and alone.rows == 1


@pytest.mark.parametrize("name", ["counted.mp4", "counted.ts"])
def test_a_constant_rate_gives_the_frame_at_the_rows_time(media: Media, name: str) -> None:
    info, frames, _ = decode(media(name), feature_fps=15)
    assert info.duration == pytest.approx(2.0, abs=1e-6)
    assert [counted(frame) for frame in frames.values()] == list(range(0, 60, 2))


def test_a_variable_rate_shows_the_last_frame_until_the_next(media: Media) -> None:
    stored = [n for n in range(60) if n % 7 == 0 or 20 <= n <= 25]
    _, frames, summary = decode(media("counted-variable.mkv"), feature_fps=30, frames_per_batch=4)
    shown = {row: counted(frame) for row, frame in frames.items()}
    assert shown == {k: max(n for n in stored if n <= k) for k in range(57)}
    assert summary.decoder == "pyav" and summary.notes == ()


@pytest.fixture
def decoded_packets(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the video decoder is told to pass over at each packet of the main pass."""
    told: list[str] = []
    whole = frames_pyav.decoded

    def noting(stream: Any, packets: Any, fault: Any, begin: Any = lambda packet: None) -> Any:
        def note(packet: Any) -> None:
            begin(packet)
            told.append(stream.codec_context.skip_frame)

        return whole(stream, packets, fault, note)

    monkeypatch.setattr(frames_pyav, "decoded", noting)
    return told


@pytest.mark.parametrize("fps", [1, 5, 10])
@pytest.mark.parametrize(
    ("name", "size"),
    [("b-frames.mp4", "320x180"), ("b-frames.mkv", "320x180"), ("b-pyramid.mp4", "320x180"), ("counted.mp4", "64x48")],
)
def test_passing_frames_over_changes_none_that_is_shown(
    media: Media, decoded_packets: list[str], name: str, size: str, fps: int
) -> None:
    _, frames, summary = decode(media(name), feature_fps=fps, frame_size=size)
    assert "NONREF" in decoded_packets and summary.decoder == "pyav" and summary.notes == ()
    whole = frames_by("pyav", media(name), fps)
    assert frames.keys() == whole.keys()
    for row, frame in frames.items():
        np.testing.assert_array_equal(frame, whole[row])


def test_every_frame_is_decoded_where_one_is_lost_with_those_passed_over(
    media: Media, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = frames_pyav.decoded_frames

    def losing(container: Any, stream: Any, fault: Any, wanted: Any = None) -> Any:
        for number, frame in enumerate(whole(container, stream, fault, wanted)):
            if wanted is None or number != 12:
                yield frame

    monkeypatch.setattr(extractors.decode_video, "decoded_frames", losing)
    # All are wanted: the thirteenth is missing from the pass that may pass over some.
    info, frames, summary = decode(media("counted.mp4"), feature_fps=30)
    assert [counted(frame) for frame in frames.values()] == list(range(60))
    assert summary.mask.all() and summary.notes == () and summary.decoder == "pyav"


def test_rows_before_a_late_video_are_masked(media: Media) -> None:
    info, frames, summary = decode(media("counted-late.mp4"), feature_fps=10)
    assert info.duration == pytest.approx(2.5) and info.rows == 25 and info.has_audio
    assert np.flatnonzero(~summary.mask).tolist() == [0, 1, 2, 3, 4]
    assert [counted(frame) for frame in frames.values()] == list(range(0, 60, 3))
    assert summary.notes == ("5 of 25 rows lie before the video's first frame and are masked",)


def test_audio_is_found(media: Media) -> None:
    assert decode(media("plain.mp4"))[0].has_audio
    assert not decode(media("silent.mp4"))[0].has_audio


def test_pyav_goes_on_where_decord_breaks(media: Media, monkeypatch: pytest.MonkeyPatch) -> None:
    _, whole, _ = decode(media("plain.mp4"), feature_fps=5)

    def breaking(*arguments: object) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        frames = decord_frames(*arguments)  # type: ignore[arg-type]
        yield from (next(frames) for _ in range(4))
        raise DecordError("broke at 0.80 s (so says the test)")

    monkeypatch.setattr(extractors.decode_video, "decord_frames", breaking)
    _, mended, summary = decode(media("plain.mp4"), feature_fps=5)
    assert summary.decoder == "decord+pyav" and summary.mask.all()
    assert summary.notes == ("decord broke at 0.80 s (so says the test); PyAV decoded the rest",)
    assert list(mended) == list(whole)
    for row, frame in mended.items():
        assert difference(frame, whole[row]) < 2


def test_decord_is_stopped_when_it_decodes_too_far_ahead(media: Media, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extractors.frames_decord, "READ_AHEAD_BYTES", -(2**40))
    _, frames, summary = decode(media("plain.mp4"), feature_fps=5)
    assert list(frames) == list(range(10)) and summary.decoder == "decord+pyav"
    assert summary.notes == ("decord had read too far ahead at 0.00 s; PyAV decoded the rest",)


def test_a_file_cut_short_keeps_the_rows_before_the_cut(
    media: Media, ffmpeg_frames: FfmpegFrames, tmp_path: Path
) -> None:
    whole = media("front-loaded.mp4").read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    expected = ffmpeg_frames(media("front-loaded.mp4"))
    info, frames, summary = decode(cut, feature_fps=10)
    assert 5 <= len(frames) < 20 and summary.decoder == "pyav"
    assert list(frames) == list(range(len(frames)))
    for row, frame in frames.items():
        assert difference(frame, resized(expected[3 * row], (info.width, info.height))) < 2


def test_a_damaged_stretch_is_masked_and_noted(media: Media, ffmpeg_frames: FfmpegFrames, tmp_path: Path) -> None:
    data = bytearray(media("front-loaded.mp4").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 20000] = np.random.default_rng(0).bytes(20000)
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(data)
    expected = ffmpeg_frames(media("front-loaded.mp4"))
    info, frames, summary = decode(damaged, feature_fps=30)
    assert info.rows == 60 and 30 < len(frames) < 60
    assert any("could not be decoded and are masked" in note for note in summary.notes)
    for row in range(15):
        assert difference(frames[row], resized(expected[row], (info.width, info.height))) < 2


class Damaged:
    """A frame that the decoder says came out of damaged data."""

    is_corrupt = True

    def __init__(self, frame: object) -> None:
        self._frame = frame

    def __getattr__(self, name: str) -> object:
        return getattr(self._frame, name)


def test_frames_out_of_damaged_data_are_masked_and_counted(media: Media, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = extractors.decode_video.decoded_frames

    def some_damaged(*given: object) -> Iterator[object]:
        for number, frame in enumerate(whole(*given)):  # type: ignore[arg-type]
            yield Damaged(frame) if 6 <= number <= 8 else frame

    monkeypatch.setattr(extractors.decode_video, "decoded_frames", some_damaged)
    with MediaFile(str(media("front-loaded.mp4"))) as file:
        *messages, summary = decode_video(file, DecodeSettings(feature_fps=30), without_decord=True)
    assert isinstance(summary, DecodeSummary)
    assert np.flatnonzero(~summary.mask).tolist() == [6, 7, 8]
    sent = [int(row) for message in messages if isinstance(message, FrameBatch) for row in message.rows]
    assert sent == np.flatnonzero(summary.mask).tolist()
    assert "3 of 60 rows show frames decoded from damaged data and are masked: 6, 7, 8" in summary.notes


def _written(name: str, data: bytes) -> Callable[[Media, Path], Path]:
    def write(media: Media, folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return write


def _beheaded(media: Media, folder: Path) -> Path:
    return _written("beheaded.mp4", media("plain.mp4").read_bytes()[:5000])(media, folder)


def _fifo(media: Media, folder: Path) -> Path:
    os.mkfifo(folder / "pipe.mp4")
    return folder / "pipe.mp4"


def _playlist(media: Media, folder: Path) -> Path:
    text = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{media('plain.ts')}\n#EXT-X-ENDLIST\n"
    return _written("list.m3u8", text.encode())(media, folder)


def _concatenation(media: Media, folder: Path) -> Path:
    return _written("list.mp4", f"ffconcat version 1.0\nfile {media('plain.mp4')}\n".encode())(media, folder)


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("missing-file", lambda media, folder: folder / "absent.mp4"),
        ("zero-length", _written("empty.mp4", b"")),
        ("undecodable", _written("text.mp4", b"This is no video.\n" * 100)),
        ("undecodable", _beheaded),
        ("undecodable", lambda media, folder: folder),
        ("undecodable", _fifo),
        ("undecodable", _playlist),
        ("undecodable", _concatenation),
        ("no-video-stream", lambda media, folder: media("sound.m4a")),
        ("no-video-stream", lambda media, folder: media("cover.m4a")),
        ("zero-length", lambda media, folder: media("no-frame.mkv")),
        ("undecodable", lambda media, folder: media("noise.mkv")),
        ("undecodable", lambda media, folder: media("a-day-late.mkv")),
        ("undecodable", lambda media, folder: media("strip.mp4")),
    ],
)
def test_what_is_no_video_is_one_line_of_a_known_kind(
    media: Media, tmp_path: Path, kind: str, make: Callable[[Media, Path], Path]
) -> None:
    path = make(media, tmp_path)
    with pytest.raises(MediaError) as caught:
        decode(path)
    assert caught.value.kind == kind and kind in MEDIA_ERROR_KINDS
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["-i.mp4", "http:%2d.mp4", "a b'c;$(d).mp4"])
def test_any_file_name_is_only_a_name(media: Media, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / name).write_bytes(media("plain.mp4").read_bytes())
    monkeypatch.chdir(tmp_path)
    _, frames, summary = decode(Path(name))
    assert len(frames) == 2 and summary.decoder == "decord"


@pytest.mark.parametrize(
    "settings",
    [
        {"feature_fps": 7},
        {"frame_size": "big"},
        {"time_limit_s": 0},
        {"memory_limit_bytes": -1},
        {"frames_per_batch": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        DecodeSettings(**settings)  # type: ignore[arg-type]


def test_a_real_clip(shared_media: Path, ffmpeg_frames: FfmpegFrames) -> None:
    info, frames, summary = decode(shared_media / "pancake.mkv")
    assert (info.rows, info.width, info.height, info.has_audio) == (11, 454, 256, True)
    assert summary.mask.all() and summary.decoder == "decord" and summary.notes == ()
    expected = ffmpeg_frames(shared_media / "pancake.mkv")
    for row, frame in frames.items():
        assert difference(frame, resized(expected[30 * row], (454, 256))) < 2


def test_a_real_phone_video_is_the_right_way_up(shared_media: Path, ffmpeg_frames: FfmpegFrames) -> None:
    _, frames, _ = decode(shared_media / "video_180.mov")
    expected = resized(ffmpeg_frames(shared_media / "video_180.mov")[0], (454, 256))
    assert difference(frames[0], expected) < 2 < 20 < difference(frames[0], expected[::-1, ::-1])


def test_a_really_damaged_file_gives_what_can_be_decoded(shared_media: Path) -> None:
    info, frames, summary = decode(shared_media / "corrupted.mp4", feature_fps=10)
    assert info.rows == 50 and 40 <= len(frames) < 50
    assert any("could not be decoded and are masked" in note for note in summary.notes)
