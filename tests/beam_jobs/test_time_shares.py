"""Where the time went, against shares worked out by hand."""

from collections import Counter

import apache_beam as beam
import pytest
from apache_beam.runners.direct import direct_runner

from beam_jobs.time_shares import SpentCounters, spent_of, time_line, time_shares

SECOND = 10**9
SPENT = Counter(
    workers=2,
    all=100 * SECOND,
    network=60 * SECOND,
    computing=45 * SECOND,
    starved=25 * SECOND,
    writing=5 * SECOND,
    decoding=30 * SECOND,
    blocked=15 * SECOND,
    idle=5 * SECOND,
)
SHARES = {
    "workers": 2,
    "of workers": {"networks": 0.6, "waiting for frames": 0.25, "writing": 0.05, "starting and other": 0.1},
    "of decoders": {"decoding": 0.6, "waiting for the network": 0.3, "idle": 0.1},
    # Two devices for 60 seconds could have computed 120.
    "of the networks alone": 0.375,
}


def test_shares_are_of_all_time_that_there_was() -> None:
    assert time_shares([(SPENT, 60.0)]) == SHARES


def test_rounds_of_one_job_are_added_up_but_not_their_workers() -> None:
    assert time_shares([(SPENT, 60.0), (Counter(), 5.0), (SPENT, 60.0)]) == SHARES


def test_nothing_is_said_where_nothing_was_counted() -> None:
    assert time_shares([(Counter(), 1.0)]) == {}


def test_the_line_names_each_share() -> None:
    assert time_line(SHARES) == (
        "time of 2 workers: networks 60 %, waiting for frames 25 %, writing 5 %, starting and other 10 %; of their "
        "decoders: decoding 60 %, waiting for the network 30 %, idle 10 %; 0.38 of the speed of the networks alone"
    )
    assert time_line(SHARES | {"workers": 1}).startswith("time of 1 worker: ")


class _Counting(beam.DoFn):
    def __init__(self) -> None:
        self._counters = SpentCounters()
        self._so_far: Counter[str] = Counter()

    def process(self, spent: dict[str, int]) -> None:
        self._so_far += Counter(spent)
        self._counters.count(self._so_far.copy())


@pytest.mark.parametrize("elements", [[{"all": 7, "network": 3}], [{"all": 7, "network": 3}, {"all": 5, "writing": 2}]])
def test_counters_hold_what_was_spent_however_often_it_is_counted(elements: list[dict[str, int]]) -> None:
    with beam.Pipeline(direct_runner.BundleBasedDirectRunner()) as pipeline:
        _ = pipeline | beam.Create(elements, reshuffle=False) | beam.ParDo(_Counting())
    total = sum(map(Counter, elements), Counter())
    found = spent_of(pipeline.result)
    assert {what: found[what] for what in total} == dict(total)
    assert 1 <= found["workers"] <= len(elements)
