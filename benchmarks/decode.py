"""Source frames a core-second: a video's rows beside FFmpeg's plain decode of all its frames, in one run.

python -m benchmarks.decode [FILE ...]

Without files a minute of 640x360 H.264 at 30 frames a second is made in three ways: without B-frames, with them, and
with a pyramid of them. Ours is the decoder's whole work, scan, conversion and resizing included, at one row a second;
FFmpeg's is `-threads 1 -f null`, which converts nothing. Processor time is counted, the least of three passes.
"""

import hashlib
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg

from extractors.decode import DecodeSettings, DecodeSummary, FrameBatch
from extractors.decode_video import decode_video
from extractors.media_file import MediaFile
from extractors.media_scan import scan_media

SECONDS, PASSES = 60, 3
WAYS = {
    "no B-frames": ["-bf", "0"],
    "B-frames": ["-bf", "2", "-x264-params", "b-pyramid=none:open-gop=0"],
    "B-pyramid": ["-bf", "3", "-x264-params", "open-gop=0"],
}
FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()


def make(folder: Path, way: str) -> Path:
    """A moving picture with noise, as a film has."""
    path = folder / f"{way}.mp4"
    source = f"testsrc2=size=640x360:rate=30:duration={SECONDS},noise=alls=8:allf=t"
    command = [FFMPEG, "-v", "error", "-f", "lavfi", "-i", source, "-c:v", "libx264", "-preset", "fast", "-crf", "28"]
    subprocess.run([*command, "-pix_fmt", "yuv420p", *WAYS[way], str(path)], check=True)
    return path


def core_seconds(call: Callable[[], object], who: int) -> float:
    """The least of several passes."""
    used = []
    for _ in range(PASSES):
        before = resource.getrusage(who)
        call()
        after = resource.getrusage(who)
        used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(used)


def rows(path: Path, without_decord: bool = False) -> tuple[str, str]:
    """The decoder that gives the rows, and a digest of their frames."""
    digest, decoder = hashlib.sha256(), ""
    with MediaFile(str(path)) as file:
        for message in decode_video(file, DecodeSettings(), without_decord):
            if isinstance(message, FrameBatch):
                digest.update(message.frames.tobytes())
            elif isinstance(message, DecodeSummary):
                decoder = message.decoder
    return decoder, digest.hexdigest()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for path in map(Path, sys.argv[1:]) if sys.argv[1:] else (make(Path(folder), way) for way in WAYS):
            with MediaFile(str(path)) as file:
                frames = scan_media(file).pts.size
            ours = core_seconds(lambda path=path: rows(path), resource.RUSAGE_SELF)  # type: ignore[misc]
            plain = [FFMPEG, "-v", "error", "-threads", "1", "-i", str(path), "-an", "-f", "null", "-"]
            theirs = core_seconds(lambda plain=plain: subprocess.run(plain, check=True), resource.RUSAGE_CHILDREN)  # type: ignore[misc]
            decoder, digest = rows(path)
            same = "the same" if digest == rows(path, without_decord=True)[1] else "OTHERS"
            print(
                f"{path.stem}: by {decoder}, {frames / ours:.0f} frames a core-second, FFmpeg {frames / theirs:.0f}: "
                f"{theirs / ours:.2f} times; frames {same} as all decoded by PyAV"
            )


if __name__ == "__main__":
    main()
