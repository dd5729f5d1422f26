import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.clips import ClipInputs
from models.kmeans import Clusters
from models.losses import (
    cluster_loss,
    cluster_terms,
    contrastive_terms,
    mcn_losses,
    mms_loss,
    reconstruction_terms,
    term_weights,
    total_loss,
)
from models.mcn import MCN
from models.pairing import BUILTIN_SCHEMES, builtin_scheme
from models.settings import LossSettings, ModelSettings


def slow_mms(x: np.ndarray, y: np.ndarray, settings: LossSettings, present: list[bool], video: list[int]) -> float:
    """The loss one logarithm at a time."""
    if settings.normalise:
        x, y = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, y))
    clips = [i for i in range(len(x)) if present[i]]

    def one_way(queries: np.ndarray, answers: np.ndarray) -> float:
        losses = []
        for i in clips:
            own = math.exp((queries[i] @ answers[i] - settings.margin) / settings.temperature)
            others = 0.0
            for j in clips:
                if j == i or (settings.mask_same_video and video[i] == video[j]):
                    continue
                others += math.exp(queries[i] @ answers[j] / settings.temperature)
            losses.append(-math.log(own / (own + others)))
        return sum(losses) / len(losses)

    ways = {"first": one_way(x, y), "second": one_way(y, x)}
    return sum(ways.values()) if settings.directions == "both" else ways[settings.directions]


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("mask_same_video", [False, True])
@pytest.mark.parametrize("directions", ["both", "first", "second"])
@pytest.mark.parametrize(("margin", "temperature"), [(0.3, 0.7), (0.001, 1.0), (0.0, 0.07)])
def test_mms_equals_the_slow_formula(
    normalise: bool, mask_same_video: bool, directions: str, margin: float, temperature: float
) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 9, 4))
    present = [True, True, False, True, True, True, True, False, True]
    video = [0, 0, 0, 1, 1, 2, 2, 2, 3]
    settings = LossSettings(
        margin=margin,
        temperature=temperature,
        normalise=normalise,
        mask_same_video=mask_same_video,
        directions=directions,
    )
    own = [torch.from_numpy(a).requires_grad_() for a in (x, y)]
    ours = mms_loss(*own, settings, torch.tensor(present), torch.tensor(video))
    assert ours.item() == pytest.approx(slow_mms(x, y, settings, present, video), rel=1e-12)
    ours.backward()
    # The gradient of some entries, by differences of the slow formula; the third clip has none.
    for side, clip, axis in ((0, 0, 1), (1, 4, 3), (0, 8, 0), (1, 2, 2)):
        ends = []
        for step in (1e-6, -1e-6):
            moved = [x.copy(), y.copy()]
            moved[side][clip, axis] += step
            ends.append(slow_mms(*moved, settings, present, video))
        gradient = own[side].grad
        assert gradient is not None
        assert gradient[clip, axis].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-7)


def slow_cluster(vectors: np.ndarray, clusters: Clusters, margin: float, present: list[bool]) -> float:
    """The loss of one modality's vectors, one logarithm at a time."""
    losses = []
    for x, label, here in zip(vectors, clusters.labels.tolist(), present, strict=True):
        if here and label >= 0:
            logits = [math.exp(x @ c - (margin if k == label else 0)) for k, c in enumerate(clusters.centroids.numpy())]
            losses.append(-math.log(logits[label] / sum(logits)))
    return float(np.mean(losses))


def test_mms_by_hand() -> None:
    """Two clips of one video and one of another: S = [[2, 1, 0], [0, 3, 1], [1, 0, 1]], margin 1, temperature 2."""
    x, y = torch.eye(3), torch.tensor([[2.0, 0, 1], [1, 3, 0], [0, 1, 1]])
    e = [math.exp(value / 2) for value in range(3)]
    rows = [e[1] / (e[1] + e[1] + e[0]), e[2] / (e[0] + e[2] + e[1]), e[0] / (e[1] + e[0] + e[0])]
    columns = [e[1] / (e[1] + e[0] + e[1]), e[2] / (e[1] + e[2] + e[0]), e[0] / (e[0] + e[1] + e[0])]
    masked = [e[1] / (e[1] + e[0]), e[2] / (e[2] + e[1]), e[0] / (e[1] + e[0] + e[0])]

    def loss(chances: list[float]) -> float:
        return -sum(map(math.log, chances)) / 3

    video = torch.tensor([0, 0, 1])
    for options, expected in (
        ({}, loss(rows) + loss(columns)),
        ({"directions": "first"}, loss(rows)),
        ({"directions": "second"}, loss(columns)),
        ({"directions": "first", "mask_same_video": True}, loss(masked)),
    ):
        settings = LossSettings(margin=1.0, temperature=2.0, **options)  # type: ignore[arg-type]
        assert mms_loss(x, y, settings, video_index=video).item() == pytest.approx(expected, rel=1e-6)


