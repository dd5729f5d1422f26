"""Features of changed media: those of a span equal those of the whole."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extractors.audio import feature_rows
from extractors.errors import MediaError
from extractors.logmel import log_mel
from extractors.made_clip import write_made_clip
from pipeline.core.errors import InputError
from pipeline.evaluation.probe.media_features import MediaFeatures, Sound
from pipeline.extraction.settings import ExtractSettings
from pipeline.training.checkpoint import open_trained


@pytest.fixture
def media(factors: Any, stand_ins: None, tmp_path: Path) -> Any:
    settings = ExtractSettings(tmp_path, factors.manifest.parent.parent)
    with MediaFeatures(open_trained(factors.model), settings) as media:
        yield media


def recording(seconds: float, start: float) -> Sound:
    random = np.random.default_rng(1)
    samples = 3000 * random.normal(size=int(16000 * seconds)) * np.linspace(0.2, 1, int(16000 * seconds))
    return Sound(samples.astype(np.int16), start)


@pytest.mark.parametrize(("start", "end"), [(0.0, 3.0), (14.0, 18.0), (27.5, 29.25), (26.0, 40.0)])
def test_rows_of_a_span_are_those_of_the_whole(media: Any, make_video: Any, start: float, end: float) -> None:
    sound = recording(30.0, 0.3)
    whole = media.audio_network.steps(log_mel(sound.samples).astype(np.float16))
    rows, mask = feature_rows(whole, 0.3, 31, 1)
    video = make_video("v", seconds=30.5)
    heard = media.heard(video, sound, start, end)
    span = slice(int(start), min(int(np.ceil(end)), 31))
    assert heard.audio.shape == (31, 1024) and heard.audio_mask[span].tolist() == mask[span].tolist()
    assert np.abs(heard.audio[span].astype(float) - rows[span].astype(np.float16)).max() < 1e-3
    assert np.abs(rows[span]).max() > 0.05
    # What is left out isn't taken for silence.
    assert heard.audio_mask.sum() <= end - start + 5
    native = media.heard(replace(video, audio_rate="native"), sound, start, end)
    first = int(max(0, start - 0.3) / 0.16)
    assert np.abs(native.audio[first : first + 6] - whole[first : first + 6].astype(np.float16)).max() < 1e-3


def test_a_recording_alone_is_a_video_without_pictures(media: Any) -> None:
    video = media.recording("dog", recording(5.0, 0.0))
    assert (video.duration, len(video.audio_mask), video.audio_mask.all()) == (5.0, 5, True)
    assert not video.video_mask.any() and video.captions == ()


def test_frames_of_rows_and_their_features(media: Any, make_video: Any, tmp_path: Path) -> None:
    write_made_clip(tmp_path / "clip.mp4", 5)
    rows, frames = media.frames(tmp_path / "clip.mp4", slice(1, 4))
    assert rows.tolist() == [1, 2, 3] and frames.shape[0] == 3 and frames.shape[3] == 3
    video = make_video("v", seconds=5.0, streams={"resnet152": 24})
    dark, bright = media.seen(video, rows, [np.zeros_like(frames), np.full_like(frames, 255)])
    assert (dark.video["resnet152"][1:4] == 0).all() and (bright.video["resnet152"][1:4] == 255).all()
    for changed in (dark, bright):
        assert (changed.video["resnet152"][[0, 4]] == video.video["resnet152"][[0, 4]]).all()
    assert media.sound(tmp_path / "clip.mp4").samples.std() > 100
    with pytest.raises(MediaError, match="no frame in rows"):
        media.frames(tmp_path / "clip.mp4", slice(50, 52))
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(MediaError):
        media.sound(tmp_path / "bad.mp4")


def test_weights_that_are_not_the_data_set_s_are_refused(factors: Any, tmp_path: Path) -> None:
    dataset = factors.manifest.parent.parent
    settings = ExtractSettings(tmp_path, dataset, davenet_weights=str(tmp_path / "absent.pt"))
    with MediaFeatures(open_trained(factors.model), settings) as media:
        with pytest.raises(InputError, match="absent.pt: no such weights file for davenet"):
            _ = media.audio_network
