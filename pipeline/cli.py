"""The `mcn` command: parsing gives settings, running takes them; one line per error; the exit status tells the truth.

Status 0: the work asked for is done. 1: it isn't (the summary says why, or one line what fails on this machine). 2:
something given can't be used. 75: a signal asked to stop, all work so far is saved; rerun the same command to resume.
"""

import argparse
import difflib
import importlib.metadata
import importlib.util
import logging
import os
import re
import shlex
import shutil
import signal
import sys
import textwrap
import traceback
import typing
from collections.abc import Collection, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, NoReturn

from extractors.errors import DecoderError
from pipeline.commands import COMMANDS, FLAG_GROUPS, OUTPUTS, PLACEHOLDERS
from pipeline.core import config
from pipeline.core.errors import InputError, ToolError, suggest
from pipeline.core.signals import STOPPED, StoppedError, stop_on_signals
from pipeline.core.terminal import SafeStream, fill_standard_descriptors, one_line, safe_output


class _Parser(argparse.ArgumentParser):
    given: Sequence[str] = ()
    """What is parsed."""
    whole: "_Parser"
    """The one whose help is shown."""

    def format_help(self) -> str:
        return super().format_help() if self.whole is self else self.whole.format_help()

    def error(self, message: str) -> NoReturn:
        lacking = re.fullmatch(r"argument (?:.*/)?(--[\w-]+): expected one argument", message)
        following = [
            after for flag, after in zip(self.given, self.given[1:], strict=False) if lacking and flag == lacking[1]
        ]
        if lacking and following and following[0] not in self._option_string_actions:
            value = f"{lacking[1]}={following[0]}"
            raise InputError(f"{self.prog}: {message}; a value that begins with - is given as {shlex.quote(value)}")
        raise InputError(f"{self.prog}: {message}; see {self.prog} --help")


_NARROWEST = 20


def _wrapped(text: str, indent: int = 0) -> str:
    """Text wrapped to the terminal's width; lines after the first are indented."""
    # A terminal may say that it has a single column.
    width = max(_NARROWEST, shutil.get_terminal_size().columns - 2)
    return textwrap.fill(text, width, subsequent_indent=" " * indent, break_on_hyphens=False)


def _parser(name: str, by_place: bool = True) -> _Parser:
    """The parser of a stage's flags, and with `by_place` of what is given without one."""
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
    parser.whole = parser if by_place else _parser(name)
    parser.add_argument("--debug", action="store_true", help="show a traceback on errors, and debug messages")
    if not command.experiment:
        parser.add_argument("--config", metavar="FILE.yaml", help="settings as YAML; flags override them")
        config.add_flags(parser, command.settings_class(), command.positional, FLAG_GROUPS, PLACEHOLDERS, by_place)
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
    for flag, _, value in (flag.partition("=") for flag in flags):
        if flag not in known and "dask" not in flag:  # Dask's are declared elsewhere
            keys = _set_keys() if COMMANDS[name].experiment else {}
            nearest = difflib.get_close_matches(flag, [*known, *keys], n=1)
            hint = suggest(flag, known)
            if nearest and nearest[0] in keys:
                following = [after for before, after in zip(given, given[1:], strict=False) if before == flag]
                value = value or (following[0] if following else "VALUE")
                hint = f"give settings of stages as {' or '.join(f'--set {key}={value}' for key in keys[nearest[0]])}"
            raise InputError(f"mcn {name}: unknown argument {flag!r}; {hint}")
    importlib.import_module("beam_jobs.options").check_beam_arguments(given)


def _set_keys() -> dict[str, list[str]]:
    """Flag of a stage -> the keys by which `--set` gives an experiment its value."""
    keys: dict[str, list[str]] = {}
    for section, stage in importlib.import_module("pipeline.experiment.stages").STAGES.items():
        for setting in config.settings_in(COMMANDS[stage].settings_class()).values():
            keys.setdefault(setting.flag, []).append(f"{section}.{setting.name}")
    own = {
        "--out": ["out"],
        "--seed": ["seeds"],
        "--seeds": ["seeds"],
        "--scheme": ["schemes"],
        "--schemes": ["schemes"],
    }
    return keys | own


def _spelled_out(arguments: Sequence[str], switches: Collection[str]) -> list[str]:
    """`--json WORD` as `--json=true WORD`, where the word isn't the switch's own value."""
    following = [*arguments[1:], ""]
    return [
        f"{word}=true" if word in switches and after.lower() not in config.BOOLEANS else word
        for word, after in zip(arguments, following, strict=False)
    ]


