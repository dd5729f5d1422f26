"""Whether this model is the published one: its numbers for weights and inputs drawn from a seed, in float64.

    python -m benchmarks.parity --seed 11 --centroids golden.npz --out ours.npz --against golden.npz

The case is small (width 48) and goes the way a user goes: the weights are written to a file under the published names,
read back by the safe reader, and loaded as `mcn train --initial-weights` loads them. Written are the embeddings in
evaluation and in training mode, DaveNet's output, reconstruction errors, every loss term, the total, the norm of its
gradient for every parameter, and a running statistic after the one training pass. Centroids are constants of the
cluster loss; labels are computed here, and held against those given.

Exit status: 0 if all is equal, 1 if labels differ from those given or an entry from --against, 2 for a wrong argument.
"""

import argparse
import importlib.util
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from benchmarks import parity_inputs
from models.clips import ClipInputs
from models.kmeans import Clusters, assign
from models.losses import mcn_losses
from models.mcn import MCN
from models.published import export_published, published_names
from models.settings import LossSettings, ModelSettings
from pipeline.core.errors import InputError
from pipeline.training.weights import load_initial

CLIPS, FRAMES, WORDS = 32, 320, 9
SETTINGS = ModelSettings(
    width=48,
    video_streams=(64,),
    word_dim=24,
    reconstruction_hidden=16,
    audio_from="logmel",
    normalise_video=False,
    mask_padding_words=False,
    own_frames_in_training=False,
    zeros_for_missing=True,
    detach_targets=False,
    unused_batchnorm=True,
)
"""The published model at the sizes of the case; the batch's video comes as its loader would have normalised it."""
LOSSES = LossSettings(cluster_weight=1 / 3, term_weights="sum")
TOLERANCE = 1e-8
"""Largest difference of two entries that count as equal, relative to the entry's largest value."""
STATISTIC = "DAVEnet.layer4.1.bn2"
PAIRS = {"text_video": "video-text", "audio_text": "audio-text", "audio_video": "video-audio"}
MODALITIES = ("video", "audio", "text")


def published_model(seed: int, draw: ModuleType = parity_inputs) -> MCN:
    """The model with the weights of `seed`, by way of a file; `draw` has the functions of `parity_inputs`."""
    model = MCN(SETTINGS).double()
    shapes = {name: tuple(tensor.shape) for name, tensor in export_published(model).items()}
    state = {name: torch.from_numpy(np.array(draw.parameter(name, shape, seed))) for name, shape in shapes.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "published.pth")
        torch.save(state, path)
        load_initial(model, path)
    return model


def batch(seed: int, draw: ModuleType = parity_inputs) -> ClipInputs:
    """The batch of `seed`, in float64."""
    drawn = draw.inputs(seed, CLIPS, SETTINGS.video_dim, WORDS, SETTINGS.word_dim, FRAMES)
    video, logmel, frames, words = map(torch.from_numpy, drawn)
    return ClipInputs(
        video=video.unsqueeze(1),
        video_rows=torch.ones(CLIPS, 1, dtype=torch.bool),
        audio=logmel,
        has_audio=torch.ones(CLIPS, dtype=torch.bool),
        audio_frames=frames,
        words=words,
        known_words=words.any(dim=2),
    )


