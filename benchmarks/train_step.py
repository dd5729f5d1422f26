"""How fast the trainer's step is, and in how much memory, beside the plain way, in one run.

python -m benchmarks.train_step

The plain way is one graph from 4096 clips to the sum of all terms, fp32, eager, and Adam as torch.optim makes it. Ours
is the trainer's: bf16 where that pays, losses and k-means in fp32, gradients by term, fused Adam. Both take the same
clips and the same k-means, whose fit every 20 steps on a full queue is spread over the steps. `logmel` has DaveNet
inside, in groups of 128 clips, and is one step alone. Each is measured in a process of its own, so that its peak memory
is its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch.utils.flop_counter import FlopCounterMode

from models.batch_step import BatchStep
from models.clips import ClipInputs
from models.kmeans import ClusterQueue, first_half_of_each_video
from models.losses import mcn_losses
from models.mcn import MCN
from models.pairing import builtin_scheme
from models.settings import ClusterSettings, LossSettings, ModelSettings
from pipeline.training.settings import NORM_GROUP

GIB = 1 << 30
LIMITS = {"plain": None, "ours": 10 * GIB, "logmel": 12 * GIB}
CLIPS_A_VIDEO = 32
WORDS = 20
LOGMEL_FRAMES = 1000


def make_clips(clips: int, logmel: bool) -> ClipInputs:
    """Random clips of the shapes and ranges that the reader gives: one pooled row, fp16; all modalities there."""
    generator = torch.Generator().manual_seed(0)
    audio = torch.rand(clips, 1024, generator=generator)
    if logmel:
        audio = torch.rand(clips, 40, LOGMEL_FRAMES, generator=generator).mul_(-80).half()
    return ClipInputs(
        video=torch.rand(clips, 1, 2048, generator=generator).half(),
        video_rows=torch.ones(clips, 1, dtype=torch.bool),
        audio=audio,
        has_audio=torch.ones(clips, dtype=torch.bool),
        audio_frames=torch.full((clips,), LOGMEL_FRAMES) if logmel else None,
        words=torch.randn(clips, WORDS, 300, generator=generator),
        known_words=torch.rand(clips, WORDS, generator=generator) > 0.3,
    )


class Trial:
    """A model, its clusters with a full queue, and the two ways to take a step."""

    def __init__(self, way: str, clips: int, width: int, scheme: str, bf16: bool) -> None:
        torch.manual_seed(0)
        logmel = way == "logmel"
        settings = ModelSettings(builtin_scheme(scheme), width, audio_from="logmel" if logmel else "davenet")
        self.model = MCN(settings).train()
        self.clips = make_clips(clips, logmel)
        self.video_index = torch.arange(clips) // CLIPS_A_VIDEO
        self.generator = torch.Generator().manual_seed(0)
        self.losses = LossSettings()
        clusters = ClusterSettings()
        self.queues = {s.name: ClusterQueue(settings.width_of(s), clusters) for s in settings.scheme.spaces}
        self._fill_queues()
        plain = way == "plain"
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4, fused=None if plain else True)
        self._step: Callable[[], None] = self._plain if plain else self._ours
        halved = bf16 and not plain
        self.step_of = BatchStep(
            self.model,
            self.queues,
            self.losses,
            NORM_GROUP if logmel else 0,
            autocast=lambda: torch.autocast("cpu", torch.bfloat16) if halved else nullcontext(),
        )

    def _fill_queues(self) -> None:
        """Joint features of these clips, each blurred anew, as so many earlier batches would have left."""
        with torch.no_grad():
            few = self.clips[slice(0, min(len(self.clips), 512))]
            embeddings = self.model.eval()(few)
            self.model.train()
            for space in self.model.settings.scheme.spaces:
                rows, _ = embeddings.joint(space)
                queue = self.queues[space.name]
                spread = rows.std(dim=0)
                for first in range(0, len(queue.rows), len(rows)):
                    part = queue.rows[first : first + len(rows)]
                    part.copy_(rows[: len(part)] + 0.5 * spread * torch.randn_like(part))
                queue.filled.fill_(len(queue.rows))

    def _plain(self) -> None:
        scheme = self.model.settings.scheme
        embeddings = self.model(self.clips)
        queued = first_half_of_each_video(self.video_index)
        clusters = {
            s.name: self.queues[s.name].step(*embeddings.joint(s), self.generator, queued) for s in scheme.spaces
        }
        errors = self.model.reconstruction_errors(embeddings)
        losses = mcn_losses(scheme, embeddings, clusters, errors, self.losses, self.video_index)
        self.optimizer.zero_grad()
        losses.total.backward()

    def _ours(self) -> None:
        self.step_of.backward(self.clips, self.video_index, self.generator)

    def seconds(self, refit: bool) -> float:
        """Wall seconds of one step, with or without a fit of k-means."""
        for queue in self.queues.values():
            queue.batches.fill_(0 if refit else 1)
        began = time.perf_counter()
        self._step()
        self.optimizer.step()
        return time.perf_counter() - began

    def operations(self) -> int:
        """Floating-point operations of a step without a fit."""
        for queue in self.queues.values():
            queue.batches.fill_(1)
        with FlopCounterMode(display=False) as counter:
            self._step()
        return int(counter.get_total_flops())


def measure(way: str, given: argparse.Namespace) -> dict[str, float]:
    """One way's figures."""
    trial = Trial(way, given.clips, given.width, given.scheme, given.precision == "bf16")
    if way == "logmel":
        # DaveNet takes minutes a step on a processor: one step, with a fit, which is all that memory needs.
        step = trial.seconds(refit=True)
        return {"step": step, "fit": 0.0, "amortised": step, "peak": _peak(), "operations": 0}
    trial.seconds(refit=True)  # allocates what Adam keeps, and fits the first centroids
    steps = [trial.seconds(refit=False) for _ in range(given.steps)]
    with_fit = [trial.seconds(refit=True) for _ in range(given.fits)]
    every = next(iter(trial.queues.values())).settings.refit_every
    step, fit = min(steps), max(0.0, min(with_fit) - min(steps))
    peak = _peak()
    return {"step": step, "fit": fit, "amortised": step + fit / every, "peak": peak, "operations": trial.operations()}


