"""Doses by their formulas, and curves of planted noise."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.records import Clip
from pipeline.evaluation.probe.clips import ClipVectors, Window
from pipeline.evaluation.probe.dose_curves import (
    SOUND_DOSES,
    DosedClips,
    agreement,
    curves,
    dose_windows,
    mixed,
    surrounded,
)
from pipeline.evaluation.probe.media_features import Sound
from pipeline.evaluation.settings import Draws

DRAWS = Draws(bootstrap=200, permutations=0, seed=0)


@pytest.mark.parametrize("snr", SOUND_DOSES)
def test_a_mix_has_the_ratio_asked_for(snr: float) -> None:
    random = np.random.default_rng(0)
    own = Sound((1000 * random.normal(size=16000)).astype(np.int16), 0.25)
    other = Sound((40 * random.normal(size=7000)).astype(np.int16), 0.0)
    mix = mixed(own, other, snr)
    added = mix.samples.astype(float) - own.samples
    found = 10 * np.log10((own.samples.astype(float) ** 2).mean() / (added**2).mean())
    assert found == pytest.approx(snr, abs=0.1) and mix.start == 0.25 and len(mix.samples) == 16000
    # The shorter other is repeated.
    assert np.corrcoef(added[:7000], added[7000:14000])[0, 1] > 0.99


def test_a_loud_mix_is_turned_down_as_a_whole() -> None:
    time = np.arange(16000) / 16000
    own = Sound((30000 * np.sin(2 * np.pi * 100 * time)).astype(np.int16), 0.0)
    other = Sound((30000 * np.sin(2 * np.pi * 1000 * time)).astype(np.int16), 0.0)
    mix = mixed(own, other, 0.0).samples.astype(float)
    wanted = own.samples.astype(float) + other.samples
    assert np.abs(mix).max() == 32767
    assert np.abs(mix - wanted * 32767 / np.abs(wanted).max()).max() < 2
    with pytest.raises(ValueError, match="silent"):
        mixed(own, Sound(np.zeros(5, np.int16), 0.0), 0.0)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.75])
def test_the_surround_is_the_other_frame_s(share: float) -> None:
    frames = np.full((2, 100, 160, 3), 10, np.uint8)
    frames[1] = 20
    changed = surrounded(frames, np.full((64, 48, 3), 200, np.uint8), share)
    assert changed.shape == frames.shape
    for picture, own in zip(changed, (10, 20), strict=True):
        assert (picture == 200).mean() == pytest.approx(share, abs=0.02)
        assert (picture[50, 80] == own).all() and (picture[0] == 200).all() and (picture[:, -1] == 200).all()
    assert (frames[0] == 10).all()
    assert (surrounded(frames, frames[0], share)[0] == 10).all()


def noisy(levels: list[float], clips: int = 40, width: int = 32) -> DosedClips:
    random = np.random.default_rng(0)
    audio = random.normal(size=(clips, width))
    video = audio + 0.5 * random.normal(size=audio.shape)
    present = {"video": np.ones(clips, bool), "audio": np.ones(clips, bool)}
    embedded = [
        ClipVectors(
            {
                ("s", "video"): video.astype(np.float32),
                ("s", "audio"): (audio + level * np.random.default_rng(n).normal(size=audio.shape)).astype(np.float32),
            },
            present,
        )
        for n, level in enumerate([0.0, *levels])
    ]
    return DosedClips("noise", "audio", tuple(levels), tuple(embedded), tuple(f"v{n}" for n in range(clips)))


def test_curves_of_planted_noise_rise() -> None:
    dosed = noisy([0.25, 0.5, 1.0, 2.0, 4.0])
    (curve,) = curves(dosed, DRAWS)
    assert curve["monotone"] == {"shift": True, "lost to video": True} and curve["chance"] == 5 / 40
    shifts = [point["shift"]["value"] for point in curve["points"]]
    assert shifts == sorted(shifts) and abs(shifts[0]) < 1e-6 and shifts[-1] > 0.5
    clean, last = (dosed.embedded[n].vectors["s", "audio"].astype(float) for n in (0, -1))
    cosine = (clean * last).sum(1) / np.linalg.norm(clean, axis=1) / np.linalg.norm(last, axis=1)
    assert shifts[-1] == pytest.approx(1 - cosine.mean(), abs=1e-6)
    video = dosed.embedded[0].vectors["s", "video"]
    for point, vectors in zip(curve["points"], dosed.embedded, strict=True):
        scores = vectors.vectors["s", "audio"] @ video.T
        ranks = (scores > np.diag(scores)[:, None]).sum(1)
        assert point["recall of video"]["value"] == pytest.approx((ranks < 5).mean())
        first = curve["points"][0]["recall of video"]["value"]
        assert point["lost to video"]["value"] == pytest.approx(first - point["recall of video"]["value"])
    assert curve["points"][-1]["lost to video"]["low"] > 0


def test_a_curve_that_falls_is_not_monotone() -> None:
    (curve,) = curves(noisy([0.5, 4.0, 0.5]), DRAWS)
    assert curve["monotone"] == {"shift": False, "lost to video": False}
    # Doses that make no difference are no fall.
    (flat,) = curves(noisy([1.0, 1.0, 1.0]), DRAWS)
    assert flat["monotone"]["shift"]


def test_agreement_is_the_least_cosine() -> None:
    dosed = noisy([1.0])
    rows = np.arange(40)
    assert agreement(dosed, dosed.embedded[0], rows) == pytest.approx(1)
    clean, noised = (one.vectors["s", "audio"].astype(float) for one in dosed.embedded)
    cosine = (clean * noised).sum(1) / np.linalg.norm(clean, axis=1) / np.linalg.norm(noised, axis=1)
    assert agreement(dosed, dosed.embedded[1], rows) == pytest.approx(cosine.min())


def test_one_whole_clip_of_each_video_with_media_gets_a_dose() -> None:
    windows = [Window(Clip(f"v{n // 3}", float(n % 3), n % 3 + 1.0), ()) for n in range(30)]
    heard = np.ones(30, bool)
    heard[[0, 1, 3, 4, 5]] = False
    clips = ClipVectors({}, {"video": np.ones(30, bool), "audio": heard})
    paths = {f"v{n}": Path(f"v{n}.mp4") for n in range(9)}
    chosen = dose_windows(windows, clips, paths, most=64, seed=0)
    videos = [window.clip.video_id for window in chosen]
    assert sorted(videos) == ["v0", "v2", "v3", "v4", "v5", "v6", "v7", "v8"] and videos != sorted(videos)
    assert chosen[videos.index("v0")] == windows[2]
    assert len(dose_windows(windows, clips, paths, most=5, seed=0)) == 5
