"""The published model's numbers, in float64, from weights and inputs drawn by name and seed."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import parity, parity_inputs
from models.mcn import MCN
from models.published import export_published

SEED = 11


@pytest.fixture(scope="module")
def run(shared_reference: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, np.ndarray]]:
    """Status and entries of the benchmark's own command."""
    golden, out = shared_reference / f"parity_seed{SEED}.npz", tmp_path_factory.mktemp("parity") / "new" / "ours.npz"
    paths = ["--centroids", str(golden), "--out", str(out), "--against", str(golden)]
    return parity.main(["--seed", str(SEED), *paths]), dict(np.load(out))


@pytest.fixture(scope="module")
def golden(shared_reference: Path) -> dict[str, np.ndarray]:
    return dict(np.load(shared_reference / f"parity_seed{SEED}.npz"))


def assert_same(ours: np.ndarray, golden: np.ndarray) -> None:
    assert ours.shape == golden.shape
    assert np.abs(ours - golden).max() <= 1e-8 * np.abs(golden).max()


GROUPS = {
    "embeddings": [f"{mode}_{modality}" for mode in ("eval", "train") for modality in ("video", "audio", "text")],
    "DaveNet": ["eval_davenet_first", "running_mean/DAVEnet.layer4.1.bn2"],
    "reconstruction": ["eval_recon", "train_recon", "recon"],
    "contrast": ["mms_text_video", "mms_audio_text", "mms_audio_video"],
    "clusters": ["kmeans_centroids", "kmeans_labels", "cluster_video", "cluster_audio", "cluster_text"],
    "total": ["total"],
}


@pytest.mark.parametrize("group", GROUPS)
def test_entries_are_the_published_ones(
    run: tuple[int, dict[str, np.ndarray]], golden: dict[str, np.ndarray], group: str
) -> None:
    for name in GROUPS[group]:
        assert_same(run[1][name], golden[name])


def test_gradients_are_the_published_ones(
    run: tuple[int, dict[str, np.ndarray]], golden: dict[str, np.ndarray]
) -> None:
    status, ours = run
    norms = [name for name in golden if name.startswith("gradnorm/")]
    assert len(norms) == 91 and ours.keys() == golden.keys() == {n for g in GROUPS.values() for n in g} | set(norms)
    for name in norms:
        assert_same(ours[name], golden[name])
    assert status == 0


def test_without_the_golden_file_the_published_figures_still_hold() -> None:
    """Norms of the published code's embeddings and errors for seed 11, which no centroids enter, written down."""
    model, clips = parity.published_model(SEED), parity.batch(SEED)
    model.eval()
    with torch.no_grad():
        evaluated = model(clips)
        errors = torch.stack(list(model.reconstruction_errors(evaluated)["shared"].values())).sum(dim=0)
    norms = {m: vectors.norm().item() for m, vectors in evaluated.vectors["shared"].items()}
    published = {"audio": 240.74157777733643, "video": 22.363596410751217, "text": 32.05185294788056}
    assert norms == pytest.approx(published, rel=1e-10)
    assert errors.norm().item() == pytest.approx(712.5418818190439, rel=1e-10)


@pytest.mark.parametrize("seed", [11, 12])
def test_the_draws_are_those_of_the_reference(shared_reference: Path, seed: int) -> None:
    theirs = parity._module(shared_reference / "parity_inputs.py")
    shapes: dict[str, tuple[int, ...]] = {
        "DAVEnet.bn1.num_batches_tracked": (),
        "DAVEnet.bn1.running_var": (128,),
        "DAVEnet.bn1.running_mean": (128,),
        "DAVEnet.bn1.weight": (128,),
        "DAVEnet.bn1.bias": (128,),
        "DAVEnet.conv1.weight": (128, 1, 40, 1),
        "GU_video.fc.weight": (48, 64),
    }
    for name, shape in shapes.items():
        ours = parity_inputs.parameter(name, shape, seed)
        assert np.array_equal(ours, theirs.parameter(name, shape, seed))
        assert ours.dtype == (np.int64 if name.endswith("tracked") else np.float64)
    for sizes in ((32, 64, 9, 24, 320), (5, 3, 2, 4, 7)):
        pairs = list(zip(parity_inputs.inputs(seed, *sizes), theirs.inputs(seed, *sizes), strict=True))
        assert len(pairs) == 4
        assert all(np.array_equal(ours, drawn) and ours.dtype == drawn.dtype for ours, drawn in pairs)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """Arguments of a run that computes nothing: five clips, entries given."""
    entries = {"kmeans_labels": np.array([0, 1, 2, 1, 0]), "total": np.array(2.0)}
    monkeypatch.setattr(parity, "parity_entries", lambda seed, centroids, draw: dict(entries))
    np.savez(tmp_path / "centroids.npz", kmeans_centroids=np.ones((3, 48)), kmeans_labels=entries["kmeans_labels"])
    yield ["--seed", "3", "--out", str(tmp_path / "ours.npz"), "--centroids", str(tmp_path / "centroids.npz")]


