"""An extraction on a Spark standalone cluster of two workers gives what one machine gives."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import REPOSITORY, Work, contents, ended, holder
from .spark_cluster import SparkCluster
from .spark_downloads import fetch_spark

pytestmark = pytest.mark.spark


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkCluster]:
    """Nothing is left of it in the end, no process and no temporary file."""
    folder = tmp_path_factory.mktemp("spark")
    with SparkCluster(fetch_spark(REPOSITORY / "build" / "spark"), folder) as cluster:
        yield cluster
    shutil.rmtree(folder / "tmp")


@pytest.fixture(scope="module")
def flags(spark: SparkCluster, worker_flags: list[str]) -> list[str]:
    return ["--runner=spark", f"--job_endpoint={spark.job_endpoint}", *worker_flags]


def test_a_cluster_gives_what_one_machine_gives(work: Work, flags: list[str], tmp_path: Path) -> None:
    out = tmp_path / "dataset"
    assert ended(work.extract(out, *flags)) == (0, [])
    assert contents(out) == contents(work.dataset)


def test_a_worker_that_is_killed_costs_the_job_nothing(work: Work, flags: list[str], tmp_path: Path) -> None:
    out = tmp_path / "dataset"
    process = work.extract(out, *flags)
    holder(out, process).kill()
    assert ended(process) == (0, [])
    assert contents(out) == contents(work.dataset)
    assert not list((out / "leases").glob("*.json"))


def test_a_command_that_is_stopped_goes_on_when_it_is_given_again(
    work: Work, spark: SparkCluster, flags: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "dataset"
    process = work.extract(out, *flags)
    holder(out, process)
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (75, [])
    assert not list((out / "leases").glob("*.json"))
    assert not spark.ask()["activeapps"]

    assert ended(work.extract(out, *flags)) == (0, [])
    assert contents(out) == contents(work.dataset)
