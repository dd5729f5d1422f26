import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from extractors.audio_track import AudioTrack, extract_audio
from extractors.decode import DecodeSettings
from extractors.decoder_process import DecoderProcess
from extractors.errors import MediaError
from extractors.feature_format import SAMPLE_RATE
from extractors.media_file import MediaFile
from extractors.media_scan import scan_media

Media = Callable[[str], Path]


def heard(track: AudioTrack | None) -> AudioTrack:
    assert track is not None
    return track


def first_picture(path: Path) -> float:
    """Seconds from time zero to the first frame."""
    with MediaFile(str(path)) as file:
        scan = scan_media(file)
    return float(scan.pts[0] * scan.time_base - scan.zero)


def click_time(track: AudioTrack) -> float:
    """Seconds from time zero to the first loud sample."""
    loud = np.abs(track.samples.astype(np.int32)) > 6000
    assert loud.any()
    return track.start + int(np.argmax(loud)) / SAMPLE_RATE


@pytest.mark.parametrize("name", ["plain.mp4", "plain.mkv", "plain.webm", "plain.ts", "sound.m4a"])
def test_a_sound_is_heard_at_its_time(media: Media, tmp_path: Path, name: str) -> None:
    track = heard(extract_audio(media(name), tmp_path))
    # In MPEG-TS the sound's priming comes first, and the picture later; both are counted from the same zero.
    picture = 0.0 if name == "sound.m4a" else first_picture(media(name))
    assert click_time(track) - picture == pytest.approx(1.0, abs=0.004)
    assert track.samples.dtype == np.int16
    assert track.start == 0.0 and track.duration == pytest.approx(2.0, abs=0.05)
    assert track.notes == ()


@pytest.mark.parametrize("name", ["plain.mp4", "sound.m4a"])
def test_what_an_encoder_filled_its_last_frame_with_is_not_heard(media: Media, tmp_path: Path, name: str) -> None:
    # 96,000 samples at 48 kHz are no whole number of AAC frames; the index says where they end.
    assert len(heard(extract_audio(media(name), tmp_path)).samples) == 2 * SAMPLE_RATE


@pytest.mark.parametrize("ticks", [0, 5000], ids=["at its begin", "long before"])
def test_an_index_that_ends_before_the_last_frame_cuts_nothing(media: Media, tmp_path: Path, ticks: int) -> None:
    with av.open(str(media("sound.m4a"))) as container:
        last = max(packet.pts for packet in container.demux() if packet.pts is not None)
        rate = container.streams.audio[0].rate
    data = bytearray(media("sound.m4a").read_bytes())
    # Version and flags, two dates, the time scale, the duration: 4 bytes each.
    place = data.index(b"mdhd") + 20
    data[place : place + 4] = (last - ticks).to_bytes(4, "big")
    stated = tmp_path / "stated.m4a"
    stated.write_bytes(data)
    track = heard(extract_audio(stated, tmp_path))
    # An AAC frame has 1024 samples.
    assert len(track.samples) == pytest.approx((last + 1024) * SAMPLE_RATE / rate, abs=1)


def test_a_late_start_is_an_offset_not_silence(media: Media, tmp_path: Path) -> None:
    track = heard(extract_audio(media("late-sound.mp4"), tmp_path))
    # The encoder's priming of 1024 samples at 48 kHz remains where the container does not say to trim it.
    assert track.start == pytest.approx(0.6, abs=0.025)
    assert click_time(track) == pytest.approx(1.6, abs=0.004)
    assert track.duration == pytest.approx(2.0, abs=0.05)


def test_what_follows_a_gap_stays_in_time(media: Media, tmp_path: Path) -> None:
    track = heard(extract_audio(media("gap.mkv"), tmp_path))
    assert click_time(track) == pytest.approx(1.6, abs=0.004)
    assert track.duration == pytest.approx(2.0, abs=0.05)


def test_channels_are_mixed_evenly(media: Media, tmp_path: Path) -> None:
    track = heard(extract_audio(media("stereo.mkv"), tmp_path))
    # The click reaches 0.9 on the left alone, so 0.45 in the middle.
    assert np.abs(track.samples.astype(np.int32)).max() / 32768 == pytest.approx(0.45, abs=0.03)


def test_no_audio_stream_is_none(media: Media, tmp_path: Path) -> None:
    assert extract_audio(media("silent.mp4"), tmp_path) is None


def test_a_stream_that_breaks_gives_what_was_decoded_and_a_note(media: Media, tmp_path: Path) -> None:
    whole = media("plain.mkv").read_bytes()
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole[: len(whole) * 3 // 4])
    track = heard(extract_audio(cut, tmp_path))
    assert 1.1 < track.duration < 1.9
    assert click_time(track) == pytest.approx(1.0, abs=0.004)
    [note] = track.notes
    assert note.startswith("audio: ") and "\n" not in note


def test_a_stream_of_nothing_decodable_is_empty_and_noted(media: Media, tmp_path: Path) -> None:
    data = bytearray(media("sound.m4a").read_bytes())
    start = data.index(b"mdat") + 4
    end = data.index(b"moov") - 4
    data[start:end] = b"\xff" * (end - start)
    broken = tmp_path / "broken.m4a"
    broken.write_bytes(data)
    track = heard(extract_audio(broken, tmp_path))
    assert track.samples.size == 0 and track.duration == 0.0
    assert track.notes[-1] == "audio: no sample could be decoded"


def test_what_is_no_media_is_one_line_of_a_known_kind(media: Media, tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("This is no sound.\n" * 100)
    empty = tmp_path / "empty.mp4"
    empty.touch()
    playlist = tmp_path / "list.m3u8"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{media('plain.ts')}\n#EXT-X-ENDLIST\n")
    cases = {text: "undecodable", empty: "zero-length", tmp_path / "absent": "missing-file", playlist: "undecodable"}
    for path, kind in cases.items():
        with pytest.raises(MediaError) as caught:
            extract_audio(path, tmp_path)
        assert caught.value.kind == kind
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_it_is_killed_at_the_time_limit(media: Media, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="within 1e-06 s") as caught:
        extract_audio(media("plain.mp4"), tmp_path, time_limit_s=1e-6)
    assert caught.value.kind == "timeout"


def test_a_full_disk_is_not_blamed_on_the_media(media: Media, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **named: object) -> tuple[int, str]:
        return os.open("/dev/full", os.O_WRONLY), "/dev/full"

    monkeypatch.setattr(tempfile, "mkstemp", full)
    with DecoderProcess(DecodeSettings()) as decoder:
        with pytest.raises(OSError, match="No space left") as caught:
            extract_audio(media("plain.mp4"), tmp_path, decoder=decoder)
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("name", ["-i.mp4", "http:%2d.mp4", "a b'c;$(d).mp4"])
def test_any_file_name_is_only_a_name(media: Media, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / name).write_bytes(media("plain.mp4").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert heard(extract_audio(name, ".")).duration == pytest.approx(2.0, abs=0.05)


def test_a_real_clip(shared_media: Path, tmp_path: Path) -> None:
    track = heard(extract_audio(shared_media / "pancake.mkv", tmp_path))
    assert track.start == 0.0 and track.notes == ()
    assert track.duration == pytest.approx(10.38, abs=0.03)
