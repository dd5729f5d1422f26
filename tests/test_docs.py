"""The documents say what is true: their commands parse, their links, flags, stages and make targets exist."""

import argparse
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import PipelineOptions, _BeamArgumentParser

from pipeline.cli import parse
from pipeline.commands import COMMANDS
from pipeline.core.config import add_flags

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def text_of(document: str) -> str:
    return re.sub(r"<!--.*?-->", "", (ROOT / document).read_text(encoding="utf-8"))


def code_lines(document: str) -> Iterator[str]:
    """Lines of the fenced blocks, continued lines joined."""
    for block in re.findall(r"^```[a-z]*\n(.*?)^```$", text_of(document), re.MULTILINE | re.DOTALL):
        yield from re.sub(r"\\\n\s*", "", block).splitlines()


def command_lines() -> list[tuple[str, str]]:
    return [(document, line) for document in DOCUMENTS for line in code_lines(document) if line.startswith("mcn ")]


def stage_of(line: str) -> tuple[str, list[str]]:
    """Stage and arguments of a command line."""
    words = shlex.split(line, comments=True)[1:]
    count = next((count for count in (2, 1) if " ".join(words[:count]) in COMMANDS), 0)
    assert count, f"{line}: no such stage"
    return " ".join(words[:count]), words[count:]


SLURM_FLAGS = {f"--{name}" for name in "array nodes ntasks cpus-per-task gres time signal requeue open-mode".split()}
"""Of sbatch, in a script that is shown."""


PIP_FLAGS = {"--index-url", "--no-deps"}
CLUSTER_FLAGS = {f"--{name}" for name in "port nthreads nworkers spark-master-url job-port add-opens".split()}
"""Of Dask's scheduler and worker, Beam's job server for Spark and Java."""


@cache
def known_flags() -> frozenset[str]:
    """Flags of all stages, and Beam's."""
    parser = argparse.ArgumentParser(conflict_handler="resolve")
    for command in COMMANDS.values():
        if not command.experiment:
            add_flags(parser, command.settings_class())
    import_module("apache_beam.runners.dask.dask_runner")  # its options exist once it is imported
    parsers: list[argparse.ArgumentParser] = [parser]
    for options_class in PipelineOptions.__subclasses__():
        beam_parser = _BeamArgumentParser(add_help=False)
        options_class._add_argparse_args(beam_parser)
        parsers.append(beam_parser)
    flags = {flag for one in parsers for action in one._actions for flag in action.option_strings}
    flags |= SLURM_FLAGS | PIP_FLAGS | CLUSTER_FLAGS
    return frozenset(flags | {"--config", "--set", "--plan", "--only", "--debug", "--help", "--version"})


def test_documents_hold_commands() -> None:
    assert {"README.md", "docs/howto100m.md", "docs/data-format.md"} <= set(DOCUMENTS)
    assert {document for document, _ in command_lines()} >= {"README.md", "docs/howto100m.md"}


@pytest.mark.parametrize(("document", "line"), command_lines())
def test_command_parses(document: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # documents name files from here
    stage, arguments = stage_of(line)
    settings, _ = parse(stage, arguments)
    assert type(settings) is COMMANDS[stage].settings_class()


def test_readme_has_every_stage_in_its_table() -> None:
    rows = [line for line in text_of("README.md").splitlines() if line.startswith("| ")]
    named = [stage for row in rows for stage in re.findall(r"`mcn ([a-z ]+)`", row.split("|")[2])]
    assert sorted(named) == sorted(COMMANDS)


def test_every_stage_is_shown() -> None:
    shown = {stage_of(line)[0] for _, line in command_lines()}
    assert shown == set(COMMANDS)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_named_stages_exist(document: str) -> None:
    for words in re.findall(r"`mcn ([a-z]+(?: [a-z]+)?)", text_of(document)):
        assert words in COMMANDS or words.startswith("help") or words.split()[0] in COMMANDS, f"{document}: mcn {words}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_named_flags_exist(document: str) -> None:
    unknown = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text_of(document))) - known_flags()
    assert not unknown, f"{document} names {sorted(unknown)}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_relative_links_resolve(document: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(document)):
        if not target.startswith(("https://", "http://", "#")):
            assert (ROOT / document).parent.joinpath(target.split("#")[0]).exists(), f"{document} links to {target}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_exist(document: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)", text_of(document)))
    named |= {line.split()[1] for line in code_lines(document) if line.startswith("make ")}
    assert named <= targets, f"{document}: make {sorted(named - targets)}"


def test_layout_is_the_repository() -> None:
    tree = re.search(r"^## Layout\n+```\n(.*?)^```$", text_of("CONTRIBUTING.md"), re.MULTILINE | re.DOTALL)
    assert tree
    lines = tree[1].splitlines()
    # What is indented stands in pipeline/.
    named = {("pipeline/" if line.startswith(" ") else "") + line.split()[0].rstrip("/") for line in lines}
    assert all((ROOT / name).exists() for name in named)
    packages = {
        path.parent.relative_to(ROOT).as_posix()
        for pattern in ("*", "*/*")
        for path in ROOT.glob(f"{pattern}/__init__.py")
    }
    assert {package for package in packages if package.count("/") == 0 or package.startswith("pipeline/")} <= named


@pytest.mark.parametrize("document", DOCUMENTS)
def test_absolute_paths_are_examples(document: str) -> None:
    """An absolute path is one in a reader's shared folder, never one of the machine this was written on."""
    paths = re.findall(r"(?:^|[\s`\"'(=])(/[A-Za-z][\w./-]*|~/[\w./-]*)", text_of(document), re.MULTILINE)
    assert [path for path in paths if not path.startswith("/mnt/nas/")] == []


@pytest.mark.parametrize(
    ("variables", "task"),
    [
        # The last task of an array has the array's own job id.
        ({"SLURM_JOB_ID": "40", "SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "8"}, "40_8"),
        ({"SLURM_JOB_ID": "41", "SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "1"}, "40_1"),
        ({"SLURM_JOB_ID": "40"}, "40"),
    ],
)
@pytest.mark.parametrize("status", [75, 0, 2])
def test_the_job_script_puts_back_its_own_task_alone(
    variables: dict[str, str], task: str, status: int, tmp_path: Path
) -> None:
    (script,) = re.findall(r"^```sh\n(#!/bin/bash\n.*?)^```$", text_of("docs/howto100m.md"), re.MULTILINE | re.DOTALL)
    for name, words in (("srun", f"exit {status}"), ("scontrol", 'echo "$@"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{words}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"} | variables
    ended = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (status, f"requeue {task}\n" if status == 75 else "")


def test_sizes_follow_from_the_format() -> None:
    """The bytes a second in the table are those of the settings that make a data set."""
    settings_class = COMMANDS["extract"].settings_class()
    table = text_of("docs/howto100m.md")
    seconds = 15 * 365.25 * 86400
    for store in ("both", "davenet"):
        bytes_per_second = settings_class(Path("media"), Path("out"), audio_store=store).bytes_per_second()
        row = next(line for line in table.splitlines() if line.startswith("|") and f"--audio-store {store}" in line)
        whole = f"{bytes_per_second * seconds / 1e12:.1f} TB"
        assert [cell.strip() for cell in row.split("|")[2:5:2]] == [f"{bytes_per_second:,.0f}", whole]