def test_mms_by_default_is_the_published_loss() -> None:
    x, y = torch.randn(2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = slow_mms(x.numpy(), y.numpy(), LossSettings(margin=0.001), [True] * 6, [0] * 6)
    assert mms_loss(x, y).item() == pytest.approx(expected, rel=1e-12)


def test_mms_of_alike_vectors_is_twice_the_logarithm_of_their_number() -> None:
    x = torch.zeros(50, 3)
    assert mms_loss(x, x, LossSettings(margin=0.0)).item() == pytest.approx(2 * math.log(50), rel=1e-6)


def test_an_absent_clip_changes_nothing_and_gets_no_gradient() -> None:
    x, y = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    x[2] = torch.nan
    x.requires_grad_()
    present = torch.tensor([True, True, False, True, True])
    loss = mms_loss(x, y, present=present)
    loss.backward()
    assert torch.equal(loss, mms_loss(x.detach()[present], y[present]))
    assert x.grad is not None and x.grad.isfinite().all()
    assert x.grad[2].tolist() == [0, 0, 0]


def test_without_any_clip_the_losses_are_zero_with_a_gradient() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    none = torch.zeros(3, dtype=torch.bool)
    clusters = Clusters(torch.ones(2, 2), torch.tensor([0, 1, -1]))
    loss = mms_loss(x, x, present=none) + cluster_loss(x, clusters, 0.001, none)
    loss.backward()
    assert loss.item() == 0
    assert x.grad is not None and x.grad.tolist() == [[0, 0]] * 3


def test_half_precision_and_autocast_do_not_reach_the_logits() -> None:
    x, y = torch.randn(2, 64, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    clusters = Clusters(torch.randn(4, 32, generator=torch.Generator().manual_seed(1)), torch.arange(64) % 4)
    contrast, cluster = mms_loss(x.float(), y.float()), cluster_loss(x.float(), clusters, 0.001)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(mms_loss(x, y), contrast)
        assert torch.equal(mms_loss(x.float(), y.float()), contrast)
        assert torch.equal(cluster_loss(x.float(), clusters, 0.001), cluster)
    assert contrast.dtype == torch.float32
    # What the precision is for: the margin is still there.
    assert mms_loss(x, y, LossSettings(margin=0.0)) < contrast


@pytest.mark.parametrize("width", [7, 33])
@pytest.mark.parametrize("some_absent", [False, True])
def test_gradients_of_the_contrast_under_autocast_are_those_of_full_precision(width: int, some_absent: bool) -> None:
    """Each entry to bfloat16's 8 bits, relative to the largest of its side; 21 clips of unlike sides."""
    generator = torch.Generator().manual_seed(2)
    first, second = torch.randn(21, width, generator=generator), 0.3 * torch.randn(21, width, generator=generator) + 0.2
    present = torch.arange(21) % 4 > 0 if some_absent else None
    found = []
    for halved in (False, True):
        sides = [side.clone().requires_grad_() for side in (first, second)]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=halved):
            loss = mms_loss(*sides, LossSettings(margin=0.2), present)
        loss.backward()
        found.append([side.grad for side in sides])
    for plain, half in zip(*found, strict=True):
        assert plain is not None and half is not None and half.dtype == torch.float32
        assert not torch.equal(plain, half), "in bfloat16 they are rounded"
        assert float((plain - half).abs().max() / plain.abs().max()) < 2**-6


def test_cluster_loss_equals_the_slow_formula() -> None:
    rng = np.random.default_rng(1)
    vectors, centroids = rng.standard_normal((6, 4)), rng.standard_normal((3, 4))
    labels, present = [2, 0, 1, -1, 2, 0], [True, True, False, True, True, True]
    own = torch.from_numpy(vectors).requires_grad_()
    clusters = Clusters(torch.from_numpy(centroids).requires_grad_(), torch.tensor(labels))
    slow = slow_cluster(vectors, Clusters(torch.from_numpy(centroids), clusters.labels), 0.2, present)
    loss = cluster_loss(own, clusters, 0.2, torch.tensor(present))
    loss.backward()
    assert loss.item() == pytest.approx(slow, rel=1e-12)
    assert clusters.centroids.grad is None
    assert own.grad is not None and own.grad.any(dim=1).tolist() == [True, True, False, False, True, True]


def test_the_same_video_mask_needs_to_know_the_videos() -> None:
    with pytest.raises(ValueError, match="needs video_index"):
        mms_loss(torch.ones(2, 2), torch.ones(2, 2), LossSettings(mask_same_video=True))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"margin": -0.1}, "`margin` is -0.1: it must be at least 0"),
        ({"cluster_weight": -1.0}, "`cluster_weight` is -1.0: it must be at least 0"),
        ({"reconstruction_weight": math.nan}, "`reconstruction_weight` is nan"),
        ({"contrast_weight": 0.0, "cluster_weight": 0.0, "reconstruction_weight": 0.0}, "all 0: nothing is left"),
        ({"directions": "up"}, "first, second"),
        ({"term_weights": "x"}, "balanced"),
    ],
)
def test_senseless_settings_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossSettings(**wrong)  # type: ignore[arg-type]