def _by_place(name: str, words: Sequence[str], flags: Collection[str]) -> dict[str, Any]:
    """The values of the settings that are given by place; InputError for a flag among `words`, or a word too many."""
    command = COMMANDS[name]
    settings, last = config.settings_in(command.settings_class()), command.positional[-1]
    for word in words[: words.index("--")] if "--" in words else words:
        if word.startswith("-") and word != "-" and " " not in word:
            flag = word.split("=")[0]
            hint = suggest(flag, flags) if word.startswith("--") or f"-{flag}" in flags else ""
            if not hint.startswith("did you mean"):
                is_path = last == "path" or Path in (settings[last].type, *typing.get_args(settings[last].type))
                hint = f"put a {last} that begins with - after --: mcn {name} ... -- {shlex.quote(word)}"
                hint = f"give a path that begins with - as ./{word}" if is_path else hint
                hint = "put ids that begin with - after --" if last == "ids" else hint
            raise InputError(f"mcn {name}: unknown argument {word!r}; {hint}")
    words = [word for index, word in enumerate(words) if word != "--" or "--" in words[:index]]
    values: dict[str, Any] = dict(zip(command.positional, words, strict=False))
    rest = words[len(command.positional) - 1 :]
    if rest and command.phrase:
        values[last] = " ".join(rest)
    elif rest and typing.get_origin(settings[last].type) is tuple:
        values[last] = rest
    elif len(rest) > 1:
        expected = " ".join(map(str.upper, command.positional))
        raise InputError(f"mcn {name}: unknown argument {rest[1]!r}: expected {expected}; a name with spaces in quotes")
    return values


def parse(name: str, arguments: Sequence[str]) -> tuple[Any, list[str]]:
    """Turn a stage's arguments into its settings and the flags left for Beam.

    Raises InputError for an unknown flag or key (naming the nearest right one) and for values that don't fit.
    """
    command = COMMANDS[name]
    parser = _parser(name, by_place=False)
    own_flags = {option for action in parser._actions for option in action.option_strings}
    words: list[str] = []
    if command.positional:
        end = arguments.index("--") if "--" in arguments else len(arguments)
        arguments, words = list(arguments[:end]), list(arguments[end:])
        settings = config.settings_in(command.settings_class()).values()
        arguments = _spelled_out(arguments, {setting.flag for setting in settings if setting.type is bool})
        # argparse would take what follows -h for further flags of one letter.
        odd = {word for word in arguments if word.startswith("-h") and word != "-h"}
        arguments, words = [word for word in arguments if word not in odd], [*odd, *words]
    parser.given = arguments
    given, further = parser.parse_known_args(arguments)
    values = vars(given)
    debug = values.pop("debug")
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    where, path = f"mcn {name}", values.pop("config")
    if command.positional:
        values |= _by_place(name, [*further, *words], own_flags)
    elif further and command.beam:
        _check_beam_flags(name, further, own_flags)
    elif further:
        raise InputError(f"{where}: unknown argument {further[0]!r}; {suggest(further[0].split('=')[0], own_flags)}")
    if command.experiment:
        return command.settings_class().load(Path(path), values.pop("set"), **values), further
    given_as = _given_as(name, values if path is not None else None)
    if path is not None:
        where, values = path, config.load_yaml(Path(path)) | values
    return config.from_mapping(
        command.settings_class(), values, where, command.positional, given_as
    ), further if command.beam else []


def _given_as(name: str, given: Collection[str] | None) -> dict[str, str]:
    """How messages call the settings that are `given` on the command line, or all (None) where no file has others."""
    command = COMMANDS[name]
    return {
        setting.name: f"mcn {name}: {setting.name.upper() if setting.name in command.positional else setting.flag}"
        for setting in config.settings_in(command.settings_class()).values()
        if given is None or setting.name in given
    }


def _stage_lines(names: Collection[str]) -> list[str]:
    width = max(map(len, names))
    return [_wrapped(f"  {name:<{width}}  {COMMANDS[name].summary}", width + 4) for name in names]


def _help() -> str:
    return (
        "usage: mcn STAGE [flags]\n       mcn help [STAGE]\n       mcn --version\n\n"
        "From the HowTo100M id list to a trained Multimodal Clustering Network.\n\n"
        "stages:\n"
        + "\n".join(_stage_lines(COMMANDS))
        + "\n\n`mcn STAGE --help` lists a stage's flags.\nexample: mcn run configs/sample.yaml\n"
    )


