"""timm's networks of pictures: `timm.` and the name by which timm creates one makes a row of the table.

Names alone are known without timm, and without PyTorch. A row's feature is what timm gives of a network without classes
(`num_classes=0`), the pooled input of the classifier. In the classifier's place the image tower of a CLIP has the
projection to the space that it shares with texts: there the feature is the projected embedding.
"""

from __future__ import annotations

import difflib
import math
import re
import shutil
from functools import lru_cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extractors.cache_folder import cache_folder
from extractors.errors import WeightsError
from extractors.network import Network, PictureShape, Source, in_bytes

if TYPE_CHECKING:
    from torch import nn

PREFIX = "timm."
PRETRAINED = "pretrained"
"""The published weights of each network; which they are, its name says, or else timm's default."""
INSTALL = "pip install 'mcn[timm]'"

_NAME = re.compile(r"timm\.\w+(\.\w+)?", re.ASCII)
_HUB = "https://huggingface.co"
_HUB_TIMEOUT_S = 60
_NEAR = 3


def is_timm(name: str) -> bool:
    """Whether a network of this name is timm's to make; whether there is one, only timm knows."""
    return _NAME.fullmatch(name) is not None


def check_timm() -> None:
    """WeightsError where timm isn't installed. Nothing is loaded."""
    if find_spec("timm") is None:
        raise WeightsError(f"timm's networks need the package timm: {INSTALL}")


@lru_cache
def timm_network(name: str) -> Network:
    """The row of `timm.MODEL` or `timm.MODEL.TAG`. Loads timm; WeightsError without it, or if it has no such model."""
    import torch

    timm, model = _timm(), name.removeprefix(PREFIX)
    _check_name(timm, name, model)
    config = timm.models.get_pretrained_cfg(model) or timm.models.PretrainedCfg()
    data = timm.data.resolve_data_config(pretrained_cfg=config.to_dict())
    channels, height, width = data["input_size"]
    if channels != len(data["mean"]) or channels != 3:
        raise WeightsError(f"{name}: takes pictures of {channels} channels, frames have 3; choose another network")
    build = partial(_build, model, {} if is_projected(config) else {"num_classes": 0})
    try:
        with torch.device("meta"), torch.inference_mode():
            network = build().eval()
            rows = network(torch.empty(1, channels, height, width))
            whole = timm.create_model(model).state_dict()
    except Exception as error:  # Whatever a network's own code raises, or that of an old timm.
        raise WeightsError(
            f"{name}: timm {timm.__version__} can't make it without weights ({_first_line(error)}); {INSTALL} brings a "
            "timm that was tried; or choose another network"
        ) from None
    if not isinstance(rows, torch.Tensor) or rows.ndim != 2:
        raise WeightsError(f"{name}: gives no single row for a picture; choose another network")
    return Network(
        name=name,
        width=rows.shape[1],
        build=build,
        feature_map=lambda network, pictures: network(pictures),
        unused=tuple(sorted(whole.keys() - network.state_dict().keys())),
        default_weights=PRETRAINED,
        published=(PRETRAINED,),
        fetch=partial(_fetch, name, model),
        source=lambda weights: _source(config),
        pixel_mean=in_bytes(data["mean"]),
        pixel_deviation=in_bytes(data["std"]),
        picture=PictureShape(
            resize=(math.floor(height / data["crop_pct"]), math.floor(width / data["crop_pct"])),
            cut=(height, width),
            interpolation=data["interpolation"],
            mode=data["crop_mode"],
        ),
        remarks=tuple(note for note in config.notes or () if "quickgelu" not in model or "QuickGELU" not in note),
    )


def is_projected(config: Any) -> bool:
    """Whether what timm's `config` of weights calls classes are the values of an embedding shared with texts."""
    name = f"{config.architecture}.{config.tag}"
    is_tower = "clip" in name or "_pe_core_" in name
    return is_tower and bool(config.num_classes) and re.search(r"_ft_in\d", name) is None


def timm_names(pattern: str) -> list[str]:
    """All names with published weights that match a pattern with * and ?. WeightsError without timm."""
    return [f"{PREFIX}{model}" for model in _timm().list_models(pattern.removeprefix(PREFIX), pretrained=True)]


def timm_version() -> str:
    """timm's. WeightsError without it."""
    return str(_timm().__version__)


def _timm() -> Any:
    try:
        return import_module("timm")
    except ImportError as error:
        raise WeightsError(f"timm's networks need the package {error.name}: {INSTALL}") from None


def _check_name(timm: Any, name: str, model: str) -> None:
    architecture, _, tag = model.partition(".")
    tags = [known.partition(".")[2] for known in timm.list_models(f"{architecture}.*", pretrained=True)]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=_NEAR, cutoff=0.5)
        names = " or ".join(PREFIX + one for one in near)
        advice = f"did you mean {names}?" if near else "`mcn weights list` says how to list them"
        raise WeightsError(f"{name}: timm {timm.__version__} has no model {architecture}; {advice}")
    if tag and tag not in tags:
        known = ", ".join(tags) or "none"
        raise WeightsError(f"{name}: timm {timm.__version__} has no weights {tag} of {architecture}; it has: {known}")


def _build(model: str, options: dict[str, int]) -> nn.Module:
    network: nn.Module = _timm().create_model(model, **options)
    return network


def _fetch(name: str, model: str, weights: str, folder: Path | None) -> Path:
    """A PyTorch file of the tensors as timm reads them, whose publishers have many forms.

    What was downloaded goes once they are written; what an interrupted download left is taken up.
    """
    from extractors.state_dict_file import write_state_dict

    timm = _timm()
    config = timm.models.get_pretrained_cfg(model)
    if config is None or not config.has_weights:
        raise WeightsError(f"{name}: timm has no weights of it; give a file, or random:SEED")
    folder = folder if folder is not None else cache_folder() / "weights"
    path = folder / f"{PREFIX}{config.architecture}{f'.{config.tag}' if config.tag else ''}.pt"
    if path.exists():
        return path
    download = path.with_name(f".{path.name}.download")
    try:
        if config.hf_hub_id:
            _ask_hub()
        # With its own number of classes it must find each of its tensors, and no other.
        state = timm.create_model(model, pretrained=True, cache_dir=str(download)).state_dict()
    except Exception as error:  # Network, disk, proxy and hub failures each have a type of their own.
        if path.exists():  # by another process, which has removed the download that both read
            return path
        raise WeightsError(
            f"{name}: can't be fetched from {_source(config).address} ({_first_line(error)}); "
            f"`mcn weights fetch {name} --to FOLDER` where there is internet gives a file; or choose random:SEED"
        ) from None
    write_state_dict(state, path)
    shutil.rmtree(download, ignore_errors=True)
    return path


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"


def _ask_hub() -> None:
    """Raises what keeps the hub away, which its own client would try again for a minute, with a line each time."""
    from huggingface_hub import constants, get_session

    get_session().head(constants.ENDPOINT, timeout=_HUB_TIMEOUT_S)


def _source(config: Any) -> Source:
    """Address and terms of weights, as timm's own table has them."""
    address = f"{_HUB}/{config.hf_hub_id}" if config.hf_hub_id else str(config.url)
    licence = config.license if config.license not in (None, "", "unknown") else ""
    terms = f"{licence}, as timm states it" if licence else "timm states none: see that address"
    return Source(address, terms + (f"; made from {config.origin_url}" if config.origin_url else ""))
