"""Leases: one holder at a time, the dead's are taken over, the living's are not."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core import signals
from pipeline.core.errors import InputError
from pipeline.core.files import write_json
from pipeline.core.lease import (
    BEATS_EVERY_S,
    Lease,
    LeaseLostError,
    LeaseWatch,
    has_ended,
    locked,
    read_lease,
    this_process,
)

ROOT = Path(__file__).parents[3]


def wait_for(condition: Callable[[], object]) -> None:
    """Until it is so; a test that would hang fails instead."""
    latest = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < latest, "it never came to be so"
        threading.Event().wait(0.005)


def beat_of(path: Path) -> int:
    """The count of a lease that is there and can be read."""
    found = read_lease(path)
    assert found is not None
    return found[1]


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
    subprocess.run([sys.executable, "-c", script, str(path)], cwd=ROOT)


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


def test_of_a_process_on_another_boot_or_in_another_container_nothing_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Containers of one machine may share its name, and always share its boot: a number means another process there."""
    mine = this_process()
    assert has_ended(replace(mine, started="1"))
    assert not has_ended(replace(mine, started="1", boot="another"))
    namespace = os.readlink("/proc/self/ns/pid")
    monkeypatch.setattr(os, "readlink", lambda path: {"/proc/self/ns/pid": "pid:[1]"}[path])
    within = this_process()
    monkeypatch.undo()
    assert os.readlink("/proc/self/ns/pid") == namespace
    assert not has_ended(replace(within, started="1"))
    write_json(tmp_path / "lease.json", replace(within, started="1").__dict__ | {"beat": 0})
    assert not Lease(tmp_path / "lease.json").acquire(LeaseWatch())


