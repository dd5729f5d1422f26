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
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

from pipeline.core.errors import InputError, suggest

Settings = TypeVar("Settings")

_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}


@cache
def field_help(settings_class: type) -> dict[str, str]:
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


def _field_types(settings_class: type) -> dict[str, Any]:
    hints = typing.get_type_hints(settings_class)
    return {field.name: hints[field.name] for field in dataclasses.fields(settings_class)}


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
    wanted = _field_types(settings_class)
    converted: dict[str, Any] = {}
    # One spelling before anything is merged: a YAML `batch-videos` must not outlive the flag's `batch_videos`.
    values = {str(key).replace("-", "_"): value for key, value in values.items()}
    presets: dict[str, dict[str, dict[str, Any]]] = getattr(settings_class, "PRESETS", {})
    preset: dict[str, Any] = {}
    for field_name, known in presets.items():
        chosen = values.get(field_name, next(iter(known)))
        if not isinstance(chosen, str) or chosen not in known:
            raise InputError(f"{where}: {field_name}: {chosen!r} is unknown; {suggest(str(chosen), known)}")
        preset |= known[chosen]
    values = preset | values
    for name, value in values.items():
        if name not in wanted:
            raise InputError(f"{where}: unknown setting {name!r}; {suggest(name, wanted)}")
        converted[name] = convert(value, wanted[name], f"{where}: {name}")
    for field in dataclasses.fields(settings_class):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in converted:
            flag = field.name.upper() if field.name in positional else f"--{field.name.replace('_', '-')}"
            raise InputError(f"{where}: {flag} is needed: {field_help(settings_class)[field.name]}")
    try:
        return settings_class(**converted)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None


def add_flags(parser: argparse.ArgumentParser, settings_class: type, positional: Sequence[str] = ()) -> None:
    """One flag per field, save those in `positional`, which are given by their place.

    What is not given leaves no trace in the parsed namespace.
    """
    texts = field_help(settings_class)
    for field in dataclasses.fields(settings_class):
        wanted = _field_types(settings_class)[field.name]
        default = "" if field.default in (dataclasses.MISSING, None, "") else f" (default: {field.default})"
        if field.name in positional:
            several = typing.get_origin(wanted) is tuple
            parser.add_argument(
                field.name,
                metavar=field.name.upper(),
                nargs="*" if several else "?",
                default=argparse.SUPPRESS,
                help=(texts.get(field.name, "") + default).replace("%", "%%"),
            )
            continue
        options: dict[str, Any] = {"nargs": "?", "const": "true"} if wanted is bool else {}
        if typing.get_origin(wanted) is Literal:
            options["metavar"] = "{" + ",".join(map(str, typing.get_args(wanted))) + "}"
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            dest=field.name,
            default=argparse.SUPPRESS,
            help=(texts.get(field.name, "") + default).replace("%", "%%"),
            **options,
        )


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


def as_plain(settings: Any) -> dict[str, Any]:
    """Settings as values that YAML and JSON can hold; what `from_mapping` takes back."""

    def plain(value: Any) -> Any:
        if isinstance(value, Path):
            return str(value)
        return [plain(item) for item in value] if isinstance(value, tuple) else value

    return {field.name: plain(getattr(settings, field.name)) for field in dataclasses.fields(settings)}


def command_line(stage: str, settings: Any, positional: Sequence[str] = ()) -> str:
    """The command line that these settings stand for: those given by place, then a flag for each that isn't default."""
    values = as_plain(settings)
    words = ["mcn", *stage.split(), *(str(values[name]) for name in positional)]
    for field in dataclasses.fields(settings):
        value = values[field.name]
        if field.name in positional or getattr(settings, field.name) == field.default:
            continue
        words.append(f"--{field.name.replace('_', '-')}")
        if value is not True:
            words.append(",".join(map(str, value)) if isinstance(value, list) else str(value))
    return shlex.join(words)
