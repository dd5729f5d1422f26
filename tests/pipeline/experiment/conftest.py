"""Studies whose models are trained in this process."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pipeline.cli import main
from pipeline.experiment.training_runs import Pool, Run


@pytest.fixture(scope="session")
def train_here() -> Callable[[Pool, Sequence[Run]], None]:
    """In place of `Pool.work`: a process for each model would spend its time on imports."""

    def work(pool: Any, runs: Sequence[Run]) -> None:
        for run in runs:
            for stage, _ in run.stages:
                pool.statuses[run.name] = main(
                    [*stage.split(), "--config", str(run.folder / f"{stage.replace(' ', '-')}.yaml")]
                )

    return work
