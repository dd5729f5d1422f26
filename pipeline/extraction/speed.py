"""How fast this machine extracts: a made video through the decoder and the study's own networks, weights random."""

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from extractors.audio import AudioNetwork, feature_rows
from extractors.audio_track import extract_audio
from extractors.decoder_process import DecoderProcess
from extractors.logmel import log_mel
from extractors.made_clip import write_made_clip
from extractors.networks import find_network
from extractors.precision import one_thread, resolve_device
from extractors.video import FrameNetwork
from extractors.weights import Weights
from pipeline.core.reporting import Progress
from pipeline.extraction.made_clip import decode_picture
from pipeline.extraction.settings import ExtractSettings

CLIP_S = 16
"""Seconds of the made video."""


@dataclass(frozen=True)
class ExtractionRates:
    """Cost of a second of video."""

    device: str
    """Where the networks ran: `cpu` or `cuda...`."""
    precision: str
    """Of the video networks."""
    core_s: float
    """Seconds of one core for a second of video: decoding and sound, and on a processor the networks too."""
    gpu_s: float
    """Seconds of one GPU for a second of video; 0 on a processor."""
    parts: dict[str, float]
    """The same by part: `decoding`, `sound`, and each network; core seconds, or GPU seconds for networks on a GPU."""


def probe_extraction(settings: ExtractSettings, seconds: float) -> ExtractionRates:
    """Measure for about `seconds` of wall time; at least one pass of each part, however few they are.

    Processor time is counted and not wall time, so that other load on the machine changes little. Raises ValueError for
    a device that isn't here, WeightsError for a network that isn't installed.
    """
    device = resolve_device(settings.device)
    ends = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="mcn-probe-") as folder, one_thread():
        clip = Path(folder) / "clip.mp4"
        write_made_clip(clip, CLIP_S)
        networks = [FrameNetwork(_weights(n), settings.view, settings.precision, str(device)) for n in settings.streams]
        davenet = AudioNetwork(_weights("davenet"), str(device))
        share = max(0.0, ends - time.monotonic()) / (2 + len(networks))
        parts: dict[str, float] = {}
        with Progress("probe: extraction", 2 + len(networks), "part") as progress:
            parts["decoding"], frames = _decoding(clip, settings, share)
            progress.to(1)
            parts["sound"], parts["davenet"] = _sound(clip, Path(folder), davenet, settings, share)
            progress.to(2)
            for network in networks:
                parts[network.name] = input_seconds(network, frames, share) * settings.feature_fps
                progress.to(progress.count + 1)
    on_gpu = {"davenet", *settings.streams} if device.type == "cuda" else set()
    return ExtractionRates(
        str(device),
        networks[0].precision,
        sum(cost for part, cost in parts.items() if part not in on_gpu),
        sum(cost for part, cost in parts.items() if part in on_gpu),
        parts,
    )


def _weights(network: str) -> Weights:
    """Initial values as torch draws them: they cost what any weights cost, and need no file."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Weights(network, find_network(network).build().state_dict(), "")


def _own_seconds() -> float:
    """Processor seconds of this process and of the children it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _child_seconds(decoder: DecoderProcess) -> float:
    """Processor seconds of the decoder's process so far."""
    times = psutil.Process(decoder.pid).cpu_times()
    return times.user + times.system


def _decoding(clip: Path, settings: ExtractSettings, seconds: float) -> tuple[float, NDArray[np.uint8]]:
    """Core seconds of the decoder's process a second of video, and the clip's frames (n, H, W, 3)."""
    with DecoderProcess(settings.decoding()) as decoder:
        frames, _ = decode_picture(decoder, clip)  # its libraries are loaded in this pass
        before, passes, began = _child_seconds(decoder), 0, time.monotonic()
        while not passes or time.monotonic() - began < seconds:
            decode_picture(decoder, clip)
            passes += 1
        used = _child_seconds(decoder) - before
    return used / passes / CLIP_S, frames


def _sound(
    clip: Path, scratch: Path, network: AudioNetwork, settings: ExtractSettings, seconds: float
) -> tuple[float, float]:
    """Core seconds of the sound's decoding and log-mel, and seconds of DaveNet, each a second of video."""
    samples = logmel_s = network_s = 0.0
    with DecoderProcess(settings.decoding()) as decoder:
        extract_audio(clip, scratch, decoder=decoder)  # its libraries are loaded in this pass
        began = time.monotonic()
        while not samples or time.monotonic() - began < seconds:
            before = _own_seconds() + _child_seconds(decoder)
            track = extract_audio(clip, scratch, decoder=decoder)
            assert track is not None
            logmel = log_mel(track.samples).astype(np.float16)
            logmel_s += _own_seconds() + _child_seconds(decoder) - before
            samples += track.duration
            if settings.audio_store != "logmel":
                before = _seconds_of(network.device)
                feature_rows(network.steps(logmel), track.start, CLIP_S * settings.feature_fps, settings.feature_fps)
                network_s += _seconds_of(network.device) - before
    return logmel_s / samples, network_s / samples


def input_seconds(network: FrameNetwork, frames: NDArray[np.uint8], seconds: float) -> float:
    """Seconds a frame, or a clip of them, in batches as full as extraction's, measured for about `seconds`.

    `frames` (n, H, W, 3) are repeated to fill a batch. On a GPU they are wall time, on a processor its own time.
    """
    clip = () if network.clip is None else (network.clip.frames,)
    full = np.resize(frames, (network.frames_at_once, *clip, *frames.shape[1:]))
    network.features(full)
    done, before, began = 0, _seconds_of(network.device), time.monotonic()
    while not done or time.monotonic() - began < seconds:
        network.features(full)
        done += len(full)
    return (_seconds_of(network.device) - before) / done


def _seconds_of(device: torch.device) -> float:
    """What is counted there: a GPU's wall time (its results have arrived by now), a processor's own."""
    return time.monotonic() if device.type == "cuda" else _own_seconds()
