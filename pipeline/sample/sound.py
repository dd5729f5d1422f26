"""What is heard in a video: synthesised noises and sounds of actions, and their mix with speech at stated levels."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import gcd

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, resample_poly, sosfilt

from extractors.made_clip import SOUND_RATE
from pipeline.sample.procedures import ABSENT
from pipeline.sample.speech import Speaker, Speech
from pipeline.sample.story import FRAME_RATE, VideoStory

Samples = NDArray[np.float32]
_Wave = NDArray[np.float64]
_Maker = Callable[[int, np.random.Generator], _Wave]


def _band(signal: _Wave, low: float, high: float) -> _Wave:
    return np.asarray(sosfilt(butter(2, (low, high), "bandpass", fs=SOUND_RATE, output="sos"), signal))


def _hiss(count: int, random: np.random.Generator, low: float, high: float) -> _Wave:
    return _band(random.standard_normal(count), low, high)


def _times(count: int) -> _Wave:
    return np.arange(count) / SOUND_RATE


def _hits(count: int, random: np.random.Generator, a_second: float, hit: _Wave, jitter: float = 0.15) -> _Wave:
    """`hit` repeated `a_second` times a second, its moments and loudness varied."""
    signal = np.zeros(count + len(hit))
    for beat in np.arange(0.04, count / SOUND_RATE, 1 / a_second):
        at = int(SOUND_RATE * max(0.0, beat + jitter / a_second * random.uniform(-1, 1)))
        if at < count:
            signal[at : at + len(hit)] += hit * random.uniform(0.7, 1.0)
    return signal[:count]


def _decay(seconds: float, half_life: float) -> _Wave:
    return np.asarray(0.5 ** (_times(int(seconds * SOUND_RATE)) / half_life))


def _ring(seconds: float, half_life: float, *tones: float) -> _Wave:
    envelope = _decay(seconds, half_life)
    times = _times(len(envelope))
    return sum((envelope * np.sin(2 * np.pi * tone * times) for tone in tones), np.zeros(len(envelope)))


def _strokes(count: int, a_second: float) -> _Wave:
    return np.asarray(np.abs(np.sin(np.pi * a_second * _times(count))) ** 1.5)


def _street(count: int, random: np.random.Generator) -> _Wave:
    passing = 1 + np.sin(2 * np.pi * 0.3 * _times(count) + random.uniform(0, 6))
    return _hiss(count, random, 40, 250) * (0.5 + passing) + 0.15 * _hiss(count, random, 300, 1500)


def _fan(count: int, random: np.random.Generator) -> _Wave:
    blades = 1 + 0.5 * np.sin(2 * np.pi * 23 * _times(count))
    return _hiss(count, random, 200, 900) * blades


def _rain(count: int, random: np.random.Generator) -> _Wave:
    drops = random.standard_normal(count) * (random.random(count) < 0.004) * 12
    return _hiss(count, random, 3000, 9000) + _band(drops, 1500, 8000)


def _hum(count: int, random: np.random.Generator) -> _Wave:
    phase = random.uniform(0, 6)
    return sum((np.sin(2 * np.pi * 50 * k * _times(count) + phase * k) / k for k in (1, 2, 3, 5, 7)), np.zeros(count))


def _music(count: int, random: np.random.Generator) -> _Wave:
    notes = 220 * 2 ** (np.array((0, 4, 7, 12, 7, 4)) / 12)
    signal = np.zeros(count)
    for beat in range(int(count / SOUND_RATE / 0.25) + 1):
        at = int(beat * 0.25 * SOUND_RATE)
        note = _ring(0.5, 0.12, notes[beat % 6], 2 * notes[beat % 6])[: count - at]
        signal[at : at + len(note)] += note
    return signal + 0.01 * random.standard_normal(count)


def _crowd(count: int, random: np.random.Generator) -> _Wave:
    signal = np.zeros(count)
    for _ in range(7):
        pace, start = random.uniform(2.5, 5), random.uniform(0, 6)
        formant = random.uniform(350, 1600)
        syllables = np.clip(np.sin(2 * np.pi * pace * _times(count) + start), 0, 1)
        signal += _hiss(count, random, formant * 0.8, formant * 1.25) * syllables
    return signal


_NOISES: dict[str, _Maker] = {
    "street": _street,
    "fan": _fan,
    "rain": _rain,
    "hum": _hum,
    "music": _music,
    "crowd": _crowd,
}


def _rolling(count: int, random: np.random.Generator) -> _Wave:
    return _hiss(count, random, 60, 220) * (0.3 + _strokes(count, 1.5))


def _bubbles(count: int, random: np.random.Generator) -> _Wave:
    signal = np.zeros(count + 4000)
    for at in random.integers(0, count, size=max(1, int(14 * count / SOUND_RATE))):
        time = np.arange(3000) / SOUND_RATE
        base = random.uniform(300, 700)
        signal[at : at + 3000] += np.sin(2 * np.pi * (base * time + 3000 * time**2)) * 0.5 ** (time / 0.015)
    return signal[:count]


def _crackle(count: int, random: np.random.Generator) -> _Wave:
    pops = random.standard_normal(count) * (random.random(count) < 0.0012) * 25
    return _hiss(count, random, 4000, 12000) + _band(pops, 1000, 6000)


_ACTION_SOUNDS: dict[str, _Maker] = {
    "knock": lambda n, r: _hits(n, r, 4.0, _ring(0.15, 0.012, 180, 310, 520)),
    "scrape": lambda n, r: _hiss(n, r, 2500, 5000) * _strokes(n, 2.0),
    "rasp": lambda n, r: _hiss(n, r, 900, 2600) * _strokes(n, 3.0) * (1 + np.sign(np.sin(2 * np.pi * 70 * _times(n)))),
    "rattle": lambda n, r: _hits(n, r, 9.0, _ring(0.2, 0.02, 2100, 3370, 4620)),
    "sizzle": _crackle,
    "water": lambda n, r: _hiss(n, r, 500, 3500) + 0.8 * _bubbles(n, r),
    "swish": lambda n, r: _hiss(n, r, 5000, 10000) * _strokes(n, 2.6) ** 2,
    "rumble": _rolling,
    "squelch": lambda n, r: _hiss(n, r, 250, 900) * _strokes(n, 2.2) ** 3 + 0.4 * _bubbles(n, r),
    "shake": lambda n, r: _hits(n, r, 6.0, _hiss(3500, r, 6000, 12000) * _decay(3500 / SOUND_RATE, 0.015)[:3500]),
    "clack": lambda n, r: _hits(n, r, 1.8, _ring(0.3, 0.04, 1250, 2800)),
    "gurgle": lambda n, r: 1.5 * _bubbles(n, r) + 0.3 * _hiss(n, r, 150, 500),
}


def _unit(signal: _Wave) -> Samples:
    """Mean square 1, so that levels in decibels mean something; edges faded over 10 ms against clicks."""
    samples = np.asarray(signal / max(1e-9, np.sqrt(np.mean(signal**2))), dtype=np.float32)
    fade = min(len(samples) // 2, SOUND_RATE // 100)
    ramp = np.linspace(0, 1, fade, dtype=np.float32)
    samples[:fade] *= ramp
    samples[len(samples) - fade :] *= ramp[::-1]
    return samples


def noise(name: str, count: int, random: np.random.Generator) -> Samples:
    """`count` samples of a background noise with mean square 1."""
    return _unit(_NOISES[name](count, random))


def action_sound(name: str, count: int, random: np.random.Generator) -> Samples:
    """`count` samples of an action's sound with mean square 1."""
    return _unit(_ACTION_SOUNDS[name](count, random))


