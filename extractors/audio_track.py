"""The sound of a media file as 16 kHz mono samples, in a scratch file: an hour is 115 MB."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from extractors.decode import DecodeSettings, SoundChunk, SoundSummary
from extractors.decoder_process import DecoderProcess
from extractors.feature_format import SAMPLE_RATE

_DECODE = "extractors.decode_audio:decode_audio"


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


def extract_audio(
    path: str | Path, scratch_dir: str | Path, time_limit_s: float = 300.0, decoder: DecoderProcess | None = None
) -> AudioTrack | None:
    """The sound that `extractors.decode_audio` decodes; None if the file holds no audio stream.

    By `decoder`, which has its own time limit, or by one started for this file. The scratch file belongs to the track:
    the caller deletes `scratch_dir` after it.

    Raises MediaError ("missing-file", "zero-length", "undecodable", "timeout", ...), DecoderError, OSError of the disk.
    """
    if decoder is None:
        with DecoderProcess(DecodeSettings(time_limit_s=time_limit_s)) as own:
            return extract_audio(path, scratch_dir, time_limit_s, own)
    handle, raw = tempfile.mkstemp(suffix=".s16le", dir=os.path.abspath(scratch_dir))
    summary = SoundSummary(False, 0.0, ())
    count = 0
    with open(handle, "wb") as file:
        for message in decoder.results(_DECODE, path, SoundSummary):
            if isinstance(message, SoundChunk):
                file.write(message.samples.astype("<i2").tobytes())
                count += len(message.samples)
            else:
                assert isinstance(message, SoundSummary)
                summary = message
    if not summary.has_audio:
        return None
    if not count:
        return AudioTrack(np.zeros(0, np.int16), 0.0, summary.notes)
    return AudioTrack(np.memmap(raw, "<i2", mode="r", shape=(count,)), summary.start, summary.notes)
