"""torchvision's networks of pictures and of video clips, a row each.

A row's feature is the input of its classifier: what the last layer of the head, which gives the classes, is fed. The
published weights of a row are those that take pictures of the size that we show: vision transformers at 384 and more
are left out, and so are `IMAGENET1K_FEATURES` of vgg16, which has no classifier and other pixels.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extractors.errors import WeightsError
from extractors.network import IMAGENET_DEVIATION, IMAGENET_MEAN, ClipShape, Network, Source, in_bytes
from extractors.timeline import VIEW_SIDE

if TYPE_CHECKING:
    from torch import nn

_DOWNLOAD_TIMEOUT_S = 60

_PICTURE_ROWS = (
    # name, width, classifier, published weights, of which the first are the default
    ("alexnet", 4096, "classifier.6", "IMAGENET1K_V1"),
    ("convnext_base", 1024, "classifier.2", "IMAGENET1K_V1"),
    ("convnext_large", 1536, "classifier.2", "IMAGENET1K_V1"),
    ("convnext_small", 768, "classifier.2", "IMAGENET1K_V1"),
    ("convnext_tiny", 768, "classifier.2", "IMAGENET1K_V1"),
    ("densenet121", 1024, "classifier", "IMAGENET1K_V1"),
    ("densenet161", 2208, "classifier", "IMAGENET1K_V1"),
    ("densenet169", 1664, "classifier", "IMAGENET1K_V1"),
    ("densenet201", 1920, "classifier", "IMAGENET1K_V1"),
    ("efficientnet_b0", 1280, "classifier.1", "IMAGENET1K_V1"),
    ("efficientnet_b1", 1280, "classifier.1", "IMAGENET1K_V1 IMAGENET1K_V2"),
    ("efficientnet_b2", 1408, "classifier.1", "IMAGENET1K_V1"),
    ("efficientnet_b3", 1536, "classifier.1", "IMAGENET1K_V1"),
    ("efficientnet_b4", 1792, "classifier.1", "IMAGENET1K_V1"),
    ("efficientnet_b5", 2048, "classifier.1", "IMAGENET1K_V1"),
    ("efficientnet_b6", 2304, "classifier.1", "IMAGENET1K_V1"),
    ("efficientnet_b7", 2560, "classifier.1", "IMAGENET1K_V1"),
    ("efficientnet_v2_l", 1280, "classifier.1", "IMAGENET1K_V1"),
    ("efficientnet_v2_m", 1280, "classifier.1", "IMAGENET1K_V1"),
    ("efficientnet_v2_s", 1280, "classifier.1", "IMAGENET1K_V1"),
    ("googlenet", 1024, "fc", "IMAGENET1K_V1"),
    ("inception_v3", 2048, "fc", "IMAGENET1K_V1"),
    ("maxvit_t", 512, "classifier.5", "IMAGENET1K_V1"),
    ("mnasnet0_5", 1280, "classifier.1", "IMAGENET1K_V1"),
    ("mnasnet0_75", 1280, "classifier.1", "IMAGENET1K_V1"),
    ("mnasnet1_0", 1280, "classifier.1", "IMAGENET1K_V1"),
    ("mnasnet1_3", 1280, "classifier.1", "IMAGENET1K_V1"),
    ("mobilenet_v2", 1280, "classifier.1", "IMAGENET1K_V1 IMAGENET1K_V2"),
    ("mobilenet_v3_large", 1280, "classifier.3", "IMAGENET1K_V1 IMAGENET1K_V2"),
    ("mobilenet_v3_small", 1024, "classifier.3", "IMAGENET1K_V1"),
    ("regnet_x_16gf", 2048, "fc", "IMAGENET1K_V1 IMAGENET1K_V2"),
    ("regnet_x_1_6gf", 912, "fc", "IMAGENET1K_V1 IMAGENET1K_V2"),
    ("regnet_x_32gf", 2520, "fc", "IMAGENET1K_V1 IMAGENET1K_V2"),
    ("regnet_x_3_2gf", 1008, "fc", "IMAGENET1K_V1 IMAGENET1K_V2"),
    ("regnet_x_400mf", 400, "fc", "IMAGENET1K_V1 IMAGENET1K_V2"),
    ("regnet_x_800mf", 672, "fc", "IMAGENET1K_V1 IMAGENET1K_V2"),
    ("regnet_x_8gf", 1920, "fc", "IMAGENET1K_V1 IMAGENET1K_V2"),
    ("regnet_y_128gf", 7392, "fc", "IMAGENET1K_SWAG_LINEAR_V1 IMAGENET1K_SWAG_E2E_V1"),
    ("regnet_y_16gf", 3024, "fc", "IMAGENET1K_V1 IMAGENET1K_V2 IMAGENET1K_SWAG_E2E_V1 IMAGENET1K_SWAG_LINEAR_V1"),
    ("regnet_y_1_6gf", 888, "fc", "IMAGENET1K_V1 IMAGENET1K_V2"),
    ("regnet_y_32gf", 3712, "fc", "IMAGENET1K_V1 IMAGENET1K_V2 IMAGENET1K_SWAG_E2E_V1 IMAGENET1K_SWAG_LINEAR_V1"),
    ("regnet_y_3_2gf", 1512, "fc", "IMAGENET1K_V1 IMAGENET1K_V2"),
    ("regnet_y_400mf", 440, "fc", "IMAGENET1K_V1 IMAGENET1K_V2"),
    ("regnet_y_800mf", 784, "fc", "IMAGENET1K_V1 IMAGENET1K_V2"),
    ("regnet_y_8gf", 2016, "fc", "IMAGENET1K_V1 IMAGENET1K_V2"),
    ("resnet101", 2048, "fc", "IMAGENET1K_V1 IMAGENET1K_V2"),
    ("resnet18", 512, "fc", "IMAGENET1K_V1"),
    ("resnet34", 512, "fc", "IMAGENET1K_V1"),
    ("resnet50", 2048, "fc", "IMAGENET1K_V1 IMAGENET1K_V2"),
    ("resnext101_32x8d", 2048, "fc", "IMAGENET1K_V1 IMAGENET1K_V2"),
    ("resnext101_64x4d", 2048, "fc", "IMAGENET1K_V1"),
    ("resnext50_32x4d", 2048, "fc", "IMAGENET1K_V1 IMAGENET1K_V2"),
    ("shufflenet_v2_x0_5", 1024, "fc", "IMAGENET1K_V1"),
    ("shufflenet_v2_x1_0", 1024, "fc", "IMAGENET1K_V1"),
    ("shufflenet_v2_x1_5", 1024, "fc", "IMAGENET1K_V1"),
    ("shufflenet_v2_x2_0", 2048, "fc", "IMAGENET1K_V1"),
    ("squeezenet1_0", 512, "classifier.1", "IMAGENET1K_V1"),
    ("squeezenet1_1", 512, "classifier.1", "IMAGENET1K_V1"),
    ("swin_b", 1024, "head", "IMAGENET1K_V1"),
    ("swin_s", 768, "head", "IMAGENET1K_V1"),
    ("swin_t", 768, "head", "IMAGENET1K_V1"),
    ("swin_v2_b", 1024, "head", "IMAGENET1K_V1"),
    ("swin_v2_s", 768, "head", "IMAGENET1K_V1"),
    ("swin_v2_t", 768, "head", "IMAGENET1K_V1"),
    ("vgg11", 4096, "classifier.6", "IMAGENET1K_V1"),
    ("vgg11_bn", 4096, "classifier.6", "IMAGENET1K_V1"),
    ("vgg13", 4096, "classifier.6", "IMAGENET1K_V1"),
    ("vgg13_bn", 4096, "classifier.6", "IMAGENET1K_V1"),
    ("vgg16", 4096, "classifier.6", "IMAGENET1K_V1"),
    ("vgg16_bn", 4096, "classifier.6", "IMAGENET1K_V1"),
    ("vgg19", 4096, "classifier.6", "IMAGENET1K_V1"),
    ("vgg19_bn", 4096, "classifier.6", "IMAGENET1K_V1"),
    ("vit_b_16", 768, "heads.head", "IMAGENET1K_V1 IMAGENET1K_SWAG_LINEAR_V1"),
    ("vit_b_32", 768, "heads.head", "IMAGENET1K_V1"),
    ("vit_h_14", 1280, "heads.head", "IMAGENET1K_SWAG_LINEAR_V1"),
    ("vit_l_16", 1024, "heads.head", "IMAGENET1K_V1 IMAGENET1K_SWAG_LINEAR_V1"),
    ("vit_l_32", 1024, "heads.head", "IMAGENET1K_V1"),
    ("wide_resnet101_2", 2048, "fc", "IMAGENET1K_V1 IMAGENET1K_V2"),
    ("wide_resnet50_2", 2048, "fc", "IMAGENET1K_V1 IMAGENET1K_V2"),
)

_KINETICS_PIXELS = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)
_MVIT_PIXELS = (0.45,) * 3, (0.225,) * 3
_IMAGENET_PIXELS = IMAGENET_MEAN, IMAGENET_DEVIATION
_SMALL = (128, 171), 112
_SQUARE = (256, 256), 224
_SHORT = (256,), 224
_SWIN3D_B = "KINETICS400_V1 KINETICS400_IMAGENET22K_V1"

_CLIP_ROWS = (
    # name, width, classifier, published weights, frames, grid frames from one to the next, resize and cut, pixels
    ("mc3_18", 512, "fc", "KINETICS400_V1", 16, 2, _SMALL, _KINETICS_PIXELS),
    ("mvit_v1_b", 768, "head.1", "KINETICS400_V1", 16, 4, _SHORT, _MVIT_PIXELS),
    ("mvit_v2_s", 768, "head.1", "KINETICS400_V1", 16, 4, _SHORT, _MVIT_PIXELS),
    ("r2plus1d_18", 512, "fc", "KINETICS400_V1", 16, 2, _SMALL, _KINETICS_PIXELS),
    ("r3d_18", 512, "fc", "KINETICS400_V1", 16, 2, _SMALL, _KINETICS_PIXELS),
    ("s3d", 1024, "classifier.1", "KINETICS400_V1", 128, 2, _SQUARE, _KINETICS_PIXELS),
    ("swin3d_b", 1024, "head", _SWIN3D_B, 32, 2, _SHORT, _IMAGENET_PIXELS),
    ("swin3d_s", 768, "head", "KINETICS400_V1", 32, 2, _SHORT, _IMAGENET_PIXELS),
    ("swin3d_t", 768, "head", "KINETICS400_V1", 32, 2, _SHORT, _IMAGENET_PIXELS),
)

_PIXELS = {"efficientnet_v2_l": ((0.5,) * 3, (0.5,) * 3)}
"""Of the networks of pictures that don't take ImageNet's mean and deviation."""

_ONE_SIZE = ("maxvit_t", "vit_")
"""How the names of networks begin whose positions fit pictures of 224x224 alone."""

_LAST_NORMS = ((r"resnet(18|34)", "bn2"), (r"(wide_)?resne[x]?t\d.*", "bn3"))
"""Names, and where their residual blocks keep the last batch norm; elsewhere random weights are calibrated alone."""

_AUXILIARY = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}
"""Heads for training alone, which the published files hold."""

_RENAMED = {
    # torchvision renames these itself when it reads its files.
    "densenet": ((r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2"),),
    "vit": ((r"\.mlp\.linear_1\.", ".mlp.0."), (r"\.mlp\.linear_2\.", ".mlp.3.")),
}


def _build(name: str, classifier: str) -> nn.Module:
    """The network with nothing in place of the layer that gives the classes."""
    import torch
    import torchvision
    from torch import nn

    class NumbersOnProcessor(torch.overrides.TorchFunctionMode):
        """A constructor that computes widths with tensors gets their values, even where its parameters have none."""

        def __torch_function__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
            named = dict(named or {})
            if function in (torch.arange, torch.tensor):
                named.setdefault("device", "cpu")
            return function(*given, **named)

    # Their initial values would be replaced anyway, and take scipy a minute.
    options: dict[str, Any] = {"aux_logits": False, "init_weights": False, "transform_input": True}
    network: nn.Module
    if name.startswith("regnet"):
        with NumbersOnProcessor():
            network = torchvision.models.get_model(name, weights=None)
    else:
        network = torchvision.models.get_model(name, weights=None, **(options if name in _AUXILIARY else {}))
    network.set_submodule(classifier, nn.Identity())
    return network


def download(network: str, name: str, folder: Path | None) -> Path:
    """The file of torchvision's published weights, downloaded unless it is there; into torch's cache without `folder`.

    Raises WeightsError.
    """
    import torch

    address = torchvision_source(network, name).address
    file_name = address.rsplit("/", 1)[1]
    path = (folder if folder is not None else Path(torch.hub.get_dir(), "checkpoints")) / file_name
    if path.exists():
        return path
    stated = re.search(r"-([0-9a-f]{8,})\.", file_name)
    timeout = socket.getdefaulttimeout()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # torch.hub sets none of its own, so that a network that swallows packets would hang for ever.
        socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT_S)
        torch.hub.download_url_to_file(address, str(path), stated[1] if stated else None, progress=False)
    except Exception as error:  # Network, disk, proxy and hash failures each have a type of their own.
        first_line = (str(error).splitlines() or [""])[0]
        raise WeightsError(
            f"{name}: can't be downloaded from {address} ({type(error).__name__}: {first_line[:120]}); "
            "fetch that file elsewhere and give its path, or choose random:SEED"
        ) from None
    finally:
        socket.setdefaulttimeout(timeout)
    return path


def torchvision_source(network: str, name: str) -> Source:
    """Address and terms of weights, as torchvision's own documentation has them."""
    import torchvision

    address: str = torchvision.models.get_model_weights(network)[name].url
    data = {"IMAGENET1K": "ImageNet-1K", "KINETICS400": "Kinetics-400", "IMAGENET22K": "ImageNet-22K"}
    trained = " and ".join(title for key, title in data.items() if key in name)
    if "SWAG" in name:
        return Source(address, f"CC-BY-NC 4.0 (SWAG, https://github.com/facebookresearch/SWAG); tuned on {trained}")
    return Source(
        address,
        f"torchvision states none for these weights; it warns that terms of the training data ({trained}) may bind "
        "them, and that whether a use is allowed is for the user to find out",
    )


