"""The rows of torchvision's networks beside torchvision's own registry, and their features beside its own forward."""

import hashlib
import http.server
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torchvision.transforms.v2 import functional

from extractors import calibration, torchvision_networks
from extractors.calibration import pictures, random_state
from extractors.errors import WeightsError
from extractors.network import Network, Source
from extractors.networks import NETWORKS, check_view
from extractors.published_weights import fetch
from extractors.torchvision_networks import TORCHVISION
from extractors.video import FrameNetwork, clip_view_of
from extractors.weights import load_weights, materialise, state_digest

models: Any = torchvision.models
PARAMETERS = r"`frame_rate=([\d.]+)`, `clips_per_video=\d+`, and `clip_len=(\d+)`"


@pytest.fixture(scope="module", autouse=True)
def few_made_inputs() -> Iterator[None]:
    """Calibration on a few pictures is as exact as on many, and faster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "PICTURES", 2)
        patch.setattr(calibration, "CLIPS", 1)
        yield


def usable(entry: Network, weights: Any) -> bool:
    """Whether published weights are of pictures at 224, and have a classifier."""
    return weights.name != "IMAGENET1K_FEATURES" and (not entry.side or weights.transforms().crop_size == [entry.side])


def test_the_table_holds_all_that_torchvision_has() -> None:
    listed = {*models.list_models(module=models), *models.list_models(module=models.video)}
    assert {entry.name for entry in TORCHVISION} == listed - {"resnet152"}
    assert {entry.name for entry in TORCHVISION if entry.clip} == set(models.list_models(module=models.video))


@pytest.mark.parametrize("entry", TORCHVISION, ids=lambda entry: entry.name)
def test_a_row_is_what_torchvision_says(entry: Network) -> None:
    known = {weights.name: weights for weights in models.get_model_weights(entry.name)}
    assert set(entry.published) == {name for name, weights in known.items() if usable(entry, weights)}
    assert entry.default_weights == entry.published[0]
    with torch.device("meta"):
        network = entry.build()
    last = [module for module in network.modules() if isinstance(module, nn.Identity)]
    assert last
    for name in entry.published:
        transforms = known[name].transforms()
        np.testing.assert_allclose(entry.pixel_mean, 255 * np.array(transforms.mean))
        np.testing.assert_allclose(entry.pixel_deviation, 255 * np.array(transforms.std))
        if entry.clip is not None:
            stated = re.search(PARAMETERS, known[name].meta["_docs"])
            assert stated and (entry.clip.fps, entry.clip.frames) == (float(stated[1]), int(stated[2]))
            assert [entry.clip.side] * 2 == transforms.crop_size and list(entry.clip.resize) == transforms.resize_size


@pytest.mark.parametrize("entry", TORCHVISION, ids=lambda entry: entry.name)
def test_the_width_is_what_the_classifier_takes(entry: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Module, "set_submodule", lambda self, name, module: None)
    with torch.device("meta"):
        whole = entry.build()
    classifier: Any = whole.get_submodule(entry.unused[0].removesuffix("."))
    assert classifier is [m for m in whole.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.Conv3d)][-1]
    assert entry.width == (classifier.in_features if isinstance(classifier, nn.Linear) else classifier.in_channels)
    classes = classifier.out_features if isinstance(classifier, nn.Linear) else classifier.out_channels
    assert classes == (1000 if entry.clip is None else 400)


def headless(entry: Network, state: dict[str, torch.Tensor]) -> nn.Module:
    """torchvision's own network with these weights, nothing in place of its classifier."""
    with torch.random.fork_rng(devices=[]):
        network: nn.Module = models.get_model(entry.name, weights=None)
    left_out, unexpected = network.load_state_dict(state, strict=False)
    assert not unexpected and all(name.startswith(entry.unused) for name in left_out)
    network.set_submodule(entry.unused[0].removesuffix("."), nn.Identity())
    return network.eval()


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "swin_t", "mobilenet_v3_small"])
def test_rows_are_torchvisions_features(name: str, tmp_path: Path) -> None:
    entry = NETWORKS[name]
    path = materialise(name, "random:0", tmp_path)
    frames = np.repeat(pictures(1)[:2], 2, axis=2)[:, :, :256]
    rows = FrameNetwork(load_weights(name, path), precision="fp32", device="cpu").features(frames)
    transforms = models.get_model_weights(name)[entry.default_weights].transforms()
    seen = functional.resize(torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255, [224, 298], antialias=True)
    with torch.inference_mode():
        expected = headless(entry, torch.load(path))(functional.normalize(seen, transforms.mean, transforms.std))
    assert rows.shape == (2, entry.width)
    np.testing.assert_allclose(rows, expected, atol=1e-4 * float(expected.abs().max()))
    assert np.abs(rows[0] - rows[1]).max() > 0.05 * np.abs(rows).max()


