import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from extractors.decode import DecodeSettings, DecodeSummary, FrameBatch, MediaInfo
from extractors.decode_video import decode_video
from extractors.decoder_process import DecoderProcess
from extractors.errors import DecoderError, MediaError
from extractors.media_file import MediaFile

Media = Callable[[str], Path]
FAULTS = "decoder_faults:by_name"


@pytest.fixture(autouse=True)
def faults_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture
def decoder() -> Iterator[DecoderProcess]:
    with DecoderProcess(DecodeSettings(time_limit_s=600), FAULTS) as process:
        yield process


@pytest.fixture
def named(tmp_path: Path) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        (tmp_path / name).write_text("not media")
        return tmp_path / name

    return make


def read(process: DecoderProcess, path: Path) -> tuple[MediaInfo, dict[int, NDArray[np.uint8]], DecodeSummary]:
    info = process.open(path)
    frames = {}
    for batch in process.batches():
        frames |= dict(zip(batch.rows.tolist(), batch.frames, strict=True))
    return info, frames, process.summary


def ended(pid: int, within_s: float = 600) -> bool:
    """Whether a process that is no child of this one ends in time."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], within_s)[0])
    finally:
        os.close(descriptor)


def test_frames_come_through_unchanged(media: Media) -> None:
    settings = DecodeSettings(feature_fps=5, frames_per_batch=3)
    with MediaFile(str(media("plain.mp4"))) as file:
        info, *batches, summary = decode_video(file, settings)
    expected = np.concatenate([batch.frames for batch in batches if isinstance(batch, FrameBatch)])
    with DecoderProcess(settings) as process:
        for _ in range(2):
            got_info, frames, got_summary = read(process, media("plain.mp4"))
            assert got_info == info and list(frames) == list(range(10))
            assert np.array_equal(np.stack(list(frames.values())), expected)
            assert isinstance(summary, DecodeSummary)
            assert np.array_equal(got_summary.mask, summary.mask)
            assert (got_summary.decoder, got_summary.notes) == (summary.decoder, summary.notes)


def test_one_child_serves_many_videos_and_a_bad_file_is_its_own_affair(
    media: Media, decoder: DecoderProcess, named: Callable[[str], Path]
) -> None:
    read(decoder, media("plain.mp4"))
    pid = decoder.pid
    for path, kind in [(named("text.mp4"), "undecodable"), (Path("absent.mp4"), "missing-file")]:
        with pytest.raises(MediaError) as caught:
            read(decoder, path)
        assert caught.value.kind == kind
    assert len(read(decoder, media("tv.mp4"))[1]) == 2
    assert decoder.pid == pid


def test_the_child_loads_decoders_but_not_torch(decoder: DecoderProcess, named: Callable[[str], Path]) -> None:
    with pytest.raises(MediaError) as caught:
        decoder.open(named("modules.mp4"))
    modules = str(caught.value).split()
    assert {"decord", "av", "numpy", "PIL"} <= set(modules)
    assert not {"torch", "torchvision", "torchaudio", "apache_beam"} & set(modules)


def test_a_caller_loads_no_decoder() -> None:
    program = "import sys, extractors.decoder_process; print(*sys.modules)"
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run([sys.executable, "-c", program], cwd=root, check=True, capture_output=True, text=True)
    assert "extractors.decoder_process" in done.stdout.split()
    assert not {"decord", "av", "torch"} & set(done.stdout.split())


@pytest.mark.parametrize("name", ["hang.mp4", "hang-later.mp4"])
def test_a_hang_that_holds_the_interpreter_lock_is_killed_at_its_limit(
    media: Media, named: Callable[[str], Path], name: str
) -> None:
    with DecoderProcess(DecodeSettings(time_limit_s=600), FAULTS) as process:
        read(process, media("plain.mp4"))
        pid = process.pid
        assert pid is not None
        # What doesn't hang is given its time, however busy the machine.
        patient, process.settings = process.settings, replace(process.settings, time_limit_s=1.5)
        began = time.monotonic()
        with pytest.raises(MediaError, match=r"within 1\.5 s") as caught:
            read(process, named(name))
        assert caught.value.kind == "timeout"
        assert time.monotonic() - began > 1.4
        process.settings = patient
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert len(read(process, media("plain.mp4"))[1]) == 2
        assert process.pid != pid


def test_the_clock_stands_still_while_the_caller_is_busy(media: Media, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic
    away = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now() + away)
    with DecoderProcess(DecodeSettings(feature_fps=10, frames_per_batch=1, time_limit_s=600)) as process:
        process.open(media("plain.mp4"))
        rows = 0
        for batch in process.batches():
            rows += len(batch.rows)
            away += 3600
    assert rows == 20


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("segfault.mp4", "crashed", "SIGSEGV"),
        ("exit.mp4", "crashed", "exit status 3: last words"),
        ("hoard.mp4", "memory", "4.0 GiB"),
        ("bad-alloc.mp4", "memory", "4.0 GiB"),
    ],
)
def test_the_next_video_works_after_a_fault(
    media: Media, decoder: DecoderProcess, named: Callable[[str], Path], name: str, kind: str, words: str
) -> None:
    with pytest.raises(MediaError, match=words) as caught:
        read(decoder, named(name))
    assert caught.value.kind == kind and name in str(caught.value) and "\n" not in str(caught.value)
    assert len(read(decoder, media("plain.mp4"))[1]) == 2


def test_a_video_that_decord_crashes_on_is_decoded_without_it(
    media: Media, decoder: DecoderProcess, named: Callable[[str], Path]
) -> None:
    path = named("segfault.mp4")
    path.write_bytes(media("plain.mp4").read_bytes())
    with pytest.raises(MediaError, match="SIGSEGV"):
        read(decoder, path)
    _, frames, summary = read(decoder, path)
    assert len(frames) == 2 and summary.decoder == "pyav"


def test_an_error_of_the_program_is_not_the_videos(
    media: Media, decoder: DecoderProcess, named: Callable[[str], Path]
) -> None:
    with pytest.raises(DecoderError, match="KeyError: 'surprise'") as caught:
        read(decoder, named("bug.mp4"))
    assert "bug.mp4" in str(caught.value) and "\n" not in str(caught.value)
    assert len(read(decoder, media("plain.mp4"))[1]) == 2


@pytest.mark.parametrize("name", ["open.mp4", "connect.mp4", "start.mp4"])
def test_nothing_can_be_opened_while_a_file_is_read(
    media: Media, decoder: DecoderProcess, named: Callable[[str], Path], name: str
) -> None:
    with pytest.raises(DecoderError, match="Too many open files"):
        read(decoder, named(name))
    assert len(read(decoder, media("plain.mp4"))[1]) == 2


def test_a_video_that_takes_more_memory_than_allowed_is_refused(media: Media) -> None:
    with DecoderProcess(DecodeSettings(memory_limit_bytes=1000 * 2**20)) as process:
        read(process, media("plain.mp4"))
    # Frames of 200 MB each, of a video that is decoded without a murmur under the default limit.
    with DecoderProcess(DecodeSettings(memory_limit_bytes=1000 * 2**20, frame_size="8192x8192")) as process:
        with pytest.raises(MediaError) as caught:
            read(process, media("ten-seconds.mp4"))
        assert caught.value.kind == "memory"


def test_a_child_that_dies_between_two_videos_is_replaced(
    media: Media, decoder: DecoderProcess, caplog: pytest.LogCaptureFixture
) -> None:
    read(decoder, media("plain.mp4"))
    assert decoder.pid is not None
    os.kill(decoder.pid, signal.SIGKILL)
    assert ended(decoder.pid)
    assert len(read(decoder, media("plain.mp4"))[1]) == 2
    assert "SIGKILL" in caplog.text


def test_batches_left_unread_do_not_reach_the_next_video(media: Media, decoder: DecoderProcess) -> None:
    decoder.open(media("long.mp4"))
    next(decoder.batches())
    with pytest.raises(RuntimeError, match="all of its batches"):
        _ = decoder.summary
    info, frames, _ = read(decoder, media("tv.mp4"))
    assert (info.width, list(frames)) == (340, [0, 1])


def test_batches_need_an_opened_video(decoder: DecoderProcess) -> None:
    with pytest.raises(RuntimeError, match="open a video first"):
        next(decoder.batches())


def test_a_decoder_that_can_not_start_is_no_fault_of_the_video(media: Media) -> None:
    with DecoderProcess(DecodeSettings(), "no_such_module:decode") as process:
        with pytest.raises(DecoderError, match="did not start .*no_such_module"):
            process.open(media("plain.mp4"))


@pytest.mark.parametrize("name", ["hang.mp4", "endless.mp4", None])
def test_the_child_dies_with_its_parent(named: Callable[[str], Path], tmp_path: Path, name: str | None) -> None:
    # The parent prints its child's id while the child hangs with the lock held, waits to send, or waits for work.
    program = f"""
