"""Media that a decoder which counts frames, or trusts what a container states, gets wrong in silence."""

import io
import os
import resource
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import cast

import av
import imageio_ffmpeg
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from extractors.audio_track import AudioTrack, extract_audio
from extractors.decode import DecodeSettings, DecodeSummary, MediaFacts, MediaInfo, Picture, StatedDuration
from extractors.decoder_process import DecoderProcess
from extractors.errors import MediaError
from extractors.frames_pyav import Orientation, orientation

from .conftest import ffmpeg

Media = Callable[[str], Path]
FfmpegFrames = Callable[[Path], NDArray[np.uint8]]


@pytest.fixture(scope="module")
def decoder() -> DecoderProcess:
    return DecoderProcess(DecodeSettings(feature_fps=10))


def decode(decoder: DecoderProcess, path: Path) -> tuple[MediaInfo, dict[int, NDArray[np.uint8]], DecodeSummary]:
    info = decoder.open(path)
    frames: dict[int, NDArray[np.uint8]] = {}
    for batch in decoder.batches():
        frames |= dict(zip(batch.rows.tolist(), batch.frames, strict=True))
    return info, frames, decoder.summary


def counted(frames: dict[int, NDArray[np.uint8]]) -> list[int]:
    """The numbers that pictures of one grey level stand for (level 16 + 3 N in limited range)."""
    return [round(float(frame.mean()) * (235 - 16) / 255 / 3) for frame in frames.values()]


def heard(decoder: DecoderProcess, path: Path, folder: Path) -> AudioTrack:
    track = extract_audio(path, folder, decoder=decoder)
    assert track is not None
    return track


def click_times(track: AudioTrack) -> list[float]:
    """Seconds from time zero to the beginnings of loud spans."""
    loud = np.flatnonzero(np.abs(track.samples.astype(np.int32)) > 6000)
    begins = loud[np.flatnonzero(np.diff(loud, prepend=-16000) > 8000)]
    return [round(track.start + int(sample) / 16000, 2) for sample in begins]


@pytest.mark.parametrize(
    ("name", "late"),
    [
        ("open-gop-x265.mp4", 0),
        ("open-gop-x264.mkv", 0),
        ("intra-refresh.mp4", 0),
        ("b-frames-mpeg4.mp4", 0),
        ("b-frames-mpeg2.mpg", 0),
        ("b-frames-mpeg2.ts", 0),
        # An AVI has no presentation times: FFmpeg's player shows a frame when the decoder gives it.
        ("b-frames-mpeg4.avi", 1),
        ("b-frames-h264.avi", 2),
    ],
)
def test_pictures_shown_before_the_key_frame_they_follow(
    media: Media, decoder: DecoderProcess, name: str, late: int
) -> None:
    info, frames, summary = decode(decoder, media(name))
    expected = {row: 3 * row - late for row in range(info.rows) if 3 * row >= late}
    assert list(frames) == list(expected) and counted(frames) == list(expected.values())
    assert summary.decoder == "pyav" and summary.notes[0].startswith("PyAV decoded it: ")


@pytest.mark.parametrize("name", ["dropped-mpeg4.avi", "dropped-h264.avi"])
def test_frames_dropped_from_an_avi_move_no_other(media: Media, decoder: DecoderProcess, name: str) -> None:
    """Each frame has the time that FFmpeg's program gives it."""
    lines = ffmpeg("-copyts", "-i", str(media(name)), "-fps_mode", "passthrough", "-f", "framecrc", "-").decode()
    times = [int(line.split(",")[2]) for line in lines.splitlines() if not line.startswith("#")]
    numbers = [number for number in range(60) if number not in (1, 31, 32)]
    info, frames, summary = decode(decoder, media(name))
    shown = {row: [n for n, time in zip(numbers, times, strict=True) if time <= 3 * row] for row in range(info.rows)}
    expected = {row: earlier[-1] for row, earlier in shown.items() if earlier}
    assert list(frames) == list(expected) and counted(frames) == list(expected.values())
    assert info.duration == pytest.approx((times[-1] + 1) / 30) and "out of order" not in " ".join(summary.notes)