def _command_name(arguments: Sequence[str]) -> tuple[str, list[str]]:
    for words in (2, 1):
        name = " ".join(arguments[:words])
        if name in COMMANDS and len(arguments) >= words:
            return name, list(arguments[words:])
    group = _group(arguments[0])
    if group and len(arguments) == 1:
        raise InputError(f"mcn {arguments[0]}: give one of its stages: {', '.join(map(repr, group))}")
    if group:
        near = difflib.get_close_matches(arguments[1], [name.split()[1] for name in group], n=1)
        hint = f"did you mean {f'{arguments[0]} {near[0]}'!r}?" if near else f"known: {', '.join(group)}"
        raise InputError(f"mcn: unknown stage {' '.join(arguments[:2])!r}; {hint}")
    # A word of a name of two leads to it, too.
    whole = {word: name for name in COMMANDS for word in name.split()} | {name: name for name in COMMANDS}
    near = difflib.get_close_matches(arguments[0], whole, n=1)
    meant = " ".join([*near, *arguments[1:2]])
    name = meant if meant in COMMANDS else whole[near[0]] if near else ""
    hint = f"did you mean {name!r}?" if name else suggest(arguments[0], COMMANDS)
    raise InputError(f"mcn: unknown stage {arguments[0]!r}; {hint}")


def _group(word: str) -> list[str]:
    """The stages of two words that begin with this one."""
    return [name for name in COMMANDS if name.startswith(f"{word} ")]


def _complete() -> None:
    """Print what may follow on the shell's command line, as argcomplete does, and end; only its stage is imported."""
    argcomplete = importlib.import_module("argcomplete")
    words = re.split(r"\s+", os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])])[1:-1]
    try:
        name, _ = _command_name([*words, ""])
        parser: argparse.ArgumentParser = _parser(name)
        begin = len(name.split())
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
    fill_standard_descriptors()
    with safe_output() as output:
        try:
            return _delivered(_run(sys.argv[1:] if arguments is None else list(arguments)), output)
        except SystemExit as left:  # argparse's, after it has printed help
            raise SystemExit(_delivered(left.code if isinstance(left.code, int) else 0, output)) from None


def _delivered(status: int, output: SafeStream) -> int:
    """The exit status, which is no 0 any more where standard output didn't take all that was printed."""
    with suppress(BrokenPipeError):
        output.flush()
    if isinstance(output.failure, BrokenPipeError):
        return status or _READER_GONE
    if output.failure is not None:
        _complain(f"mcn: standard output: {output.failure.strerror}: not all of it was written")
        return status or 1
    return status


_READER_GONE = 128 + signal.SIGPIPE


def _complain(line: str, debug: bool = False) -> None:
    if debug:
        traceback.print_exc()
    print(one_line(line), file=sys.stderr)


def _run(arguments: list[str]) -> int:
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help(), end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print("mcn", importlib.metadata.version("mcn"))
        return 0
    if arguments[1:] in (["-h"], ["--help"]) and _group(arguments[0]):
        print("\n".join(_stage_lines(_group(arguments[0]))))
        return 0
    debug = "--debug" in arguments
    try:
        name, rest = _command_name(arguments)
        # Before the stage's libraries are loaded: their threads must not take a signal.
        with stop_on_signals() if COMMANDS[name].stops_on_signals else nullcontext():
            settings, beam_arguments = parse(name, rest)
            command = COMMANDS[name]
            config.check_inputs(settings, f"mcn {name}", (*OUTPUTS, *command.may_be_missing), command.positional)
            report = command.run(settings, beam_arguments)
        return STOPPED if report.stopped else 0 if report.complete else 1
    except InputError as error:
        _complain(str(error) if str(error).startswith("mcn") else f"mcn: {error}", debug)
        return STOPPED if isinstance(error, StoppedError) else 2
    except (ToolError, DecoderError, ImportError) as error:
        _complain(f"mcn: {error} (--debug shows where)", debug)
        return 1
    except OSError as error:
        if error is getattr(sys.stdout, "failure", None):
            return _READER_GONE
        where = f"{error.filename}: " if error.filename else ""
        _complain(f"mcn: {where}{error.strerror or error} (--debug shows where)", debug)
        return 1
    except KeyboardInterrupt:
        _complain("mcn: interrupted; rerun the same command to resume")
        return 130


if __name__ == "__main__":
    sys.exit(main())
