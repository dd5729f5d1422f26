"""Leases: one holder at a time, the dead's are taken over, the living's are not."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.core.errors import InputError
from pipeline.core.files import write_json
from pipeline.core.lease import Lease, LeaseLostError, LeaseWatch, has_ended, locked, read_lease, this_process


def elsewhere(path: Path, beat: int = 0, **changes: object) -> None:
    """A lease as a process on another host would hold it."""
    holder = this_process().__dict__ | {"host": "far-away", "boot": "another", "pid": 7, "token": "far"}
    write_json(path, holder | changes | {"beat": beat})


def of_a_dead_process(path: Path) -> None:
    """Leave the lease of a process of this host that has ended without releasing it."""
    script = (
        "import os, sys; from pathlib import Path; from pipeline.core.lease import Lease, LeaseWatch\n"
        "assert Lease(Path(sys.argv[1])).acquire(LeaseWatch()); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], cwd=Path(__file__).parents[3])


def test_one_of_many_gets_it(tmp_path: Path) -> None:
    leases = [Lease(tmp_path / "leases" / "000001.json") for _ in range(8)]
    barrier, got = threading.Barrier(8), []

    def take(lease: Lease) -> None:
        barrier.wait()
        if lease.acquire(LeaseWatch()):
            got.append(lease)

    threads = [threading.Thread(target=take, args=[lease]) for lease in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
    assert not Lease(leases[0].path).acquire(LeaseWatch())
    got[0].release()
    assert os.listdir(tmp_path / "leases") == []
    assert Lease(leases[0].path).acquire(LeaseWatch())


def test_a_dead_process_of_this_host_loses_it_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "000001.json"
    of_a_dead_process(path)
    found = read_lease(path)
    assert found is not None and has_ended(found[0])
    lease = Lease(path)
    assert lease.acquire(LeaseWatch())
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "000001" in line and f"process {found[0].pid}" in line and found[0].host in line
    assert read_lease(path)[0].token != found[0].token  # type: ignore[index]
    lease.release()


def test_another_hosts_is_dead_when_its_count_stands_still(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    elsewhere(path)
    watch = LeaseWatch(expires_s=90)
    assert [watch.is_dead(path, now) for now in (0.0, 89.0)] == [False, False]
    elsewhere(path, beat=1)
    assert [watch.is_dead(path, now) for now in (100.0, 189.0, 190.0)] == [False, False, True]
    # A count that moves again belongs to a living process.
    elsewhere(path, beat=2)
    assert not watch.is_dead(path, 300.0)


def test_a_number_used_again_is_another_process(tmp_path: Path) -> None:
    mine = this_process()
    assert not has_ended(mine)
    write_json(tmp_path / "lease.json", mine.__dict__ | {"started": "1", "beat": 0})
    found = read_lease(tmp_path / "lease.json")
    assert found is not None and has_ended(found[0])


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"beat": 1}', b"\xff\xfe", b'{"beat": "x", "host": 1}'])
def test_one_that_cannot_be_read_expires_too(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "lease.json"
    path.write_bytes(content)
    watch = LeaseWatch(expires_s=5)
    assert read_lease(path) is None
    assert [watch.is_dead(path, now) for now in (0.0, 4.0, 5.0)] == [False, False, True]


def test_a_beat_moves_the_count_and_a_loss_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    lease = Lease(path, beats_every_s=0.01)
    assert lease.acquire(LeaseWatch())
    deadline = threading.Event()
    while (found := read_lease(path)) and found[1] < 3:
        deadline.wait(0.005)
    elsewhere(path)
    assert not lease.is_mine()
    with pytest.raises(LeaseLostError, match="far-away, process 7 has taken it over.*rerun to resume"):
        lease.check()
    lease.release()
    # The new holder's lease isn't the old one's to remove.
    assert read_lease(path)[0].host == "far-away"  # type: ignore[index]


STOPPED = """
import os, signal, sys
from pathlib import Path
from pipeline.core import files
from pipeline.core.lease import Lease, LeaseLostError, LeaseWatch

moment, folder = sys.argv[1], Path(sys.argv[2])
lease = Lease(folder / "lease.json", beats_every_s=0.01)

def stop_before(function):
    def call(*arguments, **named):
        if stops:
            stops.pop()
            os.kill(os.getpid(), signal.SIGSTOP)
        return function(*arguments, **named)
    return call

stops = []
where, name = {"beat": (os, "pwrite"), "release": (os, "rename"), "link": (os, "link")}.get(moment, (os, "fsync"))
setattr(where, name, stop_before(getattr(where, name)))
assert lease.acquire(LeaseWatch())
try:
    with lease.held():
        stops.append(moment)
        if moment == "beat":
            while stops:
                pass
        if moment == "release":
            raise SystemExit(0)
        if moment == "remove":
            os.kill(os.getpid(), signal.SIGSTOP)
            stops.clear()
            files.remove(folder / "other.json")
        if moment == "tree":
            os.kill(os.getpid(), signal.SIGSTOP)
            stops.clear()
            files.remove_tree(folder / "parts")
        if moment == "link":
            files.write_text(folder / "new.json", "mine", exclusive=True)
        files.write_text(folder / "other.json", "mine")
except LeaseLostError as error:
    assert "has taken it over" in str(error)
    print("lost")
"""


@pytest.mark.parametrize(
    ("moment", "said"),
    [("write", "lost"), ("remove", "lost"), ("tree", "lost"), ("beat", "lost"), ("release", ""), ("link", "lost")],
)
def test_a_holder_that_is_stopped_past_its_term_and_wakes_changes_nothing(
    tmp_path: Path, moment: str, said: str
) -> None:
    (tmp_path / "other.json").write_text("theirs")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "a.h5").write_text("theirs")
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED, moment, str(tmp_path)], cwd=Path(__file__).parents[3], stdout=subprocess.PIPE
    )
    assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
    lease, watch = Lease(tmp_path / "lease.json"), LeaseWatch(expires_s=0.05)
    while not lease.acquire(watch):
        threading.Event().wait(watch.polls_every_s / 100)
    (tmp_path / "new.json").write_text("theirs")
    os.kill(process.pid, signal.SIGCONT)
    output, _ = process.communicate()
    assert process.returncode == 0 and output.decode().strip() == said
    assert lease.is_mine(), "the new holder's lease is neither written over nor removed"
    for name in ("other.json", "new.json", "parts/a.h5"):
        assert (tmp_path / name).read_text() == "theirs"
    lease.release()
    assert {path.name for path in tmp_path.iterdir()} == {"other.json", "new.json", "parts"}


def test_a_lock_names_who_has_it(tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    with locked(path, "training in runs/model"):
        with pytest.raises(InputError, match=rf"training in runs/model: already at work: .* process {os.getpid()} "):
            with locked(path, "training in runs/model"):
                raise AssertionError("two hold one lock")
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert not path.exists()


def test_a_lock_of_a_silent_host_is_waited_for_and_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "lock.json"
    elsewhere(path)
    with locked(path, "training", LeaseWatch(expires_s=0.05, polls_every_s=0.01)):
        assert read_lease(path)[0].pid == os.getpid()  # type: ignore[index]
    said = capsys.readouterr().err
    assert "waiting for far-away, process 7" in said and "taken over from far-away, process 7" in said


def test_a_lock_is_released_by_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "lock.json", "work"):
        _ = 1 // 0
    assert list(tmp_path.iterdir()) == []
