"""What the sample sounds like: speech, noises, sounds of actions."""

import itertools
import sys
from collections.abc import Callable

import numpy as np
import pytest
from scipy.signal import welch

from extractors.made_clip import SOUND_RATE
from pipeline.core.errors import InputError
from pipeline.sample.procedures import ACTION_SOUNDS, NOISES, VOICES
from pipeline.sample.sound import action_sound, noise
from pipeline.sample.speech import Speaker, check_speech


def profile(samples: np.ndarray) -> np.ndarray:
    """Log spectrum in 24 bands and of the loudness over time in 12, without regard to the level."""
    frequencies, power = welch(samples, SOUND_RATE, nperseg=4096)
    edges = np.geomspace(40, 16000, 25)
    bands = [np.log(power[(frequencies >= a) & (frequencies < b)].mean() + 1e-9) for a, b in itertools.pairwise(edges)]
    envelope = np.sqrt(np.mean(samples[: len(samples) // 441 * 441].reshape(-1, 441) ** 2, axis=1))
    _, rhythm = welch(envelope / envelope.mean(), 100, nperseg=128)
    return np.concatenate([bands - np.mean(bands), np.log(rhythm[1:25].reshape(12, 2).mean(1) + 1e-5)])


@pytest.mark.parametrize(("make", "names"), [(noise, NOISES), (action_sound, ACTION_SOUNDS)])
def test_sounds_are_told_apart_whatever_the_seed(make: Callable, names: tuple[str, ...]) -> None:
    count = 2 * SOUND_RATE
    known = [profile(make(name, count, np.random.default_rng(1))) for name in names]
    for name in names:
        samples = make(name, count, np.random.default_rng(2))
        assert samples.dtype == np.float32 and len(samples) == count
        assert np.mean(samples**2) == pytest.approx(1, abs=0.05)
        distances = [np.linalg.norm(profile(samples) - other) for other in known]
        assert names[int(np.argmin(distances))] == name


def test_sounds_are_repeatable() -> None:
    for name in ACTION_SOUNDS:
        a, b = (action_sound(name, 5000, np.random.default_rng(3)) for _ in range(2))
        np.testing.assert_array_equal(a, b)


def test_words_are_timed_in_order_within_the_speech() -> None:
    pytest.importorskip("espeakng_loader")
    text = "go and chop the onion"
    with Speaker() as speaker:
        spoken = speaker.say(text, "adam", 5.0)
    assert [word for word, _, _ in spoken.words] == text.split()
    times = [time for _, start, end in spoken.words for time in (start, end)]
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= len(spoken.samples) / spoken.rate + 1e-6
    assert 0.5 < len(spoken.samples) / spoken.rate < 2.5
    # No silence at the ends.
    assert np.abs(spoken.samples[:200]).max() > 0.01 and np.abs(spoken.samples[-200:]).max() > 0.005


def test_speech_hurries_to_fit() -> None:
    pytest.importorskip("espeakng_loader")
    with Speaker() as speaker:
        free = speaker.say("my sister always asks me this", "carl", 9.0)
        tight = speaker.say("my sister always asks me this", "carl", 1.4)
    assert len(tight.samples) <= 1.4 * tight.rate < len(free.samples)


def test_a_speaker_does_not_depend_on_what_others_said_before() -> None:
    pytest.importorskip("espeakng_loader")
    first = {}
    for voice in VOICES:
        with Speaker() as speaker:
            first[voice] = speaker.say("now peel the carrot", voice, 5.0).samples
            speaker.say("thanks so much for watching", voice, 5.0)
    for voice in reversed(VOICES):
        with Speaker() as speaker:
            np.testing.assert_array_equal(speaker.say("now peel the carrot", voice, 5.0).samples, first[voice])
    assert len({len(samples) for samples in first.values()}) == len(VOICES)


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(InputError, match=r"pip install 'mcn\[sample\]'"):
        check_speech()
