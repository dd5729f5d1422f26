"""SIGKILL of every kind of process that takes part in an extraction on Flink, at random moments."""

import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from .conftest import Work, ended, holder, running_flink
from .flink_cluster import FlinkCluster
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
SETTLED_S = 4.0
"""Longer than a restart and what fails in it take."""
COMMAND_WITHIN_S = 600.0
"""Of its job manager's death a command knows in this time."""
SETTINGS = {
    "restart-strategy.type": "fixed-delay",
    "restart-strategy.fixed-delay.attempts": 100,
    "restart-strategy.fixed-delay.delay": "1 s",
    "web.exception-history-size": 100,
    # A manager that is killed is missed after this time; one that a busy machine lets wait is not.
    "heartbeat.timeout": 15000,
}


@dataclass
class Session:
    """The cluster that all tests share, and how long a job on it takes that nothing disturbs."""

    work: Work
    cluster: FlinkCluster
    flags: list[str]
    managers: int = 2
    """Started so far."""
    command_s: float = 0.0
    """From the start of `mcn` to its end."""
    workers_s: float = 0.0
    """From the first Python worker to the end of `mcn`."""

    def extract(self, out: Path, *flags: str) -> Mcn:
        """Start an extraction."""
        return self.work.extract(out, *self.flags, *flags)

    def measure(self, out: Path) -> None:
        """Run a job that nothing disturbs."""
        began = time.monotonic()
        with at_work(self.extract(out)) as process:
            assert comes(lambda: bool(self.cluster.workers()), process, COMMAND_WITHIN_S)
            workers_began = time.monotonic()
            assert ended(process) == (0, [])
        self.command_s, self.workers_s = time.monotonic() - began, time.monotonic() - workers_began
        self.check(out)

    def strike(self, kind: str, generator: random.Random, process: Mcn) -> bool:
        """Kill a "worker" or a "manager", once restarts after the last one no longer fail; whether it hit the job:
        Flink tells that something of it failed.

        A kill that comes when the work is done disturbs nothing.
        """
        if not comes(lambda: self._is_settled(process), process):
            return False
        before = self.cluster.failures()
        killed = {"worker": self._kill_worker, "manager": self._kill_manager}[kind](generator)
        return killed and comes(lambda: self.cluster.failures() > before, process)

    def _is_settled(self, process: Mcn) -> bool:
        before = self.cluster.failures()
        return goes_on(process, SETTLED_S) and self.cluster.failures() == before

    def _kill_worker(self, generator: random.Random) -> bool:
        workers = [worker for found in self.cluster.workers().values() for worker in found]
        if workers:
            generator.choice(workers).kill()
        return bool(workers)

    def _kill_manager(self, generator: random.Random) -> bool:
        """One that has a Python worker; another one is started in its place."""
        names = sorted(self.cluster.workers())
        if names:
            self.cluster.kill(generator.choice(names))
            self.cluster.start_manager(self.managers)
            self.managers += 1
        return bool(names)

    def check(self, out: Path) -> None:
        """The data set is whole, no job runs, no process is left but the cluster's own."""
        check_whole(self.work, out)
        assert self.cluster.running_jobs() == []
        own = {process.pid for process in self.cluster.processes.values()}
        wait_for_end_of_processes(self.cluster.folder / "tmp", own)
        wait_for_end_of_processes(self.work.folder / "tmp")


@pytest.fixture(scope="module")
def session(
    larger_work: Work, worker_flags: list[str], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Session]:
    if lacking := [name for name in ("java", "mvn") if shutil.which(name) is None]:
        pytest.skip(f"not on PATH: {', '.join(lacking)}; Flink wants Java 17, and Maven fetches its jars")
    folder = tmp_path_factory.mktemp("flink")
    with running_flink(request.getfixturevalue("jars"), worker_flags, folder, SETTINGS) as (cluster, flags):
        session = Session(larger_work, cluster, flags)
        session.measure(folder / "undisturbed")
        yield session


