"""Draws of clips depend on their keys alone; an epoch reads few shards at once; permuting keeps every word and time."""

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from pipeline.clips.dataset import ClipFeatures, FeatureDataset
from pipeline.clips.rules import ClipRules
from pipeline.training.batches import PermutedCaptions, draw_clips, epoch_order

RULES = ClipRules(min_seconds=0.0)
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
    asked = {"seed": 1, "epoch": 0, "clips": 40, "rules": RULES} | changed
    return draw_clips(dataset.video(video_id, RULES), planted.vectors, **asked)


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
    clips = draw_clips(dataset.video("train000003", RULES), vectors, RULES, seed=1, epoch=0, clips=40)
    for clip in clips:
        known = [word for word in captions[clip.start] if word in vectors]
        assert [vectors.index_to_key[row] for row in clip.words] == known
    assert 0 < sum(len(clip.words) for clip in clips) < sum(len(captions[clip.start]) for clip in clips)


def test_grown_clips_begin_with_the_words_of_the_caption_drawn(dataset: FeatureDataset, planted: Any) -> None:
    video = planted.videos["train000003"]
    seeds = spans(drawn(dataset, planted))
    for seed, clip in zip(seeds, drawn(dataset, planted, rules=ClipRules(min_seconds=6.0)), strict=True):
        assert clip.end - clip.start >= 6 and clip.start <= seed[0] < seed[1] <= clip.end
        inside = [c for c in video.captions if clip.start <= c.start and c.end <= clip.end]
        order = sorted(inside, key=lambda c: (c.start != seed[0], c.start))
        assert spoken(clip, planted) == [word for caption in order for word in caption.text.split()]
        assert len(drawn(dataset, planted, rules=ClipRules(min_seconds=6.0, max_words=4))[0].words) == 4


def test_permuting_keeps_all_captions_and_changes_whose_they_are(dataset: FeatureDataset, planted: Any) -> None:
    ids = [video_id for video_id in planted.videos if video_id.startswith("train")]
    permuted = PermutedCaptions(dataset, ids, seed=1)

    def texts(of: Any) -> list[tuple[str, ...]]:
        return [tuple(of(dataset.video(i, RULES), n)) for i in sorted(ids) for n in range(8)]

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
