"""The data set as training sees it: every video of every shard, and what is said when a shard is not what it was."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipeline.clips.dataset import FeatureDataset
from pipeline.clips.rules import ClipRules
from pipeline.core.errors import InputError
from pipeline.dataset.freeze import run as freeze
from pipeline.dataset.manifest import FreezeSettings

RULES = ClipRules()


def test_a_data_set_gives_every_video_of_every_shard(planted: Any) -> None:
    dataset = FeatureDataset(planted.manifest)
    assert dataset.video_ids == sorted(planted.videos)
    for video_id, wanted in planted.videos.items():
        found = dataset.video(video_id, RULES)
        np.testing.assert_array_equal(found.video["resnet152"], wanted.video["resnet152"])
        np.testing.assert_array_equal(found.audio, wanted.audio)
        assert found.logmel is None
        assert [caption[:2] for caption in found.captions] == [caption[:2] for caption in wanted.captions]
        assert [found.words.of_caption(n) for n in range(len(found.captions))] == [
            caption.text.split() for caption in wanted.captions
        ]
    assert dataset.stream_width("resnet152") == 24
    with pytest.raises(InputError, match="no video stream 'resnet18'; it has: resnet152"):
        dataset.stream_width("resnet18")
    assert list(dataset.word_vectors().index_to_key) == list(planted.vectors.index_to_key)


def test_only_what_the_rules_need_is_read(
    tmp_path: Path, make_video: Callable[..., Any], make_dataset: Callable[..., Path]
) -> None:
    wanted = make_video("video000000", [(0, 1, "a")])
    dataset = FeatureDataset(make_dataset(tmp_path / "dataset", [wanted], shards=1) / "manifests" / "all.json")
    lite, both = ("efficientnet-lite0",), ("efficientnet-lite0", "resnet152")
    for streams, audio in ((lite, "davenet"), (both, "logmel"), (lite, "none"), ((), "none")):
        found = dataset.video("video000000", ClipRules(streams=streams, audio=audio))
        assert list(found.video) == list(streams)
        assert (found.audio is not None, found.logmel is not None) == (audio == "davenet", audio == "logmel")
        for stream in streams:
            np.testing.assert_array_equal(found.video[stream], wanted.video[stream])
        if found.logmel is not None:
            np.testing.assert_array_equal(found.logmel, wanted.logmel)


def test_ids_by_shard_are_those_of_the_shards(planted: Any) -> None:
    dataset = FeatureDataset(planted.manifest)
    stored = []
    for name in dataset.manifest.shards:
        with h5py.File(planted.folder / "shards" / f"{name}.h5") as file:
            stored.append(sorted(video_id.decode() for video_id in file["videos/id"][:]))
    assert len(stored) == 2 and dataset.by_shard(planted.videos) == stored
    only = stored[1][2:4]
    assert dataset.by_shard(only[::-1]) == [only]


def test_what_fits_is_kept_in_memory_and_the_rest_read_again(planted: Any) -> None:
    video_id, other = sorted(planted.videos)[:2]
    size = sum(array.nbytes for array in (planted.videos[video_id].video["resnet152"], planted.videos[video_id].audio))
    dataset = FeatureDataset(planted.manifest, cache_bytes=size)
    assert dataset.video(video_id, RULES) is dataset.video(video_id, RULES)
    assert dataset.video(other, RULES) is not dataset.video(other, RULES)


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
        dataset.video("video000004", RULES)


def test_a_data_set_of_many_shards_keeps_few_files_open(
    tmp_path: Path, make_video: Callable[..., Any], make_dataset: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = [make_video(f"video{n:06d}", [(0, 1, f"word{n}")], seed=n) for n in range(5)]
    folder = make_dataset(tmp_path / "dataset", videos, shards=5)
    monkeypatch.setattr("pipeline.clips.dataset.KEPT_OPEN", 2)

    def open_files() -> int:
        return sum(".h5" in str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink())

    dataset = FeatureDataset(folder / "manifests" / "all.json", cache_bytes=0)
    assert open_files() == 0
    for count, video in enumerate([*videos, *videos[::-1]], start=1):
        found = dataset.video(video.video_id, RULES)
        assert found.words.of_caption(0) == [video.captions[0].text]
        np.testing.assert_array_equal(found.video["resnet152"], video.video["resnet152"])
        assert open_files() == min(count, 2)
    dataset.close()
    assert open_files() == 0
    assert dataset.video("video000003", RULES).words.of_caption(0) == ["word3"]


def test_a_data_set_reads_on_after_it_was_sent_to_another_process(planted: Any) -> None:
    dataset = FeatureDataset(planted.manifest, cache_bytes=0)
    video_id = dataset.video_ids[0]
    before = dataset.video(video_id, RULES)
    sent: FeatureDataset = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(sent.video(video_id, RULES).video["resnet152"], before.video["resnet152"])


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
    assert dataset.video("video000000", RULES).captions == ()


def test_videos_without_captions_are_known_without_reading_rows(
    tmp_path: Path, make_video: Callable[..., Any], make_dataset: Callable[..., Path]
) -> None:
    videos = [make_video(f"video{n:06d}", [(0, 1, "a")] if n % 3 else ()) for n in range(7)]
    dataset = FeatureDataset(make_dataset(tmp_path / "dataset", videos) / "manifests" / "all.json")
    assert dataset.without_captions() == {"video000000", "video000003", "video000006"}


def spoil(path: Path, dataset: str, row: int, value: float) -> None:
    with h5py.File(path, "r+") as file:
        file[dataset][row, 3] = value


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["rows/resnet152", "audio/davenet", "logmel/frames"])
def test_rows_that_are_no_numbers_are_told_of_by_shard_and_video(
    tmp_path: Path, make_video: Callable[..., Any], make_dataset: Callable[..., Path], name: str, value: float
) -> None:
    videos = [make_video(f"video{n:06d}", [(0, 1, "a")], seed=n) for n in range(3)]
    folder = make_dataset(tmp_path / "dataset", videos, shards=1)
    dataset = FeatureDataset(folder / "manifests" / "all.json")
    path = folder / "shards" / "000000.h5"
    with h5py.File(path) as file:
        ids, offsets = file["videos/id"][:], file[f"{name.split('/')[0]}/offsets"][:]
    spoil(path, name, int(offsets[1]), value)
    spoilt, whole = ids[1].decode(), ids[2].decode()
    rules = ClipRules(audio="logmel") if name == "logmel/frames" else RULES
    with pytest.raises(InputError, match=rf"000000\.h5: [\w-]+ of video {spoilt} holds NaN or infinity; .*mcn verify"):
        dataset.video(spoilt, rules)
    assert dataset.video(whole, rules).video_id == whole


@pytest.mark.parametrize("fault", ["gone", "cut", "emptied"])
def test_a_shard_that_breaks_while_it_is_used_is_told_of_in_one_line(
    tmp_path: Path, make_video: Callable[..., Any], make_dataset: Callable[..., Path], fault: str
) -> None:
    folder = make_dataset(tmp_path / "dataset", [make_video("video000000", [(0, 1, "a")])], shards=1)
    dataset = FeatureDataset(folder / "manifests" / "all.json")
    path = folder / "shards" / "000000.h5"
    if fault == "gone":
        path.unlink()
    elif fault == "cut":
        path.write_bytes(path.read_bytes()[:-1000])
    else:
        with h5py.File(path, "r+") as file:
            del file["rows/resnet152"]
    with pytest.raises(InputError, match=r"000000\.h5: .*mcn verify") as raised:
        dataset.video("video000000", RULES)
    assert len(str(raised.value).splitlines()) == 1


def test_a_file_that_is_cut_while_it_is_open_is_told_of(
    tmp_path: Path, make_video: Callable[..., Any], make_dataset: Callable[..., Path]
) -> None:
    videos = [make_video(f"video{n:06d}", [(0, 1, "a")], 60.0, n) for n in range(9)]
    folder = make_dataset(tmp_path / "dataset", videos, shards=1)
    dataset = FeatureDataset(folder / "manifests" / "all.json", cache_bytes=0)
    dataset.video("video000000", RULES)
    path = folder / "shards" / "000000.h5"
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 20)
    with pytest.raises(InputError, match=r"000000\.h5: video video00000\d can't be read \(.*\); .*mcn verify"):
        for video_id in dataset.video_ids:
            dataset.video(video_id, RULES)
