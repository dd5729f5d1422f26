"""timm's networks: names and errors without it; widths, rows and weights beside timm called directly."""

import hashlib
import http.server
import importlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from extractors import calibration, timm_networks
from extractors.calibration import pictures
from extractors.errors import WeightsError
from extractors.network import PictureShape
from extractors.networks import (
    check_view,
    clip_shape,
    default_weights,
    described,
    find_network,
    is_video_network,
    near_names,
    own_view,
    published_weights,
)
from extractors.published_weights import fetch
from extractors.timm_networks import check_timm, is_projected, is_timm
from extractors.video import FrameNetwork, picture_view_of
from extractors.weight_specs import stream_weights
from extractors.weights import load_weights, materialise
from pipeline.dataset.schema import check_identity

CNN, VIT = "timm.resnet18.a1_in1k", "timm.vit_tiny_patch16_224.augreg_in21k_ft_in1k"
CLIP_VIT, ROTARY = "timm.vit_xsmall_patch16_clip_224.tinyclip_yfcc15m", "timm.eva02_tiny_patch14_224.mim_in22k"
TINY = "timm.test_resnet.r160_in1k"


@pytest.fixture(scope="module", autouse=True)
def few_made_inputs() -> Any:
    """Calibration on a few pictures is as exact as on many, and faster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "PICTURES", 2)
        yield


# Without timm


def test_names_are_known_by_their_form_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    for name in (CNN, CLIP_VIT, "timm.resnet50"):
        assert is_timm(name) and is_video_network(name)
        assert (default_weights(name), published_weights(name)) == ("pretrained", ("pretrained",))
        assert own_view(name) == "own" and clip_shape(name) is None
        check_view(name, "full")
    for name in ("timm", "timm.", "timm.a.b.c", "timm.a-b", "timm/resnet50", "resnet50.a1_in1k", "timm.ä", "timm.a\n"):
        assert not is_timm(name) and not is_video_network(name)
    assert (own_view("r3d_18"), own_view("resnet18")) == ("clip", "")


def test_weights_go_to_streams_by_such_names() -> None:
    given = f"{CNN}=random:1,resnet18=/x/a,b.pt"
    assert stream_weights(given, [CNN, "resnet18", VIT]) == {
        CNN: "random:1",
        "resnet18": "/x/a,b.pt",
        VIT: "pretrained",
    }


@pytest.mark.parametrize("written", ["timm/resnet50.a1_in1k", "hf-hub:timm/resnet50.a1_in1k", "timm:resnet50.a1_in1k"])
def test_names_as_the_hub_writes_them_are_told_right(written: str) -> None:
    assert near_names(written) == "timm's are written with a point: timm.resnet50.a1_in1k"


def test_without_timm_the_cure_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    timm_networks.timm_network.cache_clear()
    monkeypatch.setitem(sys.modules, "timm", None)
    cure = r"^timm's networks need the package timm: pip install 'mcn\[timm\]'$"
    for attempt in (
        lambda: find_network("timm.any"),
        lambda: described("timm.any"),
        lambda: materialise("timm.any", "random:0", tmp_path),
        lambda: load_weights("timm.any", tmp_path / "any.pt"),
    ):
        with pytest.raises(WeightsError, match=cure):
            attempt()
    monkeypatch.setattr(timm_networks, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match=cure):
        check_timm()


def test_a_timm_without_its_own_requirements_names_what_lacks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "timm.py").write_text("import no_such_hub\n")
    timm_networks.timm_network.cache_clear()
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    check_timm()
    with pytest.raises(WeightsError, match=r"need the package no_such_hub: pip install 'mcn\[timm\]'"):
        find_network("timm.any")


def frames_of(count: int, width: int, height: int) -> np.ndarray:
    """Made pictures at the size of frames, (count, height, width, 3) uint8."""
    return np.stack([np.asarray(Image.fromarray(one).resize((width, height))) for one in pictures(3)[:count]])


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        (PictureShape((248, 248), (224, 224), "bicubic", "center"), (256, 454), (248, 439)),
        (PictureShape((248, 248), (224, 224), "bicubic", "center"), (457, 256), (442, 248)),
        (PictureShape((384, 384), (384, 384), "bicubic", "squash"), (256, 454), (384, 384)),
        (PictureShape((224, 224), (224, 224), "bicubic", "border"), (256, 448), (128, 224)),
        (PictureShape((200, 300), (200, 300), "bilinear", "center"), (256, 454), (200, 355)),
    ],
)
def test_the_size_after_the_resize(shape: PictureShape, size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert shape.resized(*size) == expected


@pytest.mark.parametrize("size", [(454, 256), (300, 200), (256, 455)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_a_picture_is_what_pillow_shows(interpolation: str, size: tuple[int, int]) -> None:
    frames = frames_of(2, *size)
    frames[0, :, ::16] = 255  # edges, beyond which bicubic interpolation shoots
    shape = PictureShape((248, 248), (224, 224), interpolation, "center")
    height, width = shape.resized(*frames.shape[1:3])
    top, left = round((height - 224) / 2), round((width - 224) / 2)
    resized = [Image.fromarray(one).resize((width, height), Image.Resampling[interpolation.upper()]) for one in frames]
    expected = np.stack([np.asarray(one)[top : top + 224, left : left + 224] for one in resized])
    seen = picture_view_of(torch.from_numpy(frames), shape, torch.zeros(3, 1, 1)).permute(0, 2, 3, 1).numpy()
    # Pillow rounds and cuts off after each of its two passes, which shows where the first went beyond white or black.
    differences = np.abs(seen - expected)
    assert np.mean(differences > 1.01) < 1e-3 and differences.max() < 6
    assert seen.min() >= 0 and seen.max() <= 255


def test_what_a_frame_lacks_has_the_border_s_colour() -> None:
    shape = PictureShape((32, 32), (32, 32), "bilinear", "border")
    frames = torch.full((1, 21, 64, 3), 9, dtype=torch.uint8)
    seen = picture_view_of(frames, shape, torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1))[0]
    # 64x21 becomes 32x10: 11 rows lack above and 11 below.
    expected = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1).repeat(1, 32, 32)
    expected[:, 11:21] = 9
    torch.testing.assert_close(seen, expected)


# Beside timm


@pytest.fixture(scope="module")
def timm() -> Any:
    return pytest.importorskip("timm", reason="timm isn't installed: pip install 'mcn[timm]'")


def test_every_name_of_timms_is_a_streams_and_leads_to_weights(timm: Any) -> None:
    names = timm.list_models(pretrained=True)
    assert len(names) > 1000
    for name in names:
        assert is_timm(f"timm.{name}"), name
        check_identity(
            {
                "feature_fps": 1,
                "streams": {f"timm.{name}": {"width": 1}},
                "audio": {"rate": "rows", "store": "both"},
            }
        )


def test_what_has_classes_is_cut_and_what_is_projected_stays(timm: Any) -> None:
    """timm doesn't say which is which: its numbers of classes are those of known label sets, or of embeddings."""
    classes, embeddings = set(), set()
    # Without a tag the default's: of most CLIPs the weights that were tuned to classes.
    for name in (*timm.list_models(pretrained=True), *timm.list_models()):
        if (config := timm.models.get_pretrained_cfg(name)) is not None:
            (embeddings if is_projected(config) else classes).add(config.num_classes)
    label_sets = {0, 1000, 11221, 11821, 19168, 21841, 21842, 21843, 115217}
    assert classes <= label_sets and {0, 1000, 21841} <= classes
    assert embeddings <= {384, 512, 640, 768, 1024, 1152, 1280} and {512, 768, 1024} <= embeddings


