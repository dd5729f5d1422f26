"""The published model's numbers, in float64, from weights and inputs drawn by name and seed."""

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from models import (
    MCN,
    ClipInputs,
    Clusters,
    Embeddings,
    Losses,
    LossSettings,
    ModelSettings,
    builtin_scheme,
    export_published,
    load_published,
    mcn_losses,
)
from models.kmeans import assign

SEED, CLIPS, FRAMES, WORDS = 11, 32, 320, 9
PUBLISHED = ModelSettings(
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
PUBLISHED_LOSSES = LossSettings(cluster_weight=1 / 3, term_weights="sum")


@dataclass
class Case:
    golden: dict[str, np.ndarray]
    model: MCN
    evaluated: Embeddings
    evaluated_errors: dict[str, torch.Tensor]
    first_davenet: torch.Tensor
    trained: Embeddings
    trained_errors: dict[str, torch.Tensor]
    labels: torch.Tensor
    losses: Losses


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("parity_inputs", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def case(shared_reference: Path) -> Case:
    drawn = _load(shared_reference / "parity_inputs.py")
    golden = dict(np.load(shared_reference / f"parity_seed{SEED}.npz"))
    model = MCN(PUBLISHED).double()
    shapes = {name: tuple(tensor.shape) for name, tensor in export_published(model).items()}
    load_published(model, {n: torch.from_numpy(np.array(drawn.parameter(n, s, SEED))) for n, s in shapes.items()})

    video, audio, frames, words = (torch.from_numpy(x) for x in drawn.inputs(SEED, CLIPS, 64, WORDS, 24, FRAMES))
    clips = ClipInputs(
        video=video.unsqueeze(1),
        video_rows=torch.ones(CLIPS, 1, dtype=torch.bool),
        audio=audio,
        has_audio=torch.ones(CLIPS, dtype=torch.bool),
        audio_frames=frames,
        words=words,
        known_words=words.any(dim=2),
    )
    model.eval()
    with torch.no_grad():
        evaluated = model(clips)
        evaluated_errors = model.reconstruction_errors(evaluated)["shared"]
        first_davenet = model.davenet(audio[:1])[0]
    model.train()
    trained = model(clips)
    errors = model.reconstruction_errors(trained)
    space = PUBLISHED.scheme.spaces[0]
    centroids = torch.from_numpy(golden["kmeans_centroids"])
    labels = assign(trained.joint(space)[0], centroids)
    losses = mcn_losses(PUBLISHED.scheme, trained, {"shared": Clusters(centroids, labels)}, errors, PUBLISHED_LOSSES)
    losses.total.backward()
    return Case(golden, model, evaluated, evaluated_errors, first_davenet, trained, errors["shared"], labels, losses)


def assert_same(ours: torch.Tensor, golden: np.ndarray, relative: float = 1e-8) -> None:
    assert tuple(ours.shape) == golden.shape
    difference = np.abs(ours.detach().double().numpy() - golden).max()
    assert difference <= relative * np.abs(golden).max()


@pytest.mark.parametrize("modality", ["video", "audio", "text"])
def test_embeddings_are_the_published_ones(case: Case, modality: str) -> None:
    assert_same(case.evaluated.vectors["shared"][modality], case.golden[f"eval_{modality}"])
    assert_same(case.trained.vectors["shared"][modality], case.golden[f"train_{modality}"])


def test_davenet_is_the_published_one(case: Case) -> None:
    assert_same(case.first_davenet, case.golden["eval_davenet_first"])
    running_mean = case.model.davenet.layer4[1].bn2.running_mean
    assert_same(running_mean, case.golden["running_mean/DAVEnet.layer4.1.bn2"])


def test_reconstruction_errors_are_the_published_ones(case: Case) -> None:
    assert_same(sum(case.evaluated_errors.values()), case.golden["eval_recon"])
    assert_same(sum(case.trained_errors.values()), case.golden["train_recon"])
    terms = [term for name, term in case.losses.terms.items() if name.startswith("reconstruction/")]
    assert_same(torch.stack(terms).sum(), case.golden["recon"])


def test_loss_terms_are_the_published_ones(case: Case) -> None:
    pairs = {"video-text": "text_video", "audio-text": "audio_text", "video-audio": "audio_video"}
    for ours, published in pairs.items():
        assert_same(case.losses.terms[f"contrast/shared/{ours}"], case.golden[f"mms_{published}"])
    assert case.labels.tolist() == case.golden["kmeans_labels"].tolist()
    for modality in ("video", "audio", "text"):
        assert_same(case.losses.terms[f"cluster/shared/{modality}"], case.golden[f"cluster_{modality}"])
    assert_same(case.losses.total, case.golden["total"])


def test_gradients_are_the_published_ones(case: Case) -> None:
    published = {id(p): name for name, p in _published_parameters(case.model).items()}
    norms = {published[id(p)]: p.grad.norm() for p in case.model.parameters() if p.grad is not None}
    golden = {name.removeprefix("gradnorm/"): x for name, x in case.golden.items() if name.startswith("gradnorm/")}
    assert norms.keys() == golden.keys()
    for name, norm in norms.items():
        assert_same(norm, golden[name])


def _published_parameters(model: MCN) -> dict[str, torch.Tensor]:
    own = dict(model.named_parameters())
    by_storage = {tensor.data_ptr(): tensor for tensor in own.values()}
    return {n: by_storage[t.data_ptr()] for n, t in export_published(model).items() if t.data_ptr() in by_storage}


@pytest.mark.parametrize("width", [4096, 6144])
def test_export_has_the_159_published_names_and_shapes(
    shared_reference: Path, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is drawn on the meta device, yet the call would import torch's compiler, which takes seconds.
    monkeypatch.setattr(torch.nn.init, "normal_", lambda weight, *_: weight)
    lines = (shared_reference / "checkpoint_keys.tsv").read_text().splitlines()
    table = {name: (shape, dtype) for name, shape, dtype in (line.split("\t") for line in lines)}
    settings = replace(PUBLISHED, scheme=builtin_scheme("shared"), width=width, video_streams=(2048, 2048))
    settings = replace(settings, word_dim=300, reconstruction_hidden=1024)
    with torch.device("meta"):
        exported = export_published(MCN(settings))
    ours = {
        name: ("x".join(map(str, t.shape)) or "scalar", str(t.dtype).removeprefix("torch."))
        for name, t in exported.items()
    }
    assert len(ours) == 159
    if width == 4096:
        assert ours == table
    widths = {
        "GU_video.fc.weight": "6144x4096",
        "recon_t.2.weight": "6144x1024",
        "DAVEnet_projection.weight": "6144x1024",
    }
    if width == 6144:
        assert ours.keys() == table.keys()
        assert {name: ours[name][0] for name in widths} == widths
