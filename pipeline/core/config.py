"""Settings: frozen dataclasses whose fields are at once YAML keys and command-line flags.

The string literal below each field is its help text. Order of precedence: defaults, presets (a class's `PRESETS`: by
field, by that field's value, in their order), YAML, flags.
"""

import argparse
import ast
import dataclasses
import inspect
import math
import re
import shlex
import textwrap
import types
import typing
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar, Union

import yaml

from pipeline.core.errors import InputError, suggest, suggest_below, suggest_path
from pipeline.core.remote import address_of, checked_address
from pipeline.core.secrets import masked_setting

Settings = TypeVar("Settings")

BOOLEANS: dict[str, bool] = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(
    ("false", "no", "off", "0"), False
)


@dataclasses.dataclass(frozen=True)
class Setting:
    """One key of a settings class, of its own or of a settings class nested in it: keys and flags are flat."""

    name: str
    type: Any
    default: Any
    """`dataclasses.MISSING` where it must be given."""
    help: str
    parent: str = ""
    """The field that holds it, where it is nested."""

    @property
    def flag(self) -> str:
        """Its flag."""
        return flag_of(self.name)


def flag_of(name: str) -> str:
    """`--batch-videos` for `batch_videos`."""
    return f"--{name.replace('_', '-')}"


def _set_by_users(settings: Any) -> Iterator[dataclasses.Field[Any]]:
    """The fields of a settings class, or of its instance, save those whose metadata say `flag: False`."""
    return (field for field in dataclasses.fields(settings) if field.metadata.get("flag", True))


@cache
def settings_in(settings_class: type) -> dict[str, Setting]:
    """Name -> setting, in the order of the fields, a nested class's at its field."""
    hints, texts = typing.get_type_hints(settings_class), _field_docs(settings_class)
    settings: dict[str, Setting] = {}
    for field in _set_by_users(settings_class):
        if dataclasses.is_dataclass(hints[field.name]):
            nested = settings_in(hints[field.name])
            settings |= {name: dataclasses.replace(setting, parent=field.name) for name, setting in nested.items()}
        else:
            settings[field.name] = Setting(field.name, hints[field.name], field.default, texts.get(field.name, ""))
    return settings


