"""How long commands take to start, and in how much memory, when the list has a million ids.

python -m benchmarks.scale --ids 1000000

Seven in ten videos are stored, the others spoilt, gone or given up; one new video has come. Measured are `mcn extract`
up to its first plan (interpreter, libraries, captions, weights, planning) and `mcn status`, each in a process of its
own, as the system counts it. The files have just been written: they are read from memory, not from a disk.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

LIMIT = 1 << 30
"""Bytes of memory that each may take."""
LIMITS_S = {"start of mcn extract": 60.0, "mcn status": 30.0}


@dataclass(frozen=True)
class Folder:
    """Where everything lies."""

    path: Path

    @property
    def flags(self) -> list[str]:
        """What `mcn extract` is told."""
        flags = {"media": "media", "out": "dataset", "ids": "HowTo100M_v1.csv", "captions": "caption.json"}
        named = [word for flag, name in flags.items() for word in (f"--{flag}", str(self.path / name))]
        return [*named, "--weights", "random:0"]


def make(folder: Folder, count: int, caption_bytes: int) -> None:
    """One video through a real extraction, whose data set then grows to `count` ids; and one more video, untouched."""
    from benchmarks.scale_folder import fill, video_id, write_captions, write_list
    from extractors.made_clip import write_made_clip
    from extractors.text import train_vectors
    from extractors.word_vector_file import save_vectors
    from pipeline.download.media import media_path

    root = folder.path
    first, new = video_id(count), video_id(count + 1)
    listed = [video_id(number) for number in range(count + 2)]
    for name in (first, new):
        media_path(root / "media", name).parent.mkdir(parents=True, exist_ok=True)
    write_made_clip(media_path(root / "media", first), 2.0)
    write_captions(root / "caption.json", listed, caption_bytes)
    write_list(root / "HowTo100M_v1.csv", [first])
    # Given, so that gensim doesn't go through all captions: that is done once, and is not what is measured.
    save_vectors(train_vectors([["onion", "stir"]] * 5), root / "words.kv")
    command = [sys.executable, "-m", "pipeline.cli", "extract", *folder.flags, "--workers", "1"]
    subprocess.run([*command, "--word-vectors", str(root / "words.kv")], check=True, stdout=sys.stderr)
    shutil.copy(media_path(root / "media", first), media_path(root / "media", new))
    write_list(root / "HowTo100M_v1.csv", listed)
    (receipt,) = (root / "dataset" / "shards").glob("*.json")
    fill(root / "dataset", root / "media", count, json.loads(receipt.read_text(encoding="utf-8"))["circumstance"])


def start_extract(folder: Folder) -> None:
    """All that `mcn extract` does before a worker takes up its first plan, which is to be the one new video's."""
    from beam_jobs.extract import ExtractSettings
    from pipeline.cli import parse
    from pipeline.extraction.driver import ExtractionRounds

    settings, _ = parse("extract", folder.flags)
    assert isinstance(settings, ExtractSettings)
    rounds = ExtractionRounds(settings, "benchmark")
    names, videos = next(iter(rounds))
    assert rounds.weight_files
    if len(names) != 1 or videos != 1:
        raise SystemExit(f"the start of extraction found {videos} videos in {len(names)} plans, wanted 1 in 1")


def measure(command: list[str]) -> tuple[float, float, int]:
    """Of a command that must end with status 0: seconds, seconds of computing, peak resident bytes.

    The peak is that of the largest of its processes.
    """
    started = time.perf_counter()
    # The system counts a child's memory from its parent's on: this process stays a small one.
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: ended with status {process.returncode}")
    return time.perf_counter() - started, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024


def main() -> int:
    """Make the folder and print a line for each command; returns 1 when one is over its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ids", type=int, default=1_000_000)
    parser.add_argument("--caption-bytes", type=int, default=1500, help="bytes of captions a video")
    parser.add_argument("--folder", type=Path, help="make everything here and keep it; one that is there is measured")
    parser.add_argument("--step", choices=("make", "extract"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step == "make":
        make(Folder(given.folder), given.ids, given.caption_bytes)
        return 0
    if given.step == "extract":
        start_extract(Folder(given.folder))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Folder((given.folder or Path(temporary)).resolve())
        step = ["-m", "benchmarks.scale", "--folder", str(folder.path), "--ids", str(given.ids), "--step"]
        if not (folder.path / "dataset").exists():
            seconds, *_ = measure([*step, "make", "--caption-bytes", str(given.caption_bytes)])
            print(f"made {given.ids} ids in {seconds:.0f} s", flush=True)
        commands = {
            "start of mcn extract": [*step, "extract"],
            "mcn status": ["-m", "pipeline.cli", "status", str(folder.path / "dataset")],
        }
        over = False
        for name, command in commands.items():
            seconds, computing, peak = measure(command)
            within = seconds < LIMITS_S[name] and peak < LIMIT
            over = over or not within
            took = f"{seconds:>6.1f} s of {LIMITS_S[name]:.0f} ({computing:.1f} s computing)"
            held = f"peak {peak / 2**20:>5.0f} MiB of {LIMIT >> 20}"
            print(f"{name:<20} {took}  {held}  {'within' if within else 'OVER'}", flush=True)
    return int(over)


if __name__ == "__main__":
    sys.exit(main())
