"""The numbers of sound and features, for those who compute, store and cut them: rates, window, levels."""

from models.settings import MEL_BANDS, STRIDE

SAMPLE_RATE = 16000
"""Samples of sound a second."""
WINDOW, HOP = 400, 160
"""Of the log-mel, in samples."""
LOGMEL_FPS = SAMPLE_RATE // HOP
"""Log-mel frames a second."""
LOGMEL_BYTES_PER_S = 2 * MEL_BANDS * LOGMEL_FPS
AUDIO_FPS = LOGMEL_FPS / STRIDE
"""DaveNet's steps a second."""
SILENCE_DB, LOUDEST_DB = -80.0, 0.0
"""The floor and the top of a recording's log-mel."""
