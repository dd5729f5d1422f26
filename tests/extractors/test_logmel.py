"""The log-mel against librosa, which the published front end was written with."""

import builtins
import sys
from collections.abc import Iterator

import librosa
import numpy as np
import pytest
import scipy.signal

from extractors.errors import LibraryError
from extractors.logmel import log_mel, mel_filters

FLOAT16_ERROR_DB = 0.032


def recording(length: int, seed: int = 0, offset: float = 400.0) -> np.ndarray:
    """Chirp, clicks, noise and a near-silent stretch around a constant offset, int16."""
    random = np.random.default_rng(seed)
    time = np.arange(length) / 16000
    sound = 6000 * np.sin(2 * np.pi * (200 + 900 * time) * time) + 300 * random.standard_normal(length)
    sound[length // 3 : length // 2] *= 1e-3
    sound[:: max(length // 5, 1)] += 15000
    return np.clip(sound + offset, -32768, 32767).astype(np.int16)


def published(samples: np.ndarray) -> np.ndarray:
    """The published recipe in librosa's words, (F, 40)."""
    signal = samples.astype(np.float64) / 32768
    signal = signal - signal.mean()
    signal = np.append(signal[0], signal[1:] - 0.97 * signal[:-1])
    power = np.abs(
        librosa.stft(
            signal,
            n_fft=400,
            hop_length=160,
            win_length=400,
            window=scipy.signal.windows.hamming(400, sym=True),
            pad_mode="reflect",
        )
    )
    bands = librosa.filters.mel(sr=16000, n_fft=400, n_mels=40, fmin=20, fmax=8000)
    return librosa.power_to_db(bands @ power**2, ref=np.max, amin=1e-10, top_db=80).T


@pytest.mark.parametrize("length", [48000, 50001, 16000, 1000, 401, 400])
def test_equals_librosa(length):
    samples = recording(length)
    logmel = log_mel(samples)
    assert logmel.shape == (1 + length // 160, 40)
    assert logmel.dtype == np.float32
    assert logmel.max() == 0
    assert logmel.min() >= -80
    np.testing.assert_allclose(logmel, published(samples), atol=2e-3)
    assert np.abs(logmel.astype(np.float16) - published(samples)).max() < FLOAT16_ERROR_DB


@pytest.mark.filterwarnings("ignore:n_fft=400 is too large")
@pytest.mark.parametrize("length", [399, 201, 200, 150, 3, 2])
def test_shorter_than_the_window_is_reflected_as_librosa_does(length):
    samples = recording(length, seed=length)
    np.testing.assert_allclose(log_mel(samples), published(samples), atol=2e-3)


@pytest.mark.parametrize("block_frames", [1, 7, 100, 301])
def test_blocks_change_nothing(block_frames):
    samples = recording(48000)
    np.testing.assert_array_equal(log_mel(samples, block_frames=block_frames), log_mel(samples))


def test_a_memory_map_gives_the_same(tmp_path):
    samples = recording(20000)
    samples.tofile(tmp_path / "sound.s16")
    mapped = np.memmap(tmp_path / "sound.s16", dtype=np.int16, mode="r")
    np.testing.assert_array_equal(log_mel(mapped, block_frames=13), log_mel(samples))


def test_mean_and_maximum_are_the_whole_recordings():
    quiet = recording(16000, offset=0) // 64
    loud = recording(16000, seed=1, offset=900)
    together = log_mel(np.concatenate([quiet, loud]))
    assert together[:90].max() < -20
    assert log_mel(quiet)[:90].max() > -1


@pytest.mark.parametrize("level", [0, 77, -32768])
def test_silence_is_zero_decibels_as_published(level):
    np.testing.assert_array_equal(log_mel(np.full(1600, level, dtype=np.int16)), np.zeros((11, 40)))


def test_one_sample_is_silence():
    np.testing.assert_array_equal(log_mel(np.array([500], dtype=np.int16)), np.zeros((1, 40)))


def test_no_samples_no_frames():
    assert log_mel(np.empty(0, dtype=np.int16)).shape == (0, 40)


@pytest.mark.parametrize("samples", [np.zeros(1600, dtype=np.float32), np.zeros((2, 1600), dtype=np.int16)])
def test_other_samples_are_refused(samples):
    with pytest.raises(ValueError, match="one row of int16"):
        log_mel(samples)


@pytest.fixture
def filters_unknown() -> Iterator[None]:
    """The filter bank as in a new process, and for the tests that follow."""
    mel_filters.cache_clear()
    yield
    mel_filters.cache_clear()


@pytest.mark.parametrize(
    "fault",
    [
        OSError("/site-packages/torchaudio/lib/libtorchaudio.so: undefined symbol: torch_list_push_back\nand more"),
        RuntimeError("Detected that PyTorch and TorchAudio were compiled with different CUDA versions."),
        ModuleNotFoundError("No module named 'torchaudio'"),
        AttributeError(),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_a_torchaudio_that_does_not_load_is_one_line_of_the_log_mel_alone(
    fault: Exception, filters_unknown: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
        monkeypatch.delitem(sys.modules, name)
    load = builtins.__import__

    def broken(name: str, *rest: object, **named: object) -> object:
        if name.split(".")[0] == "torchaudio":
            raise fault
        return load(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(LibraryError) as told:
        log_mel(recording(1000))
    line = str(told.value)
    assert line.startswith("torchaudio doesn't load beside torch ") and "\n" not in line
    assert (str(fault).split("\n")[0] or "AttributeError") in line
    assert "install torch, torchvision and torchaudio again" in line
