"""Settings: frozen dataclasses whose fields are at once YAML keys and command-line flags.

The string literal below each field is its help text. Order of precedence: defaults, presets (a class's `PRESETS`: by
field, by that field's value, in their order), YAML, flags.
"""

import argparse
import ast
import dataclasses
import inspect
import math
import shlex
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

from pipeline.core.errors import InputError, suggest

Settings = TypeVar("Settings")

_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}


@dataclasses.dataclass(frozen=True)
class Setting:
    """One key of a settings class, of its own or of a settings class nested in it: keys and flags are flat."""

    name: str
    type: Any
    default: Any
    """`dataclasses.MISSING` where it must be given."""
    help: str

    @property
    def flag(self) -> str:
        """`--batch-videos` for `batch_videos`."""
        return f"--{self.name.replace('_', '-')}"


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
            settings |= settings_in(hints[field.name])
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


def convert(value: Any, wanted: Any, name: str) -> Any:
    """Turn a YAML value or a flag's text into the type `wanted`; InputError names `name` and what would do."""
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
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
            raise InputError(f"{name}: a list is wanted, not {value!r}")
        return tuple(convert(item, arguments[0], name) for item in items)
    found = _convert_plain(value, wanted)
    if found is None:
        kind = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}[wanted]
        raise InputError(f"{name}: {kind} is wanted, not {value!r}")
    return found


def _convert_plain(value: Any, wanted: Any) -> Any:
    """The value as bool, Path, str, int or float, or None if it isn't one."""
    if wanted is bool or isinstance(value, bool):
        if wanted is bool and isinstance(value, str) and value.lower() in _TRUE | _FALSE:
            return value.lower() in _TRUE
        return value if wanted is bool and isinstance(value, bool) else None
    if wanted is Path:
        usable = isinstance(value, str | Path) and str(value) and "\0" not in str(value)
        return Path(value).expanduser() if usable else None
    if not isinstance(value, str | int | float):
        return None
    if wanted is str:
        return str(value)
    try:
        number = wanted(value)
        return number if math.isfinite(number) and (isinstance(value, str) or number == value) else None
    except (ValueError, OverflowError):
        return None


def from_mapping(
    settings_class: Callable[..., Settings], values: Mapping[str, Any], where: str, positional: Sequence[str] = ()
) -> Settings:
    """Build settings from YAML or flag values; unknown and missing keys are InputErrors that begin with `where`."""
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
            raise InputError(f"{where}: {name}: {chosen!r} is unknown; {suggest(str(chosen), choices)}")
        preset |= choices[chosen]
    values = preset | values
    for name, value in values.items():
        if name not in known:
            raise InputError(f"{where}: unknown setting {name!r}; {suggest(name, known)}")
        converted[name] = convert(value, known[name].type, f"{where}: {name}")
    for name, setting in known.items():
        if setting.default is dataclasses.MISSING and name not in converted:
            raise InputError(
                f"{where}: {name.upper() if name in positional else setting.flag} is needed: {setting.help}"
            )
    try:
        return _nested(settings_class, converted)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None


def _nested(settings_class: type, values: Mapping[str, Any]) -> Any:
    """The settings of flat, converted values."""
    hints, own = typing.get_type_hints(settings_class), {}
    for field in _set_by_users(settings_class):
        if dataclasses.is_dataclass(hints[field.name]):
            own[field.name] = _nested(hints[field.name], values)
        elif field.name in values:
            own[field.name] = values[field.name]
    return settings_class(**own)


def add_flags(parser: argparse.ArgumentParser, settings_class: type, positional: Sequence[str] = ()) -> None:
    """One flag per field, save those in `positional`, which are given by their place.

    What is not given leaves no trace in the parsed namespace.
    """
    for name, setting in settings_in(settings_class).items():
        default = "" if setting.default in (dataclasses.MISSING, None, "") else f" (default: {setting.default})"
        options: dict[str, Any] = {"help": (setting.help + default).replace("%", "%%"), "default": argparse.SUPPRESS}
        if name in positional:
            several = typing.get_origin(setting.type) is tuple
            parser.add_argument(name, metavar=name.upper(), nargs="*" if several else "?", **options)
            continue
        if setting.type is bool:
            options |= {"nargs": "?", "const": "true"}
        if typing.get_origin(setting.type) is Literal:
            options["metavar"] = "{" + ",".join(map(str, typing.get_args(setting.type))) + "}"
        parser.add_argument(setting.flag, dest=name, **options)


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; InputError names the file and line of what is wrong."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; --config wants a YAML file") from None
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}") from None
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
        raise InputError(f"{path}: settings are wanted as `name: value` lines")
    return value


def _plain_value(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return [_plain_value(item) for item in value] if isinstance(value, tuple) else value


def as_plain(settings: Any) -> dict[str, Any]:
    """Settings, flat, as values that YAML and JSON can hold; what `from_mapping` takes back."""
    values: dict[str, Any] = {}
    for field in _set_by_users(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            values |= as_plain(value)
        else:
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
            words.append(",".join(map(str, value)) if isinstance(value, list) else str(value))
    return shlex.join(words)
