"""How fast the steps of a long video are found: the ordered assignment, and the segments.

python -m benchmarks.localization

Median of 50 runs each on random scores of 2,000 seconds for 12 steps, NumPy on one core.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from pipeline.metrics.alignment import assign_steps, frame_log_probabilities, segment_steps

SECONDS, STEPS, RUNS = 2000, 12, 50


def median_milliseconds(work: Callable[[], Any]) -> float:
    """Of RUNS runs, after one that isn't counted."""
    work()
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return 1000 * median(times)


def main() -> None:
    """Measure and print."""
    scores = np.random.default_rng(0).normal(size=(SECONDS, STEPS))
    work = {
        "ordered assignment": lambda: assign_steps(scores),
        "segments": lambda: segment_steps(frame_log_probabilities(scores, 1.0), 5.0),
    }
    print(f"{SECONDS} s x {STEPS} steps, median of {RUNS} runs")
    for name, function in work.items():
        print(f"  {name:<20}{median_milliseconds(function):8.2f} ms")


if __name__ == "__main__":
    main()
