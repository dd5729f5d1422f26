"""Copies on a local disk: they hold what is read and no more, and nothing is lost without them."""

import errno
import os
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipeline.clips.dataset import FeatureDataset
from pipeline.clips.rules import ClipRules
from pipeline.core import signals
from pipeline.core.errors import InputError
from pipeline.core.records import VideoFeatures
from pipeline.training import staging
from pipeline.training.staging import stage

RULES = ClipRules()
SHARDS = 3


@pytest.fixture
def videos(make_video: Callable[..., Any]) -> dict[str, VideoFeatures]:
    captions = [(0.0, 2.0, "cut it"), (2.0, 5.0, "stir it well")]
    made = [make_video(f"video{n:06d}", captions, 5.5 + n, n, sound=n % 3 > 0, masked=(1,)) for n in range(8)]
    return {video.video_id: video for video in made}


@pytest.fixture
def folder(
    tmp_path: Path,
    videos: dict[str, VideoFeatures],
    make_dataset: Callable[..., Path],
    make_vectors: Callable[..., Any],
) -> Path:
    return make_dataset(tmp_path / "dataset", list(videos.values()), make_vectors(["cut", "it"]), shards=SHARDS)


def opened(folder: Path) -> FeatureDataset:
    return FeatureDataset(folder / "manifests" / "all.json", cache_bytes=0)


def assert_reads(dataset: FeatureDataset, videos: dict[str, VideoFeatures], rules: ClipRules) -> None:
    for video_id, wanted in videos.items():
        found = dataset.video(video_id, rules)
        for stream in rules.streams:
            np.testing.assert_array_equal(found.video[stream], wanted.video[stream])
        for name, read in (("davenet", "audio"), ("logmel", "logmel")):
            if rules.audio == name:
                np.testing.assert_array_equal(getattr(found, read), getattr(wanted, read))
            else:
                assert getattr(found, read) is None
        np.testing.assert_array_equal(found.video_mask, wanted.video_mask)
        np.testing.assert_array_equal(found.audio_mask, wanted.audio_mask)
        assert [caption[:2] for caption in found.captions] == [caption[:2] for caption in wanted.captions]
        assert [found.words.of_caption(n) for n in range(2)] == [["cut", "it"], ["stir", "it", "well"]]
        assert (found.duration, found.logmel_start) == (wanted.duration, wanted.logmel_start)


def copies(disk: Path) -> list[Path]:
    return sorted(path for path in disk.iterdir() if path.suffix == ".h5")


@pytest.mark.parametrize(
    ("rules", "large"),
    [
        (RULES, {"rows/resnet152", "audio/davenet"}),
        (ClipRules(audio="logmel"), {"rows/resnet152", "logmel/frames"}),
        (
            ClipRules(streams=("resnet152", "efficientnet-lite0"), audio="none"),
            {"rows/resnet152", "rows/efficientnet-lite0"},
        ),
    ],
)
def test_copies_hold_what_is_read_and_are_read(
    tmp_path: Path, folder: Path, videos: dict[str, VideoFeatures], rules: ClipRules, large: set[str]
) -> None:
    dataset, disk = opened(folder), tmp_path / "disk"
    assert_reads(dataset, videos, rules)
    (note,) = stage(dataset, rules, disk, 1.0)
    assert note.startswith("3 of 3 shards (0.0 GiB) are read from their copies")
    for path in (folder / "shards").glob("*.h5"):
        path.unlink()
    assert_reads(dataset, videos, rules)
    assert len(copies(disk)) == SHARDS and len(list(disk.iterdir())) == SHARDS
    for path in copies(disk):
        with h5py.File(path, locking=False) as file:
            held = {f"{group}/{name}" for group in ("rows", "audio", "logmel", "captions") for name in file[group]}
            assert not any("text" in name for name in held)
            every = {"rows/resnet152", "rows/efficientnet-lite0", "audio/davenet", "logmel/frames"}
            assert held & every == large


def identities(disk: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in copies(disk)}


def test_copies_are_used_again_and_made_anew_when_cut_short(
    tmp_path: Path, folder: Path, videos: dict[str, VideoFeatures]
) -> None:
    disk = tmp_path / "disk"
    stage(opened(folder), RULES, disk, 1.0)
    before = identities(disk)
    again = opened(folder)
    stage(again, RULES, disk, 1.0)
    assert identities(disk) == before
    assert_reads(again, videos, RULES)
    again.close()
    cut, spoilt, whole = copies(disk)
    cut.write_bytes(cut.read_bytes()[:-100])
    spoilt.write_bytes(b"")
    (disk / f".{whole.name}.0123abcd.aside").write_bytes(b"half of it")
    dataset = opened(folder)
    stage(dataset, RULES, disk, 1.0)
    after = identities(disk)
    assert after.keys() == before.keys() and after[whole.name] == before[whole.name]
    assert [path.name for path in disk.iterdir() if path not in copies(disk)] == [], (
        "what a killed process left is gone"
    )
    assert_reads(dataset, videos, RULES)


def test_shards_of_another_content_or_other_streams_have_copies_of_their_own(
    tmp_path: Path,
    folder: Path,
    videos: dict[str, VideoFeatures],
    make_video: Callable[..., Any],
    make_dataset: Callable[..., Path],
) -> None:
    disk = tmp_path / "disk"
    captions = [(0.0, 2.0, "cut it"), (2.0, 5.0, "stir it well")]
    others = {f"video{n:06d}": make_video(f"video{n:06d}", captions, 5.5, n + 50) for n in range(8)}
    elsewhere = make_dataset(tmp_path / "elsewhere", list(others.values()), shards=SHARDS)
    lite = ClipRules(streams=("efficientnet-lite0",))
    for place, held, rules in ((folder, videos, RULES), (elsewhere, others, RULES), (folder, videos, lite)):
        dataset = opened(place)
        stage(dataset, rules, disk, 1.0)
        assert_reads(dataset, held, rules)
    assert len(copies(disk)) == 3 * SHARDS


