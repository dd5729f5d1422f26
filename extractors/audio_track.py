"""The sound of a media file as 16 kHz mono samples, by the FFmpeg program of imageio-ffmpeg.

The program runs in a process of its own, is killed at its time limit, and writes to a scratch file: an hour is 115 MB.
"""

import errno
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from extractors.decode import FFMPEG_OPEN_OPTIONS, LONGEST_DURATION_S, check_path
from extractors.errors import MediaError
from extractors.feature_format import SAMPLE_RATE

_CONTAINER_START = re.compile(r"^\[info\]\s+Duration: [^,]*, start: (-?\d+\.\d+)", re.MULTILINE)
_ERROR_LINE = re.compile(r"^(?:\[[^\]]* @ [^\]]*\] )?\[(?:error|fatal)\] (.*)$", re.MULTILINE)
_MAPPING = "Stream mapping:"
_NO_INPUT = "Error opening input"
_DISK_FULL = os.strerror(errno.ENOSPC)
_NO_AUDIO = "Output file does not contain any stream"


@dataclass(frozen=True)
class AudioTrack:
    """Sound from `start` on; what lies before is not silence but absent."""

    samples: NDArray[np.int16]
    """mono, 16 kHz, shape (n,); mapped from a scratch file, and empty if nothing could be decoded"""
    start: float
    """seconds from the media's time zero to the first sample, never negative"""
    notes: tuple[str, ...]
    """one line each; empty for a stream without faults"""

    @property
    def duration(self) -> float:
        """Seconds of sound."""
        return len(self.samples) / SAMPLE_RATE


def extract_audio(path: str | Path, scratch_dir: str | Path, time_limit_s: float = 300.0) -> AudioTrack | None:
    """Decodes a file's sound, mixed down to mono and resampled to 16 kHz; None if it holds no audio stream.

    Priming samples are trimmed, and gaps within the stream are filled with silence, so that sample n is heard at
    start + n / 16000 seconds from time zero (the container's start, as for the frames). A stream that breaks gives what
    was decoded, with a note. The scratch file belongs to the track: the caller deletes `scratch_dir` after it.

    Raises MediaError: "missing-file", "zero-length", "undecodable" (no media file), "timeout".
    """
    source = check_path(path)
    handle, raw = tempfile.mkstemp(suffix=".s16le", dir=os.path.abspath(scratch_dir))
    os.close(handle)
    times = f"{raw}.times"
    status, log = _run_ffmpeg(_arguments(source, raw, times), path, time_limit_s)
    if _NO_AUDIO in log:
        return None
    if _DISK_FULL in log:
        raise OSError(errno.ENOSPC, f"{_DISK_FULL} while the sound of {path} was decoded", str(scratch_dir))
    if status and _NO_INPUT in log:
        reason = next(iter(_ERROR_LINE.findall(log)), f"exit status {status}")
        raise MediaError("undecodable", f"{path}: is not a media file that FFmpeg can open ({reason})")
    notes = []
    # What stands before the mapping comes from probing all streams, the video's too.
    if faults := _ERROR_LINE.findall(log.partition(_MAPPING)[2]):
        notes.append(f"audio: {len(faults)} faults while it was decoded, the first: {faults[0][:160]}")
    elif status:
        notes.append(f"audio: FFmpeg stopped with exit status {status}")
    first = _first_sample(times, log)
    count = os.path.getsize(raw) // 2
    if first is None or not count:
        return AudioTrack(np.zeros(0, dtype=np.int16), 0.0, (*notes, "audio: no sample could be decoded"))
    samples = np.memmap(raw, dtype="<i2", mode="r", shape=(count,))
    return AudioTrack(samples[max(-first, 0) :], max(first, 0) / SAMPLE_RATE, tuple(notes))


def _arguments(source: str, raw: str, times: str) -> list[str]:
    opening = [word for name, value in FFMPEG_OPEN_OPTIONS.items() for word in (f"-{name}", value)]
    return [
        *("-nostdin", "-nostats", "-hide_banner", "-y", "-loglevel", "repeat+level+info"),
        *("-threads", "1", *opening, "-i", f"file:{source}"),
        # The file's own time stamps, for FFmpeg would shift a container that starts before zero.
        *("-vn", "-sn", "-dn", "-copyts"),
        *("-af", f"aresample={SAMPLE_RATE}:async=1", "-ac", "1", "-t", f"{LONGEST_DURATION_S:.0f}"),
        *("-stats_enc_pre:a", f"file:{times}", "-stats_enc_pre_fmt:a", "{pts} {tb}"),
        *("-c:a", "pcm_s16le", "-f", "s16le", f"file:{raw}"),
    ]


def _run_ffmpeg(arguments: Sequence[str], path: str | Path, time_limit_s: float) -> tuple[int, str]:
    """Exit status and log."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), *arguments]
    try:
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=time_limit_s)
    except subprocess.TimeoutExpired as error:
        raise MediaError("timeout", f"{path}: its sound was not decoded within {time_limit_s:g} s") from error
    return done.returncode, done.stderr.decode("utf-8", "replace")


def _first_sample(times: str, log: str) -> int | None:
    """The number, from time zero on, of the first sample decoded; None if there was none."""
    try:
        with open(times, encoding="ascii") as lines:
            words = lines.readline().split()
        os.unlink(times)
    except FileNotFoundError:
        return None
    if len(words) != 2:
        return None
    container_start = _CONTAINER_START.search(log)
    zero = max(Fraction(container_start[1]), Fraction(0)) if container_start else Fraction(0)
    return round((int(words[0]) * Fraction(words[1]) - zero) * SAMPLE_RATE)
