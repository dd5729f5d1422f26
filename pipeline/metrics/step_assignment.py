"""The ordered assignment of steps to seconds: exactly one second for each step, in the steps' order.

R matrices, T seconds, K steps.
"""

from math import prod

import numpy as np
from numpy.typing import NDArray


def assign_steps(scores: NDArray[np.floating]) -> NDArray[np.int64]:
    """Seconds [..., K], strictly increasing, with the largest summed score, of `scores` [..., T, K].

    It is the zero-shot protocol of CrossTask (Zhukov et al., 2019: section 5, its program's `exactly_one`), with the
    background at no cost. Where T < K, the T steps of the best order-keeping choice get a second each, and the others
    -1: the published program gives no step a second there, and reads outside its arrays, as it does for T = K when the
    last score is negative. Of equal sums, the one is taken whose last step is earliest, then the one before it.
    Raises ValueError unless all scores are finite.
    """
    if scores.ndim < 2:
        raise ValueError(f"scores [..., seconds, steps] are wanted, not {scores.shape}")
    if not np.isfinite(scores).all():
        raise ValueError("scores hold NaN or infinity: no sum of them can be the largest")
    seconds, steps = scores.shape[-2:]
    if seconds >= steps:
        return _increasing(scores)
    found = np.full((*scores.shape[:-2], steps), -1, np.int64)
    if seconds:
        # Every second has a step of its own: the same problem with the axes exchanged.
        chosen = _increasing(scores.swapaxes(-1, -2))
        np.put_along_axis(found, chosen, np.broadcast_to(np.arange(seconds), chosen.shape), axis=-1)
    return found


def _increasing(scores: NDArray[np.floating]) -> NDArray[np.int64]:
    """For T >= K, by dynamic programming over the steps, each for all seconds at once."""
    *lead, seconds, steps = scores.shape
    by_step_KRT = np.moveaxis(scores, -1, 0).reshape(steps, prod(lead), seconds).astype(np.float64)
    count = by_step_KRT.shape[1]
    places = np.arange(seconds)
    best_ending_RT = np.zeros((count, seconds))
    earliest_KRT = np.zeros((steps, count, seconds), np.int64)
    for step, score_RT in enumerate(by_step_KRT):
        total_RT = score_RT if not step else np.full((count, seconds), -np.inf)
        if step:
            total_RT[:, 1:] = score_RT[:, 1:] + best_ending_RT[:, :-1]
        best_ending_RT = np.maximum.accumulate(total_RT, axis=1)
        # The second at which the running maximum was first reached.
        rises_RT = total_RT[:, 1:] > best_ending_RT[:, :-1]
        earliest_KRT[step, :, 1:] = np.where(rises_RT, places[1:], 0)
        np.maximum.accumulate(earliest_KRT[step], axis=1, out=earliest_KRT[step])
    chosen_RK = np.empty((count, steps), np.int64)
    rows, last = np.arange(count), np.full(count, seconds - 1)
    for step in reversed(range(steps)):
        chosen_RK[:, step] = earliest_KRT[step, rows, last]
        last = chosen_RK[:, step] - 1
    return chosen_RK.reshape(*lead, steps)
