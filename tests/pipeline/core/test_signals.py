"""Signals: the first asks to stop, the second ends; what runs below isn't torn from its work."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.core import signals

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_a_signal_sets_the_flag_and_the_file(number: signal.Signals, tmp_path: Path) -> None:
    script = """
import os, sys, threading
from pathlib import Path
from pipeline.core import signals
assert not signals.asked_to_stop()
with signals.stop_on_signals(), signals.stop_file(Path(sys.argv[1])) as path:
    assert not signals.wait(0) and not path.exists()
    os.kill(os.getpid(), int(sys.argv[2]))
    assert signals.wait(600) and signals.asked_to_stop()
    while not path.exists():
        threading.Event().wait(0.005)
assert not path.exists() and not signals.asked_to_stop()
print("both seen")
"""
    command = [sys.executable, "-c", script, str(tmp_path / "leases" / "stop"), str(int(number))]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).stdout == b"both seen\n"


def test_outside_the_block_a_signal_is_what_it_was(tmp_path: Path) -> None:
    with signals.stop_on_signals():
        pass
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []).isdisjoint(signals.SIGNALS)


def test_a_process_that_is_suspended_and_goes_on_was_not_asked_to_stop() -> None:
    script = """
import os, signal, sys
from pipeline.core import signals
with signals.stop_on_signals():
    print("ready", flush=True)
    sys.stdin.readline()
    assert not signals.wait(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    assert signals.wait(600)
print("goes on", flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGSTOP)
    assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
    threading.Event().wait(0.4)  # longer than it looks away from signals
    process.send_signal(signal.SIGCONT)
    assert process.communicate("\n")[0] == "goes on\n" and process.returncode == 0


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_a_signal_at_the_very_end_does_not_undo_what_is_done(number: signal.Signals) -> None:
    script = """
import os, sys
from pipeline.core import signals
with signals.stop_on_signals():
    os.kill(os.getpid(), int(sys.argv[1]))
print("done")
"""
    ended = subprocess.run([sys.executable, "-c", script, str(int(number))], cwd=ROOT, capture_output=True)
    assert (ended.returncode, ended.stdout) == (0, b"done\n")


def test_the_second_signal_ends_the_process_and_children_are_spared() -> None:
    script = """
import os, signal, subprocess, sys
from pipeline.core import signals
with signals.stop_on_signals():
    command = f"{sys.executable} -c \\"print('ready', flush=True); input()\\""
    child = subprocess.Popen(command, shell=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
    os.kill(child.pid, signal.SIGTERM)
    child.communicate(b"\\n")
    assert child.returncode == 0, child.returncode
    os.kill(os.getpid(), signal.SIGTERM)
    assert signals.wait(600)
    os.kill(os.getpid(), signal.SIGTERM)
    __import__("threading").Event().wait(600)
"""
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 128 + signal.SIGTERM


POOL = """
import multiprocessing, os, signal, sys
from concurrent.futures import ProcessPoolExecutor
from pipeline.core import signals

def work(number):
    return number

if __name__ == "__main__":
    method, number = sys.argv[1], int(sys.argv[2])
    with signals.stop_on_signals():
        context = multiprocessing.get_context(method)
        with ProcessPoolExecutor(2, context) as pool:
            assert list(pool.map(work, range(4))) == list(range(4))
            # As a batch system does: those of the pool are spared, this one hears it.
            os.killpg(0, number)
            assert signals.wait(600), "swallowed"
            assert list(pool.map(work, range(4))) == list(range(4))
        context.Semaphore().acquire()
        assert signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    print("heard")
"""


@pytest.mark.parametrize("number", signals.SIGNALS)
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_whatever_starts_processes_takes_no_signal_away(method: str, number: signal.Signals, tmp_path: Path) -> None:
    path = tmp_path / "pool.py"  # which processes that are spawned import
    path.write_text(POOL)
    command = [sys.executable, str(path), method, str(int(number))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, start_new_session=True)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr


@pytest.mark.parametrize("number", signals.SIGNALS)
@pytest.mark.parametrize("ignored", [False, True], ids=["blocked", "blocked and ignored"])
def test_a_signal_that_came_while_the_program_was_loaded_is_heard(number: signal.Signals, ignored: bool) -> None:
    script = """
import os, signal, sys
from pipeline.core import signals
number = int(sys.argv[1])
signal.pthread_sigmask(signal.SIG_BLOCK, signals.SIGNALS)
if sys.argv[2] == "True":
    signal.signal(number, signal.SIG_IGN)
os.kill(os.getpid(), number)
with signals.stop_on_signals():
    assert signals.asked_to_stop()
print("heard")
"""
    command = [sys.executable, "-c", script, str(int(number)), str(ignored)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).stdout == b"heard\n"
