"""A worker without a container does what Beam's container contract asks, against a runner's services made here."""

import json
import os
import queue
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from apache_beam.portability.api import (
    beam_fn_api_pb2_grpc,
    beam_provision_api_pb2,
    beam_provision_api_pb2_grpc,
    endpoints_pb2,
)
from google.protobuf.struct_pb2 import Struct

from beam_jobs.worker_boot import worker_environment

REPOSITORY = Path(__file__).resolve().parents[2]


class Runner(
    beam_provision_api_pb2_grpc.ProvisionServiceServicer,
    beam_fn_api_pb2_grpc.BeamFnControlServicer,
    beam_fn_api_pb2_grpc.BeamFnLoggingServicer,
):
    """Provision, control and logging of a runner; control never asks for anything, and ends when `over` says so."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.connected: queue.Queue[str] = queue.Queue()
        self.over: queue.Queue[None] = queue.Queue()
        self.url = ""

    def GetProvisionInfo(self, request: Any, context: Any) -> Any:
        self.asked.append(dict(context.invocation_metadata())["worker_id"])
        options = Struct()
        options.update({"beam:option:job_name:v1": "of this job"})
        endpoint = endpoints_pb2.ApiServiceDescriptor(url=self.url)
        info = beam_provision_api_pb2.ProvisionInfo(
            pipeline_options=options,
            control_endpoint=endpoint,
            logging_endpoint=endpoint,
            runner_capabilities=["beam:protocol:one:v1", "beam:protocol:two:v1"],
        )
        return beam_provision_api_pb2.GetProvisionInfoResponse(info=info)

    def Control(self, responses: Any, context: Any) -> Iterator[Any]:
        self.connected.put(dict(context.invocation_metadata())["worker_id"])
        self.over.get()
        yield from ()

    def Logging(self, entries: Any, context: Any) -> Iterator[Any]:
        for _ in entries:
            pass
        yield from ()


@pytest.fixture
def runner() -> Iterator[Runner]:
    runner = Runner()
    server = grpc.server(ThreadPoolExecutor(8))
    beam_provision_api_pb2_grpc.add_ProvisionServiceServicer_to_server(runner, server)
    beam_fn_api_pb2_grpc.add_BeamFnControlServicer_to_server(runner, server)
    beam_fn_api_pb2_grpc.add_BeamFnLoggingServicer_to_server(runner, server)
    runner.url = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield runner
    runner.over.put(None)
    server.stop(0).wait()


def test_what_the_provision_service_says_reaches_beams_worker(runner: Runner) -> None:
    variables = worker_environment(["--id='1-1'", f"--provision_endpoint={runner.url}", "--artifact_endpoint=a:1"])
    assert runner.asked == ["1-1"]
    assert json.loads(variables.pop("PIPELINE_OPTIONS")) == {"beam:option:job_name:v1": "of this job"}
    assert variables == {
        "WORKER_ID": "1-1",
        "CONTROL_API_SERVICE_DESCRIPTOR": f'url: "{runner.url}"',
        "LOGGING_API_SERVICE_DESCRIPTOR": f'url: "{runner.url}"',
        "RUNNER_CAPABILITIES": "beam:protocol:one:v1 beam:protocol:two:v1",
    }


def test_endpoints_that_are_given_win(runner: Runner) -> None:
    given = ["--id=2", f"--provision_endpoint={runner.url}", "--control_endpoint=c:1", "--logging_endpoint=l:2"]
    variables = worker_environment(given)
    assert variables["CONTROL_API_SERVICE_DESCRIPTOR"] == 'url: "c:1"'
    assert variables["LOGGING_API_SERVICE_DESCRIPTOR"] == 'url: "l:2"'


STARTER = """
import subprocess, sys
child = subprocess.Popen(sys.argv[1:])
print(child.pid, flush=True)
child.wait()
"""


def test_a_worker_serves_its_runner_and_ends_with_the_process_that_started_it(runner: Runner) -> None:
    worker = [sys.executable, "-m", "beam_jobs.worker_boot", "--id=1-1", f"--provision_endpoint={runner.url}"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PIPELINE_OPTIONS_FILE": "/of/another/job"}
    command = [sys.executable, "-c", STARTER, *worker]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        child = psutil.Process(int(starter.stdout.readline()))
        assert runner.connected.get(timeout=600) == "1-1"
        starter.kill()
    _, alive = psutil.wait_procs([child], timeout=100)
    for process in alive:
        process.kill()
    assert not alive
