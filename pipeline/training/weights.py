"""The authors' weights from a file, into a model or out of one; nothing in the file is executed.

Any file of a state dict will do that `extractors.state_dict_file` reads, with the published names, with or without
`module.`: the authors' own, AVLnet's and DAVEnet's for the audio network, or one written by `mcn export`.
"""

from pathlib import Path

from torch import Tensor

from extractors.errors import WeightsError
from extractors.state_dict_file import read_state_dict
from models import MCN, ResDavenet, StateDictError, load_published, load_published_davenet
from pipeline.core.errors import InputError


def load_initial(model: MCN, path: Path) -> None:
    """Begin from published MCN weights: load all of them into `model`, whose element type they take.

    A model on frozen audio rows leaves the DaveNet part aside. Raises InputError, and leaves the model as it was, for a
    file that can't be read, a model whose scheme or standardisation has no published form, and weights that don't fit:
    the message then names every tensor that is missing, unknown or of another shape, with both shapes.
    """
    try:
        load_published(model, _finite(path))
    except StateDictError as error:
        raise InputError(
            f"{path}: {error}; published weights want --scheme shared, no --standardise, their width and streams"
        ) from None


def read_davenet(path: Path) -> ResDavenet:
    """The audio network of an MCN, AVLnet or DAVEnet file, with all its tensors, ready to evaluate; else InputError."""
    state = _finite(path)
    davenet = ResDavenet(unused_batchnorm=any("batchnorm1." in name for name in state))
    try:
        load_published_davenet(davenet, state)
    except StateDictError as error:
        raise InputError(f"{path}: {error}; give weights of DaveNet, as `mcn train --model davenet` writes") from None
    return davenet.eval()


def _finite(path: Path) -> dict[str, Tensor]:
    try:
        state = read_state_dict(path)
    except WeightsError as error:
        raise InputError(str(error)) from None
    broken = [name for name, tensor in state.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise InputError(f"{path}: NaN or infinity in {', '.join(broken)}; the file is damaged, fetch it again")
    return state
