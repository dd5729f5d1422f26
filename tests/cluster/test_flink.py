"""Download and extraction on a Flink session cluster of two task managers give what one machine gives."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.download.media import find_media

from .conftest import Work, contents, ended, holder
from .flink_cluster import FlinkCluster

Flink = Callable[[dict[str, Any]], tuple[FlinkCluster, list[str]]]

RESTARTS = {
    "restart-strategy.type": "fixed-delay",
    "restart-strategy.fixed-delay.attempts": 10,
    "restart-strategy.fixed-delay.delay": "1 s",
}


def test_a_cluster_that_restarts_what_failed_loses_nothing(work: Work, flink: Flink, tmp_path: Path) -> None:
    cluster, flags = flink(RESTARTS)

    media = tmp_path / "media"
    assert ended(work.download(media, *flags)) == (0, [])
    there, here = find_media(media).paths, find_media(work.media).paths
    assert {name: path.read_bytes() for name, path in there.items()} == {
        name: path.read_bytes() for name, path in here.items()
    }

    undisturbed = tmp_path / "undisturbed"
    assert ended(work.extract(undisturbed, *flags)) == (0, [])
    assert contents(undisturbed) == contents(work.dataset)

    # A Python worker is killed, then the task manager of another one; a new manager comes in its place.
    disturbed = tmp_path / "disturbed"
    process = work.extract(disturbed, *flags)
    worker = holder(disturbed, process)
    worker.kill()
    manager = holder(disturbed, process, but=worker.pid).parent()
    assert manager is not None and manager.pid in {each.pid for each in cluster.processes.values()}
    manager.kill()
    cluster.start_manager(2)
    assert ended(process) == (0, [])
    assert contents(disturbed) == contents(work.dataset)
    assert not list((disturbed / "leases").glob("*.json"))


def test_a_cluster_without_restarts_goes_on_when_the_command_is_given_again(
    work: Work, flink: Flink, tmp_path: Path
) -> None:
    cluster, flags = flink({})
    out = tmp_path / "dataset"

    status, lines = ended(work.extract(out, *flags, "--environment_type=LOOPBACK"))
    assert status == 2 and len(lines) == 1 and "2 were found" in lines[0]
    assert not out.exists()

    # What a user must mend fails no job, and is told once.
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "parts").write_text("a file where the folder of parts should be")
    status, lines = ended(work.extract(broken, *flags))
    assert status == 2 and len(lines) == 1 and "parts" in lines[0] and "can't be written" in lines[0]
    assert cluster.ask("overview")["jobs-failed"] == 0

    process = work.extract(out, *flags)
    holder(out, process).kill()
    status, lines = ended(process)
    assert status == 1 and len(lines) == 1 and "rerun the same command to resume" in lines[0]

    process = work.extract(out, *flags)
    holder(out, process)
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (75, [])
    assert not list((out / "leases").glob("*.json"))

    assert ended(work.extract(out, *flags)) == (0, [])
    assert contents(out) == contents(work.dataset)
