"""A Flink session cluster of its own processes on this machine, on free ports and in one folder."""

import json
import os
import random
import socket
import subprocess
import time
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

READY_WITHIN_S = 240.0

# Flink 1.19 on Java 17 reads insides of the JDK; its own distribution gives it these.
OPENED = (
    "java.lang java.lang.reflect java.io java.net java.nio java.text java.time java.util java.util.concurrent "
    "java.util.concurrent.atomic java.util.concurrent.locks sun.nio.ch"
).split()

# Set one by one, since only the scripts of Flink's distribution work them out from a total.
MEMORY = {
    "taskmanager.cpu.cores": 1,
    "taskmanager.memory.task.heap.size": "256m",
    "taskmanager.memory.task.off-heap.size": "0m",
    "taskmanager.memory.framework.heap.size": "128m",
    "taskmanager.memory.framework.off-heap.size": "128m",
    "taskmanager.memory.network.min": "64m",
    "taskmanager.memory.network.max": "64m",
    "taskmanager.memory.managed.size": "128m",
    "taskmanager.memory.jvm-metaspace.size": "256m",
    "taskmanager.memory.jvm-overhead.min": "192m",
    "taskmanager.memory.jvm-overhead.max": "192m",
}


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody uses, below those that the kernel gives to connections."""
    ports: set[int] = set()
    while len(ports) < count:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            ports.add(port)
    return list(ports)


class FlinkCluster:
    """A job manager and two task managers with a slot each; a context manager, which ends them and their workers.

    `jars`: folder that `beam_jobs.flink_jar` filled. What the processes say is in `folder`, a file each. `further`:
    Flink's settings beside those made here.
    """

    def __init__(self, jars: Path, folder: Path, further: dict[str, Any]) -> None:
        self.jars, self.folder = jars, folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._failures_of_running: dict[str, int] = {}
        self._failures_of_ended: dict[str, int] = {}
        rpc, rest = free_ports(2)
        self.address = f"127.0.0.1:{rest}"
        (folder / "tmp").mkdir(parents=True)
        hosts = ("jobmanager.rpc.address", "jobmanager.bind-host", "rest.address", "rest.bind-address")
        settings: dict[str, Any] = {name: "127.0.0.1" for name in hosts} | MEMORY
        settings |= {"taskmanager.host": "127.0.0.1", "taskmanager.bind-host": "127.0.0.1"}
        settings |= {"jobmanager.rpc.port": rpc, "rest.port": rest, "taskmanager.numberOfTaskSlots": 1}
        # A manager that was killed is missed within seconds.
        settings |= {"heartbeat.interval": 1000, "heartbeat.timeout": 8000, "io.tmp.dirs": str(folder / "tmp")}
        (folder / "config.yaml").write_text(yaml.safe_dump(settings | further))

    def __enter__(self) -> "FlinkCluster":
        with ExitStack() as stack:
            stack.push(self)
            self.start_job_manager()
            for number in range(2):
                self.start_manager(number)
            self.wait_for_slots(2)
            stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        started = [psutil.Process(process.pid) for process in self.processes.values() if process.poll() is None]
        started += [child for process in started for child in process.children(recursive=True)]
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.wait(timeout=READY_WITHIN_S)
        _, alive = psutil.wait_procs(started, timeout=READY_WITHIN_S)
        assert not alive, alive

    def start_job_manager(self) -> None:
        """Start a job manager, which knows nothing of what an earlier one did."""
        self._start("job-manager", "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint")

    def start_manager(self, number: int) -> None:
        """Start a task manager."""
        main_class = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
        self._start(f"manager-{number}", main_class, f"-Dtaskmanager.resource-id=manager-{number}")

    def kill(self, name: str) -> None:
        """SIGKILL a process of the cluster, "job-manager" or "manager-NUMBER", and wait for its end."""
        process = self.processes.pop(name)
        process.kill()
        process.wait(timeout=READY_WITHIN_S)

    def workers(self) -> dict[str, list[psutil.Process]]:
        """Task manager -> its living Python workers; only managers that have one."""
        found: dict[str, list[psutil.Process]] = {}
        for name, process in self.processes.items():
            with suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children():
                    with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                        if "beam_jobs.worker_boot" in child.cmdline():
                            found.setdefault(name, []).append(child)
        return found

    def running_jobs(self) -> list[str]:
        """Ids of the jobs that have not ended, those that wait for slots or a restart among them."""
        return [job["jid"] for job in self.ask("jobs/overview")["jobs"] if job["end-time"] < 0]

    def failures(self) -> int:
        """How often, in all jobs so far, something failed of which Flink restarted or gave up what it was a part of."""
        # An ended job's number is final, and whether it has ended is asked for first.
        for job in self.ask("jobs/overview")["jobs"]:
            if job["jid"] not in self._failures_of_ended:
                number = len(
                    self.ask(f"jobs/{job['jid']}/exceptions?maxExceptions=1000")["exceptionHistory"]["entries"]
                )
                (self._failures_of_running if job["end-time"] < 0 else self._failures_of_ended)[job["jid"]] = number
        return sum((self._failures_of_running | self._failures_of_ended).values())

    def wait_for_slots(self, count: int) -> None:
        """Return once this many slots are there and all processes live."""
        begin = time.monotonic()
        while time.monotonic() - begin < READY_WITHIN_S:
            assert all(process.poll() is None for process in self.processes.values()), f"see {self.folder}"
            with suppress(OSError):
                if self.ask("overview")["slots-total"] == count:
                    return
            time.sleep(0.2)
        raise TimeoutError(f"no Flink cluster of {count} slots within {READY_WITHIN_S:.0f} s; see {self.folder}")

    def ask(self, path: str) -> Any:
        """What the REST address answers."""
        with urllib.request.urlopen(f"http://{self.address}/{path}", timeout=30) as answer:
            return json.load(answer)

    def _start(self, name: str, main_class: str, *arguments: str) -> None:
        opened = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in OPENED]
        opened.append("--add-exports=java.base/sun.net.util=ALL-UNNAMED")
        memory = ["-Xmx512m", "-XX:MaxDirectMemorySize=256m", f"-Djava.io.tmpdir={self.folder / 'tmp'}"]
        command = ["java", *opened, *memory, "-cp", f"{self.jars}/*", main_class, "--configDir", str(self.folder)]
        environment = os.environ | {"TMPDIR": str(self.folder / "tmp")}
        with open(self.folder / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen([*command, *arguments], stdout=log, stderr=log, env=environment)