def held_bytes(path: Path) -> int:
    """Of the datasets, digests apart."""
    with h5py.File(path, locking=False) as file:
        groups = [group for name, group in file.items() if name != "digests"]
        return sum(dataset.nbytes for group in groups for dataset in group.values())


def test_the_budget_takes_shards_in_their_order_and_the_rest_is_read_in_place(
    tmp_path: Path, folder: Path, videos: dict[str, VideoFeatures]
) -> None:
    disk = tmp_path / "disk"
    stage(opened(folder), RULES, disk, 1.0)
    sizes = [held_bytes(path) for path in copies(disk)]
    names = [path.name for path in copies(disk)]
    for copied in range(SHARDS):
        room = tmp_path / f"room{copied}"
        dataset = opened(folder)
        notes = stage(dataset, RULES, room, (sum(sizes[:copied]) + sizes[copied] / 2) / 2**30)
        assert [path.name for path in copies(room)] == names[:copied]
        assert notes[0].startswith(f"{copied} of 3 shards")
        assert notes[1].startswith(f"{3 - copied} shards are read from {folder}: --stage-budget is ")
        assert_reads(dataset, videos, RULES)
        # With a larger budget the same call goes on where it ended.
        assert len(stage(opened(folder), RULES, room, 1.0)) == 1 and len(copies(room)) == SHARDS


def test_a_shard_whose_bytes_have_changed_is_not_copied(tmp_path: Path, folder: Path) -> None:
    disk = tmp_path / "disk"
    dataset = opened(folder)
    with h5py.File(folder / "shards" / "000001.h5", "r+") as file:
        file["rows/resnet152"][0, 0] += 1
        video_id = file["videos/id"][0].decode()
    with pytest.raises(InputError, match=rf"000001\.h5: resnet152 of video {video_id}, .*sha256; see `mcn verify`"):
        stage(dataset, RULES, disk, 1.0)
    assert [path.name[:6] for path in disk.iterdir()] == ["000000"]
    (folder / "shards" / "000001.h5").unlink()
    with pytest.raises(InputError, match=r"000001\.h5: no such file; see `mcn verify`"):
        stage(dataset, RULES, disk, 1.0)


def test_a_full_disk_ends_staging_and_loses_nothing(
    tmp_path: Path, folder: Path, videos: dict[str, VideoFeatures], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    usage = namedtuple("usage", "total used free")
    copied, copy = 0, staging._copy

    def fill(*arguments: Any) -> None:
        nonlocal copied
        copied += 1
        if copied > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        copy(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(staging, "_copy", fill)
        dataset = opened(folder)
        notes = stage(dataset, RULES, disk, 1.0)
        assert "1 of 3" in notes[0] and "No space left" in notes[1] and len(list(disk.iterdir())) == 1
        assert_reads(dataset, videos, RULES)
    with monkeypatch.context() as patched:
        patched.setattr(staging.shutil, "disk_usage", lambda path: usage(1 << 30, 1 << 30, 1000))
        dataset = opened(folder)
        notes = stage(dataset, RULES, disk, 1.0)
        assert "1 of 3" in notes[0] and notes[1].endswith(f"{disk} is full")
        assert_reads(dataset, videos, RULES)
    assert len(stage(opened(folder), RULES, disk, 1.0)) == 1


def test_a_folder_that_cant_be_written_to_costs_the_copies_alone(
    tmp_path: Path, folder: Path, videos: dict[str, VideoFeatures]
) -> None:
    (tmp_path / "file").write_text("")
    dataset = opened(folder)
    notes = stage(dataset, RULES, tmp_path / "file" / "disk", 1.0)
    assert notes[0].startswith("0 of 3") and "can't be written" in notes[1]
    assert_reads(dataset, videos, RULES)


def test_staging_ends_when_the_process_is_asked_to_stop(
    tmp_path: Path, folder: Path, videos: dict[str, VideoFeatures], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = iter([False, True])
    monkeypatch.setattr(signals, "asked_to_stop", lambda: next(asked, True))
    dataset = opened(folder)
    notes = stage(dataset, RULES, tmp_path / "disk", 1.0)
    assert notes[0].startswith("1 of 3") and notes[1].endswith("asked to stop")
    assert_reads(dataset, videos, RULES)


def test_two_processes_stage_to_one_folder_without_harm(
    tmp_path: Path, folder: Path, videos: dict[str, VideoFeatures]
) -> None:
    disk = tmp_path / "disk"
    program = (
        "import sys; from pathlib import Path; from pipeline.clips.rules import ClipRules;"
        "from pipeline.clips.dataset import FeatureDataset; from pipeline.training.staging import stage;"
        "dataset = FeatureDataset(Path(sys.argv[1]));"
        "print(stage(dataset, ClipRules(), Path(sys.argv[2]), 1.0));"
        "print(sum(dataset.video(i, ClipRules()).video['resnet152'].astype('f8').sum() for i in dataset.video_ids))"
    )
    command = [sys.executable, "-c", program, str(folder / "manifests" / "all.json"), str(disk)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    outputs = [process.communicate()[0].splitlines() for process in processes]
    assert all("3 of 3 shards" in output[0] for output in outputs)
    total = sum(video.video["resnet152"].astype("f8").sum() for video in videos.values())
    assert all(float(output[1]) == pytest.approx(total, rel=1e-12) for output in outputs)
    assert len(list(disk.iterdir())) == SHARDS
