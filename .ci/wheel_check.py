"""Installs the wheel as a user does and uses it: an empty environment, no lock file, outside of the repository.

On each supported Python that is on this machine: `mcn doctor`, a copied config, two made videos to verified features.
Then the same with PyTorch's wheels for processors alone, if their index can be reached. What could not be tried is
named; the exit status is 1 if anything failed or nothing was tried. It needs the network, and 6 GB of disk at a time.
"""

import glob
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Sequence
from pathlib import Path

from supported_python import bounds

ROOT = Path(__file__).resolve().parents[1]
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
STEP_LIMIT_S = 1200
REACHED_WITHIN_S = 10
FAILED = "FAILED"


class StepError(Exception):
    """A command failed; the message holds the end of what it printed."""


def clean_environment() -> dict[str, str]:
    """This process's environment without what would lead an interpreter to other packages than its own."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}


def step(command: Sequence[object], folder: Path) -> str:
    """Run a command in `folder`, print what it took, give back what it printed; StepError when it fails."""
    words, began = [str(word) for word in command], time.monotonic()
    shown = " ".join([Path(words[0]).name, *words[1:]])
    try:
        done = subprocess.run(
            words,
            cwd=folder,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=STEP_LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        raise StepError(f"{shown}: not done within {STEP_LIMIT_S} s") from None
    if done.returncode:
        raise StepError(f"{shown}: exit status {done.returncode}\n{done.stdout[-4000:]}")
    print(f"  {time.monotonic() - began:4.0f} s  {shown}", flush=True)
    return done.stdout


def find_interpreter(minor: int) -> Path | None:
    """A Python 3.`minor` that can make environments: on PATH, or one of pyenv's."""
    pyenv = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    folders = [*os.get_exec_path(), *sorted(glob.glob(f"{glob.escape(pyenv)}/versions/3.{minor}.*/bin"))]
    for candidate in (Path(folder, f"python3.{minor}") for folder in folders):
        asked = "import ensurepip, sys; print(*sys.version_info[:2])"
        # pyenv's shims are there for versions that they refuse to start.
        if os.access(candidate, os.X_OK):
            answer = subprocess.run([candidate, "-c", asked], env=clean_environment(), capture_output=True, text=True)
            if answer.stdout.split() == ["3", str(minor)]:
                return candidate
    return None


def build_wheel(interpreter: Path, folder: Path) -> Path:
    """The wheel of the files that git knows, built in a copy: a build leaves folders behind."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / "source" / name, follow_symlinks=False)
    step([interpreter, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, folder / "source"], folder)
    (wheel,) = folder.glob("mcn-*.whl")
    return wheel


def use_wheel(interpreter: Path, wheel: Path, folder: Path, cpu_only: bool = False) -> None:
    """Install the wheel into an environment of its own in `folder` and go from nothing to features."""
    step([interpreter, "-m", "venv", folder / "environment"], folder)
    programs = folder / "environment" / "bin"
    pip = [programs / "python", "-m", "pip", "install", "--quiet", "--no-compile"]
    if cpu_only:
        step([*pip, "--index-url", CPU_INDEX, *torch_requirements(wheel)], folder)
    step([*pip, f"{wheel}[sample]"], folder)
    if cpu_only and "nvidia" in step([programs / "python", "-m", "pip", "freeze"], folder):
        raise StepError("CUDA's packages were installed, too")
    mcn = programs / "mcn"
    step([mcn, "doctor"], folder)
    step([mcn, "config", "copy", "sample"], folder)
    step([mcn, "sample", "--out", "sample", "--videos", 2, "--seconds", 16], folder)
    inputs = ["--media", "sample/media", "--captions", "sample/caption.json"]
    networks = ["--streams", "efficientnet-lite0", "--davenet-weights", "random:0"]
    said = step([mcn, "extract", *inputs, *networks, "--out", "dataset", "--workers", 1], folder)
    if "2 videos done" not in said:
        raise StepError(f"mcn extract: expected 2 videos, got\n{said}")
    step([mcn, "verify", "dataset"], folder)


def torch_requirements(wheel: Path) -> list[str]:
    """The wheel's requirements of torch, torchvision and torchaudio."""
    with zipfile.ZipFile(wheel) as packed:
        (metadata,) = (name for name in packed.namelist() if name.endswith(".dist-info/METADATA"))
        lines = packed.read(metadata).decode().splitlines()
    return [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: torch")]


def cpu_index_is_reached() -> bool:
    """Whether the index of wheels for processors alone answers."""
    try:
        with urllib.request.urlopen(f"{CPU_INDEX}/torch/", timeout=REACHED_WITHIN_S):
            return True
    except OSError:
        return False


def tried(interpreter: Path, wheel: Path, cpu_only: bool = False) -> str:
    """`passed`, or FAILED, printing why; the environment is removed."""
    with tempfile.TemporaryDirectory(prefix="mcn-wheel-") as folder:
        try:
            use_wheel(interpreter, wheel, Path(folder), cpu_only)
        except StepError as error:
            print(error, flush=True)
            return FAILED
    return "passed"


def main() -> int:
    """Try everything there is; the exit status."""
    found = {f"Python 3.{minor}": find_interpreter(minor) for minor in range(*bounds())}
    interpreters = [interpreter for interpreter in found.values() if interpreter is not None]
    results = {name: "not tried: it isn't on this machine" for name in found}
    if interpreters:
        with tempfile.TemporaryDirectory(prefix="mcn-wheel-") as folder:
            print(f"wheel: {interpreters[0]}", flush=True)
            wheel = build_wheel(interpreters[0], Path(folder))
            for name, interpreter in found.items():
                if interpreter is not None:
                    print(f"{name}: {interpreter}", flush=True)
                    results[name] = tried(interpreter, wheel)
            cpu_only = f"{next(name for name in found if found[name])}, CPU-only"
            results[cpu_only] = f"not tried: {CPU_INDEX} can't be reached"
            if cpu_index_is_reached():
                print(cpu_only, flush=True)
                results[cpu_only] = tried(interpreters[0], wheel, cpu_only=True)
    for name, result in results.items():
        print(f"wheel without the lock file, {name}: {result}")
    return int(not interpreters or FAILED in results.values())


if __name__ == "__main__":
    sys.exit(main())
