"""A data set in which what is seen and what is heard are planted apart, with its truth, and a model of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.davenet import output_steps
from pipeline.core.records import VideoFeatures
from pipeline.training.settings import TrainSettings
from pipeline.training.train import run as train

SECONDS = 12
COLUMNS = "video_id,second,task_id,kind,step,action,object,background,noise,voice,action_sound,phrase,named,words"


@dataclass(frozen=True)
class PlantedFactors:
    """Backgrounds in the video's rows alone, noises in the sound's alone; each task has steps and words of its own."""

    manifest: Path
    model: Path
    truth: Path
    ids: Path
    steps: Path


def _runs(random: np.random.Generator, levels: int) -> NDArray[np.int64]:
    """A level for each second, in runs of two."""
    return np.repeat(random.integers(0, levels, SECONDS // 2), 2)


@pytest.fixture(scope="package")
def factors(
    tmp_path_factory: pytest.TempPathFactory,
    make_video: Callable[..., VideoFeatures],
    make_dataset: Callable[..., Path],
    make_vectors: Callable[..., Any],
) -> PlantedFactors:
    folder = tmp_path_factory.mktemp("factors")
    random = np.random.default_rng(8)
    looks, sounds = 3 * random.exponential(1, (4, 24)), random.normal(size=(3, 1024))
    videos, truth, ids, steps = [], [COLUMNS], ["video_id,category_1,category_2,rank,task_id"], []
    for number in range(16):
        video_id, task = f"video{number:06d}", number % 4
        shown, heard = _runs(random, 4), _runs(random, 3)
        captions = [(2.0 * k, 2.0 * k + 2, f"task{task} step{k % 2}") for k in range(SECONDS // 2)]
        video = make_video(video_id, captions, float(SECONDS), streams={"resnet152": 24})
        video.video["resnet152"][:] = looks[shown] + random.uniform(0, 1, (SECONDS, 24))
        assert video.audio is not None
        video.audio[:] = sounds[heard] + 0.5 * random.normal(size=(SECONDS, 1024))
        videos.append(video)
        ids.append(f"{video_id},Home,half{task // 2},1,{task}")
        steps += [
            f"{video_id},{task},{k % 2},{start},{end},task{task} step{k % 2}"
            for k, (start, end, _) in enumerate(captions)
        ]
        said = [f"none,none,p,none,task{task} step{k // 2 % 2}" for k in range(SECONDS)]
        truth += [
            f"{video_id},{k},{task},talk,,none,none,bg{shown[k]},noise{heard[k]},{said[k]}" for k in range(SECONDS)
        ]
    words = make_vectors([*(f"task{n}" for n in range(4)), "step0", "step1"])
    dataset = make_dataset(folder / "dataset", videos, words)
    sizes = {"batch_videos": 4, "clips_per_video": 4, "width": 16, "clusters": 4, "queue_rows": 16, "epochs": 2}
    manifest = dataset / "manifests" / "all.json"
    train(
        TrainSettings.flat(
            manifest=manifest, out=folder / "model", device="cpu", min_clip_seconds=0, standardise=True, **sizes
        )
    )
    lists = {
        "truth.csv": truth,
        "ids.csv": ids,
        "steps.csv": ["video_id,task_id,step,start,end,text", *steps],
    }
    for name, lines in lists.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    return PlantedFactors(manifest, folder / "model", *(folder / name for name in lists))


class StandInDaveNet:
    """Sees as far as DaveNet does: step k is a weighted sum of the 420 frames on either side of frame 16 k."""

    width = 1024

    def __init__(self) -> None:
        random = np.random.default_rng(3)
        self._taps, self._bands = random.normal(size=841) / 841, random.normal(size=(40, 1024))

    def steps(self, logmel: NDArray[Any]) -> NDArray[np.float32]:
        """(F, 40) to (ceil(F / 16), 1024)."""
        frames = np.pad(logmel.astype(np.float64) / 80, ((420, 436), (0, 0)))
        taken = [self._taps @ frames[16 * k : 16 * k + 841] for k in range(output_steps(len(logmel)))]
        return np.array(taken, np.float64).reshape(-1, 40).dot(self._bands).astype(np.float32)


class StandInFrameNetwork:
    """A frame's mean colour in squares of its grid."""

    def features(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(n, H, W, 3) to (n, 24): 2 x 4 squares of 3 colours."""
        rows = [np.array_split(part, 4, axis=2) for part in np.array_split(frames, 2, axis=1)]
        return np.concatenate([square.mean(axis=(1, 2)) for row in rows for square in row], axis=1).astype(np.float32)


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that need no weights."""
    from pipeline.evaluation.probe.media_features import MediaFeatures

    monkeypatch.setattr(MediaFeatures, "audio_network", StandInDaveNet())
    monkeypatch.setattr(MediaFeatures, "frame_networks", {"resnet152": StandInFrameNetwork()})
