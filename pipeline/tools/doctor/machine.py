"""What a check of `mcn doctor` says; and its look at the machine, all but GPUs, and at the software on it."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import psutil

from extractors.errors import LibraryError
from pipeline.core.errors import ToolError
from pipeline.core.provenance import library_versions, processor, usable_cores

CGROUP = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")

GIB = 2**30
WORKER_BYTES = 1.5 * GIB
"""What an extraction worker with ResNet152, DaveNet and its decoder takes at most, rounded up."""
LEAST_SCRATCH = 2 * GIB
_DAY_S = 86_400.0

OURS = ("pipeline", "extractors", "models", "beam_jobs")
ROOT = Path(__file__).resolve().parents[3]
"""Folder of this project's four packages."""
DISTRIBUTION = "mcn"

OLD_YT_DLP_DAYS = 90
"""yt-dlp itself warns from this age on: sites change faster than that."""
UPGRADE = 'pip install -U "yt-dlp[default,deno]"'
_CHILD_LIMIT_S = 60.0
_CLIP_S = 2
_WHERE = """
import importlib.util, json, sys
specs = {name: importlib.util.find_spec(name) for name in sys.argv[1:]}
places = {name: s and (s.origin or next(iter(s.submodule_search_locations or ()), None)) for name, s in specs.items()}
print(json.dumps(places))
"""

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
        "temporary folder": check_temporary_folder,
        "clock": check_clock,
        "packages": check_packages,
        "libraries": check_libraries,
        "ffmpeg": check_ffmpeg,
        "decord": check_decord,
        "pyav": check_pyav,
        "yt-dlp": check_yt_dlp,
        "javascript": check_javascript,
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


def _place(name: str) -> str | None:
    """Where an import of `name` leads in this process; None for nowhere."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        return None
    return spec.origin or next(iter(spec.submodule_search_locations or ()), None)


def _unknown_names(origins: dict[str, str | None]) -> dict[str, str]:
    """Package -> where it was found, for those that aren't this project's own."""
    return {
        name: origin or "nowhere"
        for name, origin in origins.items()
        if origin is None or not Path(origin).resolve().is_relative_to(ROOT / name)
    }


def check_packages() -> Finding:
    """That `models`, `pipeline` and the others are ours, here and in a process that is started in this folder."""
    foreign = _unknown_names({name: _place(name) for name in OURS})
    if not foreign:
        # Workers and fetchers are such processes: the working directory comes first on their path.
        path = os.pathsep.join(directory for directory in sys.path if directory)
        child = subprocess.run(
            [sys.executable, "-c", _WHERE, *OURS],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_CHILD_LIMIT_S,
            check=True,
        )
        foreign = _unknown_names(json.loads(child.stdout))
    if foreign:
        listed = ", ".join(f"{name} is {directory}" for name, directory in foreign.items())
        mend = f"work in another folder, or rename it or take it off the path; ours are in {ROOT}"
        return Finding("problem", f"not this project's own: {listed}", mend)
    return Finding("ok", f"{', '.join(OURS)} are those in {ROOT}")


def unmet_requirements() -> dict[str, str | None]:
    """What the installed package asks for and doesn't find, e.g. `torch==2.11.0`, and the version that is here, if any.

    PackageNotFoundError when this project runs from its source without being installed.
    """
    from packaging.requirements import Requirement

    unmet: dict[str, str | None] = {}
    for text in metadata.requires(DISTRIBUTION) or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            version = None
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
            unmet[f"{requirement.name}{extras}{requirement.specifier}"] = version
    return unmet


def check_libraries() -> Finding:
    """Versions of the libraries that touch the numbers, whether they are those asked for, and whether they load."""
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    try:
        unmet = unmet_requirements()
    except metadata.PackageNotFoundError:
        unmet = {}
        versions += " (run from the source: no list of required versions to compare with)"
    if unmet:
        here = [f"{name} ({f'{version} is here' if version else 'missing'})" for name, version in unmet.items()]
        return Finding("problem", f"required: {', '.join(here)}", f"pip install {shlex.join(unmet)}")
    try:
        _use_compiled_libraries()
    except LibraryError as error:
        return Finding("problem", str(error), "pip install --force-reinstall does that")
    return Finding("ok", versions)


def _use_compiled_libraries() -> None:
    """Raise what torchvision and torchaudio raise beside a torch that they weren't compiled against."""
    import numpy as np
    import torch
    import torchvision

    from extractors.logmel import log_mel

    torchvision.ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    log_mel(np.zeros(1, np.int16))


