"""Rates of the recent past, against events planted on a clock."""

import numpy as np
import pytest

from pipeline.tools.rates import hours_left, recent_rate

NOW = 1_700_000_000.0


def every(seconds: float, hours: float, until: float = 0.0) -> np.ndarray:
    """Events at that distance, from `hours` ago until `until` hours ago."""
    return NOW - np.arange(until * 3600, hours * 3600, seconds)


def test_the_last_hour_counts_where_it_holds_enough() -> None:
    slow_before = every(600, 50, until=1.01)
    rate = recent_rate(np.concatenate([every(12, 1), slow_before]), NOW)
    assert rate is not None and (rate.count, rate.hours) == (300, 1.0) and rate.hourly == 300


def test_a_slow_work_is_measured_over_longer() -> None:
    rate = recent_rate(every(1200, 100), NOW)
    assert rate is not None and rate.hours == 24.0 and rate.hourly == pytest.approx(3.0, rel=0.05)


def test_pauses_count() -> None:
    rate = recent_rate(every(36, 10, until=3), NOW)
    assert rate is not None and rate.hours == 6.0 and rate.hourly == pytest.approx(3 * 100 / 6, rel=0.01)


def test_what_began_lately_is_measured_from_its_beginning() -> None:
    rate = recent_rate(every(36, 0.5), NOW)
    assert rate is not None and rate.hours == pytest.approx(0.5, rel=0.05)
    assert rate.hourly == pytest.approx(100, rel=0.05)


def test_nothing_lately_is_no_rate() -> None:
    assert recent_rate(np.zeros(0), NOW) is None
    assert recent_rate(every(60, 900, until=800), NOW) is None


def test_a_clock_ahead_does_no_harm() -> None:
    rate = recent_rate(np.array([NOW + 240.0]), NOW)
    assert rate is not None and rate.count == 1 and rate.hourly > 0


def test_time_left_is_the_number_by_the_rate() -> None:
    rate = recent_rate(every(12, 1), NOW)
    assert hours_left(600, rate) == pytest.approx(2.0, rel=0.01)
    assert hours_left(0, None) == 0.0 and hours_left(5, None) is None