def direct(timm: Any, name: str, state: dict[str, torch.Tensor], frames: np.ndarray, **options: Any) -> np.ndarray:
    """Rows of timm's own network with these weights, frames through timm's own transform."""
    network = timm.create_model(name.removeprefix("timm."), **options).eval()
    network.load_state_dict(state)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
    with torch.inference_mode():
        rows: np.ndarray = network(torch.stack([transform(Image.fromarray(frame)) for frame in frames])).numpy()
    return rows


def shown(name: str) -> np.ndarray:
    """Two frames of the short side that the network's transform resizes to, so that no resize rounds them in timm's."""
    shape = find_network(name).picture
    assert shape is not None and shape.mode == "center"
    return frames_of(2, shape.resize[1] + 40, shape.resize[0])


@pytest.mark.parametrize(
    ("name", "width", "options"),
    [
        (CNN, 512, {"num_classes": 0}),
        (VIT, 192, {"num_classes": 0}),
        # The projected embedding, which timm keeps where others have their classes.
        (CLIP_VIT, 512, {}),
        # Positions that no file of weights holds.
        (ROTARY, 192, {"num_classes": 0}),
    ],
)
def test_rows_are_timms(timm: Any, name: str, width: int, options: dict[str, int], tmp_path: Path) -> None:
    path = materialise(name, "random:0", tmp_path)
    weights, frames = load_weights(name, path), shown(name)
    rows = FrameNetwork(weights, "full", "fp32", "cpu").features(frames)
    assert rows.shape == (2, width) and described(name)["width"] == width
    expected = direct(timm, name, torch.load(path), frames, **options)
    np.testing.assert_allclose(rows, expected, atol=1e-4 * np.abs(expected).max())
    assert np.abs(rows[0] - rows[1]).max() > 0.02 * np.abs(rows).max()
    # In the order of magnitude of bf16's last digit, and the same in any company.
    network = FrameNetwork(weights, "center", "bf16", "cpu")
    short = network.features(frames)
    cosines = (short * rows).sum(axis=1) / np.linalg.norm(short, axis=1) / np.linalg.norm(rows, axis=1)
    assert cosines.min() > 0.999 and not np.array_equal(short, rows)
    np.testing.assert_array_equal(network.features(frames[1:]), short[1:])


