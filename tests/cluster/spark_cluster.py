"""A Spark standalone cluster and Beam's job server for it, of their own processes on this machine."""

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil

from .flink_cluster import free_ports

READY_WITHIN_S = 240.0
ENDED_WITHIN_S = 60.0

# Spark 3.5 on Java 17 reads insides of the JDK; its own scripts give it these, and Spark gives them to executors.
OPENED = (
    "java.lang java.lang.invoke java.lang.reflect java.io java.net java.nio java.util java.util.concurrent "
    "java.util.concurrent.atomic sun.nio.ch sun.nio.cs sun.security.action sun.util.calendar"
).split()


class SparkCluster:
    """A master, two workers with a core each, and a job server; a context manager, which ends them and their children.

    `programs`: folder that `spark_downloads.fetch_spark` filled. What the processes say is in `folder`, a file each;
    what a job's executors say is in `folder/worker-N`.
    """

    def __init__(self, programs: Path, folder: Path) -> None:
        self.programs, self.folder = programs, folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        master, self._page, job, artifact = free_ports(4)
        self.master = f"spark://127.0.0.1:{master}"
        self.job_endpoint = f"127.0.0.1:{job}"
        self._artifact_port = artifact
        (folder / "tmp").mkdir(parents=True)

    def __enter__(self) -> "SparkCluster":
        with ExitStack() as stack:
            stack.push(self)
            self._start_all()
            stack.pop_all()
        return self

    def _start_all(self) -> None:
        port = self.master.rpartition(":")[2]
        main_class = "org.apache.spark.deploy.master.Master"
        self._start("master", main_class, "--host", "127.0.0.1", "--port", port, "--webui-port", str(self._page))
        for number in range(2):
            name, main_class = f"worker-{number}", "org.apache.spark.deploy.worker.Worker"
            room = ["--cores", "1", "--memory", "1g", "--work-dir", str(self.folder / name)]
            self._start(name, main_class, "--host", "127.0.0.1", "--webui-port", "0", *room, self.master)
        self._wait_for("Spark cluster of two workers", lambda: self.ask()["aliveworkers"] == 2)
        self._start_job_server()
        self._wait_for("job server", self._takes_jobs)

    def __exit__(self, *exception: object) -> None:
        started = [psutil.Process(process.pid) for process in self.processes.values() if process.poll() is None]
        started += [child for process in started for child in process.children(recursive=True)]
        for process in reversed(self.processes.values()):
            process.terminate()
        _, alive = psutil.wait_procs(started, timeout=ENDED_WITHIN_S)
        # Each job's copies of the jars.
        for path in self.folder.glob("worker-*/**/*.jar"):
            path.unlink()
        assert not alive, alive

    def ask(self) -> Any:
        """What the master's page tells of workers and applications."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._page}/json/", timeout=30) as answer:
            return json.load(answer)

    def _wait_for(self, what: str, condition: Callable[[], bool]) -> None:
        begin = time.monotonic()
        while time.monotonic() - begin < READY_WITHIN_S:
            assert all(process.poll() is None for process in self.processes.values()), f"see {self.folder}"
            with suppress(OSError):
                if condition():
                    return
            time.sleep(0.2)
        raise TimeoutError(f"no {what} within {READY_WITHIN_S:.0f} s; see {self.folder}")

    def _takes_jobs(self) -> bool:
        host, _, port = self.job_endpoint.partition(":")
        socket.create_connection((host, int(port)), timeout=30).close()
        return True

    def _start_job_server(self) -> None:
        temporary = self.folder / "tmp"
        settings = {
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.executor.memory": "512m",
            "spark.executor.extraJavaOptions": f"-Djava.io.tmpdir={temporary}",
            "spark.ui.enabled": "false",
        }
        host, _, port = self.job_endpoint.partition(":")
        addresses = [f"--job-host={host}", f"--job-port={port}", f"--artifact-port={self._artifact_port}"]
        addresses += ["--expansion-port=0", f"--artifacts-dir={temporary / 'artifacts'}"]
        main_class = "org.apache.beam.runners.spark.SparkJobServerDriver"
        self._start("job-server", main_class, f"--spark-master-url={self.master}", *addresses, settings=settings)

    def _start(self, name: str, main_class: str, *arguments: str, settings: dict[str, str] | None = None) -> None:
        # Where both have a library, a job server has its own; the cluster knows nothing of Beam.
        folders = ["job-server", "jars"] if name == "job-server" else ["jars"]
        opened = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in OPENED]
        given = [f"-D{key}={value}" for key, value in (settings or {}).items()]
        given += ["-Xmx512m", f"-Djava.io.tmpdir={self.folder / 'tmp'}"]
        class_path = ":".join(f"{self.programs / folder}/*" for folder in folders)
        environment = os.environ | {
            "SPARK_HOME": str(self.programs),
            "SPARK_CONF_DIR": str(self.folder),  # nobody's settings but these
            "SPARK_SCALA_VERSION": "2.12",
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_LOCAL_DIRS": str(self.folder / "tmp"),
            "TMPDIR": str(self.folder / "tmp"),
        }
        command = ["java", *opened, *given, "-cp", class_path, main_class, *arguments]
        with open(self.folder / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
