"""`mcn verify` where no media are needed: what it says, and that a repair looks again under its lock."""

import json
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import h5py
import pytest

from pipeline.cli import main
from pipeline.core.lease import read_lease
from pipeline.core.records import VideoFeatures
from pipeline.dataset.shard_plans import make_receipt, read_plan, receipt_path, shard_path, write_plans
from pipeline.dataset.shard_reader import FeatureFile
from pipeline.dataset.shard_writer import Origin, write_part, write_shard
from pipeline.tools.verify import repair
from pipeline.tools.verify.findings import Findings, check_shards, examine


@pytest.fixture
def dataset(tmp_path: Path, planted: Any) -> Path:
    return Path(shutil.copytree(planted.folder, tmp_path / "dataset"))


def damage(shard: Path) -> None:
    with h5py.File(shard, "r+") as file:
        file["rows/resnet152"][0, 0] = file["rows/resnet152"][0, 0] + 1


def test_a_repair_that_has_waited_leaves_alone_what_another_has_mended(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = dataset / "shards" / "000001.h5"
    sound, receipt = shard.read_bytes(), shard.with_suffix(".json").read_bytes()
    damage(shard)
    part = dataset / "parts" / "000009" / "a.h5"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"half a part")
    findings = examine(dataset, 1)
    assert list(findings.bad_shards) == ["000001"] and findings.bad_parts == [part]
    # Meanwhile another repair makes the shard anew.
    shard.write_bytes(sound)
    before = shard.stat()
    leases = []

    def looks(dataset: Path, names: Collection[str], parts: Collection[Path]) -> Findings:
        leases.append(read_lease(dataset / "leases" / "planning.json"))
        return check_shards(dataset, names, parts)

    monkeypatch.setattr(repair, "check_shards", looks)
    repair.repair(dataset, findings, tmp_path)
    assert leases != [None] and len(leases) == 1, "it looks while no other one can be at work"
    assert (shard.stat().st_ino, shard.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert shard.read_bytes() == sound and shard.with_suffix(".json").read_bytes() == receipt
    assert not part.exists() and not (dataset / "leases" / "planning.json").exists()
    assert not list((dataset / "shards").glob(".*")) and examine(dataset, 1).problems == []


def test_a_sample_that_is_skipped_is_told(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(dataset / "shards" / "000000.h5")
    assert main(["verify", str(dataset), "--sample", "2"]) == 1
    assert "note: --sample was skipped, since 1 shards are bad: repair first" in capsys.readouterr().out
    assert any("--sample" in note for note in json.loads((dataset / "verify.json").read_text())["notes"])


def test_a_summary_that_cannot_be_written_changes_no_status(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (dataset / "verify.json").mkdir()
    for status in (0, 1):
        assert main(["verify", str(dataset)]) == status
        output = capsys.readouterr()
        assert f"this summary isn't kept as {dataset / 'verify.json'}: Is a directory" in output.out and not output.err
        damage(dataset / "shards" / "000000.h5")


def test_the_cure_of_an_unreadable_shard_mends_it(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (dataset / "shards" / "000000.h5").write_bytes(b"")
    assert main(["verify", str(dataset)]) == 1
    output = capsys.readouterr().out
    assert "extract the data set again" not in output and "mcn verify DATASET --repair" in output


def close(dataset: Path, name: str, videos: Sequence[VideoFeatures]) -> None:
    """A shard of a plan, sound in itself, that holds these videos; in the place of the one there, if there is one."""
    identity = json.loads((dataset / "dataset.json").read_text())["identity"]
    parts = [dataset.parent / "made" / name / f"{video.video_id}.h5" for video in videos]
    for part, video in zip(parts, videos, strict=True):
        write_part(part, video, Origin(name, identity, {}))
    shard_path(dataset, name).unlink(missing_ok=True)
    write_shard(shard_path(dataset, name), parts, Origin(name, identity, {}, read_plan(dataset / "plans", name).digest))


def held(dataset: Path, name: str) -> list[VideoFeatures]:
    with FeatureFile(shard_path(dataset, name)) as file:
        return list(file.videos())


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("in another order", "its videos aren't those of plan 000001, in that order"),
        ("with a strange one", "its videos aren't those of plan 000001, in that order"),
        ("with other rows", "its content isn't what its receipt says: another file is in its place"),
        ("without the last", "its content isn't what its receipt says: another file is in its place"),
    ],
)
def test_a_sound_shard_that_does_not_belong_there_is_found(dataset: Path, how: str, said: str) -> None:
    videos = held(dataset, "000001")
    if how == "in another order":
        videos.reverse()
    elif how == "with a strange one":
        videos[-1] = held(dataset, "000000")[0]
    elif how == "with other rows":
        videos[0].video["resnet152"][0, 0] += 1
    else:
        videos.pop()
    close(dataset, "000001", videos)
    assert examine(dataset, 1).bad_shards == {"000001": f"{shard_path(dataset, '000001')}: {said}"}


def test_a_video_in_two_shards_is_told(dataset: Path) -> None:
    twice = held(dataset, "000001")[:1]
    (name,) = write_plans(dataset / "plans", [[twice[0].video_id]])
    close(dataset, name, twice)
    make_receipt(dataset, name, {})
    (problem,) = examine(dataset, 1).problems
    said = f"video {twice[0].video_id} is in shards 000001 and 000002; remove one of the two"
    assert problem == ("duplicate", said)


def test_a_manifest_of_a_shard_that_is_gone_or_another_is_told(dataset: Path) -> None:
    manifests = sorted((dataset / "manifests").glob("*.json"))
    assert len(manifests) > 1 and examine(dataset, 1).problems == []
    videos = held(dataset, "000001")
    videos[0].video["resnet152"][0, 0] += 1
    close(dataset, "000001", videos)
    make_receipt(dataset, "000001", {})
    said = "shard 000001 isn't the one that was frozen"
    assert examine(dataset, 1).problems == [("manifest", f"{path}: {said}") for path in manifests]
    for path in (shard_path(dataset, "000001"), receipt_path(dataset, "000001")):
        path.unlink()
    said = "its shard 000001 is gone"
    assert examine(dataset, 1).problems == [("manifest", f"{path}: {said}") for path in manifests]
