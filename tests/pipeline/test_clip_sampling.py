"""Draws of clips depend on their keys alone; permuting captions keeps every word and every time."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from pipeline.clip_sampling import PermutedCaptions, draw_clips, epoch_batches
from pipeline.dataset import ClipFeatures, FeatureDataset

IDS = [f"video{n:06d}" for n in range(23)]


def test_an_epoch_shows_every_video_at_most_once_in_full_batches() -> None:
    batches = list(epoch_batches(IDS, 5, seed=1, epoch=0))
    assert [len(batch) for batch in batches] == [5] * 4
    shown = [video_id for batch in batches for video_id in batch]
    assert len(set(shown)) == 20 and set(shown) <= set(IDS)
    assert len(list(epoch_batches(IDS, 23, 1, 0))) == 1 and not list(epoch_batches(IDS, 24, 1, 0))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int, ids: list[str] = IDS) -> list[list[str]]:
        return list(epoch_batches(ids, 5, seed, epoch))

    assert order(1, 3) == order(1, 3, IDS[::-1])
    assert order(1, 3) != order(1, 4) and order(1, 3) != order(2, 3)
    # (seed, epoch) is a pair, not a sum or a joined number.
    assert order(1, 11) != order(11, 1)


def test_over_epochs_every_video_is_dropped_as_often_as_any_other() -> None:
    shown = Counter(i for epoch in range(300) for batch in epoch_batches(IDS, 5, 0, epoch) for i in batch)
    # 300 epochs x 20 of 23: 261 times each, standard deviation below 6.
    assert min(shown.values()) > 235 and max(shown.values()) < 287


@pytest.fixture(scope="module")
def dataset(planted: Any) -> FeatureDataset:
    return FeatureDataset(planted.manifest)


def drawn(dataset: FeatureDataset, planted: Any, video_id: str = "train000003", **changed: Any) -> list[ClipFeatures]:
    asked = {"seed": 1, "epoch": 0, "clips": 40, "min_seconds": 0.0, "max_words": 20} | changed
    return draw_clips(dataset.video(video_id, ("resnet152",)), planted.vectors, **asked)


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
        np.testing.assert_array_equal(clip.video, rows.astype(np.float32))
        np.testing.assert_array_equal(clip.words, np.stack([planted.vectors[word] for word in caption.text.split()]))


def test_grown_clips_begin_with_the_words_of_the_caption_drawn(dataset: FeatureDataset, planted: Any) -> None:
    video = planted.videos["train000003"]
    seeds = spans(drawn(dataset, planted))
    for seed, clip in zip(seeds, drawn(dataset, planted, min_seconds=6.0), strict=True):
        assert clip.end - clip.start >= 6 and clip.start <= seed[0] < seed[1] <= clip.end
        inside = [c for c in video.captions if clip.start <= c.start and c.end <= clip.end]
        order = sorted(inside, key=lambda c: (c.start != seed[0], c.start))
        words = [word for caption in order for word in caption.text.split()]
        np.testing.assert_array_equal(clip.words, np.stack([planted.vectors[word] for word in words]))
        assert len(drawn(dataset, planted, min_seconds=6.0, max_words=4)[0].words) == 4


def test_permuting_keeps_all_captions_and_changes_whose_they_are(dataset: FeatureDataset, planted: Any) -> None:
    ids = [video_id for video_id in planted.videos if video_id.startswith("train")]
    permuted = PermutedCaptions(dataset, ids, ("resnet152",), seed=1)

    def texts(of: Any) -> list[tuple[str, ...]]:
        return [tuple(of(dataset.video(i, ("resnet152",)), n)) for i in sorted(ids) for n in range(8)]

    true = texts(lambda video, n: video.words.of_caption(n))
    found = texts(permuted.of_caption)
    assert Counter(found) == Counter(true)
    # With 16 texts a caption keeps its own by chance one time in 16.
    assert sum(a == b for a, b in zip(true, found, strict=True)) < 20
    assert found == texts(PermutedCaptions(dataset, ids[::-1], ("resnet152",), seed=1).of_caption)
    assert found != texts(PermutedCaptions(dataset, ids, ("resnet152",), seed=2).of_caption)
    plain, control = drawn(dataset, planted), drawn(dataset, planted, permuted=permuted)
    assert spans(plain) == spans(control)
    assert any(not np.array_equal(a.words, b.words) for a, b in zip(plain, control, strict=True))
