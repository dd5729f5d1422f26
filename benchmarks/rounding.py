"""How far rows lie apart that only rounding makes different: the source of `mcn verify`'s tolerances.

python -m benchmarks.rounding MEDIA.mp4 ... --networks efficientnet-lite0,davenet,logmel

Each network computes the same frames or sound, each time in a process of its own: on one thread, in batches of 4; on 2
and 4 threads; in batches of 1; without instructions that another processor lacks; with `--device cuda` on a GPU.
Printed are the least centred cosine of a row and the largest difference of a value, of rows as they are stored
(float16), as `mcn verify` reckons them; beside them, how near a wrong row comes: the next second's, or the same
second's in the other precision. Weights are random, save EfficientNet-Lite0's.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from extractors.audio_track import extract_audio
from extractors.decode import DecodeSettings
from extractors.decoder_process import DecoderProcess
from extractors.logmel import log_mel
from extractors.networks import VIDEO_NETWORKS
from extractors.video import FrameNetwork
from extractors.weights import Weights, load_weights, materialise
from pipeline.core.provenance import processor
from pipeline.tools.verify.findings import centre_of, cosine_text, deviations

Rows = dict[str, NDArray[np.float16]]

OTHER_PROCESSORS = {
    "fp32": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "bf16": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
}
"""Environments that hide instructions: AVX-512, and those that multiply bf16, without which it would take hours."""
BATCH = 4
USUAL, OTHER = "one thread", "another processor"
CONDITIONS = {
    USUAL: (1, BATCH),
    "2 threads": (2, BATCH),
    "4 threads": (4, BATCH),
    "batches of 1": (1, 1),
    OTHER: (1, BATCH),
}
"""Threads, batch."""


def decode(media: list[Path], frames: int, out: Path) -> None:
    """Frames and samples of each file, kept in one."""
    inputs: dict[str, NDArray[np.uint8] | NDArray[np.int16]] = {}
    with DecoderProcess(DecodeSettings()) as decoder, tempfile.TemporaryDirectory() as scratch:
        for path in media:
            decoder.open(path)
            inputs[f"frames {path.stem}"] = np.concatenate([batch.frames for batch in decoder.batches()])[:frames]
            track = extract_audio(path, scratch, decoder=decoder)
            if track is not None:
                inputs[f"samples {path.stem}"] = np.array(track.samples)
    np.savez(out, **inputs)


class FewThreads(FrameNetwork):
    """One whose batches go through on as many threads as torch has, one after another, as no extraction does it."""

    def features(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As `FrameNetwork.features`."""
        starts = range(0, len(frames), self.batch_size)
        return np.concatenate([self._batch(frames[start : start + self.batch_size]) for start in starts])


def compute(network: str, precision: str, device: str, threads: int, batch: int, inputs: Path, out: Path) -> None:
    """One condition's rows as they are stored."""
    torch.set_num_threads(threads)
    kind = "frames" if network in VIDEO_NETWORKS else "samples"
    with np.load(inputs) as file:
        given = {name.partition(" ")[2]: file[name] for name in file.files if name.startswith(kind)}
    if network == "logmel":
        rows = {name: log_mel(samples) for name, samples in given.items()}
    elif network == "davenet":
        module = weights_of(network, inputs.parent).module().to(device)
        with torch.inference_mode(), torch.backends.cudnn.flags(deterministic=True, allow_tf32=False):
            rows = {}
            for name, samples in given.items():
                stored = log_mel(samples).astype(np.float16).astype(np.float32)
                rows[name] = module(torch.from_numpy(stored.T.copy())[None].to(device))[0].T.cpu().numpy()
    else:
        frames = FewThreads(weights_of(network, inputs.parent), "full", precision, device, batch)
        torch.set_num_threads(threads)
        rows = {name: frames.features(pictures) for name, pictures in given.items()}
    np.savez(out, **{name: values.astype(np.float16) for name, values in rows.items()})


def weights_of(network: str, folder: Path) -> Weights:
    """EfficientNet-Lite0's published ones; random ones of the others."""
    spec = "IMAGENET1K" if network == "efficientnet-lite0" else "random:0"
    return load_weights(network, materialise(network, spec, folder))


def line(what: str, a: Rows, b: Rows) -> None:
    """Print how far two conditions' rows of all videos lie apart."""
    pairs = [deviations(a[name], b[name], centre_of(a[name])) for name in a]
    off, cosines = (np.concatenate(each) for each in zip(*pairs, strict=True))
    bits = all(np.array_equal(a[name], b[name]) for name in a)
    apart = "equal to the bit" if bits else f"cosine {cosine_text(cosines.min())}, a value off by {off.max():.2g}"
    print(f"  {what}: {apart} ({len(off)} rows)", flush=True)


def neighbours(precision: str, rows: Rows) -> None:
    """Print how near the most similar of two rows that follow one another come."""
    pairs = [deviations(values[:-1], values[1:], centre_of(values)) for values in rows.values()]
    off, cosines = (np.concatenate(each) for each in zip(*pairs, strict=True))
    nearest = f"cosine at most {cosine_text(cosines.max())}, a value off by {off.min():.2g} at least"
    print(f"  {precision}, the next row: {nearest}", flush=True)


def measure(network: str, device: str, folder: Path) -> None:
    """Compute all conditions of a network, print how far apart they come."""
    on_frames = network in VIDEO_NETWORKS
    usual: dict[str, Rows] = {}
    for precision in ("fp32", "bf16") if on_frames else ("fp32",):
        conditions = {name: ("cpu", *each) for name, each in CONDITIONS.items() if on_frames or each[1] == BATCH}
        if device != "cpu":
            conditions[f"on {device}"] = (device, 1, 64)
        for name, (place, threads, batch) in conditions.items():
            variables = OTHER_PROCESSORS[precision] if name == OTHER else {}
            out = folder / "rows.npz"
            command = [network, precision, place, str(threads), str(batch), str(folder / "inputs.npz"), str(out)]
            environment = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
            subprocess.run(
                [sys.executable, "-m", "benchmarks.rounding", "--compute", *command],
                env=environment | variables,
                check=True,
            )
            with np.load(out) as file:
                rows = {key: file[key] for key in file.files}
            if name == USUAL:
                usual[precision] = rows
                neighbours(precision, rows)
            else:
                line(f"{precision}, {name}", usual[precision], rows)
    if on_frames:
        line("fp32, the same row in bf16", usual["fp32"], usual["bf16"])


def main() -> None:
    """Decode once, then each network."""
    if sys.argv[1:2] == ["--compute"]:
        network, precision, device, threads, batch, inputs, out = sys.argv[2:]
        return compute(network, precision, device, int(threads), int(batch), Path(inputs), Path(out))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("media", type=Path, nargs="+")
    parser.add_argument("--networks", default="efficientnet-lite0,davenet,logmel")
    parser.add_argument("--frames", type=int, default=20, help="of each file, a second apart; ResNet152 takes long")
    parser.add_argument("--device", default="cpu", help="cuda: a GPU's rows beside the processor's, too")
    given = parser.parse_args()
    print(f"{processor()}, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}")
    with tempfile.TemporaryDirectory() as folder:
        decode(given.media, given.frames, Path(folder) / "inputs.npz")
        for network in given.networks.split(","):
            print(network, flush=True)
            measure(network, given.device, Path(folder))
    return None


if __name__ == "__main__":
    main()
