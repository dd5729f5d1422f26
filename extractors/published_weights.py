"""Published weights as a file at hand: where it lies, what it holds, where it comes from."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from extractors.errors import WeightsError
from extractors.network import Source
from extractors.networks import find_network
from extractors.weights import load_weights


@dataclass(frozen=True)
class PublishedWeights:
    """A file of published weights."""

    path: Path
    bytes: int
    sha256: str
    """Of the file."""
    digest: str
    """Of the tensors that features depend on, by which data sets know weights."""
    source: Source
    remarks: tuple[str, ...]
    """Their publisher's, a line each."""


def fetch(network: str, weights: str, folder: Path | None) -> PublishedWeights:
    """Download what isn't there yet, into `folder` or the publisher's own cache, and look at all of it.

    Raises WeightsError where it can't be had, isn't what its name says, or isn't weights of the network.
    """
    entry = find_network(network)
    path = entry.fetch(weights, folder).resolve()
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    # torchvision's files bear the first digits of theirs.
    stated = re.search(r"-([0-9a-f]{8,})\.pth$", path.name)
    if stated and not sha256.startswith(stated[1]):
        raise WeightsError(f"{path}: damaged: its sha256 begins with {sha256[:8]}; remove it and fetch it again")
    digest = load_weights(network, path).digest
    return PublishedWeights(path, path.stat().st_size, sha256, digest, entry.source(weights), entry.remarks)
