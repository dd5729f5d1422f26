"""Speech from text by eSpeak NG, loaded by ctypes from the wheel `espeakng-loader`.

eSpeak NG is under GPL-3: nothing but the making of a sample needs it, and nothing else imports this module.

Its library keeps the phase of the voice from one text to the next: what it says depends on all that it said before. A
`Speaker` therefore loads a copy of the library of its own, and the same texts in the same order give the same samples.
"""

import ctypes
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import InputError

_SYNCHRONOUS = 2
_RATE, _PITCH, _RANGE = 1, 3, 4
_UTF8 = 1
_CHARACTER = 1
_END_OF_LIST, _WORD_EVENT = 0, 1
_FASTEST = 400
"""Words a minute."""
_CURE = "pip install 'mcn[sample]'"

VOICES_OF_ESPEAK: dict[str, tuple[str, int, int]] = {
    "adam": ("en-us+m3", 40, 190),
    "beth": ("en-us+linda", 60, 200),
    "carl": ("en-gb-x-gbclan+m7", 25, 180),
    "dora": ("en-gb-scotland+f4", 75, 205),
    "erik": ("en-gb-x-rp+m1", 55, 215),
    "fay": ("en-029+f1", 50, 190),
}
"""Voice of the sample -> eSpeak's voice, pitch (0 to 99) and words a minute.

The voices with breath (f2, f3, f5) are left out: eSpeak's breath is never the same twice.
"""


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True)
class Speech:
    """A spoken text: samples in [-1, 1] at `rate`, and (word, start, end) in seconds from the first sample."""

    samples: NDArray[np.float32]
    rate: int
    words: tuple[tuple[str, float, float], ...]


def check_speech() -> None:
    """Raise InputError if speech can't be made here."""
    with Speaker():
        pass


class Speaker:
    """Says one text after another; a context manager. Raises InputError on entering where eSpeak NG can't be used."""

    def __enter__(self) -> Self:
        try:
            import espeakng_loader
        except ImportError:
            raise InputError(f"mcn sample: espeakng-loader, which speaks, is not installed; {_CURE}") from None
        try:
            with tempfile.TemporaryDirectory() as folder:
                self._library = ctypes.CDLL(shutil.copy(Path(espeakng_loader.get_library_path()), folder))
        except OSError as error:
            raise InputError(f"mcn sample: eSpeak NG can't be loaded: {error}; set TMPDIR to another folder") from None
        data = espeakng_loader.get_data_path().encode()
        self._rate = int(self._library.espeak_Initialize(_SYNCHRONOUS, 0, data, 0))
        if self._rate <= 0:
            raise InputError(f"mcn sample: eSpeak NG does not start; {_CURE}")
        return self

    def __exit__(self, *_: object) -> None:
        self._library.espeak_Terminate()
        ctypes.CDLL(None).dlclose(ctypes.c_void_p(self._library._handle))

    def say(self, text: str, voice: str, longest_s: float) -> Speech:
        """`text` in the sample's voice `voice`, without silence at either end.

        It is spoken faster where it would exceed `longest_s` seconds, up to 400 words a minute.
        """
        words_a_minute = VOICES_OF_ESPEAK[voice][2]
        speech = self._synthesise(text, voice, words_a_minute)
        while len(speech.samples) > longest_s * speech.rate and words_a_minute < _FASTEST:
            words_a_minute = min(_FASTEST, int(words_a_minute * 1.12) + 1)
            speech = self._synthesise(text, voice, words_a_minute)
        return speech

    def _synthesise(self, text: str, voice: str, words_a_minute: int) -> Speech:
        espeak_voice, pitch, _ = VOICES_OF_ESPEAK[voice]
        blocks: list[NDArray[np.int16]] = []
        starts: list[tuple[int, float]] = []

        def receive(samples: Any, count: int, events: Any) -> int:
            if samples and count:
                blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
            position = 0
            while events[position].type != _END_OF_LIST:
                if events[position].type == _WORD_EVENT:
                    starts.append((events[position].text_position - 1, events[position].audio_position / 1000))
                position += 1
            return 0

        on_samples = _Callback(receive)
        self._library.espeak_SetSynthCallback(on_samples)
        if self._library.espeak_SetVoiceByName(espeak_voice.encode()) != 0:
            raise InputError(f"mcn sample: eSpeak NG has no voice {espeak_voice!r}; {_CURE}")
        for parameter, value in ((_RATE, words_a_minute), (_PITCH, pitch), (_RANGE, 50)):
            self._library.espeak_SetParameter(parameter, value, 0)
        encoded = text.encode() + b"\0"
        self._library.espeak_Synth(encoded, len(encoded), 0, _CHARACTER, 0, _UTF8, None, None)
        samples = np.concatenate(blocks).astype(np.float32) / np.float32(32768)
        loud = np.flatnonzero(np.abs(samples) > 0.01)
        first, last = int(loud[0]), int(loud[-1]) + 1
        times = _word_times(text, starts, first / self._rate, last / self._rate)
        return Speech(samples[first:last], self._rate, times)


def _word_times(
    text: str, starts: list[tuple[int, float]], first_s: float, last_s: float
) -> tuple[tuple[str, float, float], ...]:
    """eSpeak joins some short words into one event: these share the event's time evenly."""
    spoken = [(match.group(), match.start()) for match in re.finditer(r"\S+", text)]
    events = sorted(starts) or [(0, first_s)]
    owner = [max((i for i, (at, _) in enumerate(events) if at <= position), default=0) for _, position in spoken]
    timed = []
    for index, (word, _) in enumerate(spoken):
        event = owner[index]
        sharing, before = owner.count(event), owner[:index].count(event)
        begin = max(events[event][1], first_s)
        end = events[event + 1][1] if event + 1 < len(events) else last_s
        each = max(0.0, end - begin) / sharing
        timed.append((word, begin + before * each - first_s, begin + (before + 1) * each - first_s))
    return tuple(timed)
