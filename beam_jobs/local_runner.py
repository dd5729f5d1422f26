"""Beam's runner in Python, with worker processes that keep quiet and end with the process that drives them.

Run as a program, the module is such a worker.
"""

import json
import logging
import os
import shlex
import sys
import threading
import time
from dataclasses import asdict
from typing import Any

from apache_beam.portability import python_urns
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.runners.worker import sdk_worker_main

from pipeline.core.lease import Holder, has_ended, this_process
from pipeline.core.terminal import safe_output

_POLL_EVERY_S = 2.0


class LocalRunner(FnApiRunner):
    """Runs a job on this machine."""

    def run_via_runner_api(self, pipeline_proto: Any, options: Any) -> Any:
        """Beam names the program of its worker processes just before this, and takes no other."""
        driver = shlex.quote(json.dumps(asdict(this_process())))
        for environment in pipeline_proto.components.environments.values():
            if environment.urn == python_urns.SUBPROCESS_SDK:
                environment.payload = f"{shlex.quote(sys.executable)} -m {__name__} {driver}".encode()
        return super().run_via_runner_api(pipeline_proto, options)


def _end_with(driver: Holder) -> None:
    """End this process when the driver's is gone: left alone it would finish what it has in hand, an hour of it."""
    while not has_ended(driver):
        time.sleep(_POLL_EVERY_S)
    os._exit(1)


def _work() -> None:
    threading.Thread(target=_end_with, args=(Holder(**json.loads(sys.argv[1])),), daemon=True).start()
    # What Beam logs goes to the driver. Without a handler the first message would have all of it on stderr as well.
    logging.getLogger().addHandler(logging.NullHandler())
    with safe_output():
        sdk_worker_main.main(sys.argv)


if __name__ == "__main__":
    _work()