@pytest.mark.parametrize("name", ["black-then-mirrored.mp4", "black-then-upside-down.mp4", "two-videos.mkv"])
def test_a_black_first_picture_hides_nothing(
    media: Media, ffmpeg_frames: FfmpegFrames, decoder: DecoderProcess, name: str
) -> None:
    expected = ffmpeg_frames(media(name))
    info, frames, _ = decode(decoder, media(name))
    assert len(frames) == 20
    for row, frame in frames.items():
        shown = Image.fromarray(expected[3 * row]).resize((info.width, info.height), Image.Resampling.BILINEAR)
        assert np.abs(np.asarray(shown, np.float64) - frame).mean() < 2


def test_what_a_file_says_of_itself_is_no_message_of_the_decoder(
    media: Media, decoder: DecoderProcess, tmp_path: Path
) -> None:
    track = heard(decoder, media("titled.mp4"), tmp_path)
    assert click_times(track) == [1.0] and track.notes == ()


@pytest.mark.parametrize("name", ["after-25-hours.ts", "wrapping.ts"])
def test_a_clock_that_is_late_or_wraps_counts_from_its_start(
    media: Media, decoder: DecoderProcess, tmp_path: Path, name: str
) -> None:
    info, frames, summary = decode(decoder, media(name))
    track = heard(decoder, media(name), tmp_path)
    # The sound's priming comes first, and the picture 21 to 46 ms later.
    assert info.duration == pytest.approx(2.03, abs=0.03) and list(frames) == list(range(1, info.rows))
    assert click_times(track) == [pytest.approx(1.03, abs=0.03)]
    if name == "wrapping.ts":
        assert counted(frames)[:19] == [3 * row - 1 for row in range(1, 20)]


@pytest.mark.parametrize("second", ["counted-with-click.ts", "an-hour-later.ts"])
def test_a_part_joined_to_another_follows_it(
    media: Media, decoder: DecoderProcess, tmp_path: Path, second: str
) -> None:
    joined = tmp_path / "joined.ts"
    joined.write_bytes(media("counted-with-click.ts").read_bytes() + media(second).read_bytes())
    info, frames, summary = decode(decoder, joined)
    assert info.duration == pytest.approx(4.02, abs=0.03) and len(frames) == info.rows - 1
    numbers = counted(frames)
    assert numbers[:19] == [3 * row - 1 for row in range(1, 20)] and numbers[20:39] == numbers[:19]
    assert any("its clock jumps by" in note and "at 2.0 s" in note for note in summary.notes)
    track = heard(decoder, joined, tmp_path)
    assert track.duration == pytest.approx(4.06, abs=0.06)
    assert click_times(track) == [pytest.approx(1.03, abs=0.03), pytest.approx(3.03, abs=0.03)]


def test_picture_and_sound_are_of_one_program(media: Media, decoder: DecoderProcess, tmp_path: Path) -> None:
    # The first program's is the smaller picture, with a tone that has no click.
    info, frames, _ = decode(decoder, media("two-programs.ts"))
    assert len(frames) == info.rows - 1
    assert click_times(heard(decoder, media("two-programs.ts"), tmp_path)) == [pytest.approx(1.03, abs=0.03)]


def test_a_video_between_two_rows_is_seen(media: Media, tmp_path: Path) -> None:
    with DecoderProcess(DecodeSettings(feature_fps=1)) as decoder:
        info, frames, summary = decode(decoder, media("short-and-late.ts"))
    assert info.rows == 1 and list(frames) == [0]
    assert "its frames lie between two rows: the row before them shows the first frame" in summary.notes


