"""Search in a million clustered vectors: time and recall of a query, memory of building and of searching.

python -m benchmarks.search --vectors 1000000 --width 512

Vectors are Gaussian clusters: a centre of length 1, and around it noise of full rank whose length is --spread times
the centre's, so that with 1 a vector is as far from its centre as the centre from zero, and neighbours differ in all
directions. A query is a member with fresh noise of half that length. All is made, written and read by what `mcn embed`,
`mcn index` and `mcn search` use. Truth is the inner product with every vector, blocked, by PyTorch. Building and
searching each run in a process of its own whose largest resident memory (VmHWM) counts the interpreter, all libraries
and what is mapped of files. PyTorch, which embeds a text query in `mcn search`, is in neither. The files have just been
written: the exact vectors are read from the page cache, not from a disk.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pipeline.search.embeddings import MadeOf

CLUSTERS = 2000
CLIPS_A_VIDEO = 100
CLIPS_A_PART = 50_000
QUERIES = 500
TOP = 10
THREADS = 2
LIMIT_BYTES, LIMIT_MS, LEAST_RECALL = 1 << 30, 50.0, 0.95


def made_of(width: int) -> "MadeOf":
    """What embeddings by a model with one space of video and text would say of themselves."""
    from pipeline.search.embeddings import MadeOf

    pairs = {"name": "made", "modalities": {"video": "feature", "text": "feature"}, "pairs": ["video-text"]}
    return MadeOf(
        checkpoint="0" * 64,
        scheme={"name": "made", "spaces": [pairs]},
        manifest={"name": "made", "digest": "0" * 64},
        split="all",
        clips="captions",
        window_seconds=10.0,
        rules={},
        precision="float16",
        normalised=False,
        widths={"made": {"video": width}},
    )


class Clusters:
    """Draws members of Gaussian clusters."""

    def __init__(self, width: int, spread: float) -> None:
        self._generator = np.random.default_rng(0)
        self._spread = spread / np.sqrt(width)
        centres = self._generator.standard_normal((CLUSTERS, width), dtype=np.float32)
        self._centres = centres / np.linalg.norm(centres, axis=1, keepdims=True)

    def _noise(self, count: int) -> NDArray[np.float32]:
        shape = (count, self._centres.shape[1])
        return np.float32(self._spread) * self._generator.standard_normal(shape, dtype=np.float32)

    def members(self, count: int) -> NDArray[np.float32]:
        """Vectors [count, D]."""
        return self._centres[self._generator.integers(CLUSTERS, size=count)] + self._noise(count)

    def near(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Queries [n, D] near members [n, D]."""
        return vectors + np.float32(0.5) * self._noise(len(vectors))


