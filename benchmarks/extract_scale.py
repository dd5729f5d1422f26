"""Whether extraction stays as fast and as small over many short videos, and over a very long one.

python -m benchmarks.extract_scale [--videos 10000] [--hours 3]

With resnet18, random weights and the log-mel alone, on all cores, page cache warm:

- short: as many videos of two seconds, two rows each; from the ledger's times the seconds of the first and of the last
  tenth of the videos, and the memory of the largest process at both;
- long: one video of hours and 60 of ten seconds, eight shards; the job's seconds over those that its processes computed
  divided by the cores, and the memory of its largest process.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import imageio_ffmpeg
import psutil

from extractors.made_clip import write_made_clip
from pipeline.core.ledger import read_ledger
from pipeline.core.provenance import processor, usable_cores
from pipeline.download.media import media_path

CLIP_S, SHORT_S, SHORT_VIDEOS = 2.0, 10.0, 60
LOOP_S = 60.0
LOOK_EVERY_S = 2.0
FLAGS = "--streams resnet18 --precision fp32 --weights random:0 --davenet-weights random:0 --audio-store logmel".split()


@dataclass
class Job:
    """One `mcn extract`, watched from its start to its end."""

    seconds: float = 0.0
    computed: float = 0.0
    """Core seconds of all of its processes."""
    memory: list[tuple[float, float]] = field(default_factory=list)
    """(time, GiB) of its largest process."""


def run_job(media: Path, out: Path, *flags: str) -> Job:
    """Extract with all cores; ends this program where it fails."""
    command = [sys.executable, "-m", "pipeline.cli", "extract", "--media", str(media), "--out", str(out), *FLAGS]
    job, began, before = Job(), time.perf_counter(), os.times()
    process = subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, text=True)
    ended = threading.Event()

    def watch() -> None:
        root = psutil.Process(process.pid)
        while not ended.wait(LOOK_EVERY_S):
            sizes = [0]
            for each in _tree(root):
                try:
                    sizes.append(each.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue
            job.memory.append((time.time(), max(sizes) / 2**30))

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    ended.set()
    watcher.join()
    if process.returncode:
        sys.exit(output)
    after = os.times()
    job.seconds = time.perf_counter() - began
    job.computed = sum(after[2:4]) - sum(before[2:4])
    return job


def _tree(root: psutil.Process) -> list[psutil.Process]:
    try:
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def video_name(number: int) -> str:
    """An id of eleven characters."""
    return f"v{number:010d}"


def link_media(folder: Path, clips: list[Path], numbers: range) -> None:
    """Videos of these numbers, each another name of one of the clips."""
    for number in numbers:
        path = media_path(folder, video_name(number))
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(clips[number % len(clips)], path)


def many_short(folder: Path, videos: int) -> dict[str, float]:
    """Seconds of the first and the last tenth of the videos, and memory then."""
    clip = folder / "clip.mp4"
    write_made_clip(clip, CLIP_S)
    link_media(folder / "media", [clip], range(videos))
    job = run_job(folder / "media", folder / "dataset")
    times = sorted(
        line.time for line in read_ledger(folder / "dataset" / "ledger", "extract") if line.outcome == "done"
    )
    assert len(times) == videos
    tenth = videos // 10
    first, last = times[tenth] - times[0], times[-1] - times[-1 - tenth]
    memory = [
        max(size for when, size in job.memory if begin <= when <= end)
        for begin, end in ((times[0], times[tenth]), (times[-1 - tenth], times[-1]))
    ]
    return {
        "seconds": job.seconds,
        "milliseconds a video, first tenth": 1000 * first / tenth,
        "milliseconds a video, last tenth": 1000 * last / tenth,
        "last over first": last / first,
        "GiB of the largest process, first tenth": memory[0],
        "GiB of the largest process, last tenth": memory[1],
    }


def one_long(folder: Path, hours: float) -> dict[str, float]:
    """A very long video among short ones."""
    loop, long_video, short = folder / "loop.mp4", folder / "long.mp4", folder / "short.mp4"
    write_made_clip(loop, LOOP_S)
    write_made_clip(short, SHORT_S)
    times = round(hours * 3600 / LOOP_S)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-stream_loop", str(times - 1), "-i", str(loop)]
    subprocess.run([*command, "-c", "copy", str(long_video)], check=True)
    link_media(folder / "media", [long_video], range(1))
    link_media(folder / "media", [short], range(1, 1 + SHORT_VIDEOS))
    job = run_job(folder / "media", folder / "dataset", "--time-limit", "3600")
    return {
        "seconds": job.seconds,
        "core seconds": job.computed,
        "seconds over core seconds by core": job.seconds / (job.computed / usable_cores()),
        "GiB of the largest process": max(size for _, size in job.memory),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--videos", type=int, default=10_000)
    parser.add_argument("--hours", type=float, default=3.0)
    arguments = parser.parse_args()
    print(f"{processor()}, {usable_cores()} cores", flush=True)
    with tempfile.TemporaryDirectory(prefix="mcn-benchmark-") as made:
        for name, measured in (
            ("short", lambda folder: many_short(folder, arguments.videos)),
            ("long", lambda folder: one_long(folder, arguments.hours)),
        ):
            (Path(made) / name).mkdir()
            print(
                name,
                json.dumps({what: round(value, 3) for what, value in measured(Path(made) / name).items()}, indent=1),
            )


if __name__ == "__main__":
    main()