def test_balanced_weights_give_every_scheme_the_same_sum_of_each_kind() -> None:
    settings = LossSettings(cluster_weight=0.5, contrast_weight=2.0)
    for name in BUILTIN_SCHEMES:
        weights = term_weights(builtin_scheme(name), settings)
        for kind, total in {"contrast": 6.0, "cluster": 1.5, "reconstruction": 150.0}.items():
            of_kind = [w for term, w in weights.items() if term.startswith(f"{kind}/")]
            assert sum(of_kind) == pytest.approx(total)
            assert len(set(of_kind)) == 1


def test_plain_sums_give_every_term_its_kinds_weight() -> None:
    weights = term_weights(builtin_scheme("disjoint"), LossSettings(term_weights="sum"))
    assert weights["contrast/video-text/video-text"] == weights["cluster/video-audio/video"] == 1
    assert weights["reconstruction/video-text/text"] == 50
    assert len(weights) == 2 + 4 + 4


@pytest.mark.parametrize("name", BUILTIN_SCHEMES)
def test_the_total_is_the_weighted_sum_of_terms_each_made_by_its_own_formula(name: str, clips: ClipInputs) -> None:
    scheme = builtin_scheme(name)
    torch.manual_seed(0)
    model = MCN(ModelSettings(scheme, 8, (6, 4), audio_dim=5, word_dim=3, reconstruction_hidden=7))
    embeddings = model(clips)
    errors = model.reconstruction_errors(embeddings)
    # A clip of some modality has a label, also where another one of its modalities is absent; clip 3 has none.
    clusters = {s.name: Clusters(torch.randn(3, 8), torch.tensor([0, 1, 2, -1, 1, 2, 0, 1])) for s in scheme.spaces}
    settings = LossSettings(margin=0.3)
    losses = mcn_losses(scheme, embeddings, clusters, errors, settings)
    assert losses.terms.keys() == losses.weights.keys()
    assert {m for m, mask in embeddings.present.items() if not mask.all()} == {"audio", "text"}
    for space in scheme.spaces:
        vectors = {m: v.detach().double().numpy() for m, v in embeddings.vectors[space.name].items()}
        for pair in space.pairs:
            both = (embeddings.present[pair.first] & embeddings.present[pair.second]).tolist()
            slow = slow_mms(vectors[pair.first], vectors[pair.second], settings, both, [0] * 8)
            assert losses.terms[f"contrast/{space.name}/{pair.name}"].item() == pytest.approx(slow, rel=1e-5)
        for m in space.trained_modalities:
            slow = slow_cluster(vectors[m], clusters[space.name], 0.3, embeddings.present[m].tolist())
            assert losses.terms[f"cluster/{space.name}/{m}"].item() == pytest.approx(slow, rel=1e-5)
            mean = errors[space.name][m][embeddings.present[m]].mean()
            torch.testing.assert_close(losses.terms[f"reconstruction/{space.name}/{m}"], mean)
    expected = sum(losses.weights[n] * t.item() for n, t in losses.terms.items())
    assert losses.total.item() == pytest.approx(expected, rel=1e-5)
    losses.total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("off", [("contrast",), ("cluster",), ("reconstruction",), ("cluster", "reconstruction")])
