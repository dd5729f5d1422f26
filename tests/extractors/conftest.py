"""Small media made by FFmpeg, of the kinds found in the wild, and FFmpeg's own view of them."""

import io
import subprocess
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from numpy.typing import NDArray

H264 = ["-c:v", "libx264", "-preset", "ultrafast", "-bf", "0", "-g", "15", "-pix_fmt", "yuv420p", "-threads", "1"]
B_FRAMES = [*H264, "-bf", "2"]

VP9 = ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8"]


def picture(size: str = "320x180", rate: str = "30", seconds: float = 2) -> list[str]:
    return ["-f", "lavfi", "-i", f"testsrc2=size={size}:rate={rate}:duration={seconds}"]


# A grey level that tells the frame's number: 16 + 3 N.
COUNTED = ["-f", "lavfi", "-i", "color=s=64x48:r=30:d=2,geq=lum='16+3*N':cb=128:cr=128"]
# As a camera that can't keep up leaves them out.
DROPPED = ["-vf", r"select='not(eq(n\,1)+between(n\,31\,32))'", "-fps_mode", "passthrough"]
# Silence but for a click of 2 ms, one second after the start.
CLICK = ["-f", "lavfi", "-i", r"aevalsrc=0.9*sin(2*PI*1000*t)*between(t\,1\,1.002):s=48000:d=2"]
CLICK_LATE = [*CLICK[:3], CLICK[3].replace(r"between(t\,1\,1.002)", r"between(t\,1.6\,1.602)")]
BT709 = [
    "-vf",
    "scale=out_color_matrix=bt709",
    "-colorspace",
    "bt709",
    "-color_primaries",
    "bt709",
    "-color_trc",
    "bt709",
]

