"""SIGTERM and SIGUSR1 ask long work to finish what is in hand, save and end with status 75.

The processes that this one starts meanwhile ignore them: workers and decoders are not torn from their video when a
batch system signals a whole process group.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from pathlib import Path

from pipeline.core.errors import InputError
from pipeline.core.files import touch

STOPPED = 75
"""Exit status after SIGTERM or SIGUSR1: EX_TEMPFAIL, by which batch systems put a job back into their queue."""


class StoppedError(InputError):
    """A signal ended a wait, before anything was begun; the command line exits with `STOPPED`."""


SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_LOOKS_EVERY_S = 0.1
_SECOND = 128 + signal.SIGTERM

_asked = threading.Event()
_files: set[Path] = set()


def asked_to_stop() -> bool:
    """Whether this process was asked to stop."""
    return _asked.is_set()


def wait(seconds: float) -> bool:
    """Wait that long, or until asked to stop; returns whether that was asked."""
    return _asked.wait(seconds)


def ask_to_stop() -> None:
    """What the signals do: the flag is set, and with it every file that `stop_file` watches over."""
    _asked.set()
    for path in list(_files):
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            touch(path)


@contextmanager
def stop_file(path: Path) -> Iterator[Path]:
    """A file that comes to be when this process is asked to stop: workers on other machines look for it."""
    # One that a kill has left speaks of a run that is over.
    path.unlink(missing_ok=True)
    _files.add(path)
    try:
        if _asked.is_set():
            ask_to_stop()
        yield path
    finally:
        _files.discard(path)
        path.unlink(missing_ok=True)


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Take the signals while the block runs: the first asks to stop, the second ends the process at once.

    Enter it before libraries start threads of their own, which would take a signal unseen. Where the system can't wait
    for a signal (macOS), or outside the main thread, the signals keep their ways.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "sigtimedwait"):
        yield
        return
    # A handler for the moment: an ignored signal is dropped as soon as it is no longer blocked.
    early: list[int] = []
    handlers = {number: signal.signal(number, lambda number, _: early.append(number)) for number in SIGNALS}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    # Whatever uses multiprocessing starts this process once, and many a Python then unblocks SIGTERM in the thread that
    # did. Started here, it has the signals blocked itself, and nothing unblocks them later.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    asked_early = signal.sigtimedwait(SIGNALS, 0) is not None or bool(early)
    # Blocked, they are kept until the thread below takes them. Ignored, they stay so in what is started meanwhile, also
    # by a shell, which would unblock them.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if asked_early:
        _asked.set()
    over = threading.Event()

    def watch() -> None:
        # Not by sigtimedwait's own wait: one that SIGSTOP and SIGCONT interrupt past its end gives a signal that never
        # came (seen with CPython 3.11), and a suspended job would end once it goes on.
        while not over.wait(_LOOKS_EVERY_S):
            taken = signal.sigtimedwait(SIGNALS, 0)
            if taken is not None and _asked.is_set():
                os._exit(_SECOND)
            if taken is not None:
                ask_to_stop()
        # What came since would end the process by the signal, its work done.
        while signal.sigtimedwait(SIGNALS, 0) is not None:
            ask_to_stop()

    watcher = threading.Thread(target=watch, daemon=True, name="signals")
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        _asked.clear()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
