"""The data set as training sees it: rows of a clip, words with vectors, batches."""

import dataclasses
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dataset import ClipFeatures, FeatureDataset, clip_rows, collate, cut_clip, grow_clip, vectors_of
from pipeline.errors import InputError
from pipeline.freeze import FreezeSettings
from pipeline.freeze import run as freeze
from pipeline.records import Caption

DIVISORS = [1, 2, 3, 5, 6, 10, 15, 30]


def rows_by_the_page(start: Fraction, end: Fraction, fps: int, rows: int) -> list[int]:
    """Rows whose time lies in [start, end); without one, the row on screen at the start."""
    inside = [k for k in range(rows) if start <= Fraction(k, fps) < end]
    shown = [k for k in range(rows) if Fraction(k, fps) <= start < Fraction(k + 1, fps)]
    between = not inside
    return shown if between else inside


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2000), st.integers(1, 1500), st.sampled_from(DIVISORS), st.integers(0, 40))
def test_a_clips_rows_are_those_of_the_page(start: int, length: int, fps: int, rows: int) -> None:
    first, last = Fraction(start, 100), Fraction(start + length, 100)
    found = clip_rows(float(first), float(last), fps, rows)
    assert list(range(rows))[found] == rows_by_the_page(first, last, fps, rows)


@pytest.mark.parametrize(
    ("start", "end", "rows"),
    [
        (0.0, 3.0, [0, 1, 2]),
        (0.5, 3.0, [1, 2]),
        (0.0, 3.1, [0, 1, 2, 3]),
        (1.2, 1.8, [1]),
        (4.2, 4.9, [4]),
        (4.0, 9.0, [4]),
        (5.0, 9.0, []),
    ],
)
def test_rows_of_clips_of_a_video_of_5_rows(start: float, end: float, rows: list[int]) -> None:
    assert list(range(5))[clip_rows(start, end, 1, 5)] == rows


def grown_by_hand(captions: list[Caption], chosen: int, least: float) -> tuple[int, int]:
    """Neighbours taken one by one, always the one that leaves the clip shorter, the earlier one on a tie."""
    first = last = chosen
    while captions[last].end - captions[first].start < least:
        spans = []
        if first > 0:
            spans.append((captions[last].end - captions[first - 1].start, 0))
        if last + 1 < len(captions):
            spans.append((captions[last + 1].end - captions[first].start, 1))
        if not spans:
            break
        later = min(spans)[1]
        first, last = (first, last + 1) if later else (first - 1, last)
    return first, last


def test_captions_grow_by_the_nearer_neighbour() -> None:
    generator = np.random.default_rng(0)
    for _ in range(300):
        times = np.sort(generator.integers(0, 40, (generator.integers(1, 9), 2)), axis=1).astype(float)
        captions = [Caption(start, end + 1, "x") for start, end in sorted(times.tolist())]
        chosen, least = int(generator.integers(len(captions))), float(generator.integers(0, 25))
        assert grow_clip(captions, chosen, least) == grown_by_hand(captions, chosen, least)


def test_words_without_a_vector_are_left_out_in_order(make_vectors: Callable[..., Any]) -> None:
    vectors = make_vectors(["a", "b"])
    found = vectors_of(["b", "zzz", "a", "b"], vectors)
    np.testing.assert_array_equal(found, np.stack([vectors["b"], vectors["a"], vectors["b"]]))
    assert vectors_of(["zzz"], vectors).shape == vectors_of([], vectors).shape == (0, 16)


@pytest.fixture
def video(make_video: Callable[..., Any]) -> Any:
    return make_video("someone0000", [(0.0, 4.0, "a b")], 20.0, masked=(2, 5))


def test_a_clip_holds_its_seen_rows_its_mean_sound_and_its_first_words(
    video: Any, make_vectors: Callable[..., Any]
) -> None:
    vectors = make_vectors(list("abc"))
    clip = cut_clip(video, 1.0, 15.0, ["a", "x", "c", "b"], vectors, 2)
    seen = [1, 3, 4, *range(6, 15)]
    wanted = np.concatenate([video.video["resnet152"], video.video["efficientnet-lite0"]], axis=1)[seen]
    np.testing.assert_array_equal(clip.video, wanted.astype(np.float32))
    np.testing.assert_allclose(clip.audio, video.audio[1:11].astype(np.float64).mean(axis=0), atol=1e-6)
    np.testing.assert_array_equal(clip.words, np.stack([vectors["a"], vectors["c"]]))
    assert cut_clip(video, 2.0, 3.0, [], vectors, 2).video.shape == (0, 36)


