"""Provenance: what is recorded beside a result but needs not match between results."""

import os
import platform
import socket
import sys
import time
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.core.secrets import masked_words

LIBRARIES = "torch torchvision torchaudio decord av h5py numpy gensim apache-beam imageio-ffmpeg".split()
OF_ROWS = "torch torchvision torchaudio decord av numpy".split()
"""Those that rows of features are computed with."""


@cache
def processor() -> str:
    """The processor's model name as the system gives it."""
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores this process may use: a batch system often gives fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def library_versions() -> dict[str, str]:
    """Installed versions of the libraries that touch the numbers."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def provenance(device: str) -> dict[str, Any]:
    """Versions, processor, device, host, command and time of this process."""
    return {
        "libraries": library_versions(),
        "processor": processor(),
        "device": device,
        "host": socket.gethostname(),
        "command": " ".join(masked_words([os.path.basename(sys.argv[0]), *sys.argv[1:]])),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def rounding_changes(recorded: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """What of a recorded provenance may have rounded rows otherwise than `here`, with its value then; none: nothing.

    The host is part of it: to a virtual machine processors that round differently bear one name. The number of threads
    is not: a batch goes through on one. Of several GPUs of a host any is as good.
    """
    if not recorded:
        return ["where is not recorded"]
    then, now = _rounding(recorded), _rounding(here)
    return [f"{name} {then[name]}" for name in now if then[name] != now[name]]


def _rounding(stated: dict[str, Any]) -> dict[str, str]:
    versions = stated.get("libraries")
    values = {name: stated.get(name) for name in ("host", "processor", "device")}
    values |= {name: versions.get(name) if isinstance(versions, dict) else None for name in OF_ROWS}
    shown = {name: "unknown" if value is None else str(value)[:80] for name, value in values.items()}
    return shown | {"device": shown["device"].split(":")[0]}


def recorded_places(recorded: str, home_then: str, home_now: Path) -> list[Path]:
    """Where the file or folder may be that a record names, the likeliest first.

    That is where it was, and where it is if it has moved together with the record, which lay at `home_then` and lies at
    `home_now`. A relative path was seen from where the program was started then, which is no matter now, as long as
    `home_then` is relative too. An absolute path and a relative home, or the other way round, say nothing of a move.
    """
    then, home = Path(recorded), Path(home_then)
    if then.is_absolute() != home.is_absolute():
        return [then]
    moved = Path(os.path.normpath(home_now.resolve() / os.path.relpath(then, home)))
    return [then, moved] if then.is_absolute() else [moved, then]


def recorded_path(recorded: str, home_then: str, home_now: Path) -> Path:
    """The first of the `recorded_places` that is there; if none is, where it was."""
    places = recorded_places(recorded, home_then, home_now)
    return next((place for place in places if place.exists()), Path(recorded))
