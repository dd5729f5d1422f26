"""A made clip through the decoder and FFmpeg: a machine that fails on it may charge no file with a failure."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from extractors.audio_track import extract_audio
from extractors.decode import DecodeSummary
from extractors.decoder_process import DecoderProcess
from extractors.feature_format import SAMPLE_RATE
from extractors.made_clip import write_made_clip
from extractors.timeline import frame_size, parse_frame_size
from pipeline.core.errors import ToolError, tool_errors

CLIP_S = 2
_WIDTH, _HEIGHT = 160, 90
_SOUND_TOLERANCE_S = 0.1


@dataclass(frozen=True)
class DecodedClip:
    """What came out of the made clip."""

    frames: NDArray[np.uint8]
    """RGB, (frames, height, width, 3)"""
    summary: DecodeSummary
    samples: NDArray[np.int16]
    """Mono, 16 kHz."""


def decode_picture(decoder: DecoderProcess, clip: Path) -> tuple[NDArray[np.uint8], DecodeSummary]:
    """All frames (n, height, width, 3) of a file, and the decoder's summary. Raises MediaError, DecoderError."""
    info = decoder.open(clip)
    batches = [np.zeros((0, info.height, info.width, 3), np.uint8), *(batch.frames for batch in decoder.batches())]
    return np.concatenate(batches), decoder.summary


def decode_made_clip(decoder: DecoderProcess) -> DecodedClip:
    """Write the clip, decode picture and sound, count frames and samples; 0.2 s with a decoder that has started.

    Raises ToolError.
    """
    settings = decoder.settings
    doing = "a made clip can't be decoded on this machine (see `mcn doctor`)"
    with tempfile.TemporaryDirectory(prefix="mcn-clip-") as folder, tool_errors(doing):
        clip = Path(folder) / "clip.mp4"
        write_made_clip(clip, CLIP_S, _WIDTH, _HEIGHT)
        frames, summary = decode_picture(decoder, clip)
        track = extract_audio(clip, folder, decoder=decoder)
        # A copy: the track's own samples are mapped from a file that goes with the folder.
        samples = np.array(track.samples if track is not None else (), np.int16)
    width, height = parse_frame_size(settings.frame_size) or frame_size(_WIDTH, _HEIGHT)
    found, expected = frames.shape[:3], (CLIP_S * settings.frame_fps, height, width)
    if found != expected or not summary.mask.all():
        raise ToolError(f"{doing}: frames, height and width are {found}, not {expected}; {'; '.join(summary.notes)}")
    heard = len(samples) / SAMPLE_RATE
    if abs(heard - CLIP_S) > _SOUND_TOLERANCE_S:
        raise ToolError(f"{doing}: {heard:.2f} s of sound, not {CLIP_S} s")
    return DecodedClip(frames, summary, samples)
