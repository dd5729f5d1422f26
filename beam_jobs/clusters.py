"""Whether a job can be handed to the cluster that its options name, found out in seconds, before anything is loaded."""

import http.client
import json
import shutil
import socket
import sys
import urllib.request
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    JobServerOptions,
    PipelineOptions,
    PortableOptions,
    SetupOptions,
    SparkRunnerOptions,
    WorkerOptions,
)

from pipeline.core.errors import InputError

WORKER = "mcn-beam-worker"
_ANSWER_WITHIN_S = 5.0
_EMBEDDED = ("[local]", "[auto]")
"""Flink masters that aren't addresses."""


def check_cluster(runner: str, options: PipelineOptions) -> None:
    """Raise InputError, within seconds, when `runner`'s cluster can't be reached or can't work as the options say.

    Where they don't say how Beam's workers start, they are told to: by `mcn-beam-worker` of this environment.
    """
    runner = runner.rpartition(".")[2]
    if runner == "DaskRunner":
        address = options.get_all_options()["address"]
        if address and urlsplit(address).scheme in ("tcp", "tls"):
            _check_answers("--dask_client_address", address)
    if runner not in ("FlinkRunner", "SparkRunner", "PortableRunner"):
        return
    portable = options.view_as(PortableOptions)
    managers = None
    if portable.job_endpoint == "embed":
        return
    if portable.job_endpoint:
        _check_answers("--job_endpoint", f"//{portable.job_endpoint}")
    elif runner == "FlinkRunner":
        managers = _check_flink(options)
    elif runner == "PortableRunner":
        raise InputError("--runner=PortableRunner needs --job_endpoint=HOST:PORT, the address of a Beam job server")
    elif not options.view_as(SparkRunnerOptions).spark_job_server_jar:
        raise InputError(
            "--runner=SparkRunner needs --job_endpoint=HOST:PORT, the address of Beam's job server for Spark, or "
            "--spark_job_server_jar; see docs/cluster.md"
        )
    _set_worker(options)
    if runner == "FlinkRunner":
        _check_loopback(options, managers)


def _check_flink(options: PipelineOptions) -> int | None:
    """Returns the number of task managers; None where Flink is to run within the job server."""
    flink, server = options.view_as(FlinkRunnerOptions), options.view_as(JobServerOptions)
    lacks = []
    if not flink.flink_job_server_jar:
        lacks.append("--flink_job_server_jar=JAR, which `python -m beam_jobs.flink_jar FOLDER` makes")
    if flink.flink_master == "[auto]":
        lacks.append("--flink_master=HOST:PORT, the REST address of a running cluster ([local]: Flink on this machine)")
    if lacks:
        raise InputError(f"--runner=FlinkRunner needs {' and '.join(lacks)}; see docs/cluster.md")
    jar = flink.flink_job_server_jar
    if not urlsplit(jar).scheme and not zipfile.is_zipfile(jar):
        problem = "not a jar" if Path(jar).exists() else "no such file"
        raise InputError(f"--flink_job_server_jar={jar}: {problem}; `python -m beam_jobs.flink_jar FOLDER` makes it")
    if shutil.which(server.job_server_java_launcher) is None:
        raise InputError(f"{server.job_server_java_launcher}: not on PATH; Beam's job server for Flink runs on Java 17")
    return None if flink.flink_master in _EMBEDDED else _task_managers(flink.flink_master)


def _task_managers(master: str) -> int:
    address = master if "://" in master else f"http://{master}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{address.rstrip('/')}/overview", timeout=_ANSWER_WITHIN_S) as answer:
            return int(json.load(answer)["taskmanagers"])
    except (OSError, http.client.HTTPException, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())[:200]
        raise InputError(
            f"--flink_master={master}: no Flink cluster answers there ({reason}); start it, or give its REST address, "
            "HOST:PORT"
        ) from None


def _set_worker(options: PipelineOptions) -> None:
    """Beam's own default is a container, which lacks this package, or else LOOPBACK, which ends with traces."""
    portable, setup = options.view_as(PortableOptions), options.view_as(SetupOptions)
    image = options.view_as(WorkerOptions).sdk_container_image
    given = portable.environment_config or portable.lookup_environment_option("process_command") or image
    if given or portable.environment_type not in (None, "PROCESS"):
        return
    worker = Path(sys.executable).with_name(WORKER)
    if not worker.is_file():
        raise InputError(
            f"{worker}: no such file; install this package anew, or say how workers start: --environment_type=PROCESS "
            "--environment_option=process_command=PROGRAM"
        )
    for flag in ("setup_file", "requirements_file", "extra_packages"):
        if getattr(setup, flag):
            raise InputError(f"--{flag}: {WORKER} installs nothing; install what the job needs on each machine")
    portable.environment_type = "PROCESS"
    portable.add_environment_option(f"process_command={worker}")


def _check_loopback(options: PipelineOptions, managers: int | None) -> None:
    """With LOOPBACK this process runs all workers, told apart by their names alone."""
    flink = options.view_as(FlinkRunnerOptions)
    loopback = (options.view_as(PortableOptions).environment_type or "").upper() == "LOOPBACK"
    if not loopback or flink.parallelism == 1 or managers == 1 or flink.flink_master == "[local]":
        return
    found = "how many there are isn't known" if managers is None else f"{managers} were found"
    raise InputError(
        f"--environment_type=LOOPBACK works with one task manager, and {found}: each calls its worker 1-1, and one "
        "ends another's; leave the flag out, or give --parallelism=1"
    )


def _check_answers(flag: str, address: str) -> None:
    given = address.removeprefix("//")
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port:
        raise InputError(f"{flag}={given}: expected HOST:PORT")
    try:
        socket.create_connection((host, port), timeout=_ANSWER_WITHIN_S).close()
    except OSError as error:
        raise InputError(f"{flag}={given}: nothing answers there ({error.strerror or error})") from None
