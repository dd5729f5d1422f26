"""Small made videos, and what one undisturbed extraction gives of them."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import imageio_ffmpeg
import pytest

from beam_jobs.extract import ExtractSettings, run
from extractors.weights import materialise
from pipeline.extraction import prepare

REPOSITORY = Path(__file__).resolve().parents[2]


def make_video(path: Path, seconds: float, pattern: str, sound: bool = True) -> None:
    audio = ["-f", "lavfi", "-i", f"sine=frequency={300 + 40 * len(pattern)}:duration={seconds}"] if sound else []
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-f", "lavfi"]
    command += ["-i", f"{pattern}=size=320x180:rate=30:duration={seconds}", *audio, "-pix_fmt", "yuv420p", str(path)]
    subprocess.run(command, check=True)


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    patterns = [("testsrc2", 2.0), ("rgbtestsrc", 1.5), ("smptebars", 2.2), ("testsrc", 1.0)]
    for index, (pattern, seconds) in enumerate(patterns):
        make_video(folder / f"video-{index:05d}.mp4", seconds, pattern)
    make_video(folder / "without-snd.mp4", 1.2, "testsrc2", sound=False)
    (folder / "zero-length.mp4").touch()
    (folder / "not-a-video.mp4").write_bytes(b"hello" * 1000)
    return folder


@pytest.fixture(scope="session")
def captions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("captions") / "caption.json"
    lines = {"start": [0.0, 0.8], "end": [1.0, 1.4], "text": ["Chop the red onion", "stir it's hot"]}
    path.write_text(json.dumps({f"video-{index:05d}": lines for index in range(3)}))
    return path


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of an extraction that takes seconds; DaveNet's weights are those of random:0, drawn once for all."""
    davenet = materialise("davenet", "random:0", tmp_path_factory.mktemp("weights"))
    small = {"streams": ("efficientnet-lite0",), "davenet_weights": str(davenet), "precision": "fp32"}
    return small | {"workers": 1, "time_limit": 600.0}


@pytest.fixture(scope="session")
def known_networks() -> dict[tuple[object, ...], prepare.Networks]:
    """What the process that looks at the networks has said of them."""
    return {}


@pytest.fixture(autouse=True)
def _ask_of_networks_once(
    known_networks: dict[tuple[object, ...], prepare.Networks], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That process loads PyTorch, which takes most of a small extraction's time: of each choice it is asked once."""
    ask = prepare.prepare_networks

    def once(settings: ExtractSettings, precision: str) -> prepare.Networks:
        specs = prepare.weight_specs(settings)
        if any(spec.startswith("random:") for spec in specs.values()):
            return ask(settings, precision)  # their files are made, each in its own data set's folder
        asked = (*sorted(specs.items()), precision, settings.device)
        if asked not in known_networks:
            known_networks[asked] = ask(settings, precision)
        return known_networks[asked]

    monkeypatch.setattr(prepare, "prepare_networks", once)


@pytest.fixture(scope="session")
def command_of() -> Callable[..., list[str]]:
    """`command_of(settings, *more)`: `mcn extract` of these settings, `more` being flags, as a process of its own."""

    def command(settings: ExtractSettings, *more: object) -> list[str]:
        (stream,) = settings.streams
        flags = ["--media", settings.media, "--out", settings.out, "--streams", stream, "--workers", settings.workers]
        flags += ["--precision", settings.precision, "--davenet-weights", settings.davenet_weights]
        if settings.captions is not None:
            flags += ["--captions", settings.captions]
        return [sys.executable, "-m", "pipeline.cli", "extract", *map(str, [*flags, *more])]

    return command


@pytest.fixture
def settings(media: Path, captions: Path, small: dict[str, Any], tmp_path: Path) -> Callable[..., ExtractSettings]:
    def make(out: str = "dataset", **changes: Any) -> ExtractSettings:
        return ExtractSettings(**{"media": media, "captions": captions, "out": tmp_path / out} | small | changes)

    return make


def _datasets(folder: Path) -> dict[str, bytes]:
    """Shard and dataset name -> bytes, for every dataset of every shard."""
    found: dict[str, bytes] = {}
    for path in sorted((folder / "shards").glob("*.h5")):
        with h5py.File(path) as file:
            for group in file.values():
                for name, dataset in group.items():
                    found[f"{path.name}:{group.name}/{name}"] = dataset[:].tobytes()
    return found


@pytest.fixture(scope="session")
def datasets() -> Callable[[Path], dict[str, bytes]]:
    """See `_datasets`."""
    return _datasets


@pytest.fixture(scope="session")
def local(media: Path, captions: Path, small: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One undisturbed local run."""
    out = tmp_path_factory.mktemp("local") / "dataset"
    assert run(ExtractSettings(media=media, captions=captions, out=out, **small)).complete
    return out