def _rows(pictures: Sequence[tuple[Any, ...]], clips: Sequence[tuple[Any, ...]]) -> tuple[Network, ...]:
    def network(name: str, width: int, classifier: str, weights: str, clip: ClipShape | None, pixels: Any) -> Network:
        published = tuple(weights.split())
        return Network(
            name=name,
            width=width,
            build=partial(_build, name, classifier),
            feature_map=lambda network, pictures: network(pictures),
            unused=(f"{classifier}.", *_AUXILIARY.get(name, ())),
            default_weights=published[0],
            last_norm=next((norm for pattern, norm in _LAST_NORMS if re.fullmatch(pattern, name)), ""),
            renamed=next((pairs for start, pairs in _RENAMED.items() if name.startswith(start)), ()),
            published=published,
            fetch=partial(download, name),
            source=partial(torchvision_source, name),
            pixel_mean=in_bytes(pixels[0]),
            pixel_deviation=in_bytes(pixels[1]),
            side=VIEW_SIDE if name.startswith(_ONE_SIZE) else 0,
            clip=clip,
        )

    return (
        *(
            network(name, width, classifier, weights, None, _PIXELS.get(name, _IMAGENET_PIXELS))
            for name, width, classifier, weights in pictures
        ),
        *(
            network(name, width, classifier, weights, ClipShape(frames, step, *size), pixels)
            for name, width, classifier, weights, frames, step, size, pixels in clips
        ),
    )


TORCHVISION = _rows(_PICTURE_ROWS, _CLIP_ROWS)
"""Networks of pictures, then of clips, each in the order of their names."""
