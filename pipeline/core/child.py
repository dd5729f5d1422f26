"""A function called in another process, which is killed at a time limit and never outlives the one that started it.

HDF5 may crash or hang on a damaged file, a transfer may hang for good, PyTorch takes a GiB: each then costs that
process alone. It isn't one of multiprocessing's, which would import the parent's main program, hence all of Beam. Run
as a program, the module is such a process.
"""

import fcntl
import os
import pkgutil
import resource
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import IO, Any, Literal

from pipeline.core.errors import InputError
from pipeline.core.files import Closeable

START_LIMIT_S = 60.0
"""How long a child may take to import its function's module."""
_EXIT_LIMIT_S = 5.0


class ChildError(Exception):
    """A child process gave no answer: why, with its exit status and the last line it wrote to stderr if it died."""

    def __init__(self, reason: Literal["start", "timeout", "crash"], message: str) -> None:
        super().__init__(message)
        self.reason = reason
        """`start`: it never became ready, whatever it was to do; `timeout`, `crash`: in the middle of a call."""


class Child(Closeable):
    """Calls a function in another process, started by the first call and again after a failure. A context manager.

    `function` is `package.module:name`; `memory_bytes` limits the process's address space; `variables` are added to its
    environment. Arguments and results are pickled.
    """

    def __init__(
        self, function: str, memory_bytes: int | None = None, variables: Mapping[str, str] | None = None
    ) -> None:
        self._command = [sys.executable, "-m", "pipeline.core.child", function, str(memory_bytes or 0)]
        self._variables = variables or {}
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection
        self._stderr: IO[bytes]

    def call(self, *arguments: Any, limit_s: float | None = None) -> Any:
        """The function's result; importing its module doesn't count towards `limit_s`.

        Raises ChildError if there is none, and the InputError that the function raises; any other error ends the child.
        """
        reason: Literal["start", "timeout", "crash"] = "start"
        try:
            if self._process is None:
                self._start()
                self._receive("start", START_LIMIT_S)
            reason = "crash"
            self._connection.send(arguments)
            result = self._receive("timeout", limit_s)
        except (EOFError, OSError) as error:
            raise ChildError(reason, self._ending(error)) from None
        except BaseException:
            self.close()
            raise
        if isinstance(result, InputError):
            raise result
        return result

    def _start(self) -> None:
        self._connection, far = Pipe()
        self._stderr = tempfile.TemporaryFile()
        with far:
            self._process = subprocess.Popen(
                [*self._command, str(far.fileno())],
                pass_fds=[far.fileno()],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                env={**environment(), **self._variables},
                start_new_session=True,
            )

    def _receive(self, reason: Literal["start", "timeout"], limit_s: float | None) -> Any:
        if not self._connection.poll(limit_s):
            raise ChildError(reason, f"gave no answer within {limit_s:g} s and was killed")
        return self._connection.recv()

    def _ending(self, error: Exception) -> str:
        """How the process ended, now that its connection is closed."""
        if self._process is None:
            return f"could not be started: {error}"
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_LIMIT_S)
        status = self._process.returncode
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").split("\n")
        tail = next((line.strip() for line in reversed(lines) if line.strip()), "")
        self.close()
        return f"ended with status {status}" + (f" ({tail})" if tail else "")

    def close(self) -> None:
        """Kill the process and what it has started."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with self._process, self._connection, self._stderr:  # waits for the process, closes its pipe
            self._process = None


def environment() -> dict[str, str]:
    """Environment for a process that must import what this one does."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def end_with_parent() -> None:
    """Have this process and its process group end with the parent, however that ends; for a leader of a group.

    Standard input must be a pipe to which the parent never writes: its end is the parent's. On Linux the kernel watches
    it, even while a C library holds the interpreter lock; elsewhere a thread does.
    """
    if sys.platform != "linux":
        threading.Thread(target=lambda: os.read(0, 1) or os.killpg(0, signal.SIGKILL), daemon=True).start()
        return
    # A parent-death signal would follow the thread that started this process, which may end long before its parent.
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(0, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([0], [], [], 0)[0]:
        os._exit(1)


def _serve(name: str, memory_bytes: int, descriptor: int) -> None:
    end_with_parent()
    function = pkgutil.resolve_name(name)
    if memory_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, resource.getrlimit(resource.RLIMIT_AS)[1]))
    connection = Connection(descriptor)
    connection.send("ready")
    while True:
        arguments = connection.recv()
        try:
            result = function(*arguments)
        except InputError as error:
            result = error
        connection.send(result)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