def test_a_clip_without_sound_has_none(video: Any, make_vectors: Callable[..., Any]) -> None:
    vectors = make_vectors(["a"])
    video.audio_mask[3:6] = False
    assert cut_clip(video, 3.0, 6.0, [], vectors, 2).audio is None
    np.testing.assert_array_equal(
        cut_clip(video, 3.0, 7.0, [], vectors, 2).audio, video.audio[6].astype(np.float32), "only what was heard counts"
    )
    assert cut_clip(dataclasses.replace(video, audio=None), 0.0, 9.0, [], vectors, 2).audio is None


def test_sound_at_the_native_rate_is_taken_by_its_own_times(video: Any, make_vectors: Callable[..., Any]) -> None:
    # Output i stands at logmel_start + 0.16 i seconds.
    outputs = np.repeat(np.arange(100, dtype=np.float16)[:, None], 1024, axis=1)
    native = dataclasses.replace(
        video, audio=outputs, audio_mask=np.ones(100, bool), audio_rate="native", logmel_start=0.5
    )
    times = 0.5 + 0.16 * np.arange(100)
    vectors = make_vectors(["a"])
    for start, end in ((0.0, 2.0), (3.0, 5.5), (0.0, 14.0), (15.0, 20.0)):
        inside = (times >= start) & (times < min(end, start + 10))
        assert cut_clip(native, start, end, [], vectors, 2).audio == pytest.approx(np.arange(100)[inside].mean())
    assert cut_clip(native, 0.0, 0.4, [], vectors, 2).audio is None
    assert cut_clip(native, 17.0, 20.0, [], vectors, 2).audio is None


def test_a_batch_is_padded_with_zeros_and_says_so() -> None:
    generator = np.random.default_rng(0)

    def clip(rows: int, words: int, sound: bool) -> ClipFeatures:
        audio = generator.normal(size=7).astype(np.float32) if sound else None
        arrays = (generator.normal(size=(rows, 5)), generator.normal(size=(words, 3)))
        return ClipFeatures("v", 0, 1, arrays[0].astype(np.float32), audio, arrays[1].astype(np.float32))

    clips = [clip(2, 4, True), clip(0, 1, False), clip(3, 0, True)]
    batch = collate(clips, audio_width=7)
    assert batch.video is not None and batch.video_rows is not None and batch.audio is not None
    assert batch.words is not None and batch.known_words is not None and batch.has_audio is not None
    assert batch.video.shape == (3, 3, 5) and batch.words.shape == (3, 4, 3)
    assert batch.video_rows.sum(dim=1).tolist() == [2, 0, 3] and batch.known_words.sum(dim=1).tolist() == [4, 1, 0]
    assert batch.has_audio.tolist() == [True, False, True]
    for index, one in enumerate(clips):
        for made, mask, source in (
            (batch.video[index], batch.video_rows[index], one.video),
            (batch.words[index], batch.known_words[index], one.words),
        ):
            np.testing.assert_array_equal(made[mask].numpy(), source)
            assert not made[~mask].any()
        assert torch.equal(batch.audio[index], torch.zeros(7) if one.audio is None else torch.from_numpy(one.audio))
    empty = collate([clip(0, 0, False)], audio_width=7)
    assert empty.video is not None and empty.video.shape == (1, 1, 5) and not empty.presence()["video"].any()


def test_a_data_set_gives_every_video_of_every_shard(planted: Any) -> None:
    dataset = FeatureDataset(planted.manifest)
    assert dataset.video_ids == sorted(planted.videos)
    for video_id, wanted in planted.videos.items():
        found = dataset.video(video_id, ("resnet152",))
        np.testing.assert_array_equal(found.video["resnet152"], wanted.video["resnet152"])
        np.testing.assert_array_equal(found.audio, wanted.audio)
        assert found.captions == wanted.captions and found.logmel is None
        assert [found.words.of_caption(n) for n in range(len(found.captions))] == [
            caption.text.split() for caption in wanted.captions
        ]
    assert dataset.stream_width("resnet152") == 24
    with pytest.raises(InputError, match="no video stream 'resnet18'; it has: resnet152"):
        dataset.stream_width("resnet18")
    assert list(dataset.word_vectors().index_to_key) == list(planted.vectors.index_to_key)


