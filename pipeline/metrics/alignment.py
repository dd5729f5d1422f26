"""Steps in time: exactly one second for each step in order, or segments of a transcript with background.

R matrices, T seconds, K steps. The published evaluation hands log-probabilities to the aligner of Mining YouTube
(Kuehne et al., 2019), a Viterbi search along a transcript with a Poisson model of lengths; segments come of such a
search.
"""

from math import prod

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, log_softmax


def assign_steps(scores: NDArray[np.floating]) -> NDArray[np.int64]:
    """Seconds [..., K], strictly increasing, with the largest summed score, of `scores` [..., T, K].

    It is the zero-shot protocol of CrossTask (Zhukov et al., 2019: section 5, its program's `exactly_one`), with the
    background at no cost. Where T < K, the T steps of the best order-keeping choice get a second each, and the others
    -1: the published program gives no step a second there, and reads outside its arrays, as it does for T = K when the
    last score is negative. Of equal sums, the one is taken whose last step is earliest, then the one before it.
    Raises ValueError unless all scores are finite.
    """
    if scores.ndim < 2:
        raise ValueError(f"expected scores [..., seconds, steps], got shape {scores.shape}")
    if not np.isfinite(scores).all():
        raise ValueError("scores hold NaN or infinity: no sum of them can be the largest")
    seconds, steps = scores.shape[-2:]
    if seconds >= steps:
        return _increasing(scores)
    assigned = np.full((*scores.shape[:-2], steps), -1, np.int64)
    if seconds:
        # Every second has a step of its own: the same problem with the axes exchanged.
        chosen = _increasing(scores.swapaxes(-1, -2))
        np.put_along_axis(assigned, chosen, np.broadcast_to(np.arange(seconds), chosen.shape), axis=-1)
    return assigned


def _increasing(scores: NDArray[np.floating]) -> NDArray[np.int64]:
    """For T >= K, by dynamic programming over the steps, each for all seconds at once."""
    *lead, seconds, steps = scores.shape
    by_step_KRT = np.moveaxis(scores, -1, 0).reshape(steps, prod(lead), seconds).astype(np.float64)
    count = by_step_KRT.shape[1]
    times = np.arange(seconds)
    best_ending_RT = np.zeros((count, seconds))
    earliest_KRT = np.zeros((steps, count, seconds), np.int64)
    for step, score_RT in enumerate(by_step_KRT):
        total_RT = score_RT if not step else np.full((count, seconds), -np.inf)
        if step:
            total_RT[:, 1:] = score_RT[:, 1:] + best_ending_RT[:, :-1]
        best_ending_RT = np.maximum.accumulate(total_RT, axis=1)
        # The second at which the running maximum was first reached.
        rises_RT = total_RT[:, 1:] > best_ending_RT[:, :-1]
        earliest_KRT[step, :, 1:] = np.where(rises_RT, times[1:], 0)
        np.maximum.accumulate(earliest_KRT[step], axis=1, out=earliest_KRT[step])
    chosen_RK = np.empty((count, steps), np.int64)
    rows, last = np.arange(count), np.full(count, seconds - 1)
    for step in reversed(range(steps)):
        chosen_RK[:, step] = earliest_KRT[step, rows, last]
        last = chosen_RK[:, step] - 1
    return chosen_RK.reshape(*lead, steps)


_MOST_SUMS = 1 << 21
"""Sums held at a time: 16 MiB."""


def frame_log_probabilities(scores: NDArray[np.floating], background: float) -> NDArray[np.float64]:
    """Log-probabilities [..., T, K + 1] of each second's steps and, last, the background, of `scores` [..., T, K].

    They are the log-softmax of standardised scores: those of a matrix less their mean, over their standard deviation,
    since dot products have no scale of their own. `background` is the background's score on that scale. Scores that
    are all equal are standardised to 0. Raises ValueError on NaN or infinity.
    """
    if not np.isfinite(scores).all():
        raise ValueError("scores hold NaN or infinity: they have no scale")
    if not scores.size:
        return np.zeros((*scores.shape[:-1], scores.shape[-1] + 1))
    exact = scores.astype(np.float64)
    # The mean of equal numbers may differ from them in its last digit.
    level = np.ptp(exact, axis=(-2, -1), keepdims=True) == 0
    centred = np.where(level, 0.0, exact - exact.mean(axis=(-2, -1), keepdims=True))
    standard = centred / np.where(level, 1.0, centred.std(axis=(-2, -1), keepdims=True))
    with_background = np.concatenate([standard, np.full((*standard.shape[:-1], 1), background)], axis=-1)
    log_probabilities: NDArray[np.float64] = log_softmax(with_background, axis=-1)
    return log_probabilities


def log_poisson(lengths: NDArray[np.integer], mean: float) -> NDArray[np.float64]:
    """Log-probability of each length in seconds under a Poisson distribution of `mean` > 0 seconds."""
    log_probabilities: NDArray[np.float64] = lengths * np.log(mean) - mean - gammaln(lengths + 1.0)
    return log_probabilities