def check_ffmpeg() -> Finding:
    """That the FFmpeg program of imageio-ffmpeg runs."""
    import imageio_ffmpeg

    program = imageio_ffmpeg.get_ffmpeg_exe()
    result = subprocess.run(
        [program, "-version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_CHILD_LIMIT_S, check=False
    )
    version = re.match(rb"ffmpeg version (\S+)", result.stdout)
    if result.returncode or version is None:
        mend = "pip install --force-reinstall imageio-ffmpeg, and unset IMAGEIO_FFMPEG_EXE"
        return Finding("problem", f"{program} ended with status {result.returncode}", mend)
    return Finding("ok", f"{version[1].decode()} ({program})")


def check_decord() -> Finding:
    """That a made video goes through the decoder's process, and that decord is what decodes it."""
    from extractors.decode import DecodeSettings
    from extractors.decoder_process import DecoderProcess
    from pipeline.extraction.made_clip import decode_made_clip

    with DecoderProcess(DecodeSettings(time_limit_s=_CHILD_LIMIT_S)) as decoder:
        try:
            summary = decode_made_clip(decoder).summary
        except ToolError as error:
            return Finding("problem", str(error), "install decord 0.6.0 (macOS: eva-decord) and av again")
    if summary.decoder != "decord":
        mend = "install decord 0.6.0 again (macOS: eva-decord), or continue: PyAV gives the same rows, more slowly"
        return Finding("warning", "; ".join(summary.notes) or f"{summary.decoder} decoded in its place", mend)
    return Finding("ok", "decodes a made video of H.264")


def check_pyav() -> Finding:
    """That PyAV reads a made video, all frames and all samples."""
    import av

    from extractors.audio_track import extract_audio
    from extractors.made_clip import FRAME_RATE, write_made_clip

    with tempfile.TemporaryDirectory(prefix="mcn-doctor-") as folder:
        clip = Path(folder) / "clip.mp4"
        write_made_clip(clip, _CLIP_S, 160, 90)
        with av.open(str(clip)) as container:
            frames = sum(1 for _ in container.decode(video=0))
        track = extract_audio(clip, folder, _CHILD_LIMIT_S)
        heard = track.duration if track is not None else 0.0
    if frames != _CLIP_S * FRAME_RATE or abs(heard - _CLIP_S) > 0.1:
        text = f"{frames} frames and {heard:.2f} s of sound from a made video of {_CLIP_S * FRAME_RATE} and {_CLIP_S} s"
        return Finding("problem", text, "install av again")
    return Finding("ok", f"PyAV {av.__version__} reads picture and sound of a made video")


def check_yt_dlp() -> Finding:
    """yt-dlp's version, which is a date, and its age."""
    from yt_dlp.version import __version__

    dated = re.match(r"(\d{4})\.(\d{1,2})\.(\d{1,2})", __version__)
    if dated is None:
        return Finding("warning", f"{__version__}: no date in its version, so its age is unknown", UPGRADE)
    released = time.mktime((int(dated[1]), int(dated[2]), int(dated[3]), 0, 0, 0, 0, 0, -1))
    days = round((time.time() - released) / 86_400)
    text = f"{__version__}, {days} days old"
    if days > OLD_YT_DLP_DAYS:
        return Finding("warning", text, f"{UPGRADE}: sites refuse old ones")
    return Finding("ok", text)


def check_javascript() -> Finding:
    """The runtime by which yt-dlp solves YouTube's challenges: deno, and the package of its scripts."""
    from yt_dlp.utils._jsruntime import DenoJsRuntime

    mend = f"{UPGRADE}: without it mcn download finds few or no formats on YouTube"
    if importlib.util.find_spec("yt_dlp_ejs") is None:
        return Finding("problem", "yt_dlp_ejs, yt-dlp's scripts for YouTube, is missing", mend)
    deno = DenoJsRuntime().info
    if deno is None:
        others = [name for name in ("node", "bun") if shutil.which(name)]
        unused = f" ({' and '.join(others)} would need a flag that mcn download doesn't give)" if others else ""
        return Finding("problem", f"no deno beside Python or on PATH{unused}", mend)
    if not deno.supported:
        return Finding("problem", f"deno {deno.version} is too old for yt-dlp", mend)
    return Finding("ok", f"deno {deno.version}, with yt-dlp's scripts")