def test_what_fits_is_kept_in_memory_and_the_rest_read_again(planted: Any) -> None:
    video_id, other = sorted(planted.videos)[:2]
    size = sum(array.nbytes for array in (planted.videos[video_id].video["resnet152"], planted.videos[video_id].audio))
    dataset = FeatureDataset(planted.manifest, cache_bytes=size)
    assert dataset.video(video_id, ("resnet152",)) is dataset.video(video_id, ("resnet152",))
    assert dataset.video(other, ("resnet152",)) is not dataset.video(other, ("resnet152",))


def test_only_what_was_frozen_is_seen(
    tmp_path: Path, make_video: Callable[..., Any], make_dataset: Callable[..., Path]
) -> None:
    videos = [make_video(f"video{n:06d}", [(0, 1, "a")] if n else (), seed=n) for n in range(6)]
    folder = make_dataset(tmp_path / "dataset", videos, shards=3)
    (tmp_path / "benchmark.txt").write_text("video000000\nvideo000004\n")
    freeze(FreezeSettings(folder, "some", exclude=(tmp_path / "benchmark.txt",), heldout_videos=0.5))
    dataset = FeatureDataset(folder / "manifests" / "some.json")
    assert dataset.video_ids == [f"video{n:06d}" for n in (1, 2, 3, 5)] == dataset.manifest.ids("all")
    assert dataset.without_captions() == set() and dataset.manifest.ids("train") != dataset.video_ids
    with pytest.raises(KeyError):
        dataset.video("video000004", ("resnet152",))


def test_a_data_set_of_many_shards_keeps_few_files_open(
    tmp_path: Path, make_video: Callable[..., Any], make_dataset: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = [make_video(f"video{n:06d}", [(0, 1, f"word{n}")], seed=n) for n in range(5)]
    folder = make_dataset(tmp_path / "dataset", videos, shards=5)
    monkeypatch.setattr("pipeline.dataset.TABLES_KEPT", 2)

    def open_files() -> int:
        return sum(".h5" in str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink())

    dataset = FeatureDataset(folder / "manifests" / "all.json", cache_bytes=0)
    for video in [*videos, *videos[::-1]]:
        found = dataset.video(video.video_id, ("resnet152",))
        assert found.words.of_caption(0) == [video.captions[0].text]
        assert open_files() == 0


def test_a_manifest_without_its_data_set_is_refused(tmp_path: Path, planted: Any) -> None:
    with pytest.raises(InputError, match=r"none\.json: no such file"):
        FeatureDataset(tmp_path / "manifests" / "none.json")
    moved = tmp_path / "manifests" / "planted.json"
    moved.parent.mkdir()
    moved.write_bytes(planted.manifest.read_bytes())
    with pytest.raises(InputError, match=r"dataset\.json: no such file"):
        FeatureDataset(moved)
    description = json.loads((planted.folder / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps(description | {"words": "0" * 64}))
    with pytest.raises(InputError, match="frozen of another data set"):
        FeatureDataset(moved)


@pytest.mark.parametrize("fault", ["gone", "replaced", "cut"])
def test_a_shard_that_is_not_the_one_frozen_is_refused(
    tmp_path: Path, make_video: Callable[..., Any], make_dataset: Callable[..., Path], fault: str
) -> None:
    folder = make_dataset(tmp_path / "dataset", [make_video("video000000")], shards=1)
    path = folder / "shards" / "000000.h5"
    if fault == "gone":
        path.unlink()
    elif fault == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    else:
        other = make_dataset(tmp_path / "other", [make_video("video000000", seed=1)], shards=1)
        path.write_bytes((other / "shards" / "000000.h5").read_bytes())
    with pytest.raises(InputError, match=r"000000\.h5"):
        FeatureDataset(folder / "manifests" / "all.json")


def test_a_data_set_without_word_vectors_says_so(
    tmp_path: Path, make_video: Callable[..., Any], make_dataset: Callable[..., Path]
) -> None:
    folder = make_dataset(tmp_path / "dataset", [make_video("video000000")], shards=1)
    dataset = FeatureDataset(folder / "manifests" / "all.json")
    with pytest.raises(InputError, match="no word vectors"):
        dataset.word_vectors()
    assert dataset.video("video000000", ("resnet152",)).captions == ()


def test_videos_without_captions_are_known_without_reading_rows(
    tmp_path: Path, make_video: Callable[..., Any], make_dataset: Callable[..., Path]
) -> None:
    videos = [make_video(f"video{n:06d}", [(0, 1, "a")] if n % 3 else ()) for n in range(7)]
    dataset = FeatureDataset(make_dataset(tmp_path / "dataset", videos) / "manifests" / "all.json")
    assert dataset.without_captions() == {"video000000", "video000003", "video000006"}
