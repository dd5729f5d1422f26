"""The program that trains and evaluates one model of a study, and ends with the process that drives it.

Its arguments are the driver's process and the stages, both as JSON: `mcn compare` calls it. Light, so that no library's
thread is there when the command line blocks signals; the one module below the command line that imports it.
"""

import json
import os
import sys
import threading
import time

from pipeline.cli import main
from pipeline.core.lease import Holder, has_ended

_LOOKS_EVERY_S = 1.0


def _end_with(driver: Holder) -> None:
    # Left alone it would train on for hours, and hold the folder when the study is begun again.
    while not has_ended(driver):
        time.sleep(_LOOKS_EVERY_S)
    os._exit(1)


def _run() -> int:
    driver, stages = Holder(**json.loads(sys.argv[1])), json.loads(sys.argv[2])
    threading.Thread(target=_end_with, args=(driver,), daemon=True).start()
    for stage, *arguments in stages:
        status = main([*stage.split(), *arguments])
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(_run())
