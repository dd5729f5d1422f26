"""The `mcn` command: parsing gives settings, running takes them; one line per error; the exit status tells the truth.

Status 0: the work asked for is done. 1: it isn't (the summary says why, or one line what fails on this machine). 2:
something given can't be used. 75: a signal asked to stop, all work so far is saved; rerun the same command to resume.
"""

import argparse
import importlib.metadata
import importlib.util
import logging
import os
import re
import shutil
import sys
import textwrap
import traceback
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

from extractors.errors import DecoderError
from pipeline.commands import COMMANDS, FLAG_GROUPS, OUTPUTS
from pipeline.core import config
from pipeline.core.errors import InputError, ToolError, suggest
from pipeline.core.signals import STOPPED, StoppedError, stop_on_signals
from pipeline.core.terminal import one_line, safe_output


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{self.prog}: {message}; see {self.prog} --help")


def _wrapped(text: str, indent: int = 0) -> str:
    """Text wrapped to the terminal's width; lines after the first are indented."""
    width = shutil.get_terminal_size().columns - 2
    return textwrap.fill(text, width, subsequent_indent=" " * indent, break_on_hyphens=False)


def _parser(name: str) -> argparse.ArgumentParser:
    """The parser of a stage's flags."""
    command = COMMANDS[name]
    beam = "\nFurther flags go to Apache Beam, e.g. --runner=FlinkRunner." if command.beam else ""
    words = ["CONFIG.yaml"] if command.experiment else [word.upper() for word in command.positional]
    parser = _Parser(
        prog=f"mcn {name}",
        usage=" ".join(["%(prog)s", *words, "[flags]"]),
        description=_wrapped(command.summary[0].upper() + command.summary[1:] + "."),
        epilog=f"example: {command.example}{beam}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--debug", action="store_true", help="show a traceback on errors, and debug messages")
    if not command.experiment:
        parser.add_argument("--config", metavar="FILE.yaml", help="settings as YAML; flags override them")
        config.add_flags(parser, command.settings_class(), command.positional, FLAG_GROUPS)
        return parser
    parser.add_argument("config", metavar="CONFIG.yaml", help="the experiment: see mcn config list")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="override a setting, e.g. train.epochs=5"
    )
    if name == "compare":
        parser.add_argument(
            "--plan", action="store_true", help="print what each model takes and write its command; train nothing"
        )
        parser.add_argument("--only", metavar="MODEL", help="train and evaluate this one, a task of a job array")
    return parser


def _check_beam_flags(name: str, given: Sequence[str], own_flags: Collection[str]) -> None:
    """Raise InputError for a flag that neither the stage nor Beam has, or a value that Beam refuses."""
    # To import Beam takes seconds: a misspelt flag is found by the source that declares Beam's.
    beam = importlib.util.find_spec("apache_beam")
    assert beam is not None and beam.origin is not None
    source = Path(beam.origin).with_name("options").joinpath("pipeline_options.py").read_text(encoding="utf-8")
    known = {*re.findall(r"""['"](--[\w-]+)['"]""", source), *own_flags}
    flags = [given[0], *(word for word in given if word.startswith("--"))]
    for flag in (flag.split("=")[0] for flag in flags):
        if flag not in known and "dask" not in flag:  # Dask's are declared elsewhere
            raise InputError(f"mcn {name}: unknown argument {flag!r}; {suggest(flag, known)}")
    importlib.import_module("beam_jobs.options").check_beam_arguments(given)


def parse(name: str, arguments: Sequence[str]) -> tuple[Any, list[str]]:
    """Turn a stage's arguments into its settings and the flags left for Beam.

    Raises InputError for an unknown flag or key (naming the nearest right one) and for values that don't fit.
    """
    command = COMMANDS[name]
    parser = _parser(name)
    given, further = parser.parse_known_args(arguments)
    values = vars(given)
    debug = values.pop("debug")
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    own_flags = {option for action in parser._actions for option in action.option_strings}
    if further and command.beam:
        _check_beam_flags(name, further, own_flags)
    elif further:
        hint = "; put ids that begin with - after --" if "ids" in command.positional else ""
        raise InputError(
            f"mcn {name}: unknown argument {further[0]!r}; {suggest(further[0].split('=')[0], own_flags)}{hint}"
        )
    where, path = f"mcn {name}", values.pop("config")
    if command.experiment:
        return command.settings_class().load(Path(path), values.pop("set"), **values), further
    if path is not None:
        where, values = path, config.load_yaml(Path(path)) | values
    return config.from_mapping(command.settings_class(), values, where, command.positional), further


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [_wrapped(f"  {name:<{width}}  {command.summary}", width + 4) for name, command in COMMANDS.items()]
    return (
        "usage: mcn STAGE [flags]\n       mcn help [STAGE]\n       mcn --version\n\n"
        "From the HowTo100M id list to a trained Multimodal Clustering Network.\n\n"
        "stages:\n"
        + "\n".join(lines)
        + "\n\n`mcn STAGE --help` lists a stage's flags.\nexample: mcn run configs/sample.yaml\n"
    )


def _command_name(arguments: Sequence[str]) -> tuple[str, list[str]]:
    for words in (2, 1):
        name = " ".join(arguments[:words])
        if name in COMMANDS and len(arguments) >= words:
            return name, list(arguments[words:])
    raise InputError(f"mcn: unknown stage {arguments[0]!r}; {suggest(arguments[0], COMMANDS)}")


def _complete() -> None:
    """Print what may follow on the shell's command line, as argcomplete does, and end; only its stage is imported."""
    argcomplete = importlib.import_module("argcomplete")
    words = re.split(r"\s+", os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])])[1:-1]
    try:
        name, _ = _command_name([*words, ""])
        parser, begin = _parser(name), len(name.split())
    except InputError:
        parser, begin = argparse.ArgumentParser(add_help=False), len(words)
        stages = [name.split() for name in (*COMMANDS, "help")]
        parser.add_argument("stage", choices={stage[begin] for stage in stages if stage[:begin] == words})
    os.environ["_ARGCOMPLETE"] = str(begin + 1)  # the word that stands for the program's name
    argcomplete.autocomplete(parser)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    if "_ARGCOMPLETE" in os.environ:
        _complete()
    with safe_output():
        return _run(sys.argv[1:] if arguments is None else list(arguments))


def _run(arguments: list[str]) -> int:
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help(), end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print("mcn", importlib.metadata.version("mcn"))
        return 0
    try:
        name, rest = _command_name(arguments)
        # Before the stage's libraries are loaded: their threads must not take a signal.
        with stop_on_signals() if COMMANDS[name].stops_on_signals else nullcontext():
            settings, beam_arguments = parse(name, rest)
            config.check_inputs(settings, f"mcn {name}", (*OUTPUTS, *COMMANDS[name].may_be_missing))
            report = COMMANDS[name].run(settings, beam_arguments)
        return STOPPED if report.stopped else 0 if report.complete else 1
    except InputError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        print(one_line(error if str(error).startswith("mcn") else f"mcn: {error}"), file=sys.stderr)
        return STOPPED if isinstance(error, StoppedError) else 2
    except (ToolError, DecoderError, ImportError) as error:
        if "--debug" in arguments:
            traceback.print_exc()
        print(f"mcn: {error} (--debug shows where)", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        line = f"mcn: {error.filename or ''}: {error.strerror or error} (--debug shows where)"
        print(one_line(line), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mcn: interrupted; rerun the same command to resume", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
