"""A link, a pipe or a foreign file under a name that this program writes to: what lies outside is never changed."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.core import signals
from pipeline.core.files import ASIDE, open_to_append, touch, write_json, write_text
from pipeline.core.lease import Lease, LeaseWatch
from pipeline.core.ledger import LedgerWriter
from pipeline.core.records import Outcome
from pipeline.core.reporting import RunSummary
from pipeline.core.tables import Table, write_tables
from pipeline.dataset.folder import add_tombstones
from pipeline.dataset.shard_plans import write_plans
from pipeline.download import downloader
from pipeline.download.budget import FULL, SCRATCH, MediaBudget
from pipeline.download.settings import FetchSettings
from pipeline.experiment.training_runs import LOG_FILE, Pool
from pipeline.training.curves import LearningCurves

SECRET = "someone's thesis"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A file outside of the folder that is written to."""
    path = tmp_path / "outside" / "thesis.txt"
    path.parent.mkdir()
    path.write_text(SECRET)
    os.utime(path, ns=(1, 1))
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    path = tmp_path / "out"
    path.mkdir()
    return path


def write_beat(folder: Path) -> None:
    lease = Lease(folder / "lock.json", beats_every_s=0.01)
    lease.acquire(LeaseWatch(expires_s=0))
    lease.release()


def wait_for_room(folder: Path) -> None:
    budget = MediaBudget(folder, 1.0)
    (folder / SCRATCH / "freeing-1.json").write_text(json.dumps({"beat": 1}))
    budget.wait_for_room(lambda seconds: True)


def stop_download(folder: Path) -> None:
    job = downloader.DownloadJob(folder, FetchSettings(), 1, "run")
    downloader.stop(job, "network")


def stop_by_signal(folder: Path) -> None:
    with signals.stop_on_signals(), signals.stop_file(folder / ".stop") as path:
        path.symlink_to(folder.parent / "outside" / "thesis.txt")
        signals.ask_to_stop()  # what the signal does


WRITERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "text": ("notes.txt", lambda folder: write_text(folder / "notes.txt", "new")),
    "json": ("results.json", lambda folder: write_json(folder / "results.json", {"new": 1})),
    "tables": ("scores.md", lambda folder: write_tables(folder / "scores.json", [Table("t", ("a",), (("b",),))])),
    "summary": ("train.json", lambda folder: RunSummary("train").finish().publish(folder / "train.json")),
    "tombstones": ("forgotten.json", lambda folder: add_tombstones(folder, ["abcdefghijk"])),
    "lease": ("lock.json", write_beat),
    "plan": ("000000.json", lambda folder: write_plans(folder, [["abcdefghijk"]])),
    "mark of a full disk": (f"{SCRATCH}/{FULL}", wait_for_room),
    "stop of a download": (f"{SCRATCH}/run/stop-network", stop_download),
    "stop by a signal": (".stop.other", stop_by_signal),
    "log": ("log.txt", lambda folder: open_to_append(folder / "log.txt").write(b"line")),
    "touch": ("mark", lambda folder: touch(folder / "mark")),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("dangling", [False, True], ids=["to a file", "dangling"])
def test_what_a_link_points_to_is_never_written_to(out: Path, outside: Path, name: str, dangling: bool) -> None:
    file, write = WRITERS[name]
    (out / file).parent.mkdir(parents=True, exist_ok=True)
    (out / file).symlink_to(outside.with_name("new.txt") if dangling else outside)
    if name == "tombstones" and not dangling:
        outside.write_text('{"schema": 1, "sha256": []}')
        os.utime(outside, ns=(1, 1))
    before = outside.read_bytes()
    try:
        write(out)
    except Exception as error:
        assert "\n" not in str(error), "one line"
    assert outside.read_bytes() == before and outside.stat().st_mtime_ns == 1
    assert [path.name for path in outside.parent.iterdir()] == ["thesis.txt"], "nothing came to be there"
    assert not list(out.rglob(f"*{ASIDE}"))


@pytest.mark.parametrize("open_it", [open_to_append, touch])
def test_a_pipe_that_nobody_reads_is_not_waited_for(out: Path, open_it: Callable[[Path], Any]) -> None:
    os.mkfifo(out / "log.txt")
    with pytest.raises(OSError, match="a link or a pipe lies there; remove it"):
        open_it(out / "log.txt")
    with pytest.raises(OSError, match="Is a directory|not a regular file"):
        open_it(out)


def test_appending_and_touching_do_what_they_say(out: Path) -> None:
    for text in (b"a", b"b"):
        with open_to_append(out / "log") as file:
            file.write(text)
    os.utime(out / "log", ns=(1, 1))
    touch(out / "log")
    assert (out / "log").read_bytes() == b"ab" and (out / "log").stat().st_mtime_ns > 1


def test_the_log_of_a_model_that_is_a_link_is_refused(out: Path, outside: Path) -> None:
    (out / LOG_FILE).symlink_to(outside)
    run: Any = type("One", (), {"folder": out, "stages": (), "name": "one"})()
    with pytest.raises(OSError, match="a link or a pipe lies there"):
        Pool(1)._begin(run)
    assert outside.read_text() == SECRET


def test_learning_curves_do_not_follow_a_link(out: Path, outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.training.curves.time.time", lambda: 5.0)
    monkeypatch.setattr("pipeline.training.curves.socket.gethostname", lambda: "host")
    (out / f"events.out.tfevents.5.host.{os.getpid()}").symlink_to(outside)
    LearningCurves(out, 0).close()
    assert outside.read_text() == SECRET


def test_a_ledger_takes_no_file_that_is_there(out: Path, outside: Path) -> None:
    writer = LedgerWriter(out, "download")
    writer.path.symlink_to(outside)
    with pytest.raises(Exception, match="can't be written"):
        writer.append(Outcome("abcdefghijk", "download", "done"))
    assert outside.read_text() == SECRET
