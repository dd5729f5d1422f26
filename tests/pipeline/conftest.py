"""Made features, no media: videos with planted structure, written by the product's own writers."""

import dataclasses
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gensim.models import KeyedVectors

from extractors.text import vectors_digest
from extractors.word_vector_file import save_vectors
from pipeline.core.files import write_json
from pipeline.core.records import Caption, VideoFeatures, Words
from pipeline.dataset.freeze import run as freeze
from pipeline.dataset.manifest import FreezeSettings, manifest_path
from pipeline.dataset.shard_plans import hash_order, make_receipt, read_plan, write_plans
from pipeline.dataset.shard_writer import Origin, write_part, write_shard

STREAMS = {"resnet152": 24, "efficientnet-lite0": 12}
WORD_WIDTH = 16


def _identity(streams: dict[str, int], **audio: Any) -> dict[str, Any]:
    return {
        "schema": 1,
        "feature_fps": 1,
        "frame_size": "short-256",
        "streams": {
            name: {"network": name, "weights": "0" * 64, "view": "full", "precision": "fp32", "width": width}
            for name, width in streams.items()
        },
        "audio": {"sample_rate": 16000, "rate": "rows", "store": "both", "weights": "1" * 64, "precision": "fp32"}
        | audio,
        "captions": {"source": "caption.json", "rule": "published"},
    }


def _words(lines: Sequence[Sequence[str]]) -> Words:
    table = tuple(sorted({word for line in lines for word in line}))
    ids = np.array([table.index(word) for line in lines for word in line], np.int32)
    return Words(table, ids, np.cumsum([0, *map(len, lines)]).astype(np.int64))


def _video(
    video_id: str,
    captions: Iterable[tuple[float, float, str]] = (),
    seconds: float = 6.5,
    seed: int = 0,
    streams: dict[str, int] = STREAMS,
    sound: bool = True,
    masked: Sequence[int] = (),
) -> VideoFeatures:
    """A video of random rows; words are the texts split at spaces; `masked` rows are zero."""
    generator = np.random.default_rng([seed, *video_id.encode()])
    rows = int(np.ceil(seconds))
    mask = ~np.isin(np.arange(rows), masked)
    lines = tuple(Caption(*caption) for caption in captions)
    frames = 7 + seed if sound else 0
    return VideoFeatures(
        video_id=video_id,
        duration=seconds,
        feature_fps=1,
        video={
            name: (np.abs(generator.normal(size=(rows, width))) * mask[:, None]).astype(np.float16)
            for name, width in streams.items()
        },
        video_mask=mask,
        audio=(generator.normal(size=(rows, 1024)) * sound).astype(np.float16),
        audio_mask=np.full(rows, sound),
        logmel=-generator.uniform(0, 80, (frames, 40)).astype(np.float16),
        logmel_start=0.125 if sound else 0.0,
        captions=lines,
        words=_words([caption.text.split() for caption in lines]),
        decoder="decord" if sound else "decord+pyav",
    )


def _dataset(
    folder: Path,
    videos: Sequence[VideoFeatures],
    vectors: KeyedVectors | None = None,
    shards: int = 2,
    identity: dict[str, Any] | None = None,
) -> Path:
    """A data set folder as extraction leaves it, with manifest `all`, in which every video is trained on."""
    if identity is None:
        identity = _identity({name: rows.shape[1] for name, rows in videos[0].video.items()})
    by_id = {video.video_id: video for video in videos}
    order = sorted(by_id, key=hash_order)
    cuts = [part.tolist() for part in np.array_split(order, shards)]
    folder.mkdir(parents=True, exist_ok=True)
    digest = ""
    if vectors is not None:
        save_vectors(vectors, folder / "words.kv")
        digest = vectors_digest(vectors)
    write_json(folder / "dataset.json", {"identity": identity, "words": digest, "settings": {}, "announcements": []})
    for name in write_plans(folder / "plans", cuts):
        plan = read_plan(folder / "plans", name)
        parts = [folder / "parts" / name / f"{video_id}.h5" for video_id in plan.video_ids]
        for part in parts:
            write_part(part, by_id[part.stem], Origin(name, identity, {}))
        write_shard(folder / "shards" / f"{name}.h5", parts, Origin(name, identity, {}, plan.digest))
        for part in parts:
            part.unlink()
        parts[0].parent.rmdir()
        make_receipt(folder, name, {})
    freeze(FreezeSettings(folder, "all", heldout_videos=0, heldout_tasks=0))
    return folder