def parity_entries(seed: int, centroids: np.ndarray, draw: ModuleType = parity_inputs) -> dict[str, np.ndarray]:
    """Every entry of the case by name; `centroids`, `(K, 48)`, are taken as they are."""
    model, clips = published_model(seed, draw), batch(seed, draw)
    (space,) = SETTINGS.scheme.spaces
    entries: dict[str, Tensor] = {}
    model.eval()
    with torch.no_grad():
        evaluated = model(clips)
        entries |= {f"eval_{m}": evaluated.vectors[space.name][m] for m in MODALITIES}
        entries["eval_recon"] = _sum(model.reconstruction_errors(evaluated)[space.name])
        assert model.davenet is not None and clips.audio is not None
        entries["eval_davenet_first"] = model.davenet(clips.audio[:1])[0]
    model.train()
    trained = model(clips)
    errors = model.reconstruction_errors(trained)
    entries |= {f"train_{m}": trained.vectors[space.name][m] for m in MODALITIES}
    entries["train_recon"] = _sum(errors[space.name])
    fixed = torch.from_numpy(centroids.astype(np.float64))
    clusters = Clusters(fixed, assign(trained.joint(space)[0], fixed))
    losses = mcn_losses(SETTINGS.scheme, trained, {space.name: clusters}, errors, LOSSES)
    entries |= {f"mms_{name}": losses.terms[f"contrast/{space.name}/{pair}"] for name, pair in PAIRS.items()}
    entries |= {"kmeans_centroids": fixed, "kmeans_labels": clusters.labels}
    entries |= {f"cluster_{m}": losses.terms[f"cluster/{space.name}/{m}"] for m in MODALITIES}
    entries["recon"] = torch.stack([losses.terms[f"reconstruction/{space.name}/{m}"] for m in MODALITIES]).sum()
    entries["total"] = losses.total
    losses.total.backward()
    names = {own: published for published, own in published_names(model).items()}
    for own, weight in model.named_parameters():
        if weight.grad is not None:
            entries[f"gradnorm/{names[own]}"] = weight.grad.norm()
    own = published_names(model)[f"{STATISTIC}.running_mean"]
    entries[f"running_mean/{STATISTIC}"] = model.state_dict()[own]
    return {name: tensor.detach().numpy() for name, tensor in entries.items()}


def relative_differences(ours: dict[str, np.ndarray], golden: dict[str, np.ndarray]) -> dict[str, float]:
    """By name, the largest difference over the largest value; infinity where one side lacks an entry or its shape."""
    found = {}
    for name in sorted(ours.keys() | golden.keys()):
        mine, theirs = ours.get(name), golden.get(name)
        if mine is None or theirs is None or mine.shape != theirs.shape:
            found[name] = np.inf
            continue
        difference, scale = np.abs(mine - theirs).max(), np.abs(theirs).max()
        found[name] = float(difference / scale) if difference else 0.0
    return found


def _sum(errors: dict[str, Tensor]) -> Tensor:
    return torch.stack([errors[m] for m in MODALITIES]).sum(dim=0)


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise InputError(f"{path}: no Python file; give one with the functions of benchmarks/parity_inputs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as file:
            return dict(file)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable .npz file ({str(error).splitlines()[0]}); give one") from None


def _compare_labels(ours: np.ndarray, given: np.ndarray | None) -> bool:
    if given is None:
        return True
    if ours.shape != given.shape:
        print(f"kmeans_labels: {ours.shape} here, {given.shape} given")
        return False
    for clip in np.flatnonzero(ours != given):
        print(f"kmeans_labels: clip {clip} is in cluster {ours[clip]} here, in {given[clip]} as given")
    return bool((ours == given).all())


def main(arguments: list[str] | None = None) -> int:
    """Compute, write, compare; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.parity", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, required=True, help="of the weights and the batch")
    parser.add_argument(
        "--centroids", type=Path, required=True, metavar="FILE.npz", help="has kmeans_centroids and kmeans_labels"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="OURS.npz", help="file to write")
    parser.add_argument(
        "--inputs", type=Path, metavar="FILE.py", help="draws weights and batch in place of benchmarks/parity_inputs.py"
    )
    parser.add_argument(
        "--against", type=Path, metavar="GOLDEN.npz", help=f"print each entry's difference; fail above {TOLERANCE:g}"
    )
    given = parser.parse_args(arguments)
    try:
        fixed = _arrays(given.centroids)
        if fixed.get("kmeans_centroids", np.empty(0)).shape[1:] != (SETTINGS.width,):
            raise InputError(f"{given.centroids}: has no `kmeans_centroids` of shape (clusters, {SETTINGS.width})")
        golden = None if given.against is None else _arrays(given.against)
        draw = parity_inputs if given.inputs is None else _module(given.inputs)
    except InputError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    ours = parity_entries(given.seed, fixed["kmeans_centroids"], draw)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with open(given.out, "wb") as file:
        np.savez(file, **ours)  # type: ignore[arg-type]
    print(f"{given.out}: {len(ours)} entries of seed {given.seed}")
    equal = _compare_labels(ours["kmeans_labels"], fixed.get("kmeans_labels"))
    if golden is not None:
        differences = relative_differences(ours, golden)
        for name, difference in differences.items():
            print(f"{difference:9.2e}  {name}")
        far = [name for name, difference in differences.items() if not difference <= TOLERANCE]
        print(f"{len(differences) - len(far)} of {len(differences)} entries within {TOLERANCE:g}")
        equal = equal and not far
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
