"""A small trained model with its data set in several shards; and made embeddings, without any model."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.clips.rules import ClipSpan
from pipeline.dataset.manifest import manifest_path
from pipeline.search.embeddings import MadeOf, join_parts, write_part
from pipeline.training.settings import TrainSettings
from pipeline.training.train import run

SHARDS = 5
SILENT, MUTE = "nocaption01", "nosound0001"


@dataclass(frozen=True)
class Trained:
    """A model folder, its manifest, and the videos it is asked about."""

    model: Path
    manifest: Path
    videos: dict[str, Any]
    vectors: Any


@pytest.fixture(scope="session")
def trained(
    planted: Any,
    tiny_training: dict[str, Any],
    make_video: Callable[..., Any],
    make_dataset: Callable[..., Path],
    tmp_path_factory: Any,
) -> Trained:
    """The planted videos, one without captions and one without sound; hardly trained, which is enough to embed."""
    folder = tmp_path_factory.mktemp("trained")
    odd = [
        make_video(SILENT, [], 23.0, streams={"resnet152": 24}),
        make_video(MUTE, [(0, 3, "now action1"), (4, 6, "again action2")], 8.0, streams={"resnet152": 24}, sound=False),
    ]
    videos = {video.video_id: video for video in [*planted.videos.values(), *odd]}
    dataset = make_dataset(folder / "dataset", list(videos.values()), planted.vectors, SHARDS)
    manifest = manifest_path(dataset, "all")
    run(
        TrainSettings.flat(
            manifest=manifest, out=folder / "model", scheme="disjoint", min_clip_seconds=3.0, epochs=2, **tiny_training
        )
    )
    return Trained(folder / "model", manifest, videos, planted.vectors)


@pytest.fixture(scope="session")
def make_embeddings() -> Callable[..., Path]:
    """`make_embeddings(path, vectors, present)`: a file of clips of 10 s, ten a video, vectors in space `made`."""

    def make(path: Path, vectors: np.ndarray, present: np.ndarray | None = None, text: bool = False) -> Path:
        modalities = ["video", "text"] if text else ["video"]
        pairs = {"name": "made", "modalities": dict.fromkeys(modalities, "feature"), "pairs": ["video-text"]}
        made_of = MadeOf(
            checkpoint="c" * 64,
            scheme={"name": "made", "spaces": [pairs]},
            manifest={"name": "made", "digest": "d" * 64},
            split="all",
            clips="captions",
            window_seconds=10.0,
            rules={},
            precision=str(vectors.dtype),
            normalised=False,
            widths={"made": dict.fromkeys(modalities, vectors.shape[1])},
        )
        parts = []
        for number, rows in enumerate(np.array_split(np.arange(len(vectors)), 3)):
            spans = [
                (int(row) // 10, ClipSpan(10.0 * (row % 10), 10.0 * (row % 10) + 10, f"said {row}", ())) for row in rows
            ]
            clips = [
                (f"v{v:05d}p{number}", [span for w, span in spans if w == v]) for v in sorted({v for v, _ in spans})
            ]
            there = np.ones(len(rows), bool) if present is None else present[rows]
            batches = [(f"present/{modality}", there) for modality in modalities]
            batches += [(f"vectors/made/{modality}", vectors[rows] * there[:, None]) for modality in modalities]
            parts.append(path.with_name(f"{path.stem}-{number}.h5"))
            write_part(parts[-1], made_of, clips, batches)
        join_parts(path, made_of, {"checkpoint": "nowhere", "manifest": "nowhere"}, parts)
        return path

    return make