def _peak() -> int:
    """Most memory that this process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def product_peak(dtype: torch.dtype, side: int = 4096) -> float:
    """Operations a second of the machine's own product of matrices."""
    matrix = torch.randn(side, side).to(dtype)
    times = []
    for _ in range(4):
        began = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - began)
    return 2 * side**3 / min(times)


def main() -> None:
    """Measure every way in a process of its own; print times, memory, ratios and how near the machine's peak."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=4096)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--scheme", default="shared")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--fits", type=int, default=1)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help="of ours and of logmel")
    parser.add_argument("--ways", default="plain,ours,logmel")
    parser.add_argument("--one", choices=LIMITS, help="measure this one here and print JSON")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one, given)))
        return
    peaks = {name: product_peak(dtype) for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))}
    print(f"product of matrices: fp32 {peaks['fp32'] / 1e9:.0f}, bf16 {peaks['bf16'] / 1e9:.0f} billion operations/s")
    found: dict[str, dict[str, float]] = {}
    for way in given.ways.split(","):
        command = [sys.executable, "-m", "benchmarks.train_step", *sys.argv[1:], "--one", way]
        found[way] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        result = found[way]
        limit = LIMITS[way]
        within = "" if limit is None else f" ({'within' if result['peak'] <= limit else 'OVER'} {limit // GIB} GiB)"
        speed = result["operations"] / result["step"]
        nearness = ", ".join(f"{100 * speed / peak:.0f} % of {name}'s" for name, peak in peaks.items()) if speed else ""
        counted = f"{speed / 1e9:.0f} billion operations/s ({nearness} product), " if speed else ""
        print(
            f"{way:<7} step {result['step']:6.2f} s, k-means fit {result['fit']:6.2f} s, amortised "
            f"{result['amortised']:6.2f} s: {given.clips / result['amortised']:6.0f} clips/s, {counted}"
            f"peak {result['peak'] / GIB:.2f} GiB{within}",
            flush=True,
        )
    if {"plain", "ours"} <= found.keys():
        ratio = found["plain"]["amortised"] / found["ours"]["amortised"]
        print(f"ours: {ratio:.2f} times the plain way's clips per second (wanted: 1.3, aim 1.6)")


if __name__ == "__main__":
    main()
