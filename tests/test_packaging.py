"""What is installed: requirements with bounds that the lock file meets, a wheel with its data, a refused Python."""

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
UNBOUNDED = {"yt-dlp"}
"""Only its newest release keeps up with the sites it reads."""
MADE_FOR_EACH_OTHER = {"torch": "2.11.0", "torchaudio": "2.11.0", "torchvision": "0.26.0"}


@pytest.fixture(scope="module")
def stated() -> dict[str, Any]:
    """What setup.py hands to setuptools."""
    given: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("setuptools.setup", given.update)
        patch.chdir(ROOT)
        exec(compile((ROOT / "setup.py").read_text(), "setup.py", "exec"), {"__file__": str(ROOT / "setup.py")})
    return given


def required(stated: dict[str, Any]) -> list[Requirement]:
    return [Requirement(text) for text in stated["install_requires"]]


def locked() -> Iterator[Requirement]:
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if re.match(r"\w", line):
            yield Requirement(line.removesuffix("\\"))


# Requirements


def test_every_requirement_but_yt_dlp_ends_before_a_release_that_nobody_tried(stated: dict[str, Any]) -> None:
    unbounded = {each.name for each in required(stated) if each.specifier.contains("9999.0")}
    assert unbounded == UNBOUNDED


def test_torch_and_what_is_compiled_against_it_are_pinned_together(stated: dict[str, Any]) -> None:
    pins = {each.name: each.specifier for each in required(stated) if each.name in MADE_FOR_EACH_OTHER}
    assert pins == {name: SpecifierSet(f"=={version}") for name, version in MADE_FOR_EACH_OTHER.items()}
    # Those for processors alone are of the same release.
    assert all(pins[name].contains(f"{version}+cpu") for name, version in MADE_FOR_EACH_OTHER.items())
    assert not pins["torchaudio"].contains("2.11.1")


def test_the_page_installs_the_same_releases_for_processors_alone() -> None:
    page = (ROOT / "docs" / "install.md").read_text()
    commands = re.findall(r"^pip install (.*) --index-url \S+/cpu$", page, re.MULTILINE)
    assert [dict(pin.split("==") for pin in command.split()) for command in commands] == [MADE_FOR_EACH_OTHER]


def test_releases_that_broke_the_decoder_are_left_out(stated: dict[str, Any]) -> None:
    (av,) = (each.specifier for each in required(stated) if each.name == "av")
    assert av.contains("18.1.0") and not av.contains("19.0.2")


def test_the_lock_file_meets_the_requirements_on_every_supported_python(stated: dict[str, Any]) -> None:
    pins = list(locked())
    wanted = [Requirement(text) for text in (*stated["install_requires"], *stated["extras_require"]["dev"])]
    pythons = SpecifierSet(stated["python_requires"])
    versions = [f"3.{minor}" for minor in range(30) if pythons.contains(f"3.{minor}")]
    assert versions[0] == "3.11" and pythons.contains(sys.version.split()[0])
    for version in versions:
        here = {"python_version": version, "python_full_version": f"{version}.0"}
        chosen: dict[str, list[Requirement]] = {}
        for pin in pins:
            if pin.marker is None or pin.marker.evaluate(here):
                chosen.setdefault(pin.name, []).append(pin)
        for each in wanted:
            if each.name not in UNBOUNDED and (each.marker is None or each.marker.evaluate(here)):
                (pin,) = chosen[each.name.lower()]
                (exactly,) = pin.specifier
                assert each.specifier.contains(exactly.version), f"{version}: {pin} for {each}"


# torchaudio


def imports_of_torchaudio() -> dict[str, list[str]]:
    """Module -> the functions in which it imports torchaudio, "" for the module itself."""
    found: dict[str, list[str]] = {}

    def visit(node: ast.AST, inside: str, path: Path) -> None:
        for child in ast.iter_child_nodes(node):
            names = [alias.name for alias in child.names] if isinstance(child, ast.Import) else []
            names += [child.module or ""] if isinstance(child, ast.ImportFrom) else []
            if any(name.split(".")[0] == "torchaudio" for name in names):
                found.setdefault(path.relative_to(ROOT).as_posix(), []).append(inside)
            visit(child, child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else inside, path)

    for package in ("models", "extractors", "pipeline", "beam_jobs"):
        for path in (ROOT / package).rglob("*.py"):
            if "torchaudio" in (source := path.read_text(encoding="utf-8")):
                visit(ast.parse(source), "", path)
    return found


def test_nothing_but_the_log_mel_imports_torchaudio() -> None:
    assert imports_of_torchaudio() == {"extractors/logmel.py": ["mel_filters"]}