def _field_docs(settings_class: type) -> dict[str, str]:
    """Field name -> the string literal that follows the field in the class body (base classes included)."""
    texts: dict[str, str] = {}
    for base in reversed(settings_class.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(definition, ast.ClassDef)
        for statement, following in zip(definition.body, definition.body[1:], strict=False):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                    texts[statement.target.id] = " ".join(str(following.value.value).split())
    return texts


def convert(value: Any, to: Any, name: str) -> Any:
    """Turn a YAML value or a flag's text into the type `to`; InputError names `name` and what would do."""
    origin, arguments = typing.get_origin(to), typing.get_args(to)
    if origin in (Union, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() in ("none", "null", "")):
            return None
        (inner,) = [argument for argument in arguments if argument is not type(None)]
        return convert(value, inner, name)
    if origin is Literal:
        if value not in arguments:
            raise InputError(f"{name}: {value!r} is not allowed; {suggest(str(value), [str(a) for a in arguments])}")
        return value
    if origin is tuple:
        items = [item for item in value.split(",") if item] if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            raise InputError(f"{name}: expected a list, got {value!r}")
        return tuple(convert(item, arguments[0], name) for item in items)
    if to is Path and isinstance(value, str):
        try:
            checked_address(value)
        except ValueError as error:
            raise InputError(f"{name}: {error}") from None
    try:
        return _convert_plain(value, to)
    except (AttributeError, KeyError, OverflowError, ValueError):
        kind = {bool: "true or false", int: "an integer", float: "a number", str: "a string", Path: "a path"}[to]
        raise InputError(f"{name}: expected {kind}, got {value!r}") from None


def _convert_plain(value: Any, to: Any) -> Any:
    """The value as bool, Path, str, int or float; raises if it isn't one."""
    if to is bool:
        return value if isinstance(value, bool) else BOOLEANS[value.lower()]
    if isinstance(value, bool) or not isinstance(value, str | Path if to is Path else str | int | float):
        raise ValueError
    if to is Path:
        if not str(value) or "\0" in str(value):
            raise ValueError
        return Path(value).expanduser()
    converted = to(value)
    if to is not str and not (math.isfinite(converted) and (isinstance(value, str) or converted == value)):
        raise ValueError
    return converted


def from_mapping(
    settings_class: Callable[..., Settings],
    values: Mapping[str, Any],
    where: str,
    positional: Sequence[str] = (),
    given_as: Mapping[str, str] = MappingProxyType({}),
) -> Settings:
    """Build settings from YAML or flag values; unknown and missing keys are InputErrors that begin with `where`.

    `given_as`: setting -> how messages call it, with what stands before it, in place of `where` and its name, such as
    `mcn train: --epochs`.
    """
    assert isinstance(settings_class, type)
    known = settings_in(settings_class)
    converted: dict[str, Any] = {}
    # One spelling before anything is merged: a YAML `batch-videos` must not outlive the flag's `batch_videos`.
    values = {str(key).replace("-", "_"): value for key, value in values.items()}
    presets: dict[str, dict[str, dict[str, Any]]] = getattr(settings_class, "PRESETS", {})
    preset: dict[str, Any] = {}
    for name, choices in presets.items():
        chosen = values.get(name, next(iter(choices)))
        if not isinstance(chosen, str) or chosen not in choices:
            called = given_as.get(name, f"{where}: {name}")
            raise InputError(f"{called}: {chosen!r} is unknown; {suggest(str(chosen), choices)}")
        preset |= choices[chosen]
    values = preset | values
    for name, value in values.items():
        if name not in known:
            raise InputError(f"{given_as.get(name, where)}: unknown setting {name!r}; {suggest(name, known)}")
        converted[name] = convert(value, known[name].type, given_as.get(name, f"{where}: {name}"))
    for name, setting in known.items():
        if setting.default is dataclasses.MISSING and name not in converted:
            raise InputError(
                f"{where}: {name.upper() if name in positional else setting.flag} is required: {setting.help}"
            )
    try:
        return _nested(settings_class, converted)
    except ValueError as error:
        raise InputError(_as_given(str(error), where, given_as)) from None


def _as_given(message: str, where: str, given_as: Mapping[str, str]) -> str:
    """What a settings class complains of, its settings, which stand in backticks, called as they were given."""
    names = re.findall("`([a-z][a-z0-9_]*)`", message)
    prefix = next((given_as[name].rpartition(": ")[0] for name in names if name in given_as), where)
    called = {name: given_as[name].rpartition(": ")[2] if name in given_as else name for name in names}
    message = re.sub("`([a-z][a-z0-9_]*)`", lambda match: called[match[1]], message)
    return f"{prefix}: {message}" if prefix else message


def _nested(settings_class: type, values: Mapping[str, Any]) -> Any:
    """The settings of flat, converted values."""
    hints, own = typing.get_type_hints(settings_class), {}
    for field in _set_by_users(settings_class):
        if dataclasses.is_dataclass(hints[field.name]):
            own[field.name] = _nested(hints[field.name], values)
        elif field.name in values:
            own[field.name] = values[field.name]
    return settings_class(**own)


def add_flags(
    parser: argparse.ArgumentParser,
    settings_class: type,
    positional: Sequence[str] = (),
    groups: Mapping[str, Sequence[str]] = MappingProxyType({}),
    placeholders: Mapping[str, str] = MappingProxyType({}),
    by_place: bool = True,
) -> None:
    """One flag per setting, save those in `positional`, which are given by their place: added with `by_place` alone.

    `groups` are titles in the help, each with the settings, and fields of nested settings classes, below it; others
    stand below the parser's name. `placeholders`: setting -> what stands for its value there; others say its kind.
    What is not given leaves no trace in the parsed namespace.
    """
    titles = {name: title for title, names in groups.items() for name in names}
    sections = {title: parser.add_argument_group(title) for title in (*groups, parser.prog)}
    for name, setting in settings_in(settings_class).items():
        if name in positional and not by_place:
            continue
        remark = "" if setting.default in (None, "", ()) else f" (default: {typed(setting.default)})"
        remark = " (required)" if setting.default is dataclasses.MISSING else remark
        options: dict[str, Any] = {"help": (setting.help + remark).replace("%", "%%"), "default": argparse.SUPPRESS}
        choices = typing.get_args(setting.type) if typing.get_origin(setting.type) is Literal else ()
        section: Any = sections[titles.get(name) or titles.get(setting.parent) or parser.prog]
        if name in positional:
            several = typing.get_origin(setting.type) is tuple
            section = parser
            options |= {"metavar": name.upper(), "nargs": "*" if several else "?"}
        elif setting.type is bool:
            options |= {"dest": name, "nargs": "?", "const": "true", "metavar": "true|false"}
        else:
            shown = "{" + ",".join(choices) + "}" if choices else placeholders.get(name) or _placeholder(setting)
            options |= {"dest": name, "metavar": shown}
        action = section.add_argument(name if name in positional else setting.flag, **options)
        action.completer = (lambda choices=choices, **_: choices) if choices else None  # argcomplete's


def _placeholder(setting: Setting) -> str:
    """What stands for the setting's value in the help."""
    kinds = {setting.type, *typing.get_args(setting.type)}
    if Path in kinds:
        begin = setting.help[:_BEGIN].lower()
        shown = "FOLDER" if "folder" in begin else "FILE.csv" if begin.startswith("csv") else "FILE"
    elif float in kinds:
        timed = re.search(r"(_s|seconds|time_limit)$", setting.name)
        shown = "SECONDS" if timed else "HOURS" if setting.name.endswith("_h") else "NUMBER"
    else:
        shown = "N" if int in kinds else "TEXT"
    return f"{shown},..." if typing.get_origin(setting.type) is tuple else shown


_BEGIN = 30
"""Characters of a help text, by which it is told whether a path is a folder's."""


def check_inputs(settings: Any, where: str, outputs: Container[str], positional: Container[str] = ()) -> None:
    """Raise InputError, beginning with `where`, for a path that does not exist, save settings named in `outputs`."""
    settings_class: type = type(settings)
    values = as_plain(settings)
    for name, setting in settings_in(settings_class).items():
        if name in outputs or Path not in (setting.type, *typing.get_args(setting.type)) or values[name] is None:
            continue
        meaning = f"({name.upper() if name in positional else setting.flag}: {setting.help})"
        for path in values[name] if isinstance(values[name], list) else [values[name]]:
            if address_of(path):
                continue  # asked for once it is needed
            try:
                exists = Path(path).exists()
            except OSError as error:
                raise InputError(f"{where}: {path}: {error.strerror} {meaning}") from None
            if not exists:
                near = suggest_path(Path(path))
                raise InputError(f"{where}: {path}: no such file or folder{near} {meaning}")


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; InputError names the file and line of what is wrong."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected a YAML file{suggest_path(path)}") from None
    except OSError as error:
        at_hand = suggest_below(path, ("*.yaml", "*.yml")) if path.is_dir() else ""
        raise InputError(f"{path}: can't be read: {error.strerror}{at_hand}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file in UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        raise InputError(f"{path}:{line} not valid YAML: {getattr(error, 'problem', error)}") from None
    except (ValueError, RecursionError) as error:  # a date like 2026-13-45, or brackets a thousand deep
        raise InputError(f"{path}: not valid YAML: {error}") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected settings as `name: value` lines")
    return value


def _plain_value(value: Any) -> Any:
    if isinstance(value, Path):
        return address_of(value) or str(value)
    return [_plain_value(item) for item in value] if isinstance(value, tuple) else value


def as_plain(settings: Any) -> dict[str, Any]:
    """Settings, flat, as values that YAML and JSON can hold, without secrets; what `from_mapping` takes back.

    A password in an address stays behind as `***`; paths are given as they are.
    """
    values: dict[str, Any] = {}
    for field in _set_by_users(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            values |= as_plain(value)
        else:
            # A path names what is on this disk: no secret, and another one if it were masked.
            value = value if isinstance(value, Path) else masked_setting(field.name, value)
            values[field.name] = _plain_value(value)
    return values


def command_line(stage: str, settings: object, positional: Sequence[str] = ()) -> str:
    """The command line that these settings stand for: those given by place, then a flag for each that isn't default."""
    values = as_plain(settings)
    settings_class: type = type(settings)
    words = ["mcn", *stage.split(), *(str(values[name]) for name in positional)]
    for name, setting in settings_in(settings_class).items():
        value = values[name]
        if name in positional or value == _plain_value(setting.default):
            continue
        words.append(setting.flag)
        if value is not True:
            words.append(typed(value))
    return shlex.join(words)


def typed(value: Any) -> str:
    """A value as one types it after its flag."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
