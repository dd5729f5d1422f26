"""`mcn verify` where no media are needed: what it says, and that a repair looks again under its lock."""

import json
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import h5py
import pytest

from pipeline.cli import main
from pipeline.core.lease import read_lease
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
