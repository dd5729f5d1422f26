"""The jar that `--flink_job_server_jar` wants: Beam's job server for Flink, out of jars that Maven fetches.

`python -m beam_jobs.flink_jar FOLDER` fetches them into the folder, checks them, and prints the path of the jar.
Beam's runner comes as many jars; the one made here has none of their classes, only a manifest that names them.
"""

import argparse
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from pipeline.core.errors import InputError, ToolError
from pipeline.core.files import sha256_of_file, write_aside

RECIPE = Path(__file__).with_name("flink")
NAME = "flink-job-server.jar"
_MAIN_CLASS = "org.apache.beam.runners.flink.FlinkJobServerDriver"


def pinned_jars() -> dict[str, str]:
    """File name -> sha256 of every jar."""
    lines = (RECIPE / "jars.sha256").read_text(encoding="ascii").splitlines()
    return {name: digest for digest, name in map(str.split, lines)}


def make_flink_jar(folder: Path) -> Path:
    """Fill `folder` with the pinned jars, unless they are there, and make the job server's jar beside them.

    Raises ToolError when Maven can't fetch them, or brings another file than the pinned one.
    """
    folder = folder.resolve()
    pinned = pinned_jars()
    if wrong_jars(folder, pinned):
        _fetch(folder)
        wrong = wrong_jars(folder, pinned)
        if wrong:
            raise ToolError(
                f"{folder / wrong[0]}: not what {RECIPE / 'jars.sha256'} pins, nor are {len(wrong) - 1} others; remove "
                "it from Maven's local repository and run again"
            )
    write_manifest_jar(folder / NAME, _MAIN_CLASS, sorted(pinned))
    return folder / NAME


def wrong_jars(folder: Path, pinned: dict[str, str]) -> list[str]:
    """Names of the jars that `folder` lacks or has with other content."""

    def is_right(path: Path, digest: str) -> bool:
        return path.is_file() and sha256_of_file(path) == digest

    return [name for name, digest in sorted(pinned.items()) if not is_right(folder / name, digest)]


def write_manifest_jar(path: Path, main_class: str, jars: Sequence[str]) -> None:
    """A jar without classes: `java -jar` of it runs `main_class` out of `jars`, names of files in the same folder."""
    headers = ["Manifest-Version: 1.0", f"Main-Class: {main_class}", f"Class-Path: {' '.join(jars)}"]
    # A manifest's lines have 72 bytes at most; one that begins with a space continues the line before.
    manifest = "".join("\r\n ".join(re.findall(".{1,70}", header)) + "\r\n" for header in headers)
    with write_aside(path) as aside, zipfile.ZipFile(aside, "w") as jar:
        jar.writestr("META-INF/MANIFEST.MF", manifest + "\r\n")


def _fetch(folder: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise ToolError("Flink's jars are fetched by Maven, and mvn isn't on PATH; install Maven and a JDK")
    command = [maven, "-B", "-q", "-f", str(RECIPE / "pom.xml"), "dependency:copy-dependencies"]
    command.append(f"-DoutputDirectory={folder}")
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        said = next((line for line in ended.stdout.splitlines() if line.startswith("[ERROR]")), ended.stderr.strip())
        raise ToolError(f"Maven can't fetch Flink's jars: {' '.join(said.removeprefix('[ERROR]').split())[:300]}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the jar and print its path; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m beam_jobs.flink_jar", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder for the jars, 152 MB; on a cluster the driver alone reads it")
    try:
        print(make_flink_jar(parser.parse_args(arguments).folder))
    except (InputError, ToolError) as error:
        print(f"mcn: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
