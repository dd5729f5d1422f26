"""Signals: the first asks to stop, the second ends; what runs below isn't torn from its work."""

import signal
import subprocess
import sys
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
    assert signals.wait(10) and signals.asked_to_stop()
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
    assert signals.wait(10)
    os.kill(os.getpid(), signal.SIGTERM)
    __import__("threading").Event().wait(30)
"""
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 128 + signal.SIGTERM
