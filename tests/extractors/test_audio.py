"""DaveNet over whole recordings, and its steps beside the video's rows."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from extractors.audio import AudioNetwork, feature_rows
from extractors.calibration import logmels
from extractors.weights import Weights, load_weights, materialise


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Weights:
    folder: Path = tmp_path_factory.mktemp("weights")
    return load_weights("davenet", materialise("davenet", "random:5", folder))


@pytest.fixture(scope="module")
def network(weights) -> AudioNetwork:
    return AudioNetwork(weights, device="cpu")


@pytest.fixture(scope="module")
def recording() -> np.ndarray:
    """28 s of made log-mel, (2805, 40)."""
    return np.concatenate(list(logmels(9).transpose(0, 2, 1)))[:2805]


def test_chunks_equal_the_whole(network, weights, recording):
    with torch.inference_mode():
        whole = weights.module()(torch.from_numpy(recording.T.copy())[None])[0].T.numpy()
    assert whole.shape == (176, 1024)
    assert whole.std(axis=0).max() > 0.1
    for chunk_steps in (1000, 100, 30):
        np.testing.assert_allclose(network.steps(recording, chunk_steps=chunk_steps), whole, atol=1e-4)


def test_steps_far_from_a_change_keep_their_bits_and_near_ones_move(network, recording):
    changed = recording.copy()
    changed[2000:] = -80
    before, after = network.steps(recording), network.steps(changed)
    np.testing.assert_allclose(before[:98], after[:98], atol=1e-4)
    assert np.abs(before[125:] - after[125:]).max() > 0.1


def test_the_number_of_threads_changes_nothing(network, recording):
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(network.steps(recording[:700]))
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(*results)


def test_stored_float16_gives_the_same_rows(network, recording):
    stored = recording[:400].astype(np.float16)
    np.testing.assert_array_equal(network.steps(stored), network.steps(stored.astype(np.float32)))


@pytest.mark.parametrize(("frames", "steps"), [(0, 0), (1, 1), (16, 1), (17, 2), (1001, 63)])
def test_number_of_steps(network, recording, frames, steps):
    result = network.steps(recording[:frames])
    assert result.shape == (steps, 1024)
    assert result.dtype == np.float32


@pytest.mark.parametrize("logmel", [np.zeros((40, 100), np.float32), np.zeros(40, np.float32)])
def test_other_shapes_are_refused(network, logmel):
    with pytest.raises(ValueError, match="finite log-mel"):
        network.steps(logmel)


def test_nan_is_refused(network):
    with pytest.raises(ValueError, match="finite log-mel"):
        network.steps(np.full((20, 40), np.nan, dtype=np.float32))


def test_steps_that_cannot_be_stored_are_refused(weights, recording):
    state = {**weights.state, "layer4.1.bn2.bias": weights.state["layer4.1.bn2.bias"] + 70000}
    with pytest.raises(ValueError, match=r"davenet gave NaN or a value beyond 65504"):
        AudioNetwork(replace(weights, state=state), device="cpu").steps(recording[:20])


def test_other_weights_are_refused(weights):
    with pytest.raises(ValueError, match="weights of resnet152"):
        AudioNetwork(replace(weights, network="resnet152"))


def test_what_the_network_says_of_itself(network, weights):
    assert (network.name, network.width, network.weights_digest) == ("davenet", 1024, weights.digest)


@settings(max_examples=50, deadline=None)
@given(
    steps=st.integers(0, 120),
    start_ms=st.integers(-3000, 5000),
    rows=st.integers(0, 40),
    fps=st.sampled_from([1, 2, 3, 5, 6, 10, 15, 30]),
)
def test_rows_are_means_of_the_steps_whose_time_lies_in_them(steps, start_ms, rows, fps):
    values = np.random.default_rng(steps).random((steps, 3), dtype=np.float32)
    averaged, mask = feature_rows(values, start_ms / 1000, rows, fps)
    assert averaged.shape == (rows, 3)
    assert averaged.dtype == np.float32
    times = [Fraction(start_ms, 1000) + Fraction(16 * step, 100) for step in range(steps)]
    for row in range(rows):
        inside = [step for step, time in enumerate(times) if Fraction(row, fps) <= time < Fraction(row + 1, fps)]
        assert mask[row] == bool(inside)
        expected = values[inside].mean(axis=0, dtype=np.float64) if inside else np.zeros(3)
        np.testing.assert_allclose(averaged[row], expected, atol=1e-6)


def test_steps_at_a_rows_time_are_its_own_wherever_the_sound_begins():
    """A start of whole fiftieths of a second, as a float, times a million is not always whole."""
    for start in range(0, 500):
        times = [Fraction(start, 50) + Fraction(16 * step, 100) for step in range(60)]
        _, mask = feature_rows(np.ones((60, 1), np.float32), start / 50, 200, 10)
        assert np.flatnonzero(mask).tolist() == sorted({int(time * 10) for time in times} & set(range(200)))


def test_four_seconds_are_step_25():
    averaged, mask = feature_rows(np.arange(26, dtype=np.float32)[:, None], 0.0, 6, 1)
    assert averaged[4, 0] == 25
    np.testing.assert_array_equal(mask, [True] * 5 + [False])


def test_rows_off_the_grid_are_refused():
    with pytest.raises(ValueError, match="does not divide 30"):
        feature_rows(np.zeros((2, 3), np.float32), 0.0, 2, 4)