def test_a_vision_transformer_takes_the_centre_alone(tmp_path: Path) -> None:
    weights = load_weights("vit_b_32", path := materialise("vit_b_32", "random:3", tmp_path))
    with pytest.raises(ValueError, match="vit_b_32 takes pictures of 224x224 alone.*: choose view center"):
        FrameNetwork(weights, "full", "fp32", "cpu")
    with pytest.raises(ValueError, match="vit_b_32 takes pictures of 224x224 alone"):
        check_view("vit_b_32", "full")
    check_view("resnet18", "full")
    frames = pictures(2)[:1].repeat(2, axis=1).repeat(2, axis=2)[:, :256, :300]
    rows = FrameNetwork(weights, "center", "fp32", "cpu").features(frames)
    seen = functional.resize(torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255, [224, 262], antialias=True)
    seen = functional.normalize(functional.center_crop(seen, [224]), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    with torch.inference_mode():
        np.testing.assert_allclose(
            rows, headless(NETWORKS["vit_b_32"], torch.load(path))(seen), atol=1e-3, err_msg="another feature"
        )
    # Its random weights are those that torchvision draws.
    torch.manual_seed(3)
    assert torch.equal(weights.state["class_token"], models.vit_b_32().state_dict()["class_token"])


def test_rows_of_clips_are_torchvisions_features(tmp_path: Path) -> None:
    entry = NETWORKS["mc3_18"]
    path = materialise("mc3_18", "random:0", tmp_path)
    random = np.random.default_rng(0)
    still = np.repeat(pictures(3)[:1], 2, axis=2)[:, :, :320]
    clip = np.stack([np.roll(still[0], 5 * step, axis=1) for step in range(16)])
    clips = np.stack([clip, np.clip(clip[::-1] + random.integers(-30, 30, clip.shape), 0, 255).astype(np.uint8)])
    network = FrameNetwork(load_weights("mc3_18", path), precision="fp32", device="cpu")
    rows = network.features(clips)
    transforms = models.get_model_weights("mc3_18").KINETICS400_V1.transforms()
    # In floating point, as our pixels are: torchvision's would be rounded to bytes after the resize.
    seen = transforms(torch.from_numpy(clips).permute(0, 1, 4, 2, 3).float() / 255)
    assert seen.shape == (2, 3, 16, 112, 112)
    with torch.inference_mode():
        expected = headless(entry, torch.load(path))(seen)
    np.testing.assert_allclose(rows, expected, atol=1e-4 * float(expected.abs().max()))
    with pytest.raises(ValueError, match=r"mc3_18 takes uint8 frames \(n, 16, H, W, 3\)"):
        network.features(clips[:, :15])


@pytest.mark.parametrize(("name", "size"), [("r3d_18", (256, 454)), ("s3d", (256, 340)), ("swin3d_t", (300, 256))])
def test_a_clip_is_seen_as_its_transform_shows_it(name: str, size: tuple[int, int]) -> None:
    entry = NETWORKS[name]
    assert entry.clip is not None
    clips = torch.randint(0, 256, (1, 2, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    transforms = models.get_model_weights(name)[entry.default_weights].transforms()
    shown = clip_view_of(clips, entry.clip)
    mean, deviation = (torch.tensor(v).view(3, 1, 1, 1) for v in (entry.pixel_mean, entry.pixel_deviation))
    expected = transforms(clips.permute(0, 1, 4, 2, 3).float() / 255)
    torch.testing.assert_close((shown - mean) / deviation, expected, atol=1e-4, rtol=0)


# Random weights


def test_statistics_of_three_dimensional_norms_are_measured() -> None:
    state = random_state(NETWORKS["mc3_18"], 0)
    assert torch.equal(state["layer1.0.conv1.1.weight"], torch.ones(64))
    assert not torch.allclose(state["stem.1.running_var"], torch.ones(64))
    assert all(int(value) == 1 for name, value in state.items() if name.endswith("num_batches_tracked"))


def test_residual_blocks_of_resnets_begin_small() -> None:
    for name, norm in (("resnet34", "bn2"), ("resnext50_32x4d", "bn3"), ("wide_resnet50_2", "bn3")):
        assert NETWORKS[name].last_norm == norm
        with torch.device("meta"):
            assert isinstance(NETWORKS[name].build().get_submodule(f"layer1.0.{norm}"), nn.BatchNorm2d)
    assert {NETWORKS[name].last_norm for name in ("vgg11_bn", "densenet121", "regnet_y_400mf", "r3d_18")} == {""}


# Files


def test_tables_of_positions_stay_whole_numbers(tmp_path: Path) -> None:
    path = materialise("swin_t", "random:0", tmp_path)
    weights = load_weights("swin_t", path)
    table = weights.state["features.1.0.attn.relative_position_index"]
    expected = models.swin_t().features[1][0].attn.relative_position_index
    assert table.dtype == torch.int64 and torch.equal(table, expected)
    halved = {n: v.half() if v.is_floating_point() else v for n, v in torch.load(path).items()}
    torch.save(halved | {"features.1.0.attn.relative_position_index": table.float()}, tmp_path / "odd.pt")
    with pytest.raises(WeightsError, match=r"relative_position_index is of type torch.float32, expected torch.int64"):
        load_weights("swin_t", tmp_path / "odd.pt")


@pytest.mark.parametrize(
    ("name", "now", "published"),
    [
        ("densenet121", "denselayer1.norm1.", "denselayer1.norm.1."),
        ("densenet121", "denselayer2.conv2.", "denselayer2.conv.2."),
        ("vit_b_32", "layer_0.mlp.0.", "layer_0.mlp.linear_1."),
        ("vit_b_32", "layer_0.mlp.3.", "layer_0.mlp.linear_2."),
    ],
)
def test_files_with_the_names_of_older_versions_are_read(name: str, now: str, published: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        built = NETWORKS[name].build().state_dict()
    state = {key: torch.zeros((), dtype=value.dtype).expand(value.shape) for key, value in built.items()}
    renamed = {key.replace(now, published): value for key, value in state.items()}
    assert renamed.keys() != state.keys()
    torch.save(renamed, tmp_path / "old.pth")
    floats = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    assert load_weights(name, tmp_path / "old.pth").digest == state_digest(floats)


@dataclass
class Site:
    """A web server of this machine that gives one file."""

    address: str
    content: bytes
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(served.content)))
            self.end_headers()
            self.wfile.write(served.content)

        def log_message(self, *given: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served = Site(f"http://127.0.0.1:{server.server_port}", b"")
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield served
        server.shutdown()
        thread.join()


def test_fetched_weights_are_told_whole(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = materialise("squeezenet1_1", "random:5", tmp_path)
    site.content = path.read_bytes()
    sha256 = hashlib.sha256(site.content).hexdigest()
    source = Source(f"{site.address}/squeezenet1_1-{sha256[:8]}.pth", "none")
    monkeypatch.setattr(torchvision_networks, "torchvision_source", lambda network, name: source)
    for _ in range(2):
        found = fetch("squeezenet1_1", "IMAGENET1K_V1", tmp_path / "nas" / "weights")
        assert found.path == (tmp_path / "nas" / "weights" / source.address.rsplit("/", 1)[1]).resolve()
        assert (found.bytes, found.sha256) == (len(site.content), sha256)
        assert found.digest == load_weights("squeezenet1_1", path).digest
    assert len(site.asked) == 1
    found.path.write_bytes(site.content[:-1])
    with pytest.raises(WeightsError, match="damaged: its sha256 begins with .*; remove it and fetch it again"):
        fetch("squeezenet1_1", "IMAGENET1K_V1", tmp_path / "nas" / "weights")


def test_another_file_than_promised_is_not_kept(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.content = b"<html>please sign in</html>"
    source = Source(f"{site.address}/squeezenet1_1-0123abcd.pth", "none")
    monkeypatch.setattr(torchvision_networks, "torchvision_source", lambda network, name: source)
    with pytest.raises(WeightsError, match="can't be downloaded from .*hash.*fetch that file elsewhere") as caught:
        fetch("squeezenet1_1", "IMAGENET1K_V1", tmp_path / "to")
    assert "\n" not in str(caught.value) and list((tmp_path / "to").iterdir()) == []


def test_terms_are_those_that_torchvision_documents() -> None:
    swag = NETWORKS["vit_b_16"].source("IMAGENET1K_SWAG_LINEAR_V1")
    assert swag.address == models.ViT_B_16_Weights.IMAGENET1K_SWAG_LINEAR_V1.url and "CC-BY-NC 4.0" in swag.terms
    both = NETWORKS["swin3d_b"].source("KINETICS400_IMAGENET22K_V1")
    assert "Kinetics-400 and ImageNet-22K" in both.terms and "CC-BY-NC" not in both.terms
