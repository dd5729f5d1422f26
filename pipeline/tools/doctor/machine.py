"""What a check of `mcn doctor` says; and its look at the machine: processor, limits of a container, GPU, clock."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from pipeline.core.provenance import processor, usable_cores

CGROUP = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")

GIB = 2**30
WORKER_BYTES = 1.5 * GIB
"""What an extraction worker with ResNet152, DaveNet and its decoder takes at most, rounded up."""
LEAST_SCRATCH = 2 * GIB
_DAY_S = 86_400.0

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    state: State
    """`warning`: works, but slowly or not for long. `problem`: a stage will fail or lose something."""
    text: str
    """What was found."""
    mend: str = ""
    """What to do; empty where nothing is wrong."""

    def line(self, check: str) -> str:
        """The finding in one line; `check`: what was looked at, in a word or two."""
        mend = f"; {self.mend}" if self.mend else ""
        return f"{self.state:<8} {check:<16} {' '.join((self.text + mend).split())}"


Check = Callable[[], Finding]


def examine(check: Check) -> Finding:
    """The finding of `check`; whatever it raises is a problem of that check, and no other check suffers."""
    try:
        return check()
    except Exception as error:  # any fault of any library here is what is being looked for
        lines = str(error).splitlines()
        text = f"{type(error).__name__}: {lines[0] if lines else 'without a message'}"
        if isinstance(error, ImportError):
            return Finding("problem", text, "pip install --force-reinstall this package, or what is named")
        if isinstance(error, OSError):
            return Finding("problem", text, "see whether the disk and its rights allow that")
        return Finding("problem", text, "unexpected: the check itself failed; report it with this line")


def machine_checks() -> dict[str, Check]:
    """Name -> check."""
    return {
        "processor": check_processor,
        "cores": check_cores,
        "memory": check_memory,
        "gpu": check_gpu,
        "temporary folder": check_temporary_folder,
        "clock": check_clock,
    }


def check_processor() -> Finding:
    """Which processor, and whether its bf16 arithmetic pays (0.1 s of products)."""
    import torch

    from extractors.precision import has_bf16_arithmetic, resolve_precision

    if not has_bf16_arithmetic():
        speed = "no bf16 arithmetic: precision auto is fp32 here"
    elif resolve_precision("auto", torch.device("cpu")) == "bf16":
        speed = "bf16 pays: precision auto is bf16 here"
    else:
        speed = "bf16 arithmetic is there and doesn't pay: precision auto is fp32 here"
    return Finding("ok", f"{processor()}; {speed}")


def _cgroup_files(controller: str, name: str) -> Iterator[Path]:
    """Files called `name` of this process's control group and those around it, version 2 or 1."""
    try:
        lines = OWN_CGROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = CGROUP / controllers if controllers else CGROUP
        folder = base / group.lstrip("/")
        for parent in (folder, *folder.parents):
            if (parent / name).is_file():
                yield parent / name
            if parent == base:
                break


def core_quota() -> float | None:
    """Cores' worth of time that the control group grants, or None where it grants all."""
    quotas = []
    for path in _cgroup_files("cpu", "cpu.max"):
        share, period = path.read_text().split()
        quotas += [] if share == "max" else [int(share) / int(period)]
    for path in _cgroup_files("cpu", "cpu.cfs_quota_us"):
        share_us = int(path.read_text())
        period_us = int((path.parent / "cpu.cfs_period_us").read_text())
        quotas += [share_us / period_us] if share_us > 0 else []
    return min(quotas, default=None)


def memory_limit() -> int:
    """Bytes that this process may use: the machine's, or fewer where a control group says so."""
    limits = [psutil.virtual_memory().total]
    for name in ("memory.max", "memory.limit_in_bytes"):
        for path in _cgroup_files("memory", name):
            text = path.read_text().strip()
            limits += [int(text)] if text.isdigit() else []
    return min(limits)


def check_cores() -> Finding:
    """Cores that this process may use, and a control group's quota below them."""
    cores, quota = usable_cores(), core_quota()
    text = f"{cores} of {os.cpu_count()} are usable"
    if quota is not None and quota < cores:
        text += f", but the control group grants the time of {quota:g}"
        return Finding("warning", text, f"give --workers {max(1, int(quota))}: more would slow each other down")
    return Finding("ok", text)


def check_memory() -> Finding:
    """The limit, and whether a worker a core fits into it."""
    limit, cores = memory_limit(), usable_cores()
    text = f"{limit / GIB:.1f} GiB may be used, {psutil.virtual_memory().available / GIB:.1f} GiB are free"
    if limit < cores * WORKER_BYTES:
        workers = max(1, int(limit / WORKER_BYTES))
        return Finding("warning", text, f"{cores} workers may not fit: extract with --workers {workers}")
    return Finding("ok", text)


def check_gpu() -> Finding:
    """Which GPUs torch sees, and that each can multiply. None is no problem; a driver without a device is one."""
    import torch

    if not torch.cuda.is_available():
        if NVIDIA_DRIVER.exists():
            mend = "install a torch that suits the driver, and see CUDA_VISIBLE_DEVICES"
            return Finding("warning", f"a driver is here, yet torch {torch.__version__} sees no GPU", mend)
        return Finding("ok", "none: all stages run on the processor")
    seen = []
    for index in range(torch.cuda.device_count()):
        one = torch.ones(64, 64, device=f"cuda:{index}")
        if float((one @ one).sum()) != 64.0**3:
            mend = "don't use it: CUDA_VISIBLE_DEVICES leaves it out"
            return Finding("problem", f"GPU {index} multiplies wrongly", mend)
        free, total = torch.cuda.mem_get_info(index)
        seen.append(f"{torch.cuda.get_device_name(index)} ({free / GIB:.0f} of {total / GIB:.0f} GiB free)")
    return Finding("ok", ", ".join(seen))


def check_temporary_folder() -> Finding:
    """That it can be written to and has room for the sound of the videos in hand."""
    with tempfile.NamedTemporaryFile(prefix="mcn-doctor-") as file:
        file.write(b"x")
        file.flush()
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    text = f"{folder} has {free / GIB:.1f} GiB free"
    if free < LEAST_SCRATCH:
        return Finding("warning", text, "set TMPDIR to a folder with more room")
    return Finding("ok", text)


def check_clock() -> Finding:
    """That the clock isn't before what is installed here: certificates of sites would be refused."""
    now, installed = time.time(), Path(__file__).stat().st_mtime
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < installed - _DAY_S:
        date = time.strftime("%Y-%m-%d", time.gmtime(installed))
        mend = "set it: secure connections and the ages of files depend on it"
        return Finding("problem", f"it says {shown}, yet this program's files are of {date}", mend)
    return Finding("ok", shown)
