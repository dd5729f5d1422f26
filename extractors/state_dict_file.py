"""State dicts from strangers: tensors are read from a PyTorch file, and nothing in it is executed.

PyTorch writes three forms: a zip archive (since 1.6), a row of pickles (before, under Python 2 as well), and a tar
archive (before 0.1.12, in early 2017). The first two are read here, by PyTorch's own unpickler, which knows the names
of tensor types, of plain containers and of nothing else. Files of safetensors, which hold nothing but tensors, are read
by their own package.
"""

import os
import pickle
import pickletools
import re
import tarfile
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from extractors.errors import WeightsError

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
"""Keys under which training scripts keep a state dict, beside an epoch, an optimiser and the like."""

# A learning rate or a best score beside the weights is often a NumPy number: `scalar(dtype, bytes)`. Old files have the
# first of these names, new ones the second.
_SCALAR = np.float64(0).__reduce__()[0]
_NUMBERS: list[Any] = [
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("bool", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")),
]

_HARMLESS = re.compile(r"torch\.(_utils\._rebuild_\w+|\w*Storage|nn\.parameter\.Parameter)|collections\.OrderedDict")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict by name, on the CPU, in the types they are stored in.

    The state dict may lie bare or under keys of `WRAPPERS`, one within another; what isn't a plain dense tensor is left
    out. Raises WeightsError, one line, for a file that is missing, damaged or in the tar form, that holds no state
    dict, or that wants anything but tensors made: nothing of it is then used.
    """
    content = _content(path)
    while isinstance(content, Mapping):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, not a state dict; save model.state_dict()")
    return {str(name): value.detach() for name, value in content.items() if _is_plain(value)}


def _content(path: Path) -> Any:
    if path.suffix == ".safetensors" and path.is_file():
        return _safetensors(path)
    try:
        if path.is_file() and tarfile.is_tarfile(path):
            raise WeightsError(
                f"{path}: in the tar form of PyTorch before 0.1.12, which can't be read without running what is in it; "
                "if you trust it, open it with torch.load(..., weights_only=False) and torch.save its state dict"
            )
        with torch.serialization.safe_globals(_NUMBERS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they would say is either in the error or harmless
            return torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such weights file") from None
    except Exception as error:  # A hostile or torn file may raise anything.
        name = _refused_name(path, str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if name is not None:
            raise WeightsError(
                f"{path}: refused, since it holds more than tensors: it asks for {name[:120]}; nothing of it was run. "
                "If you trust its source, save its state dict alone with torch.save"
            ) from None
        raise WeightsError(
            f"{path}: not a PyTorch file of tensors alone ({_reason(path, error)[:120]}); "
            "fetch it again, or save a state dict with torch.save"
        ) from None


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise WeightsError(f"{path}: such files need the package safetensors: pip install 'mcn[timm]'") from None
    try:
        return load_file(path)
    except Exception as error:  # Its own, or one of the system's.
        reason = (str(error).splitlines() or [""])[0][:120]
        raise WeightsError(f"{path}: not a file of safetensors, or damaged ({reason}); fetch it again") from None


_ZIP, _PICKLE = b"PK", b"\x80"


def form_of(path: Path) -> str:
    """What a file that PyTorch can't read is by its first bytes: it says so itself in a number, or a page of advice."""
    begin = _begin_of(path)
    if not begin:
        return "a folder" if path.is_dir() else "an empty file"
    if begin.startswith((_ZIP, _PICKLE)):
        return (
            f"a {'zip archive' if begin.startswith(_ZIP) else 'pickle'} that is cut short, damaged or of other content"
        )
    text = begin.decode("utf-8", "ignore")
    return "a text file" if all(c.isprintable() or c.isspace() for c in text) else "of no form of PyTorch's"


def _begin_of(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(512)
    except OSError:
        return b""


def _reason(path: Path, error: Exception) -> str:
    """The line of PyTorch's message that says why; its advice, to switch the safety off, is not passed on."""
    if not isinstance(error, pickle.UnpicklingError) or not _begin_of(path).startswith((_ZIP, _PICKLE)):
        return form_of(path)
    lines = [line.strip() for line in str(error).splitlines()]
    reasons = [line for line in lines if line and not re.search("weights_only|Do it only if|file an issue", line)]
    return reasons[0] if reasons else form_of(path)


def _refused_name(path: Path, message: str) -> str | None:
    """The function or class that PyTorch's unpickler would not call; None where the file asks for none."""
    if named := re.search(r"GLOBAL (\S+)", message):
        return named[1]
    # Of pickles in another form than its own PyTorch says only that. To list their names runs nothing either.
    try:
        with open(path, "rb") as file:
            return next((name for name in _names_in(file) if not _HARMLESS.fullmatch(name)), None)
    except Exception:  # not even a pickle
        return None


def _names_in(file: BinaryIO) -> Iterator[str]:
    """The functions and classes that a pickle asks for, `module.name`, in their order."""
    words: list[str] = []
    memo: list[str] = []
    for operation, argument, _ in pickletools.genops(file):
        if operation.name == "GLOBAL":
            yield str(argument).replace(" ", ".")
        elif operation.name == "STACK_GLOBAL":
            yield ".".join(words[-2:])
        elif operation.name == "MEMOIZE":
            memo.append(words[-1] if words else "")
        elif operation.name in ("BINGET", "LONG_BINGET"):
            words.append(memo[argument] if isinstance(argument, int) and argument < len(memo) else "")
        elif isinstance(argument, str):
            words.append(argument)


def _is_plain(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized and not value.is_meta


def write_state_dict(state: Mapping[str, Tensor], path: Path) -> None:
    """Write aside, then link into place: whole or absent, and of two writers the first wins. Raises WeightsError."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.aside")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "xb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(aside, path)
    except OSError as error:
        raise WeightsError(f"{path}: can't be written: {error.strerror}; choose another output folder") from None
    except RuntimeError as error:  # how PyTorch's writer tells of a full disk
        raise WeightsError(f"{path}: can't be written ({str(error)[:60]}): make room on the disk") from None
    finally:
        with suppress(OSError):
            aside.unlink()
