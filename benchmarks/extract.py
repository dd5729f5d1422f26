"""How near extraction comes to its parts alone, and how it compares with the published way, in one run.

python -m benchmarks.extract [--videos 60] [--stream resnet152] [--media FOLDER]

On the videos of a made sample, or those of a folder, all with random weights:

- network: every frame, decoded beforehand, through the frame network on all cores, a process with one thread each, and
  the log-mel through DaveNet: what no extraction can beat;
- decoding: picture, sound and log-mel of every file, a process each core, nothing computed;
- job: `mcn extract` as its user starts it, from files to verified shards, and the seconds until its first video;
- published: one video at a time, FFmpeg's pipe at one frame a second with short side 224, the network in fp32 on all
  cores, then the sound.

Efficiency is (network + decoding) / job. The order is network, decoding, job, published; page cache warm.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import torch
from numpy.typing import NDArray

from extractors.audio import AudioNetwork
from extractors.audio_track import extract_audio
from extractors.decode import DecodeSettings
from extractors.decoder_pool import decoded
from extractors.decoder_process import DecoderProcess
from extractors.logmel import log_mel
from extractors.precision import resolve_device, resolve_precision
from extractors.video import FrameNetwork
from extractors.weights import load_weights, materialise
from pipeline.core.provenance import processor, usable_cores

FIRST_LOOK_S = 0.05


def seconds_of(work: Callable[[], object]) -> float:
    """By the clock."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def each_core(call: Callable[[list[str]], float], items: list[str], cores: int) -> float:
    """Seconds that processes, each with its share of the items, take side by side, libraries loaded beforehand."""
    shares = [items[core::cores] for core in range(cores)]
    with ProcessPoolExecutor(cores, get_context("spawn")) as pool:
        return max(pool.map(call, shares))


def run_networks(media: list[str], weights: dict[str, str], stream: str, precision: str, begin: str) -> float:
    """The frame network and DaveNet over what these files hold; seconds without loading and decoding."""
    torch.set_num_threads(1)
    network = FrameNetwork(load_weights(stream, Path(weights[stream])), precision=precision, device="cpu")
    davenet = AudioNetwork(load_weights("davenet", Path(weights["davenet"])), "cpu")
    frames, sounds = decode_files(media)
    for same_size in frames:
        network.features(same_size[: network.frames_at_once])
    meet(begin)
    return seconds_of(
        lambda: (
            [network.features(same_size) for same_size in frames],
            [davenet.steps(sound.astype(np.float16)) for sound in sounds],
        )
    )


def decode_files(media: list[str]) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.float32]]]:
    """All frames of the files, those of one size together, and each file's log-mel."""
    frames: defaultdict[tuple[int, ...], list[NDArray[np.uint8]]] = defaultdict(list)
    sounds = []
    with DecoderProcess(DecodeSettings()) as decoder, tempfile.TemporaryDirectory() as scratch:
        for path in media:
            decoder.open(path)
            for batch in decoder.batches():
                frames[batch.frames.shape[1:]].append(batch.frames)
            track = extract_audio(path, scratch, decoder=decoder)
            if track is not None and len(track.samples):
                sounds.append(log_mel(track.samples))
    return [np.concatenate(same_size) for same_size in frames.values()], sounds


def run_decoders(media: list[str], begin: str) -> float:
    """Picture, sound and log-mel of these files; seconds without loading."""
    torch.set_num_threads(1)
    with DecoderProcess(DecodeSettings()) as decoder, tempfile.TemporaryDirectory() as scratch:
        list(decoded(decoder, Path(media[0]), Path(scratch)))
        meet(begin)
        return seconds_of(lambda: [list(decoded(decoder, Path(path), Path(scratch))) for path in media])


def meet(folder: str) -> None:
    """Wait until every process is ready: each leaves a file."""
    (Path(folder) / str(os.getpid())).touch()
    while len(list(Path(folder).iterdir())) < usable_cores():
        time.sleep(0.01)


