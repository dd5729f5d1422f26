"""The captions' compact store: what the source says, by id, and damage told."""

import json
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipeline.core.errors import InputError
from pipeline.core.records import Caption
from pipeline.dataset.caption_store import (
    CaptionFolder,
    CaptionStore,
    build_caption_store,
    open_captions,
    remove_from_store,
)
from pipeline.dataset.captions import caption_identity
from pipeline.dataset.folder import add_tombstones


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """300 videos of 0 to 6 captions, in no order."""
    generator = np.random.default_rng(3)
    content: dict[str, Any] = {}
    for number in generator.permutation(300).tolist():
        starts = np.sort(generator.uniform(0, 100, generator.integers(0, 7))).round(3)
        said = [f"größe {number} {'x' * int(generator.integers(0, 40))}" for _ in starts]
        content[f"video{number:06d}"] = {"start": starts.tolist(), "end": (starts + 1).tolist(), "text": said}
    content["odd"] = {"start": ["x"], "end": [1], "text": ["y"]}
    path = tmp_path / "caption.json"
    path.write_text(json.dumps(content))
    return path


def wanted(source: Path) -> dict[str, tuple[Caption, ...]]:
    return {
        video_id: tuple(Caption(*line) for line in zip(entry["start"], entry["end"], entry["text"], strict=True))
        for video_id, entry in sorted(json.loads(source.read_text()).items())
        if video_id != "odd"
    } | {"odd": ()}


def test_the_store_holds_the_source(source: Path, tmp_path: Path) -> None:
    store = build_caption_store(source, tmp_path / "captions.h5", drop_overlaps=False)
    truth = wanted(source)
    assert len(store) == len(truth) and dict(store.items()) == truth
    assert [video_id for video_id, _ in store.items()] == sorted(truth)
    assert all(store.of(video_id) == lines for video_id, lines in truth.items())
    assert store.of("nowhere") == store.of("") == store.of("zzzz") == ()
    # Each stands right before a video that has captions.
    said = next(video_id for video_id, lines in truth.items() if lines)
    assert all(store.of(video_id) == () for video_id in (said[:-1], f"{said[:-1]}-", "a"))
    assert store.left_out == {"time is not a number": 1} and store.identity == caption_identity(source, False)
    assert pickle.loads(pickle.dumps(store)).of("video000007") == truth["video000007"]


def test_it_is_made_once_and_other_captions_are_refused(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "captions.h5"
    build_caption_store(source, path, drop_overlaps=False).close()
    before = path.stat().st_mtime_ns
    build_caption_store(source, path, drop_overlaps=False).close()
    assert path.stat().st_mtime_ns == before
    with pytest.raises(InputError, match="overlaps.*kept.*asked for.*dropped"):
        build_caption_store(source, path, drop_overlaps=True)
    source.write_text(source.read_text() + " ")
    with pytest.raises(InputError, match=r"captions\.h5: made of"):
        build_caption_store(source, path, drop_overlaps=False)


def test_a_broken_source_leaves_no_store(tmp_path: Path) -> None:
    (tmp_path / "caption.json").write_text('{"a": {"start": [0')
    with pytest.raises(InputError, match="not valid JSON"):
        build_caption_store(tmp_path / "caption.json", tmp_path / "captions.h5", drop_overlaps=False)
    assert [path.name for path in tmp_path.iterdir()] == ["caption.json"]


def test_an_empty_source_is_an_empty_store(tmp_path: Path) -> None:
    (tmp_path / "caption.json").write_text("{}")
    store = build_caption_store(tmp_path / "caption.json", tmp_path / "captions.h5", drop_overlaps=False)
    assert len(store) == 0 and list(store.items()) == [] and store.of("a") == ()


@pytest.mark.parametrize(
    "dataset", ["captions/times", "captions/text", "captions/text_bytes", "videos/place", "videos/id"]
)
def test_damage_is_told_with_its_cure(source: Path, tmp_path: Path, dataset: str) -> None:
    path = tmp_path / "captions.h5"
    build_caption_store(source, path, drop_overlaps=False).close()
    with h5py.File(path, "r+") as file:
        values = file[dataset][:]
        raw = values.view(np.uint8).reshape(-1)
        raw[len(raw) // 2] ^= 1
        file[dataset][:] = values
    with pytest.raises(InputError, match=r"captions\.h5: .*delete it: the next extraction makes it anew"):
        list(CaptionStore(path).items())
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match="delete it"):
        CaptionStore(path).of("a")


def test_videos_can_be_removed(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "captions.h5"
    build_caption_store(source, path, drop_overlaps=False).close()
    remove_from_store(path, {"video000007", "nowhere"})
    truth = wanted(source)
    del truth["video000007"]
    assert dict(CaptionStore(path).items()) == truth
    assert b"video000007" not in path.read_bytes() and CaptionStore(path).identity == caption_identity(source, False)


def test_captions_of_a_forgotten_video_do_not_come_back(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "captions.h5"
    add_tombstones(tmp_path, ["video000007"])
    build_caption_store(source, path, drop_overlaps=False).close()
    truth = wanted(source)
    del truth["video000007"]
    assert dict(CaptionStore(path).items()) == truth and b"video000007" not in path.read_bytes()


def test_a_folder_of_csv_says_the_same(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "csv"
    folder.mkdir()
    truth = wanted(source)
    for video_id, lines in truth.items():
        rows = [f'{line.start},{line.end},"{line.text}"\n' for line in lines]
        (folder / f"{video_id}.csv").write_text("start,end,text\n" + "".join(rows), encoding="utf-8")
    (folder / "notes.txt").write_text("not captions")
    found = open_captions(tmp_path, caption_identity(folder, False), folder)
    assert isinstance(found, CaptionFolder) and dict(found.items()) == truth
    assert found.of("video000007") == truth["video000007"] and found.of("nowhere") == found.of("../caption") == ()


def test_what_is_opened_follows_from_the_identity(source: Path, tmp_path: Path) -> None:
    build_caption_store(source, tmp_path / "captions.h5", drop_overlaps=False).close()
    assert open_captions(tmp_path, caption_identity(None, False), None) is None
    assert isinstance(open_captions(tmp_path, caption_identity(source, False), source), CaptionStore)
    with pytest.raises(InputError, match="give it as --captions again"):
        open_captions(tmp_path, caption_identity(tmp_path, False), None)