import sys, threading
sys.path[:] = {sys.path!r}
from extractors.decode import DecodeSettings
from extractors.decoder_process import DecoderProcess
process = DecoderProcess(DecodeSettings(), {FAULTS!r})
child = process._ready_child()
if {name!r}:
    child.connection.send(({FAULTS!r}, {str(tmp_path / str(name))!r}, {{}}))
print(process.pid, flush=True)
threading.Event().wait()
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(child, 0)
    finally:
        parent.kill()
        parent.communicate()
    assert ended(child)


@pytest.mark.parametrize(("decode", "name"), [(FAULTS, "decord"), ("decoder_faults:by_pyav_alone", "pyav")])
def test_memory_does_not_grow_with_the_video(media: Media, decode: str, name: str) -> None:
    # 30 rows a second of half a minute: 790 MB of frames as sent.
    with DecoderProcess(DecodeSettings(feature_fps=30, frame_size="720x404"), decode) as process:
        process.open(media("long.mp4"))
        assert sum(len(batch.rows) for batch in process.batches()) == 900
        assert process.summary.decoder == name
        status = Path(f"/proc/{process.pid}/status").read_text()
    peak_kib = {line.split(":")[0]: int(line.split()[1]) for line in status.splitlines() if line.endswith(" kB")}
    assert peak_kib["VmHWM"] < 450 * 1024
    # The limit counts address space, which threads left behind would eat.
    assert peak_kib["VmPeak"] < 800 * 1024


def test_media_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(MediaError("timeout", "two\nlines")))
    assert isinstance(error, MediaError) and error.kind == "timeout" and str(error) == "two lines"


def test_an_interrupted_decoder_charges_no_file_and_works_as_ever(
    decoder: DecoderProcess, named: Callable[[str], Path], media: Media
) -> None:
    path = named("hang-later")
    decoder.open(path)
    next(decoder.batches())
    interrupting = threading.Timer(0, decoder.interrupt)
    interrupting.start()
    with pytest.raises(MediaError):
        list(decoder.batches())
    interrupting.join()
    with pytest.raises(DecoderError, match="interrupted"):
        decoder.open(path)
    decoder.resume()
    # It isn't taken for a file on which decord crashes: that would be decoded in another way from then on.
    assert decoder.open(path).rows == 9
    assert read(decoder, media("plain.mp4"))[2].mask.all()