def make(folder: Path, count: int, width: int, spread: float) -> None:
    """The embeddings file, and queries with their ten best rows by exact search."""
    import torch

    from pipeline.clips.rules import ClipSpan
    from pipeline.search.embeddings import EmbeddingsFile, join_parts, write_part

    clusters, parts = Clusters(width, spread), []
    for first in range(0, count, CLIPS_A_PART):
        size = min(CLIPS_A_PART, count - first)
        videos = range(first // CLIPS_A_VIDEO, -(-(first + size) // CLIPS_A_VIDEO))
        spans = [ClipSpan(10.0 * n, 10.0 * n + 10, f"caption {n} of a made video", ()) for n in range(CLIPS_A_VIDEO)]
        clips = [(f"{v:011d}", spans[: min(CLIPS_A_VIDEO, first + size - v * CLIPS_A_VIDEO)]) for v in videos]

        def batches(size: int = size) -> Iterator[tuple[str, NDArray[Any]]]:
            yield "present/video", np.ones(size, np.uint8)
            yield "vectors/made/video", clusters.members(size)

        parts.append(folder / f"part-{first}.h5")
        write_part(parts[-1], made_of(width), clips, batches())
    join_parts(folder / "clips.h5", made_of(width), {"checkpoint": "", "manifest": ""}, parts)
    for part in parts:
        part.unlink()
    with EmbeddingsFile(folder / "clips.h5") as file:
        vectors = file.vectors("made", "video")
        chosen = np.random.default_rng(1).choice(count, QUERIES, replace=False)
        queries = torch.from_numpy(clusters.near(vectors.read(chosen)))
        best = torch.full((QUERIES, TOP), -torch.inf)
        rows = torch.zeros((QUERIES, TOP), dtype=torch.int64)
        for first, block in vectors.blocks():
            scores, places = (queries @ torch.from_numpy(block).T).topk(TOP, dim=1)
            best, order = torch.cat([best, scores], dim=1).topk(TOP, dim=1)
            rows = torch.cat([rows, places + first], dim=1).gather(1, order)
        vectors.close()
    np.savez(folder / "truth.npz", queries=queries.numpy(), rows=rows.numpy())


def build(folder: Path, memory: int) -> None:
    """`mcn index`, with what it keeps in hand for Python and the libraries."""
    from pipeline.search.embeddings import EmbeddingsFile
    from pipeline.search.index import make_index
    from pipeline.search.vector_index import RESERVE

    started = time.perf_counter()
    with EmbeddingsFile(folder / "clips.h5") as file:
        made = make_index(file, folder / "index", "made", "video", memory, memory - RESERVE)
    answer = {"seconds": time.perf_counter() - started, "plan": made.plan, "peak": peak_bytes(), "bytes": made.bytes}
    (folder / "built.json").write_text(json.dumps(answer), encoding="utf-8")


def search(folder: Path) -> None:
    """Every query by itself, clips' ids, times and captions included."""
    from pipeline.search.search import ClipSearch

    truth = np.load(folder / "truth.npz")
    seconds, found = [], []
    with ClipSearch(folder / "index") as index:
        for query in truth["queries"]:
            started = time.perf_counter()
            clips = index.nearest(query, TOP)
            seconds.append(time.perf_counter() - started)
            found.append([int(one.clip.video_id) * CLIPS_A_VIDEO + round(one.clip.start / 10) for one in clips])
    recall = np.mean(
        [len(set(rows) & set(right)) / TOP for rows, right in zip(found, truth["rows"].tolist(), strict=True)]
    )
    ordered = sorted(seconds)
    answer = {
        "median": 1000 * statistics.median(seconds),
        "slowest in twenty": 1000 * ordered[int(0.95 * len(ordered))],
        "recall": float(recall),
        "peak": peak_bytes(),
    }
    (folder / "searched.json").write_text(json.dumps(answer), encoding="utf-8")


def peak_bytes() -> int:
    """The largest resident memory of this process so far (VmHWM), pages of mapped files included."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))


def main() -> int:
    """Make, build and search, each in its own process; print a table; returns 1 when something is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--spread", type=float, default=1.0, help="length of the noise, in lengths of a centre")
    parser.add_argument("--memory", type=int, default=1 << 30, help="bytes, as mcn index --memory")
    parser.add_argument("--folder", type=Path, help="where to write; default: the folder for temporary files")
    parser.add_argument("--step", choices=("make", "build", "search"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step is not None:
        steps = {
            "make": lambda: make(given.folder, given.vectors, given.width, given.spread),
            "build": lambda: build(given.folder, given.memory),
            "search": lambda: search(given.folder),
        }
        steps[given.step]()
        return 0
    with tempfile.TemporaryDirectory(dir=given.folder) as temporary:
        folder = Path(temporary)
        flags = [f"--vectors={given.vectors}", f"--width={given.width}", f"--spread={given.spread}"]
        for step in ("make", "build", "search"):
            command = [sys.executable, "-m", "benchmarks.search", "--step", step, "--folder", temporary, *flags]
            threads = ["env", *(f"{name}={THREADS}" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"))]
            subprocess.run([*threads, *command, f"--memory={given.memory}"], check=True)
        built = json.loads((folder / "built.json").read_text(encoding="utf-8"))
        searched = json.loads((folder / "searched.json").read_text(encoding="utf-8"))
    print(
        f"{given.vectors:,} vectors of width {given.width} in {CLUSTERS} clusters, spread {given.spread:g}; "
        f"{THREADS} threads"
    )
    print(
        f"plan: {json.dumps(built['plan'])}\n"
        f"index of {built['bytes'] / 2**20:.0f} MiB, built in {built['seconds']:.0f} s"
    )
    limit = min(LIMIT_BYTES, given.memory)
    rows = [
        ("peak memory, building", built["peak"] / 2**20, "MiB", f"at most {limit >> 20}", built["peak"] <= limit),
        (
            "peak memory, searching",
            searched["peak"] / 2**20,
            "MiB",
            f"at most {limit >> 20}",
            searched["peak"] <= limit,
        ),
        ("a query, median", searched["median"], "ms", f"under {LIMIT_MS:g}", searched["median"] < LIMIT_MS),
        ("a query, slowest in twenty", searched["slowest in twenty"], "ms", "", True),
        ("recall@10", searched["recall"], "", f"at least {LEAST_RECALL}", searched["recall"] >= LEAST_RECALL),
    ]
    for name, value, unit, wanted, right in rows:
        shown = f"{value:.4f}" if not unit else f"{value:.1f} {unit}"
        print(f"{name:<28}{shown:>12}  {wanted}{'' if right else ': MISSED'}".rstrip())
    return int(not all(row[-1] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