def test_a_gap_without_frames_is_masked(media: Media, decoder: DecoderProcess) -> None:
    info, frames, summary = decode(decoder, media("hole.mkv"))
    assert info.duration == pytest.approx(22.0, abs=0.01)
    assert list(frames) == [*range(10), *range(210, 220)]
    assert counted(frames) == [3 * row for row in range(20)]
    assert any(note.startswith("200 of 220 rows lie in gaps that hold no frame") for note in summary.notes)


def test_sound_that_outlasts_the_picture_is_noted(media: Media, decoder: DecoderProcess) -> None:
    info, _, summary = decode(decoder, media("sound-goes-on.mkv"))
    assert info.rows == 10
    assert summary.notes == ("the sound goes on for 3.0 s after the last picture: rows end with the picture",)


def with_clean_aperture(data: bytes, width: int, height: int, x: int, y: int) -> bytes:
    """An MP4, its index last, whose picture is to be cropped to `width` x `height` around a centre off by (x, y)."""
    aperture = struct.pack(">I4sIIIIiIiI", 40, b"clap", width, 1, height, 1, x, 1, y, 1)
    entry = data.index(b"avc1", data.index(b"stsd")) - 4
    end = entry + int.from_bytes(data[entry : entry + 4], "big")
    changed = bytearray(data[:end] + aperture + data[end:])
    for box in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd"):
        start = data.index(box) - 4
        changed[start : start + 4] = (int.from_bytes(data[start : start + 4], "big") + len(aperture)).to_bytes(4, "big")
    changed[entry : entry + 4] = (end - entry + len(aperture)).to_bytes(4, "big")
    return bytes(changed)


def with_pixel_crop(data: bytes, **sides: int) -> bytes:
    """A Matroska file whose picture is to be cropped. Offsets of its index are left wrong: FFmpeg finds its way."""
    names = {"bottom": b"\x54\xaa", "top": b"\x54\xbb", "left": b"\x54\xcc", "right": b"\x54\xdd"}
    added = b"".join(names[side] + b"\x81" + bytes([pixels]) for side, pixels in sides.items())

    def grown(start: int, end: int, path: list[bytes]) -> bytes:
        """The elements from `start` to `end`, with `added` at the end of the one that the path leads to."""
        if not path:
            return data[start:end] + added
        here = start
        while True:
            size = here + 9 - data[here].bit_length()
            body = size + 9 - data[size].bit_length()
            body_end = body + int.from_bytes(data[size:body], "big") - (1 << 7 * (body - size))
            if data[here:size] == path[0]:
                inner = grown(body, body_end, path[1:])
                return data[start:size] + ((1 << 56) + len(inner)).to_bytes(8, "big") + inner + data[body_end:end]
            here = body_end

    return grown(0, len(data), [b"\x18\x53\x80\x67", b"\x16\x54\xae\x6b", b"\xae", b"\xe0"])


