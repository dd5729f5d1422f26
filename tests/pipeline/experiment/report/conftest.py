"""A finished study of planted clips: two arms that know texts, one that doesn't, two seeds each."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import yaml

from pipeline.core import figures
from pipeline.experiment import compare, training_runs
from pipeline.experiment.report.results import Study, read_study
from pipeline.experiment.settings import StudySettings


@dataclass(frozen=True)
class Finished:
    """A study's folder, media of its videos, and what a public report must not hold."""

    folder: Path
    media: Path
    texts: frozenset[str]
    video_ids: frozenset[str]


def film(path: Path) -> None:
    """Eight seconds at 2 fps, 64x48, of one grey."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=2)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(16):
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 120, np.uint8), format="rgb24"))
            )
        container.mux(stream.encode())


@pytest.fixture(scope="session")
def finished(
    planted: Any,
    tiny_training: dict[str, Any],
    train_here: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Finished:
    folder = tmp_path_factory.mktemp("report")
    texts: set[str] = set()

    def shown(text: str) -> str:
        # What comes from outside must stay text.
        said = f"{text} <b>& more</b>"
        texts.add(said)
        return said

    steps = folder / "steps.csv"
    lines = [
        f"{i},task{ord(i[-1]) % 2},{place},{c.start},{c.end},verb{int(c.text.split()[1][6:]) % 14},{shown(c.text)}\n"
        for i, video in planted.videos.items()
        for place, c in enumerate(video.captions)
    ]
    steps.write_text("video_id,task_id,step,start,end,action,text\n" + "".join(lines))
    ids = [f"{i},Home,half,{place},{ord(i[-1]) % 2}\n" for place, i in enumerate(planted.videos)]
    (folder / "ids.csv").write_text("video_id,category_1,category_2,rank,task_id\n" + "".join(ids))
    probe = {"ids": str(folder / "ids.csv"), "window_seconds": 2, "windows_per_video": 2}
    content = {
        "out": str(folder / "out"),
        "train": {"manifest": str(planted.manifest), "workers": 0, "epochs": 3} | tiny_training,
        "evaluate": {"clips": str(steps), "bootstrap": 10},
        "localize": {"annotations": str(steps), "bootstrap": 10, "chance_draws": 5},
        "probe": probe | {"permutations": 1, "bootstrap": 10},
        "compare": {"arms": ["disjoint", "shared", "video-audio"], "reference": "shared", "seeds": [1, 2]},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(content))
    (folder / "media").mkdir()
    for video_id in planted.videos:
        film(folder / "media" / f"{video_id}.mp4")
    settings = StudySettings.load(folder / "study.yaml")
    with pytest.MonkeyPatch.context() as patch:
        # The tests write their own.
        patch.setattr(compare, "_write_report", lambda settings: True)
        patch.setattr(training_runs.Pool, "work", train_here)
        assert compare.run(settings).complete
    return Finished(settings.out, folder / "media", frozenset(texts), frozenset(planted.videos))


@pytest.fixture(scope="session")
def study(finished: Finished) -> Study:
    return read_study(finished.folder)


@pytest.fixture
def sketched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made, and not drawn: that takes most of a report's time."""
    monkeypatch.setattr(figures, "lay_out", lambda figure: None)
    monkeypatch.setattr(figures, "as_svg", lambda figure, title: "<svg></svg>")
    monkeypatch.setattr(figures, "as_pdf", lambda figure, title, command: f"%PDF /Subject ({command})".encode())


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Callable[[], Path]:
    """`copied()`: the study's folder anew, to be spoilt."""

    def copy() -> Path:
        return Path(shutil.copytree(finished.folder, tmp_path / "study"))

    return copy
