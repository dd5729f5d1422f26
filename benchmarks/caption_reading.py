"""How fast captions are read, and in how much memory: the stream and the store beside `json.load`, in one run.

python -m benchmarks.caption_reading --megabytes 500
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from pipeline.dataset.caption_store import build_caption_store
from pipeline.dataset.captions import read_caption_file

LIMIT = 1 << 30
"""Bytes of memory that reading may take."""
WORDS = "cut the onion and stir it into a bowl of flour with two cups warm water until smooth then bake".split()


def make(path: Path, size: int) -> None:
    """Write a caption file of about `size` bytes: 90 lines of six words a video, as HowTo100M's."""
    generator = random.Random(0)
    with open(path, "w", encoding="utf-8") as file:
        file.write("{")
        number = 0
        while file.tell() < size:
            starts = [round(4.1 * line + generator.random(), 2) for line in range(90)]
            entry = {
                "start": starts,
                "end": [round(start + 5, 2) for start in starts],
                "text": [" ".join(generator.choices(WORDS, k=6)) for _ in starts],
            }
            file.write(f'{", " if number else ""}"video{number:06d}": {json.dumps(entry)}')
            number += 1
        file.write("}")


def _load(path: Path, out: Path) -> int:
    return len(json.loads(path.read_text(encoding="utf-8")))


def _stream(path: Path, out: Path) -> int:
    return sum(1 for _ in read_caption_file(path, Counter()))


def _store(path: Path, out: Path) -> int:
    return len(build_caption_store(path, out, drop_overlaps=False))


WAYS = {"json.load": _load, "read_caption_file": _stream, "build_caption_store": _store}


def main() -> None:
    """Make the file, read it in each way in a process of its own, print seconds, ratios and peak memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--file", type=Path)
    given = parser.parse_args()
    if given.way:
        started = time.perf_counter()
        videos = WAYS[given.way](given.file, given.file.with_name("captions.h5"))
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"videos": videos, "seconds": seconds, "peak": peak}))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "caption.json")
        make(path, given.megabytes * 1_000_000)
        found = {}
        for way in WAYS:
            command = [sys.executable, "-m", "benchmarks.caption_reading", "--way", way, "--file", str(path)]
            answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ).stdout
            found[way] = json.loads(answer.splitlines()[-1])
        for way, result in found.items():
            rate = path.stat().st_size / 1e6 / result["seconds"]
            ratio = found["json.load"]["seconds"] / result["seconds"]
            within = "" if way == "json.load" else f", {'within' if result['peak'] < LIMIT else 'OVER'} 1 GiB"
            print(
                f"{way:<20} {result['videos']:>8} videos  {result['seconds']:>6.1f} s  {rate:>6.0f} MB/s"
                f"  {ratio:>5.2f} x json.load  peak {result['peak'] / 2**20:>6.0f} MiB{within}"
            )


if __name__ == "__main__":
    main()
