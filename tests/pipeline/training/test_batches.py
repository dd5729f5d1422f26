"""Batches are the same whoever makes them; what goes wrong in a worker is said as if it had gone wrong here."""

import multiprocessing
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.clips import ClipInputs
from pipeline.clips.dataset import FeatureDataset, collate
from pipeline.clips.rules import ClipRules
from pipeline.core.errors import InputError
from pipeline.core.signals import SIGNALS
from pipeline.training.batches import PermutedCaptions, TrainingBatches, draw_clips

RULES = ClipRules()
VIDEOS, BATCH, CLIPS = 26, 4, 3


@pytest.fixture
def folder(
    tmp_path: Path,
    make_video: Callable[..., Any],
    make_dataset: Callable[..., Path],
    make_vectors: Callable[..., Any],
) -> Path:
    """Five shards; some videos are silent, some rows unseen."""
    generator = np.random.default_rng(0)
    words = [f"word{n}" for n in range(30)]
    videos = []
    for number in range(VIDEOS):
        captions = [(3.0 * n, 3.0 * n + 4, " ".join(generator.choice(words, 5))) for n in range(6)]
        seen = (0, 4) if number % 5 == 0 else ()
        videos.append(make_video(f"video{number:06d}", captions, 20.0, number, sound=number % 4 > 0, masked=seen))
    return make_dataset(tmp_path / "dataset", videos, make_vectors(words[:25]), shards=5)


def batches_of(folder: Path, rules: ClipRules = RULES, cache: int = 0, **changed: Any) -> TrainingBatches:
    dataset = FeatureDataset(folder / "manifests" / "all.json", cache_bytes=cache)
    asked: dict[str, Any] = {"batch_videos": BATCH, "clips_per_video": CLIPS, "seed": 1, "shuffle_shards": 2} | changed
    return TrainingBatches(dataset, dataset.video_ids, dataset.word_vectors(), rules, **asked)


def same(one: ClipInputs, other: ClipInputs) -> bool:
    """To the bit."""
    for field in fields(ClipInputs):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if (a is None) != (b is None) or (a is not None and (a.dtype != b.dtype or not torch.equal(a, b))):
            return False
    return True


def test_a_batch_is_its_videos_clips_one_video_after_another(folder: Path) -> None:
    batches = batches_of(folder)
    dataset = FeatureDataset(folder / "manifests" / "all.json")
    vectors, rules = dataset.word_vectors(), ClipRules()
    assert batches.steps == VIDEOS // BATCH == 6
    shown = []
    for step in range(batches.steps):
        ids = batches.video_ids_of(2, step)
        clips = [clip for i in ids for clip in draw_clips(dataset.video(i, rules), vectors, rules, 1, 2, CLIPS)]
        assert same(batches.batch(2, step), collate(clips, rules, vectors))
        shown += ids
    assert len(set(shown)) == 24, "every video at most once, the incomplete batch dropped"
    with pytest.raises(IndexError):
        batches.video_ids_of(2, 6)


@pytest.mark.parametrize("audio", ["davenet", "logmel", "none"])
def test_batches_are_the_same_to_the_bit_whatever_makes_them(folder: Path, audio: Any) -> None:
    rules = ClipRules(audio=audio, logmel_frames=50)
    alone = list(batches_of(folder, rules).load(1, 0, 0))
    assert len(alone) == 6 and not same(alone[0], alone[1])
    batches = batches_of(folder, rules, cache=1 << 20)
    for workers, first in ((0, 0), (1, 0), (2, 0), (2, 4), (0, 2), (9, 5)):
        made = list(batches.load(1, first, workers))
        assert len(made) == 6 - first
        assert all(same(a, b) for a, b in zip(made, alone[first:], strict=True))
    assert not same(next(batches.load(0, 0, 0)), alone[0])
    assert list(batches.load(1, 6, 2)) == []


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_a_batch_by_its_videos(folder: Path, processes: int) -> None:
    whole = batches_of(folder)
    shares = [batches_of(folder, rank=rank, processes=processes) for rank in range(processes)]
    assert {share.steps for share in shares} == {whole.steps}
    for step in range(whole.steps):
        assert {tuple(share.video_ids_of(0, step)) for share in shares} == {tuple(whole.video_ids_of(0, step))}
        parts = [share.batch(0, step) for share in shares]
        size = BATCH * CLIPS // processes
        assert all(same(part, whole.batch(0, step)[n * size : (n + 1) * size]) for n, part in enumerate(parts))
    with pytest.raises(ValueError, match="a batch of 4 videos can't be shared by 3 processes"):
        batches_of(folder, processes=3)


