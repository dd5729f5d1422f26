"""Small made videos, and what one undisturbed extraction gives of them."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import imageio_ffmpeg
import pytest

from beam_jobs.extract import ExtractSettings, run

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL: dict[str, Any] = {"streams": ("efficientnet-lite0",), "precision": "fp32", "workers": 1, "time_limit": 60.0}


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


@pytest.fixture
def settings(media: Path, captions: Path, tmp_path: Path) -> Callable[..., ExtractSettings]:
    def make(out: str = "dataset", **changes: Any) -> ExtractSettings:
        return ExtractSettings(**{"media": media, "captions": captions, "out": tmp_path / out} | SMALL | changes)

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
def small() -> dict[str, Any]:
    """Settings of an extraction that takes seconds."""
    return SMALL


@pytest.fixture(scope="session")
def datasets() -> Callable[[Path], dict[str, bytes]]:
    """See `_datasets`."""
    return _datasets


@pytest.fixture(scope="session")
def local(media: Path, captions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One undisturbed local run."""
    out = tmp_path_factory.mktemp("local") / "dataset"
    assert run(ExtractSettings(media=media, captions=captions, out=out, **SMALL)).complete
    return out
