"""What `--weights` says: which weights each video stream has, and which file that is. No PyTorch is loaded."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from extractors.networks import default_weights, is_video_network, near_names, published_weights

_ALWAYS_NAMED = "efficientnet-lite0"
"""Where it is the only stream, weights without a name are still resnet152's: so version 0.1.0 has recorded them."""

_RANDOM = re.compile(r"random:(\d{1,9})")
_NAMED_WEIGHTS = re.compile(r"([\w.-]+)=(.*)", re.DOTALL)


def weight_items(weights: str) -> list[tuple[str, str]]:
    """What `--weights` gives, as (stream, weights); the stream is "" where none is named.

    A path may hold commas: what follows one begins another item only where it begins with a name and an equals sign.
    """
    items: list[tuple[str, str]] = []
    for piece in weights.split(",") if weights else []:
        if match := _NAMED_WEIGHTS.fullmatch(piece):
            items.append((match[1], match[2]))
        elif items:
            items[-1] = items[-1][0], f"{items[-1][1]},{piece}"
        else:
            items.append(("", piece))
    return items


def mapped_weights(weights: str, change: Callable[[str], str]) -> str:
    """`--weights` with each item's weights changed."""
    return ",".join(f"{stream}={change(spec)}" if stream else change(spec) for stream, spec in weight_items(weights))


def stream_weights(weights: str, streams: Sequence[str]) -> dict[str, str]:
    """Stream -> its weights: those that `--weights` gives, or the network's default.

    ValueError for a name that is no stream, or that stands twice, and for an item without a name among several streams.
    """
    specs = {stream: default_weights(stream) for stream in streams}
    given: set[str] = set()
    for name, spec in weight_items(weights):
        if not name and list(streams) == [_ALWAYS_NAMED]:
            continue
        if not name and "resnet152" not in streams and len(streams) > 1:
            raise ValueError(f"`weights`: {spec} is for which stream? give {streams[0]}={spec}")
        stream = name or ("resnet152" if "resnet152" in streams else streams[0])
        if stream not in specs:
            near = f"; {near_names(stream)}" if not is_video_network(stream) else ""
            raise ValueError(f"`weights`: {stream} is none of the streams ({', '.join(streams)}){near}")
        if stream in given or not spec:
            raise ValueError(f"`weights`: {stream} {'is given twice' if spec else 'has none'}: give {stream}=WEIGHTS")
        given.add(stream)
        specs[stream] = spec
    return specs


def random_seed(spec: str) -> int | None:
    """SEED of `random:SEED`; None for other weights."""
    match = _RANDOM.fullmatch(spec)
    return int(match[1]) if match else None


def random_file(network: str, seed: int, folder: Path) -> Path:
    """The file in `folder` that has a network's random weights, once they are made."""
    return folder / f"{network}-random-{seed}.pt"


def file_at_hand(network: str, spec: str, folder: Path) -> Path | None:
    """The file that `spec` names by itself, if it is there; a published name's is known to its library alone."""
    seed = random_seed(spec)
    path = Path(spec) if seed is None else random_file(network, seed, folder)
    return path if spec not in published_weights(network) and path.is_file() else None
