"""`mcn inspect PATH`: what a file is, what is in it and what made it. It only reads.

PyTorch and matplotlib take seconds to load: only what is about models brings them.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.pairing import BUILTIN_SCHEMES, builtin_scheme
from pipeline.core.errors import InputError, suggest_path
from pipeline.core.formatting import facts_lines, plain
from pipeline.core.reporting import RunSummary
from pipeline.search.index import FILE as INDEX_FILE
from pipeline.search.index import read_description as read_index
from pipeline.tools.inspect.hdf5 import inspect_hdf5
from pipeline.tools.inspect.records import dataset_facts, inspect_json, ledger_facts
from pipeline.tools.settings import InspectSettings

if TYPE_CHECKING:
    from pipeline.tools.inspect.scheme import SchemeDescription

_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK\x03\x04"
_OF_MODELS = (".pt", ".yaml", ".yml", ".kv", ".bin", ".txt", ".vec")


@dataclass(frozen=True)
class Inspection:
    """What a path holds."""

    path: str
    kind: str
    facts: dict[str, Any]
    scheme: SchemeDescription | None = None


def run(settings: InspectSettings) -> RunSummary:
    """Print what it is. InputError, one line, for what is missing, broken or of no known kind."""
    report = RunSummary("inspect", unit="file")
    inspection = inspect(settings.path, settings.width)
    if settings.draw is not None:
        from pipeline.tools.inspect.scheme_figure import check_drawing, draw_scheme

        check_drawing(settings.draw)
        if inspection.scheme is None:
            raise InputError(f"{settings.path}: a {inspection.kind} has no pairing scheme to draw; leave --draw out")
        draw_scheme(inspection.scheme, settings.draw)
    report.detail = {"path": inspection.path, "kind": inspection.kind} | inspection.facts
    if inspection.scheme is not None and inspection.kind == "checkpoint":
        from pipeline.tools.inspect.models import scheme_facts

        report.detail |= {"pairing": scheme_facts(inspection.scheme)}
    if settings.json:
        print(json.dumps(report.detail, indent=2, default=str))
    else:
        print("\n".join(_lines(inspection)))
        if settings.draw is not None:
            print(f"drawn: {settings.draw}")
    report.done = 1
    return report.finish()


def inspect(name: str, width: int = 0) -> Inspection:
    """What a path, or a built-in scheme's name, stands for. `width`: of a scheme's spaces; 0: the default."""
    path = Path(name)
    try:
        if name in BUILTIN_SCHEMES:
            from pipeline.tools.inspect.models import inspect_scheme

            return Inspection(name, *inspect_scheme(builtin_scheme(name), width))
        if not path.exists():
            near = suggest_path(path, BUILTIN_SCHEMES) or _held_by_nearest(path)
            raise InputError(f"{plain(name)}: no such file, nor a built-in pairing scheme{near}")
        inspection = _folder(path) if path.is_dir() else _file(path, width)
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror or error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        reason = (str(error).splitlines() or [""])[0][:100]
        raise InputError(f"{path}: not what it seems to be ({type(error).__name__}: {reason})") from None
    if width and inspection.kind != "scheme":
        raise InputError(f"{path}: --width goes with a pairing scheme, not with a {inspection.kind}")
    return inspection


def _held_by_nearest(path: Path) -> str:
    """What the nearest folder of a missing path holds."""
    folder = next(folder for folder in path.parents if folder.is_dir())
    try:
        names = [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError:
        return ""
    return f"; {folder} holds {plain(', '.join(sorted(names)) or 'nothing', 120)}"


def _folder(path: Path) -> Inspection:
    if (path / "dataset.json").exists():
        return Inspection(str(path), "data set", dataset_facts(path))
    if (path / "checkpoint.pt").exists():
        from pipeline.tools.inspect.models import inspect_model

        return Inspection(str(path), *inspect_model(path, ".pt"))
    if (path / INDEX_FILE).exists():
        return Inspection(str(path), "index", asdict(read_index(path)))
    files = sorted(path.glob("*.jsonl"))
    if files:
        return Inspection(str(path), "ledger", ledger_facts(files, path))
    more = "; `mcn status` says where a run or a media folder stands"
    raise InputError(f"{path}: a folder that is no data set, no model, no index and no ledger{more}")


def _file(path: Path, width: int) -> Inspection:
    if not path.is_file():
        raise InputError(f"{path}: neither a file nor a folder")
    with open(path, "rb") as file:
        head = file.read(8)
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    suffix = suffixes[-1] if suffixes else ""
    if head == _HDF5:
        return Inspection(str(path), *inspect_hdf5(path))
    if head.startswith(_ZIP) or suffix in _OF_MODELS:
        from pipeline.tools.inspect.models import inspect_model

        return Inspection(str(path), *inspect_model(path, ".pt" if head.startswith(_ZIP) else suffix, width))
    if suffix == ".jsonl":
        return Inspection(str(path), "ledger", ledger_facts([path], path))
    if suffix == ".json":
        return Inspection(str(path), *inspect_json(path))
    if suffix == ".h5":
        return Inspection(str(path), *inspect_hdf5(path))
    raise InputError(f"{path}: of no kind that this program makes; `mcn inspect --help` lists them")


def _lines(inspection: Inspection) -> list[str]:
    lines = [f"{plain(inspection.kind)} {plain(inspection.path)}"]
    if inspection.kind != "scheme":
        lines += facts_lines(inspection.facts)
    if inspection.scheme is not None:
        from pipeline.tools.inspect.scheme import scheme_lines

        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        head = f"scheme {plain(inspection.scheme.name, 60)}"
        lines += ["", *([head] if inspection.kind != "scheme" else []), *scheme_lines(inspection.scheme, encoding)]
    return [line for index, line in enumerate(lines) if index or line]