# The wheel


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the sdist, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    setup = [sys.executable, "setup.py", "-q"]
    packed = [*setup, "egg_info", "--egg-base", folder, "sdist", "-d", folder]
    subprocess.run(packed, cwd=ROOT, check=True, capture_output=True)
    (archive,) = folder.glob("*.tar.gz")
    shutil.unpack_archive(archive, folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    subprocess.run([*setup, "bdist_wheel", "-d", folder], cwd=source, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "unpacked")
    return folder / "unpacked"


def test_the_wheel_holds_all_modules_and_all_their_data(unpacked: Path) -> None:
    def contents(root: Path) -> set[str]:
        folders = [root / name for name in ("models", "extractors", "pipeline", "pipeline/configs", "beam_jobs")]
        files = {path for folder in folders for path in folder.rglob("*") if path.is_file()}
        return {path.relative_to(root).as_posix() for path in files if "__pycache__" not in path.parts}

    assert contents(unpacked) == contents(ROOT)
    shipped = {path.name: path.read_bytes() for path in (unpacked / "pipeline" / "configs").iterdir()}
    assert shipped == {path.name: path.read_bytes() for path in (ROOT / "configs").iterdir()}
    assert "sample.yaml" in shipped


def test_configs_are_copied_from_an_installed_wheel(unpacked: Path, tmp_path: Path) -> None:
    def mcn(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pipeline.cli", *arguments]
        environment = os.environ | {"PYTHONPATH": str(unpacked)}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    assert mcn("config", "copy", "sample").returncode == 0
    assert (tmp_path / "sample.yaml").read_bytes() == (ROOT / "configs" / "sample.yaml").read_bytes()


# Python


def fake_python(folder: Path, version: tuple[int, int, int]) -> Path:
    """An interpreter that says it is of another version."""
    program = folder / "python-of-another-version"
    run = f"import runpy, sys; sys.version_info = {version}; runpy.run_path(sys.argv[1], run_name='__main__')"
    program.write_text(f'#!/bin/sh\ntouch "{folder}/started"\nexec "{sys.executable}" -c "{run}" "$@"\n')
    program.chmod(0o755)
    return program


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """As much of the repository as `make` reads before it makes .venv."""
    for name in ("Makefile", "setup.py", "requirements.lock", ".ci/supported_python.py"):
        (tmp_path / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / "checkout" / name)
    return tmp_path / "checkout"


def refused(checkout: Path, python: object) -> str:
    """What `make` says, in one line, before it has done anything."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "demo", f"PYTHON={python}"]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and not (checkout / ".venv").exists() and not done.stdout
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 10, 13), (3, 14, 0)])
def test_make_refuses_a_python_that_is_too_old_or_too_new(
    checkout: Path, tmp_path: Path, version: tuple[int, int, int]
) -> None:
    line = refused(checkout, fake_python(tmp_path, version))
    assert f"Python {version[0]}.{version[1]} is not supported: expected 3.11 to 3.13" in line
    assert (tmp_path / "started").exists()


@pytest.mark.parametrize(("python", "words"), [("", "no Python on PATH"), ("python-nowhere", "not found")])
def test_make_says_when_there_is_no_python(checkout: Path, python: str, words: str) -> None:
    assert words in refused(checkout, python)


def test_make_takes_every_supported_python(checkout: Path, tmp_path: Path) -> None:
    for minor in (11, 12, 13):
        python = fake_python(tmp_path, (3, minor, 0))
        said = subprocess.run(["make", "-n", "demo", f"PYTHON={python}"], cwd=checkout, capture_output=True, text=True)
        assert said.returncode == 0 and f"{python} -m venv .venv" in said.stdout, said.stderr


# The check of the wheel


@pytest.fixture
def wheel_check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`.ci/wheel_check.py` as a module."""
    monkeypatch.syspath_prepend(ROOT / ".ci")
    specification = spec_from_file_location("wheel_check", ROOT / ".ci" / "wheel_check.py")
    assert specification is not None and specification.loader is not None
    module = module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_pythons_and_indices_that_are_not_here_are_named_as_not_tried(
    wheel_check: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    used: list[Path] = []
    monkeypatch.setattr(wheel_check, "find_interpreter", lambda minor: Path("/python3.12") if minor == 12 else None)
    monkeypatch.setattr(wheel_check, "build_wheel", lambda interpreter, folder: folder / "mcn.whl")
    monkeypatch.setattr(wheel_check, "use_wheel", lambda interpreter, *rest: used.append(interpreter))
    monkeypatch.setattr(wheel_check, "cpu_index_is_reached", lambda: False)
    assert wheel_check.main() == 0 and used == [Path("/python3.12")]
    lines = capsys.readouterr().out.splitlines()[-4:]
    assert [re.sub(r".*, (Python.*): (passed|not tried).*", r"\1: \2", line) for line in lines] == [
        "Python 3.11: not tried",
        "Python 3.12: passed",
        "Python 3.13: not tried",
        "Python 3.12, CPU-only: not tried",
    ]
    monkeypatch.setattr(wheel_check, "find_interpreter", lambda minor: None)
    assert wheel_check.main() == 1


def test_a_step_that_fails_fails_the_check_and_is_shown(
    wheel_check: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(*rest: object) -> None:
        wheel_check.step([sys.executable, "-c", "print('undefined symbol'); raise SystemExit(3)"], tmp_path)

    monkeypatch.setattr(wheel_check, "use_wheel", fail)
    assert wheel_check.tried(Path(sys.executable), tmp_path) == wheel_check.FAILED
    printed = capsys.readouterr().out
    assert "exit status 3" in printed and "undefined symbol" in printed


def test_an_interpreter_that_only_looks_like_one_is_passed_over(
    wheel_check: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A shim of pyenv is there for every version, and refuses to start those that aren't chosen."""
    minor = sys.version_info.minor
    for folder, text in (("shims", "exit 127"), ("bin", f'exec "{sys.executable}" "$@"')):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"python3.{minor}").write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / folder / f"python3.{minor}").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'shims'}:{tmp_path / 'bin'}")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "none"))
    assert wheel_check.find_interpreter(minor) == tmp_path / "bin" / f"python3.{minor}"
    assert wheel_check.find_interpreter(minor + 1) is None
