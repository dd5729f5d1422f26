"""An extraction on Prism, Beam's own runner for one machine, gives what `mcn` gives by itself."""

import shutil
from pathlib import Path

import psutil
import pytest

from .conftest import REPOSITORY, WITHIN_S, Work, contents, ended, holder
from .spark_downloads import fetch_prism

pytestmark = pytest.mark.spark


@pytest.fixture(scope="module")
def flags() -> list[str]:
    """Of Prism, with the command's own process as the worker."""
    if shutil.which("go") is None:
        pytest.skip("not on PATH: go, which builds Prism")
    return ["--runner=PrismRunner", f"--prism_location={fetch_prism(REPOSITORY / 'build' / 'spark')}"]


def test_prism_gives_what_mcn_gives_by_itself(work: Work, flags: list[str], tmp_path: Path) -> None:
    out = tmp_path / "dataset"
    assert ended(work.extract(out, *flags)) == (0, [])
    assert contents(out) == contents(work.dataset)


def test_a_job_whose_worker_is_killed_goes_on_when_the_command_is_given_again(
    work: Work, flags: list[str], worker_flags: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "dataset"
    process = work.extract(out, *flags, *worker_flags)
    worker = holder(out, process)
    started = psutil.Process(process.pid).children(recursive=True)
    assert worker in started and any(each.name() == "prism" for each in started)
    worker.kill()
    status, lines = ended(process)
    assert status == 1 and len(lines) == 1 and "rerun the same command to resume" in lines[0]
    _, alive = psutil.wait_procs(started, timeout=WITHIN_S)
    assert not alive

    assert ended(work.extract(out, *flags, *worker_flags)) == (0, [])
    assert contents(out) == contents(work.dataset)
    assert not list((out / "leases").glob("*.json"))
