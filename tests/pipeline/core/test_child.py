"""A function called in another process: its answers, its limits, and its end with the process that started it."""

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.core.child import Child, ChildError, environment
from pipeline.core.errors import InputError

FUNCTIONS = """
import ctypes, os, subprocess, sys
from pipeline.core.errors import InputError

def pid(*arguments):
    return os.getpid(), *arguments

def hang_holding_the_lock(path=None):
    if path:
        with open(path, "w") as file:
            file.write(str(os.getpid()))
    ctypes.PyDLL(None).pause()

def start_another():
    child = subprocess.Popen(["sleep", "600"])
    return os.getpid(), child.pid

def start_one_that_waits_for_nothing():
    return subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL).pid

def take(size):
    return len(bytes(size))

def refuse(name):
    raise InputError(f"{name}: no such thing")

def die(status):
    if status < 0:
        os.kill(os.getpid(), -status)
    print("first words\\nlast words\\n", file=sys.stderr)
    sys.exit(status)
"""


@pytest.fixture(autouse=True)
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "called.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(str(tmp_path))


def ended(pid: int, within_s: float = 600) -> bool:
    """Whether a process that is no child of this one ends in time."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], within_s)[0])
    finally:
        os.close(descriptor)


def test_one_process_answers_call_after_call_in_order() -> None:
    with Child("called:pid") as child:
        answers = [child.call(number, {"path": Path("a")}) for number in range(5)]
    pids = {pid for pid, *_ in answers}
    assert len(pids) == 1 and os.getpid() not in pids
    assert [rest for _, *rest in answers] == [[number, {"path": Path("a")}] for number in range(5)]
    assert ended(pids.pop())


def test_an_input_error_is_raised_here_and_costs_nothing() -> None:
    with Child("called:refuse") as child:
        for name in ("one", "two"):
            with pytest.raises(InputError, match=f"^{name}: no such thing$"):
                child.call(name)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (3, r"^ended with status 3 \(last words\)$"),
        (-signal.SIGSEGV, "^ended with status -11$"),
        ("three", "ended with status 1 .*TypeError"),
    ],
)
def test_a_death_is_told_with_status_and_last_words_and_the_next_call_works(status: object, message: str) -> None:
    with Child("called:die") as child:
        for _ in range(2):
            with pytest.raises(ChildError, match=message) as caught:
                child.call(status)
            assert caught.value.reason == "crash"


def test_a_function_that_can_not_be_had_is_no_fault_of_the_question() -> None:
    with Child("called:nothing") as child, pytest.raises(ChildError, match="no attribute 'nothing'") as caught:
        child.call()
    assert caught.value.reason == "start"


def test_a_hang_that_holds_the_interpreter_lock_is_killed_at_its_limit() -> None:
    with Child("called:hang_holding_the_lock") as child:
        began = time.monotonic()
        with pytest.raises(ChildError, match="within 0.3 s") as caught:
            child.call(limit_s=0.3)
        assert caught.value.reason == "timeout" and time.monotonic() - began > 0.3


def test_memory_is_limited() -> None:
    with Child("called:take", memory_bytes=1 << 30) as child:
        assert child.call(1 << 20) == 1 << 20
        with pytest.raises(ChildError, match="MemoryError"):
            child.call(1 << 31)
    with Child("called:take") as child:
        assert child.call(1 << 31) == 1 << 31


def test_variables_are_added_to_its_environment() -> None:
    with Child("os:getenv", variables={"SOME": "value"}) as child:
        assert child.call("SOME") == "value" and child.call("PATH") == os.environ["PATH"]


def test_what_it_started_ends_with_it() -> None:
    with Child("called:start_another") as child:
        pids = child.call()
    assert all(ended(pid) for pid in pids)


PARENT = """
import sys
from pipeline.core.child import Child
child, hanging = Child("called:start_another"), Child("called:hang_holding_the_lock")
print(*child.call(), flush=True)
hanging.call(sys.argv[1])
"""


def test_all_of_it_ends_with_a_killed_parent_even_in_a_hang(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    command = [sys.executable, "-c", PARENT, str(fifo)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in [*parent.stdout.readline().split(), fifo.read_text()]]
        parent.send_signal(signal.SIGKILL)
    assert len(pids) == 3 and all(ended(pid) for pid in pids)


def test_what_the_process_started_ends_with_it() -> None:
    with Child("called:start_one_that_waits_for_nothing") as child:
        started = child.call()
    assert ended(started)
