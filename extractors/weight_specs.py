"""What `--weights` says: which weights each video stream has. Text alone; no file is looked at, no PyTorch loaded."""

import re
from collections.abc import Callable, Sequence

from extractors.networks import default_weights, is_video_network, near_names

_ALWAYS_NAMED = "efficientnet-lite0"
"""Where it is the only stream, weights without a name are still resnet152's: so version 0.1.0 has recorded them."""

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
