"""The `mcn` command: parsing gives settings, running takes them; one line per error; the exit status tells the truth.

Status 0: the work asked for is there. 1: it isn't (the summary says why). 2: something given can't be used. 75: a
signal asked to stop; all work so far is saved, and the same command resumes it.
"""

import argparse
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

from pipeline.commands import COMMANDS
from pipeline.core import config
from pipeline.core.errors import InputError, suggest
from pipeline.core.signals import STOPPED, stop_on_signals


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{self.prog}: {message}; see {self.prog} --help")


def _parser(name: str) -> argparse.ArgumentParser:
    command = COMMANDS[name]
    beam = "\nFurther flags go to Apache Beam, e.g. --runner=FlinkRunner." if command.beam else ""
    parser = _Parser(
        prog=f"mcn {name}",
        description=command.summary[0].upper() + command.summary[1:] + ".",
        epilog=f"example: {command.example}{beam}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if command.experiment:
        parser.add_argument("config", metavar="CONFIG.yaml", help="the experiment: see configs/")
        parser.add_argument(
            "--set", metavar="KEY=VALUE", action="append", default=[], help="override a setting, e.g. train.epochs=5"
        )
        if name == "compare":
            parser.add_argument(
                "--plan", action="store_true", help="say what each model takes and write its command; train nothing"
            )
            parser.add_argument("--only", metavar="MODEL", help="train and evaluate this one, a task of a job array")
    else:
        parser.add_argument("--config", metavar="FILE.yaml", help="settings as YAML; flags override them")
    parser.add_argument("--debug", action="store_true", help="show a traceback on errors, and debug messages")
    return parser


def parse(name: str, arguments: Sequence[str]) -> tuple[Any, list[str]]:
    """Turn a stage's arguments into its settings and the flags left for Beam.

    Raises InputError for an unknown flag or key (naming the nearest right one) and for values that don't fit.
    """
    command = COMMANDS[name]
    settings_class = command.settings_class()
    parser = _parser(name)
    if not command.experiment:
        config.add_flags(parser, settings_class, command.positional)
    given, further = parser.parse_known_args(arguments)
    values = vars(given)
    debug = values.pop("debug")
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    known = {option for action in parser._actions for option in action.option_strings}
    if further and command.beam:
        importlib.import_module("beam_jobs.options").check_beam_arguments(further, own_flags=known)
    elif further:
        hint = "; put ids that begin with - after --" if "ids" in command.positional else ""
        raise InputError(
            f"mcn {name}: unknown argument {further[0]!r}; {suggest(further[0].split('=')[0], known)}{hint}"
        )
    where = f"mcn {name}"
    if command.experiment:
        settings = settings_class.load(Path(values.pop("config")), values.pop("set"), **values)
    else:
        if "config" in values and values["config"] is not None:
            where = values["config"]
            values = config.load_yaml(Path(values["config"])) | {k: v for k, v in values.items() if k != "config"}
        values.pop("config", None)
        settings = config.from_mapping(settings_class, values, where, command.positional)
    return settings, further


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return (
        "usage: mcn STAGE [flags]\n\nFrom the HowTo100M id list to a trained Multimodal Clustering Network.\n\n"
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help(), end="")
        return 0 if arguments else 2
    try:
        name, rest = _command_name(arguments)
        # Before the stage's libraries are loaded: their threads must not take a signal.
        with stop_on_signals() if COMMANDS[name].stops_on_signals else nullcontext():
            settings, beam_arguments = parse(name, rest)
            report = COMMANDS[name].run(settings, beam_arguments)
        return STOPPED if report.stopped else 0 if report.complete else 1
    except InputError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        print(f"mcn: {error}" if not str(error).startswith("mcn") else error, file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        print(f"mcn: {error.filename or ''}: {error.strerror or error} (--debug shows where)", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mcn: interrupted; rerun the same command to resume", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