# file name: FFmpeg's arguments; a word {other.mp4} stands for another of these files.
RECIPES: dict[str, list[str]] = {
    "plain.mp4": [*picture(), *CLICK, *H264, "-c:a", "aac"],
    # Of each three pictures two that no other is decoded from.
    "b-frames.mp4": [*picture(), *B_FRAMES, "-x264-params", "b-pyramid=none"],
    "b-frames.mkv": ["-i", "{b-frames.mp4}", "-c", "copy"],
    "b-pyramid.mp4": [*picture(), *H264, "-bf", "4", "-b_strategy", "0", "-x264-params", "b-pyramid=normal"],
    "plain.mkv": ["-i", "{plain.mp4}", "-c", "copy"],
    "plain.ts": ["-i", "{plain.mp4}", "-c", "copy"],
    "plain.webm": [*picture(), *CLICK, *VP9, "-c:a", "libopus"],
    "silent.mp4": [*picture(), *H264],
    "silent.mkv": ["-i", "{silent.mp4}", "-c", "copy"],
    "sound.m4a": [*CLICK, "-c:a", "aac"],
    "tv.mp4": [*picture("320x240"), *H264],
    "vertical.mp4": [*picture("180x320"), *H264],
    "wide-pixels.mp4": [*picture(), *H264, "-aspect", "2:1"],
    "bt709.mp4": [*picture("1280x720", seconds=0.5), *H264, *BT709],
    "full-range.mp4": [*picture(), *H264, "-pix_fmt", "yuvj420p", "-color_range", "pc"],
    "deep.mp4": [*picture(), *H264, "-pix_fmt", "yuv420p10le"],
    "av1.mp4": [*picture(seconds=1), "-c:v", "libaom-av1", "-cpu-used", "8", "-usage", "realtime"],
    "hevc.mp4": [
        *picture("160x90", seconds=1),
        "-c:v", "libx265", "-x265-params", "log-level=none:keyint=15", "-pix_fmt", "yuv420p",
    ],
    "turned-90.mp4": ["-display_rotation", "90", "-i", "{silent.mp4}", "-c", "copy"],
    "turned-180.mp4": ["-display_rotation", "180", "-i", "{silent.mp4}", "-c", "copy"],
    "turned-270.mp4": ["-display_rotation", "270", "-i", "{silent.mp4}", "-c", "copy"],
    "mirrored.mp4": ["-display_hflip", "-i", "{silent.mp4}", "-c", "copy"],
    "turned-mirrored.mp4": ["-display_rotation", "90", "-display_hflip", "-i", "{silent.mp4}", "-c", "copy"],
    "counted.mp4": [*COUNTED, *B_FRAMES, "-qp", "4"],
    "counted.ts": ["-i", "{counted.mp4}", "-c", "copy"],
    "counted-variable.mkv": [
        *COUNTED, "-vf", r"select='not(mod(n\,7))+between(n\,20\,25)'", "-fps_mode", "vfr", *B_FRAMES, "-qp", "4",
    ],
    "counted-late.mp4": [
        *CLICK, "-itsoffset", "0.5", *COUNTED, "-map", "1:v", "-map", "0:a", *B_FRAMES, "-qp", "4", "-c:a", "aac",
    ],
    "late-sound.mp4": ["-i", "{silent.mp4}", "-itsoffset", "0.6", *CLICK, *H264, "-c:a", "aac"],
    "gap.mkv": [*CLICK_LATE, "-c:a", "pcm_s16le", "-bsf:a", r"noise=drop='between(pts*tb\,0.5\,1)'"],
    "stereo.mkv": [*CLICK, "-af", "pan=stereo|c0=c0|c1=0*c0", "-c:a", "pcm_s16le"],
    "ten-seconds.mp4": [*picture("64x48", "10", 10), *H264],
    "ten-seconds-and-a-bit.mp4": [*picture("64x48", "10", 10.4), *H264],
    "untimed.flv": [*picture("64x48", "10", 2), "-c:v", "flv"],
    "one-frame.flv": [*picture("64x48", "10", 1), "-c:v", "flv", "-frames:v", "1"],
    "no-frame.mkv": [*picture("64x48", "10", 1), *CLICK, "-c:v", "mpeg4", "-bsf:v", "noise=drop=1"],
    "noise.mkv": [*picture("64x48", "10", 1), "-c:v", "mpeg4", "-bsf:v", "noise=amount=1"],
    "a-day-late.mkv": [
        *picture("64x48", "10", 1), *B_FRAMES, "-bsf:v", r"setts=pts=if(eq(N\,5)\,90000/TB\,PTS):dts=NOPTS",
    ],
    "strip.mp4": ["-i", "{silent.mp4}", "-c", "copy", "-aspect", "40:1"],
    "cover.m4a": [
        *CLICK, *picture("64x48", "1", 1), "-c:v", "png", "-frames:v", "1", "-disposition:v", "attached_pic",
    ],
    "front-loaded.mp4": [*picture(), *H264, "-bf", "0", "-movflags", "faststart"],
    "open-gop-x265.mp4": [
        *COUNTED, "-c:v", "libx265", "-x265-params", "log-level=none:keyint=15:qp=4", "-pix_fmt", "yuv420p",
    ],
    "open-gop-x264.mkv": [*COUNTED, *H264, "-x264-params", "open-gop=1:keyint=15:bframes=3", "-qp", "4"],
    "intra-refresh.mp4": [*COUNTED, *H264, "-x264-params", "intra-refresh=1:keyint=15:bframes=3", "-qp", "4"],
    "b-frames-mpeg4.mp4": [*COUNTED, "-c:v", "mpeg4", "-g", "15", "-bf", "2", "-q:v", "1"],
    "b-frames-mpeg2.mpg": [*COUNTED, "-c:v", "mpeg2video", "-g", "15", "-bf", "2", "-q:v", "1"],
    "b-frames-mpeg2.ts": [*COUNTED, "-c:v", "mpeg2video", "-g", "15", "-bf", "2", "-q:v", "1"],
    "b-frames-mpeg4.avi": [*COUNTED, "-c:v", "mpeg4", "-g", "15", "-bf", "2", "-q:v", "1"],
    "b-frames-h264.avi": [*COUNTED, *B_FRAMES, "-qp", "4"],
    "dropped-mpeg4.avi": [*COUNTED, *DROPPED, "-c:v", "mpeg4", "-g", "15", "-bf", "2", "-q:v", "1"],
    "dropped-h264.avi": [*COUNTED, *DROPPED, *B_FRAMES, "-qp", "4"],
    "black-first.mp4": [*picture(), "-vf", "drawbox=t=fill:c=black:enable='lt(n,20)'", *H264],
    "black-then-mirrored.mp4": ["-display_hflip", "-i", "{black-first.mp4}", "-c", "copy"],
    "black-then-upside-down.mp4": [
        "-display_rotation", "180", "-display_hflip", "-i", "{black-first.mp4}", "-c", "copy",
    ],
    "black-first.ts": [*picture(), "-vf", "drawbox=t=fill:c=black:enable='lt(n,20)'", *H264, "-bf", "0"],
    "secret.ts": [
        "-f", "lavfi", "-i", "mandelbrot=s=320x180:r=30", "-t", "2", "-vf", "drawbox=t=fill:c=black:enable='lt(n,20)'",
        *H264, "-bf", "0",
    ],
    "two-videos.mkv": [
        "-i", "{black-first.mp4}", "-f", "lavfi", "-i", "mandelbrot=s=320x180:r=30", "-t", "2",
        "-map", "0", "-map", "1", "-vf", "drawbox=t=fill:c=black:enable='lt(n,20)'", *H264,
        "-disposition:v:0", "0", "-disposition:v:1", "default",
    ],
    "titled.mp4": ["-i", "{plain.mp4}", "-c", "copy", "-metadata", "title=No space left on device"],
    "after-25-hours.ts": ["-i", "{plain.mp4}", "-c", "copy", "-output_ts_offset", "90000"],
    "wrapping.ts": ["-i", "{counted-with-click.mp4}", "-c", "copy", "-output_ts_offset", "95442.5", "-muxdelay", "0"],
    "counted-with-click.mp4": [*COUNTED, *CLICK, *B_FRAMES, "-qp", "4", "-c:a", "aac"],
    "counted-with-click.ts": ["-i", "{counted-with-click.mp4}", "-c", "copy"],
    "an-hour-later.ts": ["-i", "{counted-with-click.mp4}", "-c", "copy", "-output_ts_offset", "3600"],
    "two-programs.ts": [
        *picture("160x90"), "-f", "lavfi", "-i", "sine=f=300:d=2", *picture("320x180"), *CLICK,
        "-map", "0", "-map", "1", "-map", "2", "-map", "3", *H264, "-c:a", "aac", "-ac:a:1", "2",
        "-program", "title=a:st=0:st=1", "-program", "title=b:st=2:st=3",
    ],
    "short-and-late.ts": [
        *picture("160x90", seconds=0.8), "-f", "lavfi", "-i", "sine=d=0.8", *H264, "-c:a", "aac", "-ar", "44100",
    ],
    "hole.mkv": [*COUNTED, *H264, "-qp", "4", "-bf", "0", "-bsf:v", r"setts=ts=if(gte(N\,30)\,TS+20/TB\,TS)"],
    "sound-goes-on.mkv": [*picture("64x48", "10", 1), "-f", "lavfi", "-i", "sine=d=4", *H264, "-c:a", "aac"],
    "long.mp4": ["-stream_loop", "14", "-i", "{silent.mp4}", "-c", "copy"],
}  # fmt: skip