def test_a_network_sees_what_its_data_config_says(timm: Any) -> None:
    assert described(CLIP_VIT) == {
        "width": 512,
        "resize": [248, 248],
        "cut": [224, 224],
        "interpolation": "bicubic",
        "crop": "center",
        "pixel_mean": [255 * value for value in timm.data.constants.OPENAI_CLIP_MEAN],
        "pixel_deviation": [255 * value for value in timm.data.constants.OPENAI_CLIP_STD],
    }
    squashed = described("timm.vit_base_patch16_clip_384.laion2b_ft_in1k")
    assert (squashed["crop"], squashed["resize"], squashed["width"]) == ("squash", [384, 384], 768)


def test_norms_of_random_weights_are_measured(timm: Any, tmp_path: Path) -> None:
    state = torch.load(materialise(CNN, "random:1", tmp_path))
    assert not torch.allclose(state["bn1.running_var"], torch.ones(64)) and "fc.weight" not in state
    again = materialise(CNN, "random:1", tmp_path / "again")
    assert load_weights(CNN, again).digest == load_weights(CNN, tmp_path / f"{CNN}-random-1.pt").digest


def test_files_of_timms_own_are_read(timm: Any, tmp_path: Path) -> None:
    """Checkpoints of its training, and files of its hub: with a classifier, which no feature depends on."""
    safetensors = pytest.importorskip("safetensors.torch")
    state = timm.create_model("test_resnet").state_dict()
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "model_best.pth.tar")
    safetensors.save_file(state, tmp_path / "model.safetensors")
    digests = {load_weights(TINY, tmp_path / name).digest for name in ("model_best.pth.tar", "model.safetensors")}
    assert len(digests) == 1
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[:-9])
    with pytest.raises(WeightsError, match="cut.safetensors: not a file of safetensors, or damaged .*fetch it again"):
        load_weights(TINY, tmp_path / "cut.safetensors")
    with pytest.raises(WeightsError, match=f"not weights of {VIT}"):
        load_weights(VIT, tmp_path / "model.safetensors")


