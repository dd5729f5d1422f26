"""Several processes on one data set: nothing twice, the dead's work taken over, signals heeded."""

import contextlib
import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from beam_jobs.extract import ExtractSettings, run
from pipeline.core.lease import read_lease
from pipeline.core.ledger import read_ledger

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
Datasets = Callable[[Path], dict[str, bytes]]


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(command_of: Callable[..., list[str]]) -> Iterator[Start]:
    """`start(settings, *more)`: `mcn extract` in a process group of its own, killed if it outlives the test."""
    processes = []

    def begin(settings: ExtractSettings, *more: object) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            command_of(settings, "--poll", 0.5, *more),
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def wait_for(condition: Callable[[], object], process: "subprocess.Popen[str]") -> None:
    while not condition() and process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.02)
    assert condition(), process.communicate()[0]


def attempts(folder: Path) -> Counter[str]:
    return Counter(o.video_id for o in read_ledger(folder / "ledger", "extract") if o.outcome == "done")


def holders(folder: Path) -> dict[str, int]:
    """Plan -> the process that works on it."""
    leases = {path.stem: read_lease(path) for path in (folder / "leases").glob("0*.json")}
    return {name: lease[0].pid for name, lease in leases.items() if lease is not None}


def stop_at_its_first_part(folder: Path, process: "subprocess.Popen[str]") -> None:
    """However fast it is, there is work left for others then."""
    wait_for(lambda: list(folder.glob("parts/*/*.h5")), process)
    os.killpg(process.pid, signal.SIGSTOP)


@pytest.mark.parametrize("parts", [("", ""), ("1/2", "2/2")], ids=["by leases", "by parts"])
def test_two_processes_share_the_work_and_do_nothing_twice(
    settings: Callable[..., ExtractSettings], start: Start, local: Path, datasets: Datasets, parts: tuple[str, str]
) -> None:
    shared = settings(out="shared")
    flags = [["--part", part] if part else [] for part in parts]
    first = start(shared, *flags[0])
    stop_at_its_first_part(shared.out, first)
    second = start(shared, *flags[1])
    wait_for(lambda: second.pid in holders(shared.out).values(), second)
    assert set(holders(shared.out).values()) == {first.pid, second.pid}
    os.killpg(first.pid, signal.SIGCONT)
    outputs = [process.communicate()[0] for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], outputs
    assert datasets(shared.out) == datasets(local)
    assert set(attempts(shared.out).values()) == {1}
    writers = {path.name.split("-")[-2] for path in (shared.out / "ledger").glob("extract-*.jsonl")}
    assert writers == {str(first.pid), str(second.pid)}
    assert not holders(shared.out)


def test_a_killed_process_is_taken_over(
    settings: Callable[..., ExtractSettings], start: Start, local: Path, datasets: Datasets
) -> None:
    shared = settings(out="taken")
    first = start(shared)
    stop_at_its_first_part(shared.out, first)
    ((plan, _),) = holders(shared.out).items()
    second = start(shared)
    wait_for(lambda: second.pid in holders(shared.out).values(), second)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    output, _ = second.communicate()
    assert second.returncode == 0, output
    assert f"mcn: {plan}: taken over from " in output and f"process {first.pid}, which has ended" in output
    assert datasets(shared.out) == datasets(local)
    assert set(attempts(shared.out).values()) == {1}, "a finished part is not computed again"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_finishes_the_video_in_hand_and_exits_75(
    settings: Callable[..., ExtractSettings],
    start: Start,
    local: Path,
    datasets: Datasets,
    number: signal.Signals,
    workers: int,
) -> None:
    stopped = settings(out="stopped")
    process = start(replace(stopped, workers=workers))
    stop_at_its_first_part(stopped.out, process)
    os.killpg(process.pid, number)
    os.killpg(process.pid, signal.SIGCONT)
    output, _ = process.communicate()
    assert process.returncode == 75, output
    assert "stopped by a signal" in output and json.loads((stopped.out / "extract.json").read_text())["stopped"]
    parts = {path.stem for path in stopped.out.glob("parts/*/*.h5")}
    stored = {i for path in stopped.out.glob("shards/*.json") for i in json.loads(path.read_text())["video_ids"]}
    assert set(attempts(stopped.out)) == parts | stored != set(), "what was begun was finished, and is in the ledger"
    closed, planned = (len(list(stopped.out.glob(pattern))) for pattern in ("shards/*.h5", "plans/*.json"))
    assert closed < planned, "nothing more was begun"
    assert not list(stopped.out.rglob("*.aside"))
    assert not list((stopped.out / "leases").glob("*")), "leases are given back"
    again = start(stopped)
    output, _ = again.communicate()
    assert again.returncode == 0, output
    assert datasets(stopped.out) == datasets(local) and set(attempts(stopped.out).values()) == {1}


def test_another_live_process_on_the_only_plan_is_waited_for(
    settings: Callable[..., ExtractSettings], start: Start, tmp_path: Path, media: Path
) -> None:
    ids = tmp_path / "ids.csv"
    (tmp_path / "media").mkdir()
    os.link(media / "video-00000.mp4", tmp_path / "media" / "video-00000.mp4")
    ids.write_text("video_id\nvideo-00000\n")
    one = settings(out="one", media=tmp_path / "media", ids=ids)
    first = start(one, "--ids", ids)
    wait_for(lambda: holders(one.out), first)
    os.killpg(first.pid, signal.SIGSTOP)
    second = start(one, "--ids", ids)
    assert second.stdout is not None
    said = next(line for line in second.stdout if "held by other processes" in line)
    assert "1 plans are held" in said and f"process {first.pid}" in said
    os.killpg(first.pid, signal.SIGCONT)
    outputs = [process.communicate()[0] for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], outputs
    assert attempts(one.out) == {"video-00000": 1}
    assert run(one).skipped == 1
