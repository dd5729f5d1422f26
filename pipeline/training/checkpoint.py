"""Checkpoints: whole or absent, tensors and plain values alone, so that loading one runs no code of its author's."""

import errno
from pathlib import Path
from typing import Any

import torch

from models import MCN, ModelSettings, SchemeError, scheme_from_dict
from pipeline.core.errors import InputError
from pipeline.core.files import ASIDE, write_aside

FILE = "checkpoint.pt"
NOT_FINITE = "not-finite.pt"
"""Beside it: the state of a run that was stopped by a figure that is no longer finite."""
VIDEOS = "videos.txt"
"""Beside it: the ids it was trained on, one a line."""
SCHEMA = 2
KEYS = frozenset(
    (
        "model optimizer queues generator epoch step sums history precision settings model_settings scheme identity "
        "words manifest videos"
    ).split()
)


def save_checkpoint(folder: Path, content: dict[str, Any]) -> None:
    """Write `folder/checkpoint.pt` aside, read it back, rename it over the last good one."""
    save_tensors(folder / FILE, content | {"schema": SCHEMA})


def save_tensors(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values so that `path` is whole or unchanged; InputError when there is no room."""
    with write_aside(path) as aside:
        try:
            # By a path, PyTorch would write the file's passing name into it: equal models, unequal bytes.
            with open(aside, "wb") as file:
                torch.save(content, file)
        except RuntimeError as error:  # how PyTorch's writer tells of a full disk
            raise OSError(errno.ENOSPC, f"no room on the disk ({str(error)[:60]})") from None
        torch.load(aside, map_location="cpu", weights_only=True)


def remove_leftovers(folder: Path) -> None:
    """Delete what kills have left half written; for who alone writes there."""
    for path in folder.glob(f".*.pt.*{ASIDE}"):
        path.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint file, or the one in a folder. InputError when it is missing, cut short or no checkpoint."""
    path = path / FILE if path.is_dir() else path
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; train a model first with `mcn train`") from None
    except Exception as error:  # torch raises a dozen kinds for a damaged file, some without a word
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise InputError(f"{path}: not a whole checkpoint ({reason}); train again") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA or not content.keys() >= KEYS:
        raise InputError(f"{path}: not a checkpoint of this program")
    return content


def model_from(content: dict[str, Any]) -> MCN:
    """The model of a checkpoint, with its weights, in evaluation mode."""
    try:
        settings = dict(content["model_settings"])
        settings["video_streams"] = tuple(settings["video_streams"])
        model = MCN(ModelSettings(scheme=scheme_from_dict(content["scheme"]), **settings))
        model.load_state_dict(content["model"])
    except (KeyError, TypeError, ValueError, RuntimeError, SchemeError) as error:
        raise InputError(f"checkpoint doesn't fit its own settings: {str(error).splitlines()[0]}") from None
    return model.eval()