@pytest.mark.parametrize("name", ["silent.mp4", "silent.mkv"])
def test_cropping_that_the_container_asks_for(
    media: Media, ffmpeg_frames: FfmpegFrames, decoder: DecoderProcess, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    data = media(name).read_bytes()
    if name == "silent.mp4":
        path.write_bytes(with_clean_aperture(data, 240, 160, 10, -6))
    else:
        path.write_bytes(with_pixel_crop(data, left=50, right=30, top=4, bottom=16))
    whole = ffmpeg_frames(media(name))
    info, frames, _ = decode(decoder, path)
    assert (info.width, info.height) == (384, 256) and len(frames) == 20
    for row, frame in frames.items():
        cropped = np.ascontiguousarray(whole[3 * row][4:164, 50:290])
        shown = Image.fromarray(cropped).resize((384, 256), Image.Resampling.BILINEAR)
        assert np.abs(np.asarray(shown, np.float64) - frame).mean() < 2


def test_a_playlist_before_a_stream_leads_to_no_other_file(
    media: Media, ffmpeg_frames: FfmpegFrames, decoder: DecoderProcess, tmp_path: Path
) -> None:
    # As many pictures as the stream has, the first of them alike: an old FFmpeg takes the file for the playlist.
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{media('secret.ts')}\n#EXT-X-ENDLIST\n".encode()
    attack = tmp_path / "attack.mp4"
    attack.write_bytes(playlist.ljust(188 * 5, b"\n") + media("black-first.ts").read_bytes())
    expected = ffmpeg_frames(media("black-first.ts"))
    info, frames, _ = decode(decoder, attack)
    assert len(frames) == 20
    for row, frame in frames.items():
        shown = Image.fromarray(expected[3 * row]).resize((info.width, info.height), Image.Resampling.BILINEAR)
        assert np.abs(np.asarray(shown, np.float64) - frame).mean() < 2


def test_a_list_of_files_is_no_media_to_any_question(media: Media, tmp_path: Path) -> None:
    listed = tmp_path / "list.mp4"
    listed.write_text(f"ffconcat version 1.0\nfile {media('plain.mp4')}\n")
    with DecoderProcess(DecodeSettings()) as decoder:
        for function, kind, arguments in (
            ("measure", MediaFacts, {"site_duration": None}),
            ("stated_duration", StatedDuration, {}),
            ("picture", Picture, {"seconds": 1.0, "width": 200, "height": 150}),
        ):
            with pytest.raises(MediaError) as caught:
                decoder.answer(f"extractors.measure:{function}", listed, kind, **arguments)
            assert caught.value.kind == "undecodable"
        with pytest.raises(MediaError):
            extract_audio(listed, tmp_path, decoder=decoder)


def test_a_great_picture_costs_its_caller_nothing(tmp_path: Path) -> None:
    path = tmp_path / "great.mkv"
    ffmpeg("-f", "lavfi", "-i", "color=red:s=8000x8000:d=1:r=1", "-c:v", "mjpeg", "-q:v", "31", str(path))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with DecoderProcess(DecodeSettings()) as decoder:
        arguments = {"seconds": 0.0, "width": 200, "height": 150}
        jpeg = decoder.answer("extractors.measure:picture", path, Picture, **arguments).jpeg
    with Image.open(io.BytesIO(jpeg)) as picture:
        assert picture.size == (150, 150)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * 1024


def test_a_pipe_is_waited_for_by_no_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with DecoderProcess(DecodeSettings(time_limit_s=600)) as decoder:
        with pytest.raises(MediaError, match="is not a regular file"):
            decoder.open(tmp_path / "pipe.mp4")


def test_a_file_that_says_its_frames_lie_far_beyond_its_end_is_its_own_fault(
    media: Media, decoder: DecoderProcess, tmp_path: Path
) -> None:
    data = bytearray(media("silent.mp4").read_bytes())
    offsets = data.index(b"stco") - 4
    data[offsets + 4 : offsets + 8] = b"co64"
    data[offsets + 16 : offsets + 24] = (2**60).to_bytes(8, "big")
    far = tmp_path / "far.mp4"
    far.write_bytes(data)
    with pytest.raises(MediaError):
        decode(decoder, far)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_not_undecodable(decoder: DecoderProcess, tmp_path: Path) -> None:
    path = tmp_path / "secret.mp4"
    path.write_bytes(b"x")
    path.chmod(0)
    with pytest.raises(MediaError) as caught:
        decoder.open(path)
    assert caught.value.kind == "unreadable"


def test_a_frame_with_side_data_of_a_new_kind_is_decoded(
    media: Media, decoder: DecoderProcess, tmp_path: Path
) -> None:
    """Motion JPEG with Exif, as cameras write it."""
    exif = Image.Exif()
    exif[0x010F] = "made"
    buffer = io.BytesIO()
    Image.new("RGB", (320, 180), "red").save(buffer, "JPEG", exif=exif)
    (tmp_path / "1.jpg").write_bytes(buffer.getvalue())
    path = tmp_path / "camera.mov"
    ffmpeg("-loop", "1", "-framerate", "10", "-i", str(tmp_path / "1.jpg"), "-t", "1", "-c", "copy", str(path))
    _, frames, _ = decode(decoder, path)
    assert len(frames) == 10
    assert all(frame[..., 0].mean() > 240 and frame[..., 1].mean() < 20 for frame in frames.values())


@pytest.mark.parametrize("turn", ["turned-90.mp4", "turned-180.mp4", "turned-270.mp4"])
def test_a_rotation_is_the_same_by_either_reading(media: Media, monkeypatch: pytest.MonkeyPatch, turn: str) -> None:
    with av.open(str(media(turn))) as container:
        frame = next(container.decode(video=0))
        by_matrix = orientation(frame)

        class Newer:
            rotation = frame.rotation

            @property
            def side_data(self) -> None:
                raise ValueError("31 is not a valid Type")

    assert orientation(cast(av.VideoFrame, Newer())) == by_matrix != Orientation()


def test_a_thumbnail_is_what_is_on_screen(media: Media, decoder: DecoderProcess) -> None:
    """A frame at 0.7 s of every seventh 30th, in a stream that begins at 1.4 s."""
    for name, seconds, number in (("counted-variable.mkv", 0.6, 14), ("counted.ts", 1.0, 30)):
        arguments = {"seconds": seconds, "width": 64, "height": 48}
        jpeg = decoder.answer("extractors.measure:picture", media(name), Picture, **arguments).jpeg
        with Image.open(io.BytesIO(jpeg)) as picture:
            assert abs(counted({0: np.asarray(picture)})[0] - number) <= 1


def test_a_gap_in_the_sound_is_filled_whatever_its_length(
    media: Media, decoder: DecoderProcess, tmp_path: Path
) -> None:
    path = tmp_path / "hours.mkv"
    late = r"setts=ts=if(gte(N\,50)\,TS+36000/TB\,TS)"
    ffmpeg("-i", str(media("stereo.mkv")), "-c", "copy", "-bsf:a", late, str(path))
    track = heard(decoder, path, tmp_path)
    assert track.duration == pytest.approx(36002, abs=0.2)
    [note] = track.notes
    assert note.startswith("audio: 1 gaps of up to 36000")


def test_a_sound_that_can_not_be_mixed_down_costs_no_picture(decoder: DecoderProcess, tmp_path: Path) -> None:
    path = tmp_path / "many.mkv"
    sound = "aevalsrc=" + "|".join(["0.1"] * 40) + ":s=48000:d=1"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=10:d=1", "-f", "lavfi", "-i", sound, "-c:a", "pcm_s16le", str(path))
    info, frames, _ = decode(decoder, path)
    assert len(frames) == 10 and info.has_audio
    track = heard(decoder, path, tmp_path)
    assert track.samples.size == 0 and track.notes


def test_damage_that_the_decoder_speaks_of_is_noted(media: Media, decoder: DecoderProcess, tmp_path: Path) -> None:
    whole = media("hevc.mp4").read_bytes()
    begin, end = whole.index(b"mdat") + 100, whole.index(b"moov") - 100
    damaged = tmp_path / "damaged.mp4"
    spoken_of, noted, unmasked = [], [], 0
    for seed in range(24):
        data, generator = bytearray(whole), np.random.default_rng(seed)
        for place in generator.integers(begin, end, 6):
            data[place] ^= 1 << int(generator.integers(8))
        damaged.write_bytes(data)
        program = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "error", "-i", str(damaged), "-f", "null", "-"]
        spoken_of.append(bool(subprocess.run(program, stderr=subprocess.PIPE).stderr))
        info, frames, summary = decode(decoder, damaged)
        noted.append(any("faults while its frames were decoded" in note for note in summary.notes))
        unmasked += noted[-1] and len(frames) == info.rows
    assert noted == spoken_of
    # FFmpeg marks none of these frames as damaged.
    assert unmasked > 0 and not all(noted)