def test_permuted_captions_reach_the_workers(folder: Path) -> None:
    dataset = FeatureDataset(folder / "manifests" / "all.json")
    permuted = PermutedCaptions(dataset, dataset.video_ids, seed=1)
    plain, control = batches_of(folder), batches_of(folder, permuted=permuted)
    for mine, theirs in zip(control.load(0, 0, 2), plain.load(0, 0, 0), strict=True):
        assert torch.equal(mine.video, theirs.video) and not torch.equal(mine.words, theirs.words)


def test_workers_leave_the_random_state_alone(folder: Path) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    assert len(list(batches_of(folder).load(0, 0, 2))) == 6
    assert torch.equal(torch.rand(3), wanted)


def begun(folder: Path) -> tuple[Iterator[ClipInputs], list[int]]:
    """Batches of which one was taken, and their workers."""
    batches = batches_of(folder, batch_videos=1).load(0, 0, 2)
    next(batches)
    workers = [child.pid for child in multiprocessing.active_children() if child.pid is not None]
    assert len(workers) == 2
    return batches, workers


def test_signals_to_the_whole_group_lose_no_batch(folder: Path) -> None:
    wanted = list(batches_of(folder, batch_videos=1).load(0, 0, 0))
    batches, workers = begun(folder)
    for number in SIGNALS:
        subprocess.run(["kill", f"-{number.value}", *map(str, workers)], check=True)
    rest = list(batches)
    assert len(rest) == VIDEOS - 1 and all(same(a, b) for a, b in zip(rest, wanted[1:], strict=True))


def test_workers_end_with_their_iterator(folder: Path) -> None:
    batches, workers = begun(folder)
    del batches
    assert not multiprocessing.active_children()
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


def test_a_worker_that_dies_is_told_of_in_one_line(folder: Path) -> None:
    batches, workers = begun(folder)
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    with pytest.raises(InputError, match=r"all\.json: a process that reads clips has died .*--workers") as raised:
        list(batches)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "reason"), [(ConnectionResetError("connection reset"), "connection reset"), (EOFError(), "EOFError")]
)
def test_a_worker_that_dies_while_it_hands_a_batch_over_is_told_of_alike(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def broken(step: int) -> None:
        raise error

    monkeypatch.setattr("pipeline.training.batches.DataLoader", lambda *_, **__: map(broken, range(6)))
    with pytest.raises(InputError, match=rf"a process that reads clips has died \({reason}\): .*--workers"):
        next(batches_of(folder).load(0, 0, 2))


@pytest.mark.parametrize("error", [OSError("of its own"), RuntimeError("of its own")])
def test_an_unforeseen_error_in_a_worker_is_no_death(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr("pipeline.training.batches.draw_clips", broken)
    with pytest.raises(type(error), match="of its own"):
        next(batches_of(folder).load(0, 0, 2))


def test_without_room_in_shared_memory_training_ends(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensor: torch.Tensor) -> None:
        raise RuntimeError("unable to allocate shared memory(shm)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    with pytest.raises(InputError, match=r"all\.json: no shared memory .*unable to allocate.*lower --workers"):
        next(batches_of(folder).load(0, 0, 2))


@pytest.mark.parametrize("fault", ["gone", "cut"])
def test_a_shard_that_vanishes_is_told_of_as_without_workers(folder: Path, fault: str) -> None:
    batches = batches_of(folder)
    path = folder / "shards" / "000003.h5"
    if fault == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-5000])
    messages = set()
    for workers in (0, 2):
        with pytest.raises(InputError, match=r"000003\.h5: .*mcn verify") as raised:
            list(batches.load(0, 0, workers))
        messages.add(str(raised.value))
        assert not multiprocessing.active_children()
    assert len(messages) == 1 and len(messages.pop().splitlines()) == 1
