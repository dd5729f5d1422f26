"""What `make test-spark` fetches: Spark and Beam's job server for it by Maven, Prism by Go.

`python tests/cluster/spark_downloads.py FOLDER` fetches them into the folder, and says in one line what it can't have.
"""

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from beam_jobs.flink_jar import wrong_jars
from pipeline.core.errors import ToolError

RECIPE = Path(__file__).with_name("spark")
POMS = {"jars": "cluster.xml", "job-server": "job-server.xml"}
"""Folder of jars -> what Maven fills it by. Spark looks for its own in a folder `jars`."""
TOOLS = {"mvn": "Maven fetches Spark's jars", "go": "Go builds Prism"}
PRISM = "github.com/apache/beam/sdks/v2/go/cmd/prism"


def pinned_jars() -> dict[str, str]:
    """Folder and file name -> sha256 of every jar."""
    lines = (RECIPE / "jars.sha256").read_text(encoding="ascii").splitlines()
    return {name: digest for digest, name in map(str.split, lines)}


def fetch_spark(folder: Path) -> Path:
    """Fill `folder` with the pinned jars and no others, unless they are there.

    Raises ToolError when Maven can't fetch them, or brings another file than the pinned one.
    """
    folder = folder.resolve()
    pinned = pinned_jars()
    if wrong_jars(folder, pinned):
        for name, pom in POMS.items():
            copy = ("dependency:copy-dependencies", f"-DoutputDirectory={folder / name}")
            _run("mvn", "-B", "-q", "-f", RECIPE / pom, *copy)
        if wrong := wrong_jars(folder, pinned):
            raise ToolError(
                f"{folder / wrong[0]}: not what {RECIPE / 'jars.sha256'} pins, nor are {len(wrong) - 1} others; remove "
                "it from Maven's local repository and run again"
            )
    # A class path names whole folders.
    for path in folder.glob("*/*.jar"):
        if str(path.relative_to(folder)) not in pinned:
            path.unlink()
    return folder


def fetch_prism(folder: Path) -> Path:
    """The program of the release that the SDK is of, built into `folder` unless it is there; Go checks its source.

    Raises ToolError when Go can't build it.
    """
    release = f"v{version('apache-beam')}"
    built = folder.resolve() / f"prism-{release}" / "prism"
    if not built.is_file():
        _run("go", "install", f"{PRISM}@{release}", GOBIN=str(built.parent))
    return built


def _run(program: str, *arguments: str | Path, **environment: str) -> None:
    if shutil.which(program) is None:
        raise ToolError(f"{program}: not on PATH; {TOOLS[program]}")
    command = [program, *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)
    if ended.returncode != 0:
        lines = ["", *ended.stdout.splitlines(), *ended.stderr.splitlines()]
        said = next((line for line in lines if line.startswith("[ERROR]")), lines[-1])
        raise ToolError(f"{TOOLS[program]}: {' '.join(said.removeprefix('[ERROR]').split())[:300]}")


def main() -> int:
    """Fetch all; returns the exit status."""
    try:
        fetch_spark(Path(sys.argv[1]))
        if shutil.which("go"):
            fetch_prism(Path(sys.argv[1]))
    except ToolError as error:
        print(f"mcn: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
