"""Several processes on one data set: nothing twice, the dead's work taken over, signals heeded."""

import contextlib
import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from beam_jobs.extract import ExtractSettings, run
from pipeline.core.ledger import read_ledger

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
Datasets = Callable[[Path], dict[str, bytes]]


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(command_of: Callable[..., list[str]]) -> Start:
    """`start(settings, *more)`: `mcn extract` in a process group of its own."""
    return lambda settings, *more: subprocess.Popen(
        command_of(settings, "--poll", 0.5, *more),
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: Callable[[], object], process: "subprocess.Popen[str]") -> None:
    while not condition() and process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.02)
    assert condition(), process.communicate()[0]


def attempts(folder: Path) -> Counter[str]:
    return Counter(o.video_id for o in read_ledger(folder / "ledger", "extract") if o.outcome == "done")


@pytest.mark.parametrize("parts", [("", ""), ("1/2", "2/2")], ids=["by leases", "by parts"])
def test_two_processes_share_the_work_and_do_nothing_twice(
    settings: Callable[..., ExtractSettings], start: Start, local: Path, datasets: Datasets, parts: tuple[str, str]
) -> None:
    shared = settings(out="shared")
    processes = [start(shared, *(["--part", part] if part else [])) for part in parts]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert datasets(shared.out) == datasets(local)
    assert set(attempts(shared.out).values()) == {1}
    # By leases, the one that starts first may have done all before the other has loaded its networks.
    ledgers = {path.name for path in (shared.out / "ledger").glob("extract-*.jsonl")}
    assert len(ledgers) == 2 or parts == ("", "")
    assert not list((shared.out / "leases").glob("0*.json"))


def test_a_killed_process_is_taken_over(
    settings: Callable[..., ExtractSettings], start: Start, local: Path, datasets: Datasets
) -> None:
    shared = settings(out="taken")
    first = start(shared)
    wait_for(lambda: list(shared.out.glob("parts/*/*.h5")), first)
    second = start(shared)
    wait_for(lambda: len(list(shared.out.glob("leases/0*.json"))) > 1 or list(shared.out.glob("shards/*.h5")), second)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    output, _ = second.communicate()
    assert second.returncode == 0, output
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
    wait_for(lambda: list(stopped.out.glob("parts/*/*.h5")), process)
    os.killpg(process.pid, number)
    output, _ = process.communicate()
    assert process.returncode == 75, output
    assert "stopped by a signal" in output and json.loads((stopped.out / "extract.json").read_text())["stopped"]
    done = attempts(stopped.out)
    assert 0 < len(done) and len(list((stopped.out / "shards").glob("*.h5"))) < len(
        list((local / "shards").glob("*.h5"))
    )
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
    processes = [start(one, "--ids", ids) for _ in range(2)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert attempts(one.out) == {"video-00000": 1}
    assert run(one).skipped == 1