def test_a_timm_that_is_too_old_to_build_without_values_is_one_line(timm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def old(*given: object, **named: object) -> None:
        raise RuntimeError("Tensor.item() cannot be called on meta tensors\nmore")

    monkeypatch.setattr(timm, "create_model", old)
    with pytest.raises(
        WeightsError, match=r"can't make it without weights \(RuntimeError: Tensor.item.*pip install"
    ) as caught:
        find_network("timm.vit_tiny_patch16_384")
    assert "\n" not in str(caught.value)


def test_models_and_weights_that_timm_has_not(timm: Any) -> None:
    with pytest.raises(
        WeightsError, match=r"timm.resnett50: timm [\d.]+ has no model resnett50; did you mean timm.resnet50"
    ):
        find_network("timm.resnett50")
    with pytest.raises(WeightsError, match="has no weights a9_in1k of resnet18; it has: .*a1_in1k"):
        find_network("timm.resnet18.a9_in1k")


# The hub


@dataclass
class Hub:
    """A hub of models on this machine: address, and path -> content of its files."""

    address: str
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def hub() -> Iterator[Hub]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            served.asked.append(f"{self.command} {self.path}")
            content = served.files.get(self.path)
            self.send_response(404 if content is None else 200)
            if content is None:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", f'"{hashlib.sha256(content or b"").hexdigest()}"')
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(served.files.get(self.path, b""))

        def log_message(self, *given: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served = Hub(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield served
        server.shutdown()
        thread.join()


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache of the test's own, and no proxy."""
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setenv("MCN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    return tmp_path / "cache" / "weights"


def test_weights_come_from_timms_hub_into_the_cache(timm: Any, hub: Hub, alone: Path, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    torch.manual_seed(5)
    state = timm.create_model("test_resnet").state_dict()
    hub.files["/timm/test_resnet.r160_in1k/resolve/main/model.safetensors"] = safetensors.save(state)
    # The hub's library reads its address when it is loaded.
    environment = os.environ | {"HF_ENDPOINT": hub.address, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "pipeline.cli", "weights", "fetch", TINY]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    path = alone / "timm.test_resnet.r160_in1k.pt"
    assert [one for one in hub.asked if one.startswith("GET /timm/")], "it was asked"
    assert list(alone.iterdir()) == [path], "what was downloaded is gone"
    assert Path(told["file"]) == path.resolve() and told["tensors"].split()[0] == load_weights(TINY, path).digest
    assert told["source"] == "https://huggingface.co/timm/test_resnet.r160_in1k" and "apache-2.0" in told["terms"]
    read = torch.load(path)
    assert read.keys() == state.keys() and all(torch.equal(read[name], value) for name, value in state.items())
    # What is there isn't asked for again.
    assert materialise(TINY, "pretrained", tmp_path) == path


def test_a_hub_that_does_not_answer_is_one_line(timm: Any, alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    address = "https://huggingface.co/timm/test_resnet.r160_in1k"
    with pytest.raises(
        WeightsError, match=f"^{TINY}: can't be fetched from {address} .*refused.*or choose random:SEED$"
    ) as caught:
        fetch(TINY, "pretrained", None)
    assert "\n" not in str(caught.value) and f"`mcn weights fetch {TINY} --to FOLDER` where there is" in str(
        caught.value
    )
    assert not list(alone.glob("*.pt"))


def test_weights_that_timm_has_not(timm: Any, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="timm.resnet18: timm has no weights of it; give a file, or random:SEED"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(timm.models, "get_pretrained_cfg", lambda model: None)
            find_network("timm.resnet18").fetch("pretrained", tmp_path)