def segment_steps(log_probabilities: NDArray[np.floating], step_seconds: float) -> NDArray[np.int64]:
    """Half-open spans [..., K, 2] in whole seconds, of `log_probabilities` [..., T, K + 1], the background's last.

    They make up the most probable sequence background, step 1, background, ..., step K, background. A background may
    be empty; a step lasts a second at least, and its length has Poisson's probability with mean `step_seconds`, in
    place of 0. Exact. Where T < K, the T steps of the best order-keeping choice get a second each, as in
    `assign_steps`, and the others [-1, -1). Raises ValueError on NaN or infinity, and for a mean that isn't positive.
    """
    if not np.isfinite(log_probabilities).all() or not 0 < step_seconds < np.inf:
        raise ValueError("expected finite log-probabilities and a positive mean length")
    *lead, seconds, labels = log_probabilities.shape
    steps = labels - 1
    exact = log_probabilities.astype(np.float64)
    if seconds < steps:
        # All lengths are 1: what is left is the choice of steps.
        first = assign_steps(exact[..., :-1])
        return np.stack([first, np.where(first < 0, -1, first + 1)], axis=-1)
    gain_RTK = (exact[..., :-1] - exact[..., -1:]).reshape(prod(lead), seconds, steps)
    return _align(gain_RTK, step_seconds).reshape(*lead, steps, 2)


def _align(gain_RTK: NDArray[np.float64], step_seconds: float) -> NDArray[np.int64]:
    """The alignment by what each second gains, in log-probability, as a step in place of the background."""
    count, seconds, steps = gain_RTK.shape
    ends_KRT = np.empty((steps, count, seconds + 1), np.int64)
    starts_KRT = np.empty((steps, count, seconds + 1), np.int64)
    times = np.arange(seconds + 1)
    # The best sum with the steps so far done by second t, t included.
    done_RT = np.zeros((count, seconds + 1))
    for step in range(steps):
        gain_RT = gain_RTK[:, :, step]
        summed_RT = np.concatenate([np.zeros((count, 1)), np.cumsum(gain_RT, axis=1)], axis=1)
        lengths = log_poisson(np.arange(1, _longest(gain_RT, step_seconds) + 1), step_seconds)
        best_RT, starts_KRT[step] = _best_starts(done_RT - summed_RT, lengths)
        ending_RT = best_RT + summed_RT
        done_RT = np.maximum.accumulate(ending_RT, axis=1)
        rises_RT = ending_RT[:, 1:] > done_RT[:, :-1]
        ends_KRT[step, :, 0] = 0
        ends_KRT[step, :, 1:] = np.where(rises_RT, times[1:], 0)
        np.maximum.accumulate(ends_KRT[step], axis=1, out=ends_KRT[step])
    spans_RK2 = np.empty((count, steps, 2), np.int64)
    rows, last = np.arange(count), np.full(count, seconds)
    for step in reversed(range(steps)):
        end = ends_KRT[step, rows, last]
        last = starts_KRT[step, rows, end]
        spans_RK2[:, step, 0], spans_RK2[:, step, 1] = last, end
    return spans_RK2


def _longest(gain_RT: NDArray[np.float64], step_seconds: float) -> int:
    """The longest a step can be in a best alignment.

    Length l is log(l / mean) less probable than l - 1: beyond the length at which this is more than any second gains,
    a step is better off with a second less.
    """
    seconds = gain_RT.shape[1]
    largest = min(float(gain_RT.max()), np.log(seconds + 1.0) + abs(np.log(step_seconds)))
    return min(seconds, int(step_seconds * np.exp(largest)) + 2)


def _best_starts(
    before_RT: NDArray[np.float64], lengths_L: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """For each end t the largest `before[t - l] + lengths[l - 1]` over the lengths l, and its start; the longest of
    equal ones. -inf and 0 where there is none."""
    count, ends = before_RT.shape
    longest = len(lengths_L)
    padded = np.concatenate([np.full((count, longest), -np.inf), before_RT], axis=1)
    # Window t ends just before t: its columns are the starts t - longest, ..., t - 1.
    windows_RTL = np.lib.stride_tricks.sliding_window_view(padded, longest, axis=1)[:, :ends]
    best_RT = np.empty((count, ends))
    starts_RT = np.empty((count, ends), np.int64)
    rows = max(1, _MOST_SUMS // max(1, count * longest))
    for first in range(0, ends, rows):
        sums = windows_RTL[:, first : first + rows] + lengths_L[::-1]
        best = sums.argmax(axis=-1)
        best_RT[:, first : first + rows] = np.take_along_axis(sums, best[..., None], axis=-1)[..., 0]
        starts_RT[:, first : first + rows] = best + np.arange(first, first + sums.shape[1]) - longest
    return best_RT, np.maximum(starts_RT, 0)