SPEECH_LEVEL = 0.09
"""Root mean square of the speech, full scale being 1."""
SPEECH_OVER_ACTION_DB = 4.0
SPEECH_OVER_NOISE_DB = 12.0
WHITE_NOISE_BIT_RATE = 192_000
"""Bits a second. At the encoder's own choice, some 70,000, how much of white noise is left out changes by 1 dB in the
course of a video, and tells the time in it."""
_SPEECH_DELAY_S = 0.04
_PAUSE_S = 0.06


@dataclass(frozen=True)
class Utterance:
    """One line as it was said: its segment's index, and (word, start, end) in seconds of the video."""

    segment: int
    words: tuple[tuple[str, float, float], ...]

    @property
    def start(self) -> float:
        """Seconds."""
        return self.words[0][1]

    @property
    def end(self) -> float:
        """Seconds."""
        return self.words[-1][2]


@dataclass(frozen=True)
class Soundtrack:
    """Samples in [-1, 1] at 44,100 a second, and what was said when."""

    samples: Samples
    utterances: tuple[Utterance, ...]
    bit_rate: int = 0
    """Bits a second that coding it takes; 0 leaves the choice to the encoder."""


def make_soundtrack(story: VideoStory) -> Soundtrack:
    """Speech within its segment, at 12 dB over the noise and 4 dB over the sound of the action."""
    total = round(story.frames * SOUND_RATE / FRAME_RATE)
    samples = np.zeros(total, np.float32)
    utterances = []
    random = story.random("sound")
    for first, stop, name in _runs(story):
        count = min(total, stop * SOUND_RATE // FRAME_RATE) - first * SOUND_RATE // FRAME_RATE
        at = first * SOUND_RATE // FRAME_RATE
        samples[at : at + count] += noise(name, count, random) * SPEECH_LEVEL * 10 ** (-SPEECH_OVER_NOISE_DB / 20)
    with Speaker() as speaker:
        for index, segment in enumerate(story.segments):
            at, until = (frame * SOUND_RATE // FRAME_RATE for frame in (segment.first, segment.stop))
            if segment.action_sound != ABSENT:
                level = SPEECH_LEVEL * 10 ** (-SPEECH_OVER_ACTION_DB / 20)
                samples[at:until] += action_sound(segment.action_sound, until - at, random) * level
            if segment.text:
                longest_s = segment.end - segment.start - _SPEECH_DELAY_S - _PAUSE_S
                speech = speaker.say(segment.text, segment.voice, longest_s)
                at += round(_SPEECH_DELAY_S * SOUND_RATE)
                voice = _at_sound_rate(speech)[: total - at]
                samples[at : at + len(voice)] += voice
                begin = at / SOUND_RATE
                utterances.append(Utterance(index, tuple((word, begin + a, begin + b) for word, a, b in speech.words)))
    return Soundtrack(np.clip(samples, -0.99, 0.99), tuple(utterances))


def white_noise_instead(story: VideoStory, soundtrack: Soundtrack) -> Soundtrack:
    """White noise alone, as loud as speech throughout; the utterances stay, as what would have been heard."""
    random = story.random("uninformative audio")
    noise = SPEECH_LEVEL * random.standard_normal(len(soundtrack.samples), np.float32)
    return replace(soundtrack, samples=noise, bit_rate=WHITE_NOISE_BIT_RATE)


def _at_sound_rate(speech: Speech) -> Samples:
    """The speech at 44,100 samples a second and at the level of all speech."""
    common = gcd(SOUND_RATE, speech.rate)
    samples = resample_poly(speech.samples, SOUND_RATE // common, speech.rate // common)
    return np.asarray(samples * SPEECH_LEVEL / np.sqrt(np.mean(samples**2)), np.float32)


def _runs(story: VideoStory) -> list[tuple[int, int, str]]:
    """(first frame, stop frame, noise) of each run of segments with the same noise."""
    runs: list[tuple[int, int, str]] = []
    for segment in story.segments:
        if runs and runs[-1][2] == segment.noise:
            runs[-1] = (runs[-1][0], segment.stop, segment.noise)
        else:
            runs.append((segment.first, segment.stop, segment.noise))
    return runs
