"""SIGKILL at random moments of a job, and what must be so once all is over."""

import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from .conftest import WITHIN_S, Work, contents, ended
from .slurm_cluster import wait_for

KILLS = 10
ATTEMPTS = 10
NOTICED_WITHIN_S = 90.0
"""A cluster misses what was killed within this time."""
Mcn = subprocess.Popen[str]


@contextmanager
def at_work(process: Mcn) -> Iterator[Mcn]:
    """`mcn`, which does not outlive the block, as in a test that fails, nor does its job server."""
    try:
        yield process
    finally:
        if process.poll() is None:
            children = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            process.wait()
            for child in children:
                with suppress(psutil.NoSuchProcess):
                    child.kill()


def goes_on(process: Mcn, seconds: float) -> bool:
    """Whether `mcn` is still at work after these seconds; False as soon as it has ended."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=seconds)
    return process.poll() is None


def comes(condition: Callable[[], bool], process: Mcn, within_s: float = NOTICED_WITHIN_S) -> bool:
    """Whether the condition comes to hold before that time is over and before `mcn` has ended."""
    begin = time.monotonic()
    while not condition():
        if time.monotonic() - begin > within_s or not goes_on(process, 0.05):
            return condition()
    return True


def at_a_moment(
    start: Callable[[Path], Mcn], folder: Path, seconds: Callable[[], float], begun: Callable[[], bool] = lambda: True
) -> tuple[Mcn, Path]:
    """`mcn` at work, so many seconds after that has begun, and its data set; started anew where it ended before."""
    for attempt in range(ATTEMPTS):
        out = folder / f"dataset-{attempt}"
        process = start(out)
        if comes(begun, process, WITHIN_S) and goes_on(process, seconds()):
            return process, out
        assert ended(process) == (0, [])
    raise AssertionError(f"{ATTEMPTS} moments came too late")


def check_whole(work: Work, out: Path) -> None:
    """The shards are those of this machine alone, and no lease is left."""
    assert contents(out) == contents(work.dataset)
    assert list((out / "leases").glob("*.json")) == []


def computed_twice(out: Path) -> dict[str, int]:
    """Videos whose extraction the ledger calls done more than once -> how often."""
    done: Counter[str] = Counter()
    for path in (out / "ledger").glob("extract-*.jsonl"):
        for line in path.read_text(errors="replace").splitlines():
            with suppress(ValueError):  # a kill tears a line
                entry = json.loads(line)
                done[entry["video_id"]] += entry["outcome"] == "done"
    return {video_id: times for video_id, times in done.items() if times > 1}


def processes_of(temporary: Path) -> list[psutil.Process]:
    """The living processes that have this folder for temporary files, whoever has started them."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("TMPDIR") == str(temporary):
                found.append(process)
    return found


def wait_for_end_of_processes(temporary: Path, but: Collection[int] = ()) -> None:
    """Wait until no process of this folder lives but those of these numbers."""

    def left() -> list[psutil.Process]:
        return [process for process in processes_of(temporary) if process.pid not in but]

    try:
        wait_for("the end of the job's processes", lambda: not left(), WITHIN_S / 4)
    except TimeoutError as error:
        raise AssertionError([process.as_dict(["pid", "ppid", "cmdline"]) for process in left()]) from error
