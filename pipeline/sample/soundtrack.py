"""What is heard in a video: speech, sounds of actions and background noise, mixed at stated levels."""

from dataclasses import dataclass, replace
from math import gcd

import numpy as np
from scipy.signal import resample_poly

from pipeline.sample.procedures import ABSENT
from pipeline.sample.sound import SOUND_RATE, Samples, action_sound, noise
from pipeline.sample.speech import Speaker, Speech
from pipeline.sample.story import FRAME_RATE, VideoStory

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
