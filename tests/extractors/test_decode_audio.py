"""Pieces of sound put in order on the clock of the picture, by an independent drawing of where each sample belongs."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from extractors import decode_audio
from extractors.decode import DecodeSettings, SoundChunk, SoundSummary
from extractors.media_file import MediaFile


@pytest.mark.parametrize(
    "pieces",
    [
        [(0, 500), (500, 300)],
        [(-160, 500), (340, 300)],
        [(4000, 500), (4500, 300)],
        [(0, 500), (900, 300)],
        [(0, 500), (400, 300)],
        [(0, 500), (100, 200), (500, 50)],
        [(-100, 300), (150, 300), (900, 10)],
        [(0, 500), (400_000, 300)],
    ],
    ids=["in order", "priming", "late", "gap", "overlap", "within", "all of it", "long gap"],
)
def test_a_sample_stands_at_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: list[tuple[int, int]]
) -> None:
    """`pieces`: number of the first sample from time zero on, and how many there are."""
    generator = np.random.default_rng(1)
    placed = [(first, generator.integers(1, 30_000, count).astype(np.int16)) for first, count in pieces]

    def as_given(self: object) -> Iterator[tuple[int, np.ndarray]]:
        yield from placed

    monkeypatch.setattr(decode_audio._Sound, "_placed", as_given)
    (tmp_path / "x").write_bytes(b"x")
    with MediaFile(str(tmp_path / "x")) as file:
        *chunks, summary = decode_audio.decode_audio(file, DecodeSettings())
    assert isinstance(summary, SoundSummary)
    heard = np.concatenate([chunk.samples for chunk in chunks if isinstance(chunk, SoundChunk)])

    begin = max(pieces[0][0], 0)
    drawn = np.zeros(max(first + count for first, count in pieces), np.int16)
    # What is there already stays; what lies before time zero isn't heard.
    for first, samples in reversed(placed):
        drawn[max(first, 0) : first + len(samples)] = samples[max(-first, 0) :]
    assert summary.start == begin / 16_000
    np.testing.assert_array_equal(heard, drawn[begin:])
