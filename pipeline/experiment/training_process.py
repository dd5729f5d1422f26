"""The program that trains and evaluates one model of a study, and ends with the process that drives it.

Its argument is the stages as JSON: `mcn compare` calls it. Light, so that no library's thread is there when the command
line blocks signals; the one module below the command line that imports it.
"""

import json
import sys

from pipeline.cli import main
from pipeline.core.child import end_with_parent


def _run() -> int:
    # Left alone it would train on for hours, and hold the folder when the study is begun again.
    end_with_parent()
    for stage, *arguments in json.loads(sys.argv[1]):
        status = main([*stage.split(), *arguments])
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(_run())
