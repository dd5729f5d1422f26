"""A thousand media damaged at random: each is decoded as FFmpeg's program shows it, noted, masked, or refused.

Where damage makes FFmpeg's own frames depend on its number of threads (damaged VP8 and HEVC do), no frame is right.
"""

import random
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from extractors.decode import DecodeSettings
from extractors.decoder_process import DecoderProcess
from extractors.errors import MediaError

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
FEATURE_FPS = 3
LARGEST_DIFFERENCE = 2.0
X264 = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "15", "-pix_fmt", "yuv420p", "-threads", "1"]
BASES: dict[str, list[str]] = {
    "plain.mp4": [*X264, "-bf", "0", "-c:a", "aac"],
    "b-frames.mp4": [*X264, "-bf", "2", "-c:a", "aac"],
    "b-pyramid.mkv": [*X264, "-bf", "4", "-b_strategy", "0", "-x264-params", "b-pyramid=normal", "-c:a", "aac"],
    "open-gop.mkv": [*X264, "-x264-params", "open-gop=1:keyint=15:bframes=3", "-c:a", "aac"],
    "plain.ts": [*X264, "-bf", "0", "-c:a", "aac"],
    "plain.flv": [*X264, "-bf", "0", "-c:a", "aac"],
    "hevc.mp4": ["-c:v", "libx265", "-x265-params", "log-level=none:keyint=15", "-pix_fmt", "yuv420p", "-c:a", "aac"],
    "vp8.webm": ["-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "500k", "-c:a", "libopus"],
    "vp9.webm": ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-c:a", "libopus"],
    "mpeg4.avi": ["-c:v", "mpeg4", "-g", "15", "-bf", "2", "-q:v", "3", "-c:a", "libmp3lame"],
    "mpeg2.mpg": ["-c:v", "mpeg2video", "-g", "15", "-bf", "2", "-q:v", "3", "-c:a", "mp2"],
}
Mutation = Callable[[bytearray, random.Random], bytes]


def flip_bits(data: bytearray, chance: random.Random) -> bytes:
    for _ in range(2 ** chance.randrange(8)):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def overwrite(data: bytearray, chance: random.Random) -> bytes:
    begin, size = piece(data, chance)
    data[begin : begin + size] = chance.randbytes(size)
    return bytes(data)


def blank(data: bytearray, chance: random.Random) -> bytes:
    begin, size = piece(data, chance)
    data[begin : begin + size] = bytes(size)
    return bytes(data)


def cut_end(data: bytearray, chance: random.Random) -> bytes:
    return bytes(data[: chance.randrange(100, len(data))])


def cut_middle(data: bytearray, chance: random.Random) -> bytes:
    begin, size = piece(data, chance)
    return bytes(data[:begin] + data[begin + size :])


def cut_beginning(data: bytearray, chance: random.Random) -> bytes:
    return bytes(data[chance.randrange(1, len(data) // 2) :])


def repeat(data: bytearray, chance: random.Random) -> bytes:
    begin, size = piece(data, chance)
    return bytes(data[: begin + size] + data[begin:])


def insert(data: bytearray, chance: random.Random) -> bytes:
    begin, size = piece(data, chance)
    return bytes(data[:begin] + chance.randbytes(size) + data[begin:])


def join(data: bytearray, chance: random.Random) -> bytes:
    begin, _ = piece(data, chance)
    return bytes(data[:begin] + data)


def swap_pieces(data: bytearray, chance: random.Random) -> bytes:
    one, two, three, four = sorted(chance.sample(range(len(data)), 4))
    return bytes(data[:one] + data[three:four] + data[two:three] + data[one:two] + data[four:])


def swap_boxes(data: bytearray, chance: random.Random) -> bytes:
    """Two neighbours of a container's top level; of what is no MP4, two halves of a piece."""
    boxes = list(top_boxes(data))
    if len(boxes) < 2:
        return swap_pieces(data, chance)
    number = chance.randrange(len(boxes) - 1)
    boxes[number : number + 2] = boxes[number + 1], boxes[number]
    return b"".join(boxes)


MUTATIONS: list[Mutation] = [
    flip_bits, overwrite, blank, cut_end, cut_middle, cut_beginning, repeat, insert, join, swap_pieces, swap_boxes,
]  # fmt: skip


def piece(data: bytearray, chance: random.Random) -> tuple[int, int]:
    size = min(2 ** chance.randrange(1, 14), len(data) // 2)
    return chance.randrange(len(data) - size), size


def top_boxes(data: bytearray) -> Iterator[bytes]:
    if data[4:8] != b"ftyp":
        return
    begin = 0
    while begin + 8 <= len(data):
        size = int.from_bytes(data[begin : begin + 4], "big")
        yield bytes(data[begin : begin + max(size, 8)])
        begin += max(size, 8)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("bases")
    made = ["-f", "lavfi", "-i", "testsrc2=size=160x90:rate=30:duration=3", "-f", "lavfi", "-i", "sine=d=3"]
    for name, codecs in BASES.items():
        subprocess.run([FFMPEG, "-nostdin", "-v", "error", *made, *codecs, str(folder / name)], check=True)
    return [folder / name for name in BASES]


def frames_of_ffmpeg(path: Path, threads: int) -> tuple[list[float], float, list[NDArray[np.uint8]]]:
    """Times of all frames and the file's time zero, in seconds; the frames, RGB, as they are stored."""
    command = [
        FFMPEG, "-nostdin", "-hide_banner", "-copyts", "-threads", str(threads), "-i", str(path),
        "-an", "-sn", "-dn", "-fps_mode", "passthrough", "-noautoscale", "-vf", "showinfo,format=rgb24",
        "-sws_flags", "accurate_rnd+neighbor", "-c:v", "ppm", "-f", "image2pipe", "-",
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, timeout=120)
    log = result.stderr.decode("utf-8", "replace")
    start = re.search(r"Duration: [^,]*, start: (-?[\d.]+)", log)
    times = [float(time) for time in re.findall(r"\] n: *\d+ pts: *\S+ pts_time:(-?[\d.]+)", log)]
    return times, max(float(start[1]), 0.0) if start else 0.0, list(pictures(result.stdout))


def pictures(stream: bytes) -> Iterator[NDArray[np.uint8]]:
    begin = 0
    while header := re.match(rb"P6\n(\d+) (\d+)\n255\n", stream[begin : begin + 40]):
        width, height = int(header[1]), int(header[2])
        begin += header.end()
        yield np.frombuffer(stream, np.uint8, width * height * 3, begin).reshape(height, width, 3)
        begin += width * height * 3


def silent_differences(path: Path, decoder: DecoderProcess) -> list[str]:
    """Rows whose frame is another than FFmpeg's, of a file that is given without a note; DecoderError ends a job."""
    rows: dict[int, NDArray[np.uint8]] = {}
    try:
        decoder.open(str(path))
        for batch in decoder.batches():
            rows.update(zip(batch.rows.tolist(), batch.frames.copy(), strict=True))
    except MediaError as error:
        return [f"{path.name}: {error.kind}: {error}"] if error.kind in ("timeout", "memory", "crashed") else []
    assert decoder.summary is not None
    if any(not note.startswith("PyAV decoded it: ") for note in decoder.summary.notes):
        return []
    times, zero, frames = frames_of_ffmpeg(path, threads=1)
    _, _, by_four_threads = frames_of_ffmpeg(path, threads=4)
    assert len(frames) == len(times), path
    ascending = np.argsort(times, kind="stable")
    seconds = np.array(times)[ascending] - zero
    differences = []
    for row, frame in rows.items():
        place = int(np.searchsorted(seconds, row / FEATURE_FPS + 0.001, side="right")) - 1
        if place < 0:
            differences.append(f"{path.name}: row {row} given where FFmpeg has no frame")
            continue
        number = int(ascending[place])
        right = frames[number]
        if len(by_four_threads) != len(frames) or not np.array_equal(right, by_four_threads[number]):
            continue
        resized = np.asarray(Image.fromarray(right).resize(frame.shape[1::-1], Image.Resampling.BILINEAR))
        off = float(np.abs(resized.astype(int) - frame).mean())
        if off > LARGEST_DIFFERENCE:
            differences.append(f"{path.name}: row {row} differs by {off:.1f} of 255")
    return differences


@pytest.mark.endurance
@pytest.mark.parametrize("seed", range(10))
def test_damage_is_never_silent(bases: list[Path], tmp_path: Path, seed: int) -> None:
    """100 files a seed: no hang, no end of the job, no frame that differs without a mask or a note."""
    faults: list[str] = []
    with DecoderProcess(DecodeSettings(feature_fps=FEATURE_FPS, time_limit_s=60)) as decoder:
        for number in range(100):
            chance = random.Random(1000 * seed + number)
            base, mutate = chance.choice(bases), chance.choice(MUTATIONS)
            path = tmp_path / f"{seed}-{number:02d}-{mutate.__name__}-{base.name}"
            path.write_bytes(mutate(bytearray(base.read_bytes()), chance))
            faults += silent_differences(path, decoder)
    assert not faults, "\n".join(faults)
