"""Where the time of an extraction went: what its workers count, brought back as shares of their time."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from apache_beam.metrics.metric import Metrics
from apache_beam.runners.runner import PipelineResult

from beam_jobs.worker_errors import counters_of

_NAMESPACE = "spent"
_WORKERS = "workers"


class SpentCounters:
    """Brings a worker's nanoseconds, of `ShardWorker.spent`, to the job's counters."""

    def __init__(self) -> None:
        self._before: Counter[str] = Counter()

    def count(self, spent: Counter[str]) -> None:
        """Add what was spent since the last call."""
        if not self._before:
            Metrics.counter(_NAMESPACE, _WORKERS).inc()
        for what, nanoseconds in (spent - self._before).items():
            Metrics.counter(_NAMESPACE, what).inc(nanoseconds)
        self._before = spent


def spent_of(result: PipelineResult) -> Counter[str]:
    """What the workers of a job that has ended have counted."""
    return counters_of(result, _NAMESPACE)


def time_shares(rounds: Sequence[tuple[Counter[str], float]]) -> dict[str, Any]:
    """Shares of the workers' time, of their decoders' time, and `of the networks alone`.

    `rounds`: what the workers of each of the job's rounds counted, and the round's seconds.

    The last is how fast the job was, of what it would reach if the networks never waited: the seconds in which their
    devices computed, over those of the job on as many devices; of a processor, the workers' cores. Empty for a job in
    which no worker counted anything.
    """
    spent = sum((counted for counted, _ in rounds), Counter[str]())
    if not spent["all"]:
        return {}
    device_s = sum(counted[_WORKERS] * seconds for counted, seconds in rounds)
    known = {"networks": spent["network"], "waiting for frames": spent["starved"], "writing": spent["writing"]}
    decoders = {"decoding": spent["decoding"], "waiting for the network": spent["blocked"], "idle": spent["idle"]}
    return {
        "workers": max(counted[_WORKERS] for counted, _ in rounds),
        "of workers": _shares(known | {"starting and other": max(0, spent["all"] - sum(known.values()))}),
        "of decoders": _shares(decoders),
        "of the networks alone": round(spent["computing"] / 1e9 / device_s, 3),
    }


def _shares(nanoseconds: dict[str, int]) -> dict[str, float]:
    total = sum(nanoseconds.values())
    return {what: round(each / total, 3) if total else 0.0 for what, each in nanoseconds.items()}


def time_line(shares: dict[str, Any]) -> str:
    """The same for people."""
    workers, decoders = (
        ", ".join(f"{what} {100 * share:.0f} %" for what, share in shares[of].items())
        for of in ("of workers", "of decoders")
    )
    plural = "" if shares["workers"] == 1 else "s"
    return (
        f"time of {shares['workers']} worker{plural}: {workers}; of their decoders: {decoders}; "
        f"{shares['of the networks alone']:.2f} of the speed of the networks alone"
    )
