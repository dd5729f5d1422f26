"""A Flink session cluster of its own processes on this machine, on free ports and in one folder."""

import json
import os
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
    """Ports of this machine that nobody uses."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class FlinkCluster:
    """A job manager and two task managers with a slot each; a context manager, which ends them and their workers.

    `jars`: folder that `beam_jobs.flink_jar` filled. What the processes say is in `folder`, a file each. `further`:
    Flink's settings beside those made here.
    """

    def __init__(self, jars: Path, folder: Path, further: dict[str, Any]) -> None:
        self.jars, self.folder = jars, folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
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
        self._start("job-manager", "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint")
        for number in range(2):
            self.start_manager(number)
        self._wait_for_slots(2)
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

    def start_manager(self, number: int) -> None:
        """Start a task manager."""
        main_class = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
        self._start(f"manager-{number}", main_class, f"-Dtaskmanager.resource-id=manager-{number}")

    def _wait_for_slots(self, count: int) -> None:
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