def _vectors(words: Sequence[str], seed: int = 0) -> KeyedVectors:
    vectors = KeyedVectors(WORD_WIDTH)
    values = np.random.default_rng(seed).normal(size=(len(words), WORD_WIDTH)).astype(np.float32)
    vectors.add_vectors(list(words), values)
    return vectors


@pytest.fixture(scope="session")
def tiny_training() -> dict[str, Any]:
    """Settings of a training of a second or two: all but epochs, data and folder."""
    return {"batch_videos": 4, "clips_per_video": 4, "width": 8, "clusters": 4, "queue_rows": 16, "device": "cpu"}


@dataclass(frozen=True)
class Planted:
    """A data set in which what is said, shown and heard belong together."""

    folder: Path
    manifest: Path
    clips: Path
    videos: dict[str, VideoFeatures]
    vectors: KeyedVectors
    actions: int


def _planted_video(video_id: str, actions: Sequence[int], looks: np.ndarray, sounds: np.ndarray) -> VideoFeatures:
    """One caption of 2 s for each action, with its word, its look in the rows and its sound."""
    captions = [(2.0 * place, 2.0 * place + 2, f"now action{action} again") for place, action in enumerate(actions)]
    video = _video(video_id, captions, 2.0 * len(actions), streams={"resnet152": looks.shape[1]})
    shown = np.repeat(actions, 2)
    noise = np.random.default_rng([1, *video_id.encode()]).uniform(0, 0.2, (len(shown), looks.shape[1]))
    assert video.audio is not None
    video.video["resnet152"][:] = looks[shown] + noise
    video.audio[:] = sounds[shown]
    return video


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planted]:
    """12 training videos of random actions; 4 held-out videos in which each of 16 actions happens once.

    Shared by all tests of a worker: a test that adds a manifest asks for `planted_copy`.
    """
    folder = tmp_path_factory.mktemp("planted")
    generator = np.random.default_rng(5)
    actions = 16
    looks, sounds = generator.exponential(1, (actions, 24)) ** 2, 0.05 * generator.normal(size=(actions, 1024))
    shown = {f"train{n:06d}": np.roll(generator.permutation(actions), n)[:8].tolist() for n in range(12)}
    shown |= {f"heldout{n:04d}": part.tolist() for n, part in enumerate(generator.permutation(actions).reshape(4, 4))}
    videos = {video_id: _planted_video(video_id, acts, looks, sounds) for video_id, acts in shown.items()}
    vectors = _vectors(["now", "again", *(f"action{n}" for n in range(actions))])
    dataset = _dataset(folder / "dataset", list(videos.values()), vectors)
    split = folder / "split.csv"
    split.write_text("video_id,split\n" + "".join(f"{i},{i.rstrip('0123456789')}\n" for i in videos))
    freeze(FreezeSettings(dataset, "planted", split=split))
    clips = folder / "clips.csv"
    lines = [f"{i},{c.start},{c.end},{c.text}\n" for i, v in videos.items() for c in v.captions]
    clips.write_text("video_id,start,end,text\n" + "".join(lines))
    before = sorted(folder.rglob("*"))
    yield Planted(dataset, manifest_path(dataset, "planted"), clips, videos, vectors, actions)
    assert sorted(folder.rglob("*")) == before, "a test wrote into the data set that all of them share"


@pytest.fixture
def planted_copy(planted: Planted, tmp_path: Path) -> Planted:
    """`planted` in a folder of the test's own."""
    folder = shutil.copytree(planted.folder, tmp_path / "planted")
    return dataclasses.replace(planted, folder=folder, manifest=manifest_path(folder, planted.manifest.stem))


@pytest.fixture(scope="session")
def make_video() -> Callable[..., VideoFeatures]:
    """`make_video(video_id, captions, ...)`: see `_video`."""
    return _video


@pytest.fixture(scope="session")
def make_identity() -> Callable[..., dict[str, Any]]:
    """`make_identity({stream: width}, rate=..., store=...)`."""
    return _identity


@pytest.fixture(scope="session")
def make_dataset() -> Callable[..., Path]:
    """`make_dataset(folder, videos, vectors)`: see `_dataset`."""
    return _dataset


@pytest.fixture(scope="session")
def make_vectors() -> Callable[..., KeyedVectors]:
    """`make_vectors(words, seed)`: random vectors, 16 wide."""
    return _vectors
