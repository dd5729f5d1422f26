"""`mcn doctor`'s look at the software: our packages, libraries, FFmpeg, decoders, yt-dlp and its runtime."""

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
from importlib import metadata
from pathlib import Path

from extractors.errors import LibraryError
from pipeline.core.errors import ToolError
from pipeline.core.provenance import library_versions
from pipeline.tools.doctor.machine import Check, Finding

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


def software_checks() -> dict[str, Check]:
    """Name -> check."""
    return {
        "packages": check_packages,
        "libraries": check_libraries,
        "ffmpeg": check_ffmpeg,
        "decord": check_decord,
        "pyav": check_pyav,
        "yt-dlp": check_yt_dlp,
        "javascript": check_javascript,
    }


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
