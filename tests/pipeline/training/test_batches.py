"""Draws depend on their keys alone; batches are the same whoever makes them; a fault in a worker is told as here."""

import multiprocessing
import os
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from models.clips import ClipInputs
from pipeline.clips.cutting import ClipFeatures, collate
from pipeline.clips.dataset import FeatureDataset
from pipeline.clips.rules import ClipRules
from pipeline.core.errors import InputError
from pipeline.core.signals import SIGNALS
from pipeline.training.batches import PermutedCaptions, TrainingBatches, draw_clips, epoch_order

RULES = ClipRules()
VIDEOS, BATCH, CLIPS = 26, 4, 3


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
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
    return make_dataset(tmp_path_factory.mktemp("batches") / "dataset", videos, make_vectors(words[:25]), shards=5)


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


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loader that waits looks every 0.1 s whether its workers live, and not every 5 s."""
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.1,))


def test_a_worker_that_dies_during_a_step_disturbs_nothing_but_the_next_batch(folder: Path, looks_often: None) -> None:
    """PyTorch's handler would raise in the middle of the step."""
    before = signal.getsignal(signal.SIGCHLD)
    batches, _ = begun(folder)
    assert signal.getsignal(signal.SIGCHLD) == before
    for worker in multiprocessing.active_children():
        worker.kill()
        worker.join()  # the signal has come by then
    with pytest.raises(InputError, match="a process that reads clips has died"):
        list(batches)
    assert not multiprocessing.active_children()


def test_a_worker_that_dies_while_another_error_goes_up_leaves_that_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, looks_often: None
) -> None:
    """A worker finds a damaged shard, and dies before its message has been raised."""
    batches, workers = begun(folder)
    damaged = InputError("000001.h5: damaged")

    def refused(self: Any, loader: Any) -> ClipInputs:
        for worker in multiprocessing.active_children():
            worker.kill()
            worker.join()
        raise damaged

    monkeypatch.setattr(TrainingBatches, "_next", refused)
    with pytest.raises(InputError) as raised:
        next(batches)
    assert raised.value is damaged and not multiprocessing.active_children()


def test_a_worker_that_dies_is_told_of_in_one_line(folder: Path, looks_often: None) -> None:
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
def test_a_shard_that_vanishes_is_told_of_as_without_workers(folder: Path, tmp_path: Path, fault: str) -> None:
    spoilt = Path(shutil.copytree(folder, tmp_path / "dataset"))
    batches = batches_of(spoilt)
    path = spoilt / "shards" / "000003.h5"
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


NO_SHORTEST = ClipRules(min_clip_seconds=0.0)
SHARDS = [[f"video{shard}{n:05d}" for n in range(5 + shard % 3)] for shard in range(10)]
IDS = [video_id for shard in SHARDS for video_id in shard]


def test_an_epoch_has_every_video_once() -> None:
    for shuffled in (1, 3, 10, 64):
        order = epoch_order(SHARDS, 1, 0, shuffled)
        assert len(order) == len(IDS) and set(order) == set(IDS)


def test_videos_are_shuffled_among_so_many_shards_at_a_time() -> None:
    shard_of = {video_id: shard for shard, ids in enumerate(SHARDS) for video_id in ids}
    order = [shard_of[video_id] for video_id in epoch_order(SHARDS, 1, 0, 3)]
    places = {shard: [n for n, other in enumerate(order) if other == shard] for shard in range(10)}
    # Every window is three whole shards, the last one the shard that is left.
    begun = sorted(range(10), key=lambda shard: places[shard][0])
    windows = [set(begun[first : first + 3]) for first in (0, 3, 6, 9)]
    for earlier, later in pairwise(windows):
        assert max(max(places[shard]) for shard in earlier) < min(min(places[shard]) for shard in later)
    for window in windows[:3]:
        inside = [shard for shard in order if shard in window]
        assert sum(a != b for a, b in pairwise(inside)) > 5, "the window's videos are mixed"


def test_other_epochs_bring_other_shards_together() -> None:
    shard_of = {video_id: shard for shard, ids in enumerate(SHARDS) for video_id in ids}
    together: Counter[frozenset[int]] = Counter()
    for epoch in range(600):
        size = {shard: len(ids) for shard, ids in enumerate(SHARDS)}
        order = [shard_of[video_id] for video_id in epoch_order(SHARDS, 1, epoch, 2)]
        while order:
            window = {order[0], next(shard for shard in order if shard != order[0])}
            together[frozenset(window)] += 1
            order = order[sum(size[shard] for shard in window) :]
    # 600 epochs with 5 pairs each, of 45 pairs: 67 times each, standard deviation 8.
    assert len(together) == 45 and min(together.values()) > 30 and max(together.values()) < 105


def test_with_few_shards_the_shuffle_is_full_and_knows_nothing_of_them() -> None:
    order = epoch_order(SHARDS, 1, 0, 10)
    assert order == epoch_order([IDS], 1, 0, 1) == epoch_order([IDS[20:], IDS[:20][::-1]], 1, 0, 2)
    assert order != epoch_order(SHARDS, 1, 0, 9)


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int, shards: list[list[str]] = SHARDS) -> list[str]:
        return epoch_order(shards, seed, epoch, 3)

    assert order(1, 3) == order(1, 3, [shard[::-1] for shard in SHARDS])
    assert order(1, 3) != order(1, 4) and order(1, 3) != order(2, 3)
    # (seed, epoch) is a pair, not a sum or a joined number.
    assert order(1, 11) != order(11, 1)