def run_job(media: Path, out: Path, weights: dict[str, str], stream: str, precision: str) -> tuple[float, float, str]:
    """Seconds of `mcn extract`, seconds until its first part is there, and the line that says where they went."""
    command = [sys.executable, "-m", "pipeline.cli", "extract", "--media", str(media), "--out", str(out)]
    command += ["--streams", stream, "--precision", precision, "--davenet-weights", weights["davenet"]]
    command += ["--weights", f"{stream}={weights[stream]}"]
    first: list[float] = []
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def watch() -> None:
        while process.poll() is None and not any([*out.glob("parts/*/*.h5"), *out.glob("shards/*.h5")]):
            time.sleep(FIRST_LOOK_S)
        first.append(time.perf_counter() - began)

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    seconds = time.perf_counter() - began
    watcher.join()
    if process.returncode:
        sys.exit(output)
    return seconds, first[0], next((line for line in output.splitlines() if "time of" in line), "")


def run_published(media: list[str], weights: dict[str, str], stream: str) -> float:
    """One video after the other: FFmpeg's pipe, the network in fp32, then the sound."""
    torch.set_num_threads(usable_cores())
    network = load_weights(stream, Path(weights[stream])).module()
    davenet = AudioNetwork(load_weights("davenet", Path(weights["davenet"])), "cpu")
    began = time.perf_counter()
    for path in media:
        frames = piped_frames(path)
        with torch.inference_mode():
            for start in range(0, len(frames), 16):
                pictures = torch.from_numpy(frames[start : start + 16]).permute(0, 3, 1, 2).float() / 255
                network(pictures).mean(dim=(2, 3))
        with tempfile.TemporaryDirectory() as scratch:
            track = extract_audio(path, scratch)
            if track is not None and len(track.samples):
                davenet.steps(log_mel(track.samples).astype(np.float16))
    return time.perf_counter() - began


def piped_frames(path: str) -> NDArray[np.uint8]:
    """One frame a second, short side 224, by FFmpeg's program."""
    scale = "fps=1,scale='if(gt(iw,ih),-2,224)':'if(gt(iw,ih),224,-2)'"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", path, "-vf", scale, "-f", "rawvideo", "-pix_fmt"]
    width, height = video_size(path)
    short = 224 / min(width, height)
    wide, high = (224 if side == min(width, height) else 2 * round(side * short / 2) for side in (width, height))
    data = subprocess.run([*command, "rgb24", "-"], capture_output=True, check=True).stdout
    return np.frombuffer(data, np.uint8).reshape(-1, high, wide, 3)


def video_size(path: str) -> tuple[int, int]:
    """Width and height of its frames."""
    reader = imageio_ffmpeg.read_frames(path)
    width, height = next(reader)["source_size"]
    reader.close()
    return width, height


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--videos", type=int, default=60, help="how many the made sample has")
    parser.add_argument("--media", type=Path, help="a folder of videos in place of a made sample")
    parser.add_argument("--stream", default="resnet152")
    parser.add_argument("--precision", default="auto")
    arguments = parser.parse_args()
    stream, cores = arguments.stream, usable_cores()
    precision = resolve_precision(arguments.precision, resolve_device("cpu"))
    print(f"{processor()}, {cores} cores, torch {torch.__version__}, {stream} in {precision}", flush=True)
    with tempfile.TemporaryDirectory(prefix="mcn-benchmark-") as made:
        folder = Path(made)
        media = arguments.media or make_sample(folder / "sample", arguments.videos)
        weights = {
            stream: str(materialise(stream, "random:0", folder)),
            "davenet": str(materialise("davenet", "random:0", folder)),
        }
        files = sorted(str(path) for path in media.rglob("*.mp4"))
        found: dict[str, float] = {}
        for name, call in (
            ("network", partial(run_networks, weights=weights, stream=stream, precision=precision)),
            ("decoding", run_decoders),
        ):
            (folder / name).mkdir()
            found[name] = each_core(partial(call, begin=str(folder / name)), files, cores)
            print(f"{name}: {found[name]:.1f} s", flush=True)
        found["job"], found["first video"], line = run_job(media, folder / "dataset", weights, stream, precision)
        print(f"job: {found['job']:.1f} s, its first video after {found['first video']:.1f} s\n{line}", flush=True)
        found["published"] = run_published(files, weights, stream)
        print(f"published: {found['published']:.1f} s", flush=True)
    found["efficiency"] = (found["network"] + found["decoding"]) / found["job"]
    found["gain on the published way"] = found["published"] / found["job"]
    print(json.dumps({name: round(value, 3) for name, value in found.items()}, indent=1))


def make_sample(folder: Path, videos: int) -> Path:
    """The media of a made sample."""
    command = [sys.executable, "-m", "pipeline.cli", "sample", "--out", str(folder), "--videos", str(videos)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / "media"


if __name__ == "__main__":
    main()