def test_a_process_that_has_ended_and_is_still_listed_has_lost_it(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    process = os.fork()
    if process == 0:
        try:
            Lease(path).acquire(LeaseWatch())
        finally:
            os._exit(0)
    try:
        # Until it is waited for, the system keeps its number and its start.
        os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
        found = read_lease(path)
        assert found is not None and found[0].pid == process
        assert has_ended(found[0])
    finally:
        os.waitpid(process, 0)


def test_a_holder_that_misses_beats_in_a_row_keeps_it(tmp_path: Path) -> None:
    path, watch = tmp_path / "lease.json", LeaseWatch()
    for beat in range(3):
        elsewhere(path, beat=beat)
        # Three of four are lost: to a full disk, or a busy machine.
        looks = [4 * BEATS_EVERY_S * (beat + share / 8) for share in range(8)]
        assert not any(watch.is_dead(path, now) for now in looks)


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
    wait_for(lambda: beat_of(path) >= 3)
    elsewhere(path)
    assert not lease.is_mine()
    with pytest.raises(LeaseLostError, match="far-away, process 7 has taken it over.*rerun to resume"):
        lease.check()
    lease.release()
    # The new holder's lease isn't the old one's to remove.
    assert read_lease(path)[0].host == "far-away"  # type: ignore[index]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.ESTALE])
def test_a_beat_that_fails_costs_that_beat_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    whole, refused = os.pwrite, []

    def full(descriptor: int, content: bytes, offset: int) -> int:
        if len(refused) < 3:
            refused.append(descriptor)
            raise OSError(code, os.strerror(code))
        return whole(descriptor, content, offset)

    monkeypatch.setattr(os, "pwrite", full)
    lease = Lease(tmp_path / "lease.json", beats_every_s=0.01)
    assert lease.acquire(LeaseWatch())
    (beating,) = (thread for thread in threading.enumerate() if thread.name == "lease lease")
    wait_for(lambda: beat_of(lease.path) > 3 or not beating.is_alive())
    assert beating.is_alive() and len(refused) == 3 and lease.is_mine()
    lease.release()
    assert not lease.path.exists()


TAKING_OVER = """
import os, signal, sys
from pathlib import Path
from pipeline.core.lease import Lease, LeaseWatch

moment, path = sys.argv[1], Path(sys.argv[2])
owner, name = {"judged": (LeaseWatch, "is_dead"), "renaming": (os, "rename")}[moment]
whole = getattr(owner, name)

def stops(*arguments):
    if moment == "renaming":
        os.kill(os.getpid(), signal.SIGSTOP)
    answer = whole(*arguments)
    if moment == "judged":
        os.kill(os.getpid(), signal.SIGSTOP)
    return answer

setattr(owner, name, stops)
print(Lease(path).acquire(LeaseWatch()))
"""


@pytest.mark.parametrize("moment", ["judged", "renaming"])
def test_of_two_processes_that_find_it_dead_the_later_leaves_it_to_the_earlier(tmp_path: Path, moment: str) -> None:
    path = tmp_path / "lease.json"
    of_a_dead_process(path)
    late = subprocess.Popen([sys.executable, "-c", TAKING_OVER, moment, str(path)], cwd=ROOT, stdout=subprocess.PIPE)
    assert os.WIFSTOPPED(os.waitpid(late.pid, os.WUNTRACED)[1])
    mine = Lease(path)
    assert mine.acquire(LeaseWatch())
    os.kill(late.pid, signal.SIGCONT)
    assert late.communicate()[0] == b"False\n" and late.returncode == 0
    assert mine.is_mine() and [found.name for found in tmp_path.iterdir()] == ["lease.json"]
    mine.release()


def test_a_lease_that_was_taken_away_by_mistake_replaces_no_later_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lease.json"
    of_a_dead_process(path)
    second, third, late = Lease(path), Lease(path), Lease(path)
    whole = os.rename

    def rename(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "rename", whole)
        assert second.acquire(LeaseWatch())
        whole(source, target)
        assert third.acquire(LeaseWatch())

    monkeypatch.setattr(os, "rename", rename)
    assert not late.acquire(LeaseWatch())
    assert third.is_mine() and not second.is_mine()
    second.release()
    third.release()
    assert list(tmp_path.iterdir()) == []


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
    process = subprocess.Popen([sys.executable, "-c", STOPPED, moment, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
    assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
    lease, watch = Lease(tmp_path / "lease.json"), LeaseWatch(expires_s=0.05)
    wait_for(lambda: lease.acquire(watch))
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


@pytest.mark.parametrize("host", ["far-away", socket.gethostname()], ids=["another host", "a container of this name"])
def test_a_lock_of_a_silent_host_is_waited_for_and_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], host: str
) -> None:
    path = tmp_path / "lock.json"
    elsewhere(path, host=host)
    with locked(path, "training", LeaseWatch(expires_s=0.05, polls_every_s=0.01)):
        assert read_lease(path)[0].token != "far"  # type: ignore[index]
    said = capsys.readouterr().err
    assert f"waiting for {host}, process 7" in said and f"taken over from {host}, process 7" in said


def test_a_lock_of_a_host_whose_count_moves_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, beats = tmp_path / "lock.json", iter(range(1, 9))
    elsewhere(path)
    monkeypatch.setattr(signals, "wait", lambda seconds: elsewhere(path, next(beats)))
    with pytest.raises(InputError, match="training: already at work: far-away, process 7"):
        with locked(path, "training"):
            raise AssertionError("two hold one lock")
    assert next(beats) == 2, "the first beat that is seen tells"
    assert read_lease(path)[0].host == "far-away"  # type: ignore[index]


def test_who_is_patient_waits_for_the_end_of_a_live_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, beats = tmp_path / "lock.json", iter([*range(1, 9), None])
    elsewhere(path)

    def beats_and_ends(seconds: float) -> None:
        beat = next(beats)
        path.unlink() if beat is None else elsewhere(path, beat)

    monkeypatch.setattr(signals, "wait", beats_and_ends)
    with locked(path, "planning", patient=True) as lease:
        assert lease.is_mine() and list(beats) == []
    assert capsys.readouterr().err == "mcn: planning: waiting for far-away, process 7, which has the lock\n"


def test_a_lock_that_cannot_be_read_is_waited_for_without_haste(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, waits = tmp_path / "lock.json", []
    path.write_bytes(b"{")

    class Watch(LeaseWatch):
        """A second passes with each wait, and no time otherwise."""

        def is_dead(self, path: Path, now: float | None = None) -> bool:
            return super().is_dead(path, float(len(waits)))

    monkeypatch.setattr(signals, "wait", waits.append)
    with locked(path, "training", Watch(expires_s=5)) as lease:
        assert lease.is_mine()
    assert waits == [1.0] * 5
    assert "waiting for a process that left no name" in capsys.readouterr().err


WAITING = """
import os, sys
from pathlib import Path
from pipeline.core import signals
from pipeline.core.lease import locked

whole, late = signals.wait, []

def wait(seconds):
    # The first may begin just after the signal.
    if signals.asked_to_stop():
        late.append(seconds)
    if len(late) > 1:
        os._exit(1)
    return whole(seconds)

signals.wait = wait
with signals.stop_on_signals():
    try:
        with locked(Path(sys.argv[1]), "planning", patient=True):
            print("it has the lock")
    except signals.StoppedError as error:
        print(error)
"""


@pytest.mark.parametrize("held", ["by a live process", "by nobody knows"])
def test_a_signal_ends_the_wait_for_a_lock(tmp_path: Path, held: str) -> None:
    path = tmp_path / "lock.json"
    mine = Lease(path)
    if held == "by a live process":
        assert mine.acquire(LeaseWatch())
    else:
        path.write_bytes(b"{")
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, str(path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None and "waiting for" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate()
    name = f"{this_process()}" if held == "by a live process" else "a process that left no name"
    assert process.returncode == 0
    assert output == f"planning: stopped by a signal while it waited for {name}; rerun to resume\n"
    assert path.exists()
    mine.release()


def test_a_lock_is_released_by_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "lock.json", "work"):
        _ = 1 // 0
    assert list(tmp_path.iterdir()) == []
