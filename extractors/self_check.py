"""Whether the decoders work here, tried on a made clip before any file of a user's."""

import tempfile
from pathlib import Path

import numpy as np

from extractors.decode import DecodeSettings, DecodeSummary, SoundChunk, SoundSummary
from extractors.decode_audio import decode_audio
from extractors.decode_video import decode_video
from extractors.errors import DecoderError, MediaError
from extractors.feature_format import SAMPLE_RATE
from extractors.made_clip import write_made_clip
from extractors.media_file import MediaFile

_SECONDS = 0.5


def check_decoders() -> None:
    """Decodes picture and sound of a made clip; DecoderError where they don't come out.

    It also brings in what the libraries import at their first use: while a user's file is read, nothing can be opened.
    """
    settings = DecodeSettings(feature_fps=6, frame_size="64x48")
    with tempfile.TemporaryDirectory(prefix="mcn-decoder-") as folder:
        clip = Path(folder, "made.mp4")
        write_made_clip(clip, _SECONDS, 64, 48)
        try:
            for without_decord in (False, True):
                with MediaFile(str(clip)) as file:
                    *_, summary = decode_video(file, settings, without_decord)
                if not isinstance(summary, DecodeSummary) or summary.mask.tolist() != [True] * 3:
                    raise DecoderError("the decoder loses pictures of a made clip")
            with MediaFile(str(clip)) as file:
                *chunks, heard = decode_audio(file, settings)
        except MediaError as error:
            raise DecoderError(f"the decoder can't read a made clip: {error}") from error
    samples = np.concatenate([chunk.samples for chunk in chunks if isinstance(chunk, SoundChunk)])
    if not isinstance(heard, SoundSummary) or abs(len(samples) - _SECONDS * SAMPLE_RATE) > 0.1 * SAMPLE_RATE:
        raise DecoderError(f"the decoder hears {len(samples) / SAMPLE_RATE:.2f} s of a made clip of {_SECONDS} s")
    if not np.abs(samples).max() > 1000:
        raise DecoderError("the decoder hears nothing in a made clip")