def test_labels_that_differ_are_told_and_fail(
    quick: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parity.main(quick) == 0
    labels = np.array([0, 1, 2, 2, 0])
    np.savez(tmp_path / "centroids.npz", kmeans_centroids=np.ones((3, 48)), kmeans_labels=labels)
    assert parity.main(quick) == 1
    assert "clip 3 is in cluster 1 here, in 2 as given" in capsys.readouterr().out
    assert np.load(tmp_path / "ours.npz")["kmeans_labels"].tolist() == [0, 1, 2, 1, 0]


@pytest.mark.parametrize(("total", "status"), [(2.0 + 1e-8, 0), (2.0 + 4e-8, 1), (math.nan, 1)])
def test_a_difference_from_the_golden_file_fails(
    quick: list[str], tmp_path: Path, total: float, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "golden.npz", kmeans_labels=np.array([0, 1, 2, 1, 0]), total=np.array(total))
    assert parity.main([*quick, "--against", str(tmp_path / "golden.npz")]) == status
    assert f"{2 - status} of 2 entries within 1e-08" in capsys.readouterr().out


def test_entries_of_one_side_alone_are_infinitely_far() -> None:
    far = parity.relative_differences(
        {"a": np.ones(2), "b": np.ones(2), "zero": np.zeros(2)},
        {"b": np.ones(3), "c": np.ones(1), "zero": np.zeros(2)},
    )
    assert far == {"a": math.inf, "b": math.inf, "c": math.inf, "zero": 0.0}


def test_wrong_files_are_told_in_one_line(quick: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong, message in {
        ("--inputs", "nowhere.py"): "nowhere.py: no Python file",
        ("--against", "nowhere.npz"): "nowhere.npz: not a readable .npz file",
        ("--centroids", str(tmp_path / "empty.npz")): "has no `kmeans_centroids` of shape (clusters, 48)",
    }.items():
        np.savez(tmp_path / "empty.npz", other=np.ones(2))
        assert parity.main([*quick, *wrong]) == 2
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1


WIDTH_AXES: dict[str, tuple[int, ...]] = {
    "DAVEnet_projection.weight": (0,),
    "DAVEnet_projection.bias": (0,),
    "GU_video.fc.weight": (0,),
    "GU_video.fc.bias": (0,),
    "GU_video.cg.fc.weight": (0, 1),
    "GU_video.cg.fc.bias": (0,),
    "text_pooling_caption.fc.weight": (0,),
    "text_pooling_caption.fc.bias": (0,),
    "GU_text_captions.fc.weight": (0, 1),
    "GU_text_captions.fc.bias": (0,),
    "GU_text_captions.cg.fc.weight": (0, 1),
    "GU_text_captions.cg.fc.bias": (0,),
    "recon_v.0.weight": (1,),
    "recon_a.0.weight": (1,),
    "recon_t.0.weight": (1,),
    "recon_t.2.weight": (0,),
    "recon_t.2.bias": (0,),
}
"""The axes that are as long as the embedding is wide; those of the video input have 4096 entries at any width."""


@pytest.mark.parametrize(("width", "parameters"), [(4096, 141_359_106), (6144, 223_776_770)])
def test_export_has_the_159_published_names_shapes_and_types(
    shared_reference: Path, width: int, parameters: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is drawn on the meta device, yet the call would import torch's compiler, which takes seconds.
    monkeypatch.setattr(torch.nn.init, "normal_", lambda weight, *_: weight)
    expected = {}
    for line in (shared_reference / "checkpoint_keys.tsv").read_text().splitlines():
        name, shape, dtype = line.split("\t")
        sizes = [] if shape == "scalar" else [int(size) for size in shape.split("x")]
        for axis in WIDTH_AXES.get(name, ()):
            assert sizes[axis] == 4096
            sizes[axis] = width
        expected[name] = (tuple(sizes), dtype)
    settings = replace(
        parity.SETTINGS, width=width, video_streams=(2048, 2048), word_dim=300, reconstruction_hidden=1024
    )
    with torch.device("meta"):
        model = MCN(settings)
    ours = {n: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for n, t in export_published(model).items()}
    assert len(ours) == 159 and WIDTH_AXES.keys() <= ours.keys()
    assert ours == expected
    # Counted on the published class itself.
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
