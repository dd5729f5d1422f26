"""SIGKILL of Dask's workers, and of `mcn` on Dask, at random moments of an extraction."""

import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path

import distributed
import pytest

from .conftest import WITHIN_S, Work, ended, holder
from .kills import (
    KILLS,
    Mcn,
    at_a_moment,
    at_work,
    check_whole,
    comes,
    computed_twice,
    goes_on,
    wait_for_end_of_processes,
)
from .slurm_cluster import wait_for

pytestmark = pytest.mark.endurance

JOBS = 2 * KILLS
"""No more are needed for ten kills that hit: fewer than half of the moments may come too late."""
KILLS_A_JOB = 3
"""Dask's own limit (allowed-failures): a task whose worker dies more often ends the job."""
MOST_KILLS = 40
"""So many end a job of six tasks at the latest, and of those that make them."""


@dataclass
class Session:
    """The cluster that all tests share, and how long a job on it takes that nothing disturbs."""

    work: Work
    cluster: distributed.LocalCluster
    temporary: Path
    """Its workers' folder for temporary files, and that of what they start."""
    command_s: float = 0.0
    """From the start of `mcn` to its end."""
    tasks_s: float = 0.0
    """From the first task to the end of `mcn`."""

    def extract(self, out: Path) -> Mcn:
        """Start an extraction."""
        address = f"--dask_client_address={self.cluster.scheduler_address}"
        return self.work.extract(out, "--runner=DaskRunner", address, "--dask_npartitions=6")

    @property
    def scheduler(self) -> distributed.Scheduler:
        """Dask's, which runs in this process."""
        scheduler = self.cluster.scheduler
        assert scheduler is not None
        return scheduler

    def measure(self, out: Path) -> None:
        """Run a job that nothing disturbs."""
        began = time.monotonic()
        with at_work(self.extract(out)) as process:
            assert comes(lambda: bool(self.busy()), process, WITHIN_S)
            tasks_began = time.monotonic()
            assert ended(process) == (0, [])
        self.command_s, self.tasks_s = time.monotonic() - began, time.monotonic() - tasks_began
        self.check(out)

    def busy(self) -> list[int]:
        """Process numbers of the workers that have tasks in hand."""
        workers = dict(self.scheduler.workers)
        numbers = {nanny.worker_address: nanny.pid for nanny in self.cluster.workers.values() if nanny.pid}
        return [numbers[address] for address, state in workers.items() if state.processing and address in numbers]

    def losses(self) -> int:
        """How many workers were lost so far that had tasks in hand."""
        events = [event for _, event in self.scheduler.get_events("all")]
        return sum(event["action"] == "remove-worker" and bool(event["processing-tasks"]) for event in events)

    def strike(self, generator: random.Random, process: Mcn) -> bool:
        """Kill a worker that has tasks in hand; whether it hit the job: Dask tells that it was lost with them."""
        before, busy = self.losses(), self.busy()
        if not busy:
            return False
        os.kill(generator.choice(busy), signal.SIGKILL)
        return comes(lambda: self.losses() > before, process)

    def check(self, out: Path) -> None:
        """The data set is whole, no task is left, no process is left but the workers."""
        check_whole(self.work, out)
        wait_for("the end of all tasks", lambda: not self.scheduler.tasks, WITHIN_S)
        wait_for("two workers", lambda: len(self.scheduler.workers) == 2, WITHIN_S)
        wait_for_end_of_processes(self.temporary, {nanny.pid for nanny in self.cluster.workers.values()})
        wait_for_end_of_processes(self.work.folder / "tmp")


@pytest.fixture(scope="module")
def session(larger_work: Work, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    folder = tmp_path_factory.mktemp("dask")
    (folder / "tmp").mkdir()
    local = {"dashboard_address": None, "host": "127.0.0.1", "local_directory": str(folder / "dask")}
    # Started with the first worker otherwise, it would be taken for what one of them has left.
    resource_tracker.ensure_running()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder / "tmp"))
        with distributed.LocalCluster(2, threads_per_worker=1, **local) as cluster:
            session = Session(larger_work, cluster, folder / "tmp")
            session.measure(folder / "undisturbed")
            yield session


def test_workers_killed_at_ten_moments_jobs_end_right_by_themselves(session: Session, tmp_path: Path) -> None:
    generator = random.Random("Dask worker")
    hits = tried = jobs = 0
    while hits < KILLS:
        jobs += 1
        assert jobs <= JOBS, f"{hits} of {tried} kills hit a job"
        out, left = tmp_path / f"dataset-{jobs}", min(KILLS_A_JOB, KILLS - hits)
        with at_work(session.extract(out)) as process:
            while left and comes(lambda: bool(session.busy()), process, WITHIN_S):
                if not goes_on(process, generator.uniform(0, session.tasks_s / 2)):
                    break
                hit = session.strike(generator, process)
                hits, tried, left = hits + hit, tried + 1, left - hit
            assert ended(process) == (0, [])
        session.check(out)
    print(f"Dask, worker: {hits} of {tried} kills hit {jobs} jobs")


def test_a_job_that_loses_more_workers_than_dask_allows_ends_and_given_again_goes_on(
    session: Session, tmp_path: Path
) -> None:
    out = tmp_path / "dataset"
    generator = random.Random("more than Dask allows")
    hits = 0
    with at_work(session.extract(out)) as process:
        while comes(lambda: bool(session.busy()), process, WITHIN_S):
            hits += session.strike(generator, process)
            assert hits <= MOST_KILLS
        status, lines = ended(process)
    print(f"Dask: {hits} kills ended a job")
    assert hits > KILLS_A_JOB and status == 1 and len(lines) == 1 and "rerun the same command to resume" in lines[0], (
        lines
    )

    assert ended(session.extract(out)) == (0, [])
    session.check(out)


@pytest.mark.parametrize("seed", range(4))
def test_what_a_killed_command_had_in_hand_is_finished_and_the_command_given_again_takes_the_rest(
    session: Session, tmp_path: Path, seed: int
) -> None:
    """Of the moments the first is one at which a worker is at work."""
    generator = random.Random(seed)
    if seed == 0:
        out = tmp_path / "dataset"
        process = session.extract(out)
        worker = holder(out, process)
    else:
        process, out = at_a_moment(session.extract, tmp_path, lambda: generator.uniform(0, session.command_s))
    with at_work(process):
        process.kill()
        process.wait()
    if seed == 0:
        assert worker.is_running() and session.busy()
    losses = session.losses()
    assert ended(session.extract(out)) == (0, [])
    assert session.losses() == losses, "neither disturbs the other"
    assert computed_twice(out) == {}
    session.check(out)
