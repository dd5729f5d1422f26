"""A real narrated clip (H.264 426x240, Opus, 10.38 s) through the whole extraction, against FFmpeg's own frames."""

import subprocess
import warnings
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from beam_jobs.extract import ExtractSettings, run
from extractors.decode import DecodeSettings
from extractors.decoder_process import DecoderProcess
from extractors.video import FrameNetwork
from extractors.weights import load_weights, materialise
from pipeline.core.ledger import latest_states
from pipeline.dataset.shard_reader import FeatureFile


def ffmpeg_frames(path: Path, width: int, height: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Every 30th frame of a 30 fps file, resized as the decoder does."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-an", "-fps_mode", "passthrough"]
    command += ["-vf", "select=not(mod(n\\,30))", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, check=True, capture_output=True).stdout
    frames = np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR)) for frame in frames])


@pytest.fixture(scope="module")
def clip(shared_media: Path) -> Path:
    return shared_media / "pancake.mkv"


@pytest.fixture(scope="module")
def reference(clip: Path) -> NDArray[np.uint8]:
    return ffmpeg_frames(clip, 426, 240, (454, 256))


def test_frames_agree_with_ffmpegs(clip: Path, reference: NDArray[np.uint8]) -> None:
    with DecoderProcess(DecodeSettings()) as decoder:
        info = decoder.open(clip)
        frames = np.concatenate([batch.frames for batch in decoder.batches()])
        assert decoder.summary.notes == () and decoder.summary.mask.all()
    assert (info.rows, info.width, info.height) == (11, 454, 256)
    difference = np.abs(frames.astype(int) - reference.astype(int)).mean(axis=(1, 2, 3))
    assert (difference < 2).all(), difference


def test_rows_agree_with_ffmpegs_frames(clip: Path, reference: NDArray[np.uint8], tmp_path: Path) -> None:
    settings = ExtractSettings(
        media=clip, out=tmp_path / "dataset", streams=("efficientnet-lite0",), precision="fp32", workers=1
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert run(settings).complete
    (shard,) = (settings.out / "shards").glob("*.h5")
    with FeatureFile(shard) as file:
        (video,) = file.videos()
    rows = video.video["efficientnet-lite0"].astype(np.float64)
    assert rows.shape == (11, 1280) and video.video_mask.all() and video.audio_mask.all()
    # 310 pictures at 30 fps; the sound goes on for another 35 ms.
    assert video.duration == pytest.approx(310 / 30, abs=0.001)
    assert video.logmel is not None and len(video.logmel) == pytest.approx(1037, abs=1)
    assert latest_states(settings.out / "ledger", "extract")["pancake"].latest.message == ""

    weights = load_weights("efficientnet-lite0", materialise("efficientnet-lite0", "IMAGENET1K", tmp_path))
    network = FrameNetwork(weights, "full", "fp32", "cpu")
    expected = network.features(reference).astype(np.float64)
    centre = expected.mean(axis=0)
    ours, theirs = rows - centre, expected - centre
    ours /= np.linalg.norm(ours, axis=1, keepdims=True)
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    cosines = ours @ theirs.T
    assert (np.diagonal(cosines) > 0.99).all(), np.diagonal(cosines)
    assert (cosines.argmax(axis=1) == np.arange(11)).all()