def test_over_epochs_every_video_comes_last_as_often_as_any_other() -> None:
    """Those are the ones that an incomplete batch would drop."""
    for shuffled in (3, 10):
        last = Counter(i for epoch in range(1200) for i in epoch_order(SHARDS, 0, epoch, shuffled)[-6:])
        # 1200 epochs x 6 of 59: 122 times each; shards of 5 to 7 videos differ by chance and by their size.
        assert len(last) == len(IDS) and min(last.values()) > 80 and max(last.values()) < 170


@pytest.fixture(scope="module")
def dataset(planted: Any) -> FeatureDataset:
    return FeatureDataset(planted.manifest)


def drawn(dataset: FeatureDataset, planted: Any, video_id: str = "train000003", **changed: Any) -> list[ClipFeatures]:
    asked = {"seed": 1, "epoch": 0, "clips": 40, "rules": NO_SHORTEST} | changed
    return draw_clips(dataset.video(video_id, NO_SHORTEST), planted.vectors, **asked)


def spoken(clip: ClipFeatures, planted: Any) -> list[str]:
    """The words that a clip's rows of vectors stand for."""
    return [planted.vectors.index_to_key[row] for row in clip.words]


def spans(clips: list[ClipFeatures]) -> list[tuple[float, float]]:
    return [(clip.start, clip.end) for clip in clips]


def test_draws_depend_on_seed_epoch_and_video(dataset: FeatureDataset, planted: Any) -> None:
    first = spans(drawn(dataset, planted))
    assert first == spans(drawn(dataset, planted))
    assert spans(drawn(dataset, planted, clips=10)) == first[:10], "draw n is the same however many are asked for"
    for changed in ({"seed": 2}, {"epoch": 1}, {"video_id": "train000004"}):
        assert spans(drawn(dataset, planted, **changed)) != first


def test_draws_are_those_of_a_pair_of_seed_and_epoch(dataset: FeatureDataset, planted: Any) -> None:
    """Neither of their sum nor of their digits side by side."""
    for one, other in (((1, 2), (2, 1)), ((1, 12), (11, 2)), ((1, 0), (0, 1))):
        first, second = (spans(drawn(dataset, planted, seed=seed, epoch=epoch)) for seed, epoch in (one, other))
        assert first != second


def test_every_caption_is_drawn_alike(dataset: FeatureDataset, planted: Any) -> None:
    counts = Counter(spans(drawn(dataset, planted, clips=4000)))
    captions = planted.videos["train000003"].captions
    assert counts.keys() == {(caption.start, caption.end) for caption in captions}
    assert all(abs(count - 4000 / len(captions)) < 5 * (4000 / len(captions)) ** 0.5 for count in counts.values())


def test_a_clip_has_its_captions_rows_and_words(dataset: FeatureDataset, planted: Any) -> None:
    video = planted.videos["train000003"]
    for clip in drawn(dataset, planted):
        (caption,) = (caption for caption in video.captions if caption.start == clip.start)
        rows = video.video["resnet152"][int(clip.start) : int(clip.end)]
        np.testing.assert_array_equal(clip.video, rows.max(axis=0))
        assert spoken(clip, planted) == caption.text.split()


def test_words_without_a_vector_are_left_out(dataset: FeatureDataset, planted: Any, make_vectors: Any) -> None:
    captions = {caption.start: caption.text.split() for caption in planted.videos["train000003"].captions}
    said = sorted({word for words in captions.values() for word in words})
    vectors = make_vectors(said[::2])
    clips = draw_clips(dataset.video("train000003", NO_SHORTEST), vectors, NO_SHORTEST, seed=1, epoch=0, clips=40)
    for clip in clips:
        known = [word for word in captions[clip.start] if word in vectors]
        assert [vectors.index_to_key[row] for row in clip.words] == known
    assert 0 < sum(len(clip.words) for clip in clips) < sum(len(captions[clip.start]) for clip in clips)


def test_grown_clips_begin_with_the_words_of_the_caption_drawn(dataset: FeatureDataset, planted: Any) -> None:
    video = planted.videos["train000003"]
    seeds = spans(drawn(dataset, planted))
    for seed, clip in zip(seeds, drawn(dataset, planted, rules=ClipRules(min_clip_seconds=6.0)), strict=True):
        assert clip.end - clip.start >= 6 and clip.start <= seed[0] < seed[1] <= clip.end
        inside = [c for c in video.captions if clip.start <= c.start and c.end <= clip.end]
        order = sorted(inside, key=lambda c: (c.start != seed[0], c.start))
        assert spoken(clip, planted) == [word for caption in order for word in caption.text.split()]
        assert len(drawn(dataset, planted, rules=ClipRules(min_clip_seconds=6.0, max_words=4))[0].words) == 4


def test_permuting_keeps_all_captions_and_changes_whose_they_are(dataset: FeatureDataset, planted: Any) -> None:
    ids = [video_id for video_id in planted.videos if video_id.startswith("train")]
    permuted = PermutedCaptions(dataset, ids, seed=1)

    def texts(of: Any) -> list[tuple[str, ...]]:
        return [tuple(of(dataset.video(i, NO_SHORTEST), n)) for i in sorted(ids) for n in range(8)]

    true = texts(lambda video, n: video.words.of_caption(n))
    found = texts(permuted.of_caption)
    assert Counter(found) == Counter(true)
    # With 16 texts a caption keeps its own by chance one time in 16.
    assert sum(a == b for a, b in zip(true, found, strict=True)) < 20
    assert found == texts(PermutedCaptions(dataset, ids[::-1], seed=1).of_caption)
    assert found != texts(PermutedCaptions(dataset, ids, seed=2).of_caption)
    plain, control = drawn(dataset, planted), drawn(dataset, planted, permuted=permuted)
    assert spans(plain) == spans(control)
    assert any(a.words != b.words for a, b in zip(plain, control, strict=True))
