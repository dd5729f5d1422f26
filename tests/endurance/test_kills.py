"""SIGKILL at random moments of every stage."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.endurance, pytest.mark.timeout(3000)]

KILLS = 20


def test_killed_at_twenty_moments_a_run_ends_with_the_same_bytes(
    undisturbed: Any, make_run: Callable[[Path], Any], moments: Callable[[int], list[tuple[str, float]]], tmp_path: Path
) -> None:
    wanted = undisturbed.result()
    struck = 0
    plan = moments(KILLS)
    stages = len({stage for stage, _ in plan})
    for start in range(0, KILLS, stages):
        run = make_run(tmp_path / str(start))
        struck += sum(run.kill_in(stage, seconds) for stage, seconds in plan[start : start + stages])
        run.complete()
        assert run.result() == wanted
        assert run.computed_twice() == {}, "a finished video is never computed again"
    assert struck >= KILLS - 2, "nearly all kills must hit a run at work"