def test_a_kind_of_weight_0_is_left_out_and_the_rest_stays(off: tuple[str, ...], clips: ClipInputs) -> None:
    scheme = builtin_scheme("shared")
    torch.manual_seed(0)
    model = MCN(ModelSettings(scheme, 8, (6, 4), audio_dim=5, word_dim=3, reconstruction_hidden=7)).double()
    embeddings = model(clips)
    clusters = {"shared": Clusters(torch.randn(3, 8), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1]))}
    errors = model.reconstruction_errors(embeddings)
    whole = mcn_losses(scheme, embeddings, clusters, errors, LossSettings())
    settings = replace(LossSettings(), **{f"{kind}_weight": 0.0 for kind in off})
    given = ({} if "cluster" in off else clusters, {} if "reconstruction" in off else errors)
    part = mcn_losses(scheme, embeddings, *given, settings)
    kept = {name: term for name, term in whole.terms.items() if name.split("/")[0] not in off}
    assert part.terms.keys() == part.weights.keys() == kept.keys()
    assert all(torch.equal(part.terms[name], term) for name, term in kept.items())
    expected = sum(whole.weights[name] * term.item() for name, term in kept.items())
    assert part.total.item() == pytest.approx(expected, rel=1e-12)
    part.total.backward()
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert ("decoders" in trained) == ("reconstruction" not in off) and "heads" in trained


def test_reconstruction_in_chunks_adds_up_to_the_whole(clips: ClipInputs) -> None:
    scheme = builtin_scheme("shared")
    torch.manual_seed(0)
    model = MCN(ModelSettings(scheme, 8, (6, 4), audio_dim=5, word_dim=3, reconstruction_hidden=7)).double()
    whole = model(clips)
    terms = reconstruction_terms(scheme, model.reconstruction_errors(whole), whole.present)
    counts = {m: int(mask.sum()) for m, mask in whole.present.items()}
    sums = dict.fromkeys(terms, 0.0)
    for chunk in (clips[:3], clips[3:6], clips[6:]):
        part = model(chunk)
        for name, term in reconstruction_terms(scheme, model.reconstruction_errors(part), part.present, counts).items():
            sums[name] += term.item()
    assert sums == pytest.approx({name: term.item() for name, term in terms.items()}, rel=1e-12)


def test_pieces_of_the_loss_carry_the_settings(clips: ClipInputs) -> None:
    scheme = builtin_scheme("disjoint")
    torch.manual_seed(0)
    model = MCN(ModelSettings(scheme, 8, (6, 4), audio_dim=5, word_dim=3, reconstruction_hidden=7))
    embeddings = model(clips)
    video_index = torch.arange(8) // 2
    settings = LossSettings(margin=0.5, mask_same_video=True)
    terms = contrastive_terms(scheme, embeddings, settings, video_index)
    plain = contrastive_terms(scheme, embeddings, replace(settings, mask_same_video=False))
    assert all(terms[name] < plain[name] for name in plain)
    clusters = {s.name: Clusters(torch.randn(3, 8), torch.arange(8) % 3) for s in scheme.spaces}
    wide, narrow = (cluster_terms(scheme, embeddings, clusters, LossSettings(margin=margin)) for margin in (0.5, 0.0))
    assert all(wide[name] > narrow[name] for name in narrow)
    assert total_loss({"a": torch.tensor(2.0)}, {"a": 3.0, "b": 1.0}).item() == 6
    with pytest.raises(KeyError):
        total_loss({"a": torch.tensor(2.0)}, {})
