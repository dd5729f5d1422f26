"""Doctor: each check says ok on a sound machine and folder, and finds the fault that is planted for it."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import pytest

from extractors.errors import LibraryError
from pipeline.cli import main, parse
from pipeline.core.errors import InputError
from pipeline.tools.doctor import folder as shared_folder_check
from pipeline.tools.doctor import machine as machine_check
from pipeline.tools.doctor.doctor import run
from pipeline.tools.doctor.folder import shared_folder_checks, trial_folder
from pipeline.tools.doctor.machine import Finding, examine
from pipeline.tools.settings import DoctorSettings

ROOT = Path(__file__).resolve().parents[4]
FOLDER_CHECKS = sorted(shared_folder_checks(Path("unused")))


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_folder_check, "RATE_S", 0.01)


def look(name: str, folder: Path) -> Finding:
    with trial_folder(folder) as trial:
        return examine(shared_folder_checks(trial)[name])


# The folder


@pytest.mark.parametrize("name", FOLDER_CHECKS)
def test_a_local_folder_is_sound(name: str, tmp_path: Path) -> None:
    finding = look(name, tmp_path)
    assert finding.state == "ok" or (name == "file system" and finding.state == "warning"), finding
    assert os.listdir(tmp_path) == []


def broken_exclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.open
    monkeypatch.setattr(os, "open", lambda path, flags, *rest, **named: whole(path, flags & ~os.O_EXCL, *rest, **named))


def link_that_replaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", lambda source, target: shutil.copyfile(source, target))


def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Any, target: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)


def no_folder_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(shared_folder_check, "fsync_folder", refuse)


def rename_that_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "replace", lambda source, target: shutil.copyfile(source, target))


def other_process_sees_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    blind = "import sys\nfor line in sys.stdin:\n    print('missing', flush=True)\n"
    monkeypatch.setattr(shared_folder_check, "_OTHER_PROCESS", blind)


def case_blind(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Path.write_text
    monkeypatch.setattr(
        Path, "write_text", lambda self, *rest, **named: whole(self.with_name(self.name.lower()), *rest, **named)
    )
    read = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda self, *rest, **named: read(self.with_name(self.name.lower()), *rest, **named)
    )


def short_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_folder_check, "LONGEST_NAME", 4000)


def full(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, 1))


def on_tmpfs(monkeypatch: pytest.MonkeyPatch) -> None:
    mount = namedtuple("mount", "device mountpoint fstype opts")
    table = [mount("disk", "/", "ext4", ""), mount("tmpfs", "/", "tmpfs", "")]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: table)


def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_folder_check, "SLOW_FILES", 1e9)


def other_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_bytes", lambda self: b"")


@pytest.mark.parametrize(
    ("name", "plant", "state", "words"),
    [
        ("exclusive", broken_exclusive, "problem", "let through"),
        ("link", link_that_replaces, "problem", "replaces it"),
        ("link", no_links, "problem", "hard links don't work"),
        ("fsync", no_folder_fsync, "problem", "of a folder doesn't"),
        ("rename", rename_that_copies, "problem", "doesn't replace"),
        ("other process", other_process_sees_nothing, "problem", "isn't seen"),
        ("letter case", case_blind, "problem", "case alone"),
        ("long names", short_names, "problem", "don't work"),
        ("write", other_bytes, "problem", "other bytes"),
        ("room", full, "warning", "free"),
        ("file system", on_tmpfs, "warning", "tmpfs"),
        ("small files", slow, "warning", "a second"),
    ],
)
def test_a_planted_fault_is_found(
    name: str, plant: Callable[[pytest.MonkeyPatch], None], state: str, words: str, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        finding = look(name, tmp_path)
    assert finding.state == state, finding
    assert words in finding.text and finding.mend and "\n" not in finding.line(name)
    assert os.listdir(tmp_path) == []


def test_the_folders_clock_may_differ_and_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = time.time
    monkeypatch.setattr(time, "time", lambda: ours() + 3600)
    finding = look("folder's clock", tmp_path)
    assert finding.state == "ok" and "3,600 s behind" in finding.text


def test_a_missing_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for path, words in ((tmp_path / "nothing", "no such file or folder"), (tmp_path / "file", "not a folder")):
        assert main(["doctor", str(path)]) == 2
        printed = capsys.readouterr()
        assert words in printed.err and printed.err.count("\n") == 1 and not printed.out


def test_a_read_only_folder_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *rest: Any, **named: Any) -> None:
        raise OSError(30, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(InputError, match="can't be written: Read-only file system"), trial_folder(tmp_path):
        pass


def test_what_is_there_already_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    for name in FOLDER_CHECKS:
        look(name, tmp_path)
    assert os.listdir(tmp_path) == ["mine"] and (tmp_path / "mine").read_text() == "kept"


# The machine


def test_a_raising_check_is_a_finding_and_no_crash() -> None:
    def torn() -> Finding:
        raise RuntimeError("first line\nsecond line")

    finding = examine(torn)
    assert finding.state == "problem"
    assert "RuntimeError: first line" in finding.text and "second" not in finding.line("torn")


@pytest.mark.parametrize("version", [2, 1])
def test_a_containers_limits_are_found(version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own"
    if version == 2:
        own.write_text("0::/job/step\n")
        job = tmp_path / "fs" / "job"
        (job / "step").mkdir(parents=True)
        (job / "step" / "cpu.max").write_text("max 100000\n")
        (job / "cpu.max").write_text("50000 100000\n")
        (job / "memory.max").write_text(f"{2**29}\n")
    else:
        own.write_text("4:memory:/job\n2:cpu,cpuacct:/job\n")
        for controller in ("memory", "cpu,cpuacct"):
            (tmp_path / "fs" / controller / "job").mkdir(parents=True)
        (tmp_path / "fs/memory/job/memory.limit_in_bytes").write_text(f"{2**29}\n")
        (tmp_path / "fs/cpu,cpuacct/job/cpu.cfs_quota_us").write_text("50000\n")
        (tmp_path / "fs/cpu,cpuacct/job/cpu.cfs_period_us").write_text("100000\n")
    monkeypatch.setattr(machine_check, "CGROUP", tmp_path / "fs")
    monkeypatch.setattr(machine_check, "OWN_CGROUPS", own)
    assert machine_check.core_quota() == 0.5 and machine_check.memory_limit() == 2**29
    cores, memory = machine_check.check_cores(), machine_check.check_memory()
    assert cores.state == "warning" and "--workers 1" in cores.mend
    assert memory.state == "warning" and "0.5 GiB" in memory.text and "--workers 1" in memory.mend


def test_a_clock_before_our_own_files_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine_check.check_clock().state == "ok"
    monkeypatch.setattr(time, "time", lambda: 1_000_000.0)
    finding = machine_check.check_clock()
    assert finding.state == "problem" and "1970-01-12" in finding.text


def test_a_full_temporary_folder_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    full(monkeypatch)
    assert machine_check.check_temporary_folder().state == "warning"


def test_bf16_is_told_as_extraction_resolves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for has, resolved, words in (
        (True, "bf16", "bf16 pays"),
        (True, "fp32", "doesn't pay"),
        (False, "fp32", "no bf16"),
    ):
        monkeypatch.setattr("extractors.precision.has_bf16_arithmetic", lambda has=has: has)
        monkeypatch.setattr("extractors.precision.resolve_precision", lambda *given, it=resolved: it)
        assert words in machine_check.check_processor().text


# The software


def test_our_packages_are_ours() -> None:
    assert machine_check.check_packages().state == "ok"


@pytest.mark.parametrize("shadow", ["models.py", "beam_jobs/__init__.py"])
def test_a_file_in_the_working_directory_that_shadows_ours_is_found(shadow: str, tmp_path: Path) -> None:
    (tmp_path / shadow).parent.mkdir(exist_ok=True)
    (tmp_path / shadow).touch()
    look_there = "from pipeline.tools.doctor.machine import check_packages; print(check_packages().line('packages'))"
    for options in (["-c"], ["-P", "-c"]):  # shadowed in the process itself; in those alone that it starts
        done = subprocess.run(
            [sys.executable, *options, look_there],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.startswith("problem  packages") and str(tmp_path / shadow) in done.stdout


def test_a_broken_ffmpeg_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine_check.check_ffmpeg().state == "ok"
    broken = tmp_path / "ffmpeg"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", lambda: str(broken))
    finding = machine_check.check_ffmpeg()
    assert finding.state == "problem" and "status 3" in finding.text


def test_the_decoders_decode_and_a_missing_decord_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine_check.check_decord().state == "ok"
    assert machine_check.check_pyav().state == "ok"
    from extractors.decode import DecodeSummary
    from extractors.decoder_process import DecoderProcess

    whole = DecoderProcess.summary.fget
    monkeypatch.setattr(
        DecoderProcess, "summary", property(lambda self: DecodeSummary(whole(self).mask, "pyav", ("decord broke",)))
    )
    finding = machine_check.check_decord()
    assert finding.state == "warning" and "decord broke" in finding.text


def test_a_deaf_decoder_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extractors.audio_track.extract_audio", lambda *given: None)
    assert machine_check.check_pyav().state == "problem"


@pytest.mark.parametrize(("version", "state"), [("2020.01.02", "warning"), ("unknown", "warning")])
def test_an_old_yt_dlp_is_a_warning(version: str, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yt_dlp.version.__version__", version)
    finding = machine_check.check_yt_dlp()
    assert finding.state == state and "pip install -U" in finding.mend


def test_a_new_yt_dlp_is_ok(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "yt_dlp.version.__version__", time.strftime("%Y.%m.%d", time.localtime(time.time() - 10 * 86400))
    )
    finding = machine_check.check_yt_dlp()
    assert finding.state == "ok" and ("10 days" in finding.text or "11 days" in finding.text)


def test_a_missing_javascript_runtime_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from yt_dlp.utils import _jsruntime

    monkeypatch.setattr(_jsruntime.DenoJsRuntime, "_info", lambda self: None)
    finding = machine_check.check_javascript()
    assert finding.state == "problem" and "no deno" in finding.text
    whole = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "yt_dlp_ejs" else whole(name))
    assert "yt_dlp_ejs" in machine_check.check_javascript().text


def test_libraries_of_other_versions_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["torch==1.0.*", "nowhere-to-be-found>=2", "numpy>=1", "pytest>=999; extra == 'dev'"]
    monkeypatch.setattr(metadata, "requires", lambda name: wanted)
    finding = machine_check.check_libraries()
    assert finding.state == "problem"
    assert "torch==1.0.*" in finding.text and "nowhere-to-be-found>=2 (missing)" in finding.text
    assert "numpy" not in finding.text and "pytest" not in finding.text
    assert finding.mend == "pip install 'torch==1.0.*' 'nowhere-to-be-found>=2'"

    def not_installed(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", not_installed)
    finding = machine_check.check_libraries()
    assert finding.state == "ok" and "run from the source" in finding.text


def test_pytorch_for_processors_alone_is_what_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: ["torch==2.11.0", "yt-dlp[default,deno]>=2026.8"])
    here = {"torch": "2.11.0+cpu", "yt-dlp": "2026.10.26"}
    monkeypatch.setattr(metadata, "version", here.__getitem__)
    assert machine_check.unmet_requirements() == {}
    here |= {"torch": "2.11.1+cpu", "yt-dlp": "2025.1.1"}
    unmet = machine_check.unmet_requirements()
    assert unmet == {"torch==2.11.0": "2.11.1+cpu", "yt-dlp[default,deno]>=2026.8": "2025.1.1"}


def test_a_torchaudio_that_does_not_load_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(samples: object) -> None:
        raise LibraryError("torchaudio doesn't load beside torch 2.11.0 (undefined symbol)")

    monkeypatch.setattr(machine_check, "unmet_requirements", dict)
    monkeypatch.setattr("extractors.logmel.log_mel", broken)
    finding = machine_check.check_libraries()
    assert finding.state == "problem" and "undefined symbol" in finding.text and "pip install" in finding.mend


def test_a_library_that_cannot_be_imported_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    finding = examine(machine_check.check_ffmpeg)
    assert finding.state == "problem" and "pip install" in finding.mend


# The command


def _few(monkeypatch: pytest.MonkeyPatch, **findings: Finding) -> None:
    checks = {name: lambda finding=finding: finding for name, finding in findings.items()}
    monkeypatch.setattr("pipeline.tools.doctor.doctor.machine_checks", lambda: checks)
    monkeypatch.setattr("pipeline.tools.doctor.gpu.check_gpu", lambda: Finding("ok", "none"))


def test_a_problem_means_exit_1_and_a_warning_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _few(monkeypatch, one=Finding("ok", "fine"), two=Finding("warning", "old", "renew"))
    assert main(["doctor"]) == 0
    _few(monkeypatch, one=Finding("ok", "fine"), two=Finding("problem", "broken", "mend it"))
    out = tmp_path / "doctor.json"
    capsys.readouterr()
    assert main(["doctor", "--out", str(out)]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == ["ok       one              fine", "problem  two              broken; mend it"]
    written = json.loads(out.read_text())
    assert written["unit"] == "check" and written["failed"] == {"two": 1} and not written["complete"]
    assert written["detail"]["findings"][1] == {"check": "two", "state": "problem", "text": "broken", "mend": "mend it"}


def test_the_folder_is_checked_with_the_rest_and_left_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _few(monkeypatch, one=Finding("ok", "fine"))
    report = run(DoctorSettings(tmp_path))
    assert report.complete and report.done == 2 + len(FOLDER_CHECKS)
    assert os.listdir(tmp_path) == []


def test_the_path_is_given_by_its_place() -> None:
    assert parse("doctor", ["/mnt/nas"])[0].path == Path("/mnt/nas")
    assert parse("doctor", [])[0].path is None
