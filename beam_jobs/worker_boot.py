"""What a cluster starts in place of Beam's containers (`--environment_type=PROCESS`): a worker in this environment.

Beam's container contract: the caller names a worker and a provision service, which tells the job's options and where
the worker connects to. Nothing is installed: the packages of the Python that runs this are those of the worker.
"""

import argparse
import logging
import os
import threading
import time
from collections.abc import Sequence

import grpc
from apache_beam.portability.api import beam_provision_api_pb2, beam_provision_api_pb2_grpc
from apache_beam.runners.worker import sdk_worker_main
from google.protobuf.json_format import MessageToJson

_ANSWER_WITHIN_S = 60.0
_POLL_EVERY_S = 2.0


def worker_environment(arguments: Sequence[str] | None) -> dict[str, str]:
    """The variables that Beam's worker program reads, from a runner's flags and its provision service."""
    parser = argparse.ArgumentParser(prog="mcn-beam-worker", description=__doc__, allow_abbrev=False)
    parser.add_argument("--id", required=True)
    parser.add_argument("--provision_endpoint", required=True)
    for name in ("control", "logging", "artifact"):
        parser.add_argument(f"--{name}_endpoint", default="")
    given, _ = parser.parse_known_args(arguments)
    worker = given.id.strip("'")  # Prism quotes it
    with grpc.insecure_channel(given.provision_endpoint) as channel:
        service = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        request = beam_provision_api_pb2.GetProvisionInfoRequest()
        answer = service.GetProvisionInfo(request, metadata=[("worker_id", worker)], timeout=_ANSWER_WITHIN_S)
    info = answer.info
    return {
        "WORKER_ID": worker,
        "PIPELINE_OPTIONS": MessageToJson(info.pipeline_options),
        "CONTROL_API_SERVICE_DESCRIPTOR": f'url: "{given.control_endpoint or info.control_endpoint.url}"',
        "LOGGING_API_SERVICE_DESCRIPTOR": f'url: "{given.logging_endpoint or info.logging_endpoint.url}"',
        "RUNNER_CAPABILITIES": " ".join(info.runner_capabilities),
    }


def _end_with(parent: int) -> None:
    """End this process when the one that started it is gone: left alone it would finish what it has in hand, an hour
    of it, while the work is waited for elsewhere."""
    while os.getppid() == parent:
        time.sleep(_POLL_EVERY_S)
    os._exit(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Be a worker until the runner ends it."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    os.environ.pop("PIPELINE_OPTIONS_FILE", None)  # of another job it would win over this one's
    os.environ.update(worker_environment(arguments))
    # What Beam logs goes to the runner. Without a handler the first message would have all of it on stderr as well.
    logging.getLogger().addHandler(logging.NullHandler())
    sdk_worker_main.main([])


if __name__ == "__main__":
    main()
