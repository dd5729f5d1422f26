"""`mcn export MODEL`: a trained model as the authors' 159 tensors, for their code and for others that read it."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from extractors.errors import WeightsError
from extractors.state_dict_file import read_state_dict
from extractors.weights import load_weights
from models.davenet import ResDavenet
from models.mcn import MCN
from models.published import StateDictError, export_published, published_names
from pipeline.core.errors import InputError
from pipeline.core.reporting import RunSummary
from pipeline.training.checkpoint import load_checkpoint, model_from, save_tensors
from pipeline.training.settings import ExportSettings
from pipeline.training.weights import read_davenet


def run(settings: ExportSettings) -> RunSummary:
    """Write the file; one that is there with the same tensors stays. InputError where there is no published form."""
    report = RunSummary("export", unit="tensor")
    content = load_checkpoint(settings.model)
    model = model_from(content)
    try:
        published_names(model)  # whether there is a published form, before what else may be missing
        exported = export_published(model, _davenet(settings, model, content))
    except StateDictError as error:
        raise InputError(f"{settings.model}: {error}") from None
    if settings.out.exists():
        if not _equal(exported, settings.out):
            raise InputError(f"{settings.out}: holds something else; remove it or choose another --out")
        report.skipped = len(exported)
    else:
        save_tensors(settings.out, exported)
        report.done = len(exported)
    report.detail = {
        "weights": str(settings.out),
        "width": model.settings.width_of(model.settings.scheme.spaces[0]),
        "video_streams": list(model.settings.video_streams),
    }
    report.finish().publish(settings.out.with_name(f"{settings.out.name}.json"))
    return report


def _davenet(settings: ExportSettings, model: MCN, content: dict[str, Any]) -> ResDavenet | None:
    """The network that made the model's audio rows; None where DaveNet is part of the model."""
    if model.davenet is not None:
        if settings.davenet is not None:
            raise InputError(f"{settings.model}: has trained a DaveNet of its own; leave out --davenet")
        return None
    if settings.davenet is None:
        raise InputError(f"{settings.model}: was trained on audio rows; give --davenet, the weights that made them")
    try:
        digest = load_weights("davenet", settings.davenet).digest
    except WeightsError as error:
        raise InputError(str(error)) from None
    expected = content["identity"]["audio"]["weights"]
    if digest != expected:
        raise InputError(
            f"{settings.davenet}: not the DaveNet that {settings.model} has learnt to hear by (digest {digest[:12]}, "
            f"its data set's is {expected[:12]}); give the file that `mcn extract` took as --davenet-weights"
        )
    return read_davenet(settings.davenet)


def _equal(exported: dict[str, Tensor], path: Path) -> bool:
    try:
        existing = read_state_dict(path)
    except WeightsError:
        return False
    return existing.keys() == exported.keys() and all(torch.equal(existing[name], x) for name, x in exported.items())
