"""A SLURM cluster of its own processes on this machine: one node, on free ports and in one folder."""

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from .flink_cluster import free_ports

READY_WITHIN_S = 30.0
ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue")

# The node is said to be larger than the machine, so that scripts for servers with GPUs run as they stand.
SETTINGS = """
ClusterName=tests
SlurmctldHost={node}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
MinJobAge=86400
NodeName={node} NodeAddr=127.0.0.1 CPUs=32 Gres=gpu:4 State=UNKNOWN
PartitionName=all Nodes={node} Default=YES MaxTime=INFINITE State=UP
"""


def lacking_programs() -> list[str]:
    """What isn't on PATH of that which a cluster consists of."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


def wait_for(what: str, condition: Callable[[], bool], within_s: float) -> None:
    """Return once the condition holds; TimeoutError tells `what` did not come."""
    begin = time.monotonic()
    while not condition():
        if time.monotonic() - begin > within_s:
            raise TimeoutError(f"{what}: not within {within_s:.0f} s")
        time.sleep(0.1)


class SlurmCluster:
    """munged, slurmctld and slurmd; a context manager, which ends them and all jobs.

    What the processes say is in `folder`, a file each. `environment` lets SLURM's commands find this cluster.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
        for name in ("state", "spool"):
            (folder / name).mkdir(parents=True)
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        controller_port, node_port = free_ports(2)
        # By its own name, since slurmd looks itself up.
        node = socket.gethostname().split(".")[0]
        given = {"folder": folder, "node": node, "user": getpass.getuser()}
        settings = SETTINGS.format(controller_port=controller_port, node_port=node_port, **given)
        (folder / "slurm.conf").write_text(settings)
        for number in range(4):
            (folder / f"gpu{number}").touch()
        (folder / "gres.conf").write_text(f"NodeName={node} Name=gpu File={folder}/gpu[0-3]\n")

    def __enter__(self) -> "SlurmCluster":
        try:
            self._start_all()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start_all(self) -> None:
        files = [f"--key-file={self.folder / 'munge.key'}", f"--socket={self.folder / 'munge.socket'}"]
        files += [f"--{what}-file={self.folder / f'munge.{what}'}" for what in ("pid", "log", "seed")]
        # --force: the folder is this user's alone, which munged takes for a fault.
        self._start("munged", "--foreground", "--force", *files)
        wait_for(f"munged, see {self.folder}", (self.folder / "munge.socket").exists, READY_WITHIN_S)
        self._start("slurmctld", "-D", "-f", self.folder / "slurm.conf")
        self._start("slurmd", "-D", "-f", self.folder / "slurm.conf")
        wait_for(f"an idle node, see {self.folder}", self._is_idle, READY_WITHIN_S)

    def __exit__(self, *exception: object) -> None:
        with suppress(subprocess.CalledProcessError, TimeoutError):
            if self.processes.keys() >= {"slurmctld", "slurmd"} and self._is_up():
                self.ask("scancel", f"--user={getpass.getuser()}")
                wait_for("the end of all jobs", lambda: not self.ask("squeue", "--noheader"), READY_WITHIN_S)
        started = [psutil.Process(process.pid) for process in self.processes.values() if process.poll() is None]
        started += [child for process in started for child in process.children(recursive=True)]
        for process in reversed(self.processes.values()):
            process.terminate()
            process.wait(timeout=READY_WITHIN_S)
        _, alive = psutil.wait_procs(started, timeout=READY_WITHIN_S)
        assert not alive, alive

    def _is_up(self) -> bool:
        return all(process.poll() is None for process in self.processes.values())

    def _is_idle(self) -> bool:
        assert self._is_up(), f"see {self.folder}"
        with suppress(subprocess.CalledProcessError):
            return "State=IDLE " in self.ask("scontrol", "--oneliner", "show", "node")
        return False

    def _start(self, program: str, *arguments: object) -> None:
        with open(self.folder / f"{program}.log", "ab") as log:
            self.processes[program] = subprocess.Popen(
                [program, *map(str, arguments)], stdout=log, stderr=log, env=self.environment
            )

    def ask(self, *words: str) -> str:
        """What a command of SLURM prints; CalledProcessError when it fails."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout.strip()

    def submit(self, script: Path, *flags: str) -> str:
        """Number of the array; each task appends what it says to a file of its number in `folder`."""
        said = f"--output={self.folder / '%A-%a.txt'}"
        return self.ask("sbatch", "--parsable", said, *flags, str(script))

    def said(self, task: str) -> str:
        """All that a task, "ARRAY_NUMBER", has said so far."""
        path = self.folder / f"{task.replace('_', '-')}.txt"
        return path.read_text() if path.exists() else ""

    def task(self, task: str) -> dict[str, str]:
        """SLURM's record of a task: JobState, Restarts, ExitCode and more."""
        words = self.ask("scontrol", "--oneliner", "show", "job", task).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def state(self, task: str) -> tuple[str, int]:
        """State of a task, and how often it was put back into the queue."""
        found = self.task(task)
        return found["JobState"], int(found["Restarts"])

    def wait(self, task: str, state: str, restarts: int, within_s: float) -> None:
        """Wait for that state and number; AssertionError at once where the task has ended otherwise."""

        def reached() -> bool:
            now = self.state(task)
            assert now[0] == state or now[0] not in ENDED, (task, now, self.said(task))
            return now == (state, restarts)

        wait_for(f"task {task} {state} after {restarts} restarts", reached, within_s)

    def near_limit(self, task: str) -> None:
        """Bring the limit of a running task's time so near that SLURM signals it at its next look, within 30 s."""
        self.ask("scontrol", "update", f"JobId={task}", "TimeLimit=20")

    def hold(self, task: str) -> None:
        """Keep a waiting task in the queue."""
        self.ask("scontrol", "hold", task)

    def release(self, task: str, time_limit: str) -> None:
        """Let a held task begin soon; by itself SLURM lets two minutes pass before one that was put back."""
        # Not within the second in which its last run ended: the node would take it for what it was told to end.
        self.ask("scontrol", "update", f"JobId={task}", f"TimeLimit={time_limit}", "StartTime=now+5seconds")
        self.ask("scontrol", "release", task)