@pytest.mark.parametrize("kind", ["worker", "manager"])
def test_killed_at_ten_moments_jobs_end_right_by_themselves(session: Session, tmp_path: Path, kind: str) -> None:
    generator = random.Random(f"Flink {kind}")
    cluster = session.cluster
    hits = tried = jobs = 0
    while hits < KILLS:
        jobs += 1
        assert jobs <= JOBS, f"{hits} of {tried} kills hit a job"
        out = tmp_path / f"dataset-{jobs}"
        with at_work(session.extract(out)) as process:
            while hits < KILLS and comes(lambda: bool(cluster.workers()), process, COMMAND_WITHIN_S):
                if not goes_on(process, generator.uniform(0, session.workers_s / 2)):
                    break
                tried += 1
                hits += session.strike(kind, generator, process)
            assert ended(process) == (0, [])
        session.check(out)
    print(f"Flink, {kind}: {hits} of {tried} kills hit {jobs} jobs")


@pytest.mark.parametrize("seed", range(3))
def test_a_command_whose_job_manager_is_killed_ends_and_given_again_goes_on(
    session: Session, tmp_path: Path, seed: int
) -> None:
    generator = random.Random(seed)
    cluster = session.cluster
    process, out = at_a_moment(
        session.extract,
        tmp_path,
        lambda: generator.uniform(0, session.workers_s),
        begun=lambda: bool(cluster.running_jobs()),
    )
    with at_work(process):
        cluster.kill("job-manager")
        killed = time.monotonic()
        # Whether another one comes at once or late makes no difference: it knows nothing of the job.
        late = bool(seed % 2)
        if not late:
            cluster.start_job_manager()
        status, lines = ended(process)
        took = time.monotonic() - killed
    print(f"Flink, job manager {seed}: the command ended with {status} after {took:.0f} s: {lines}")
    if late:
        cluster.start_job_manager()
    cluster.wait_for_slots(2)
    assert status == 1 and len(lines) == 1 and "rerun the same command to resume" in lines[0], lines
    assert took < COMMAND_WITHIN_S
    assert cluster.running_jobs() == []

    assert ended(session.extract(out)) == (0, [])
    session.check(out)


@pytest.mark.parametrize("seed", range(3))
def test_the_job_of_a_killed_command_goes_on_and_the_command_given_again_goes_on_beside_it(
    session: Session, tmp_path: Path, seed: int
) -> None:
    """A slot for each of the two jobs. Of the moments the first is one at which the job is at work."""
    generator = random.Random(seed)
    cluster = session.cluster

    def start(out: Path) -> Mcn:
        return session.extract(out, "--parallelism=1")

    if seed == 0:
        out = tmp_path / "dataset"
        process = start(out)
        worker = holder(out, process)
    else:
        process, out = at_a_moment(start, tmp_path, lambda: generator.uniform(0, session.command_s))
    with at_work(process):
        servers = [child for child in psutil.Process(process.pid).children() if child.name() == "java"]
        process.kill()
        process.wait()
    orphans = cluster.running_jobs()
    if seed == 0:
        assert len(orphans) == 1 and worker.is_running()
    # Left alone the job server stays; a machine that is lost takes it along.
    for server in servers if seed % 2 else ():
        server.kill()
    failures = cluster.failures()
    assert ended(start(out)) == (0, [])
    wait_for("the end of the job of the killed command", lambda: not cluster.running_jobs(), COMMAND_WITHIN_S)
    print(f"Flink, mcn {seed}: {len(orphans)} jobs and {len(servers)} job servers outlived it")
    assert cluster.failures() == failures, "neither disturbs the other"
    assert computed_twice(out) == {}
    for server in servers if seed % 2 == 0 else ():
        assert server.is_running(), "docs/cluster.md says so"
        server.kill()
    session.check(out)