Media = Callable[[str], Path]
FfmpegFrames = Callable[[Path], NDArray[np.uint8]]


def ffmpeg(*arguments: str) -> bytes:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-y", "-loglevel", "error", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Media:
    """Makes the file of a recipe on its first use, and gives its path."""
    folder = tmp_path_factory.mktemp("media")

    def make(name: str) -> Path:
        path = folder / name
        if not path.exists():
            words = [str(make(word[1:-1])) if word.startswith("{") else word for word in RECIPES[name]]
            ffmpeg(*words, str(path))
        return path

    return make


@pytest.fixture(scope="session")
def ffmpeg_frames() -> FfmpegFrames:
    """All frames of a video as the FFmpeg program shows them: RGB, turned for display, (frames, height, width, 3)."""

    def frames(path: Path) -> NDArray[np.uint8]:
        shown = ["-fps_mode", "passthrough", "-pix_fmt", "rgb24", "-f", "image2pipe", "-c:v", "ppm", "-"]
        stream = io.BytesIO(ffmpeg("-i", str(path), *shown))
        pictures = []
        while stream.readline() == b"P6\n":
            width, height = map(int, stream.readline().split())
            assert stream.readline() == b"255\n"
            pictures.append(np.frombuffer(stream.read(width * height * 3), np.uint8).reshape(height, width, 3))
        return np.stack(pictures)

    return frames
