"""Damage to a data set, mended from the media that it was made of."""

import itertools
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest

from pipeline.cli import main
from pipeline.core.ledger import read_ledger
from pipeline.dataset.folder import add_tombstones

Datasets = Callable[[Path], dict[str, bytes]]


@pytest.fixture
def copy(local: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(local, tmp_path / "dataset"))


def verify(dataset: Path, *flags: object) -> int:
    return main(["verify", str(dataset), *map(str, flags)])


def damage(path: Path, dataset: str, place: int = 0) -> None:
    """Change one value of a shard, and nothing else."""
    with h5py.File(path, "r+") as file:
        file[dataset][place] = file[dataset][place] + 1


def test_a_sound_data_set_is_complete(copy: Path, media: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = copy.parent / "ids.csv"
    ids.write_text("video_id\nvideo-00000\nzero-length\nneverlisted\n")
    assert verify(copy, "--ids", ids) == 0
    report = json.loads((copy / "verify.json").read_text())
    assert report["detail"]["coverage"] == {"never planned": 1, "stored": 1, "zero-length": 1}
    assert report["detail"]["videos"] == 5 and report["detail"]["problems"] == []
    assert "ids, never planned: 1" in capsys.readouterr().out


@pytest.mark.parametrize("fault", ["value", "cut", "gone", "empty", "swapped", "receipt", "both", "part"])
def test_each_fault_is_found_and_mended_to_the_same_datasets(
    copy: Path, local: Path, datasets: Datasets, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = next(path for path in sorted((copy / "shards").glob("*.h5")) if _videos(path) == 2)
    other = next(path for path in sorted((copy / "shards").glob("*.h5")) if path != shard)
    computed = _done(copy)
    if fault == "value":
        damage(shard, "rows/efficientnet-lite0")
    elif fault == "cut":
        shard.write_bytes(shard.read_bytes()[:-1000])
    elif fault == "gone":
        shard.unlink()
    elif fault == "empty":
        shard.write_bytes(b"")
    elif fault == "swapped":
        shard.write_bytes(other.read_bytes())
    elif fault == "receipt":
        shard.with_suffix(".json").write_text("{}")
    elif fault == "both":
        shard.with_suffix(".json").unlink()
        damage(shard, "logmel/frames")
    else:
        part = copy / "parts" / "000099" / "x.h5"
        part.parent.mkdir(parents=True)
        part.write_bytes(b"half a part")
    assert verify(copy) == 1
    line = capsys.readouterr().out
    kind = {"receipt": "receipt:", "part": "part:"}.get(fault, "shard:")
    assert kind in line and "repair it: mcn verify" in line
    assert verify(copy, "--repair") == 0
    assert datasets(copy) == datasets(local)
    for receipt in sorted((local / "shards").glob("*.json")):
        kept, made = (json.loads((folder / "shards" / receipt.name).read_text()) for folder in (local, copy))
        assert all(kept[key] == made[key] for key in ("video_ids", "left_out", "content", "plan", "seconds"))
    assert not list((copy / "shards").glob(".*")) and not list((copy / "parts").glob("0*/*"))
    # Only what was bad is computed anew: one of the two videos, where the other's bytes were sound.
    anew = {"value": 1, "both": 1, "gone": 2, "empty": 2, "cut": 2, "swapped": 2}.get(fault, 0)
    assert 0 <= _done(copy) - computed <= anew and (fault == "cut" or _done(copy) - computed == anew)
    assert verify(copy) == 0


def test_a_word_of_one_video_that_is_damaged_does_not_stay_with_the_other(
    copy: Path, local: Path, datasets: Datasets
) -> None:
    def of_one_alone(path: Path) -> list[int]:
        """Places in the text of the shard's words that begin one which a single video says."""
        with h5py.File(path) as file:
            cuts = file["captions/word_offsets"][:][file["captions/offsets"][:]]
            said = [set(file["captions/words"][a:b].tolist()) for a, b in itertools.pairwise(cuts.tolist())]
            alone = sorted(word for word in set().union(*said) if sum(word in words for words in said) == 1)
            return [int(file["words/offsets"][word]) for word in alone]

    both = [path for path in sorted((copy / "shards").glob("*.h5")) if _videos(path) == 2]
    shard, place = next((path, places[0]) for path in both if (places := of_one_alone(path)))
    damage(shard, "words/text", place)
    computed = _done(copy)
    assert verify(copy) == 1 and verify(copy, "--repair") == 0
    assert datasets(copy) == datasets(local) and _done(copy) - computed == 1


@pytest.mark.parametrize(
    ("rounds", "repairs"),
    [
        pytest.param(5, 1, marks=pytest.mark.slow),
        pytest.param(500, 25, marks=[pytest.mark.endurance, pytest.mark.timeout(3600)]),
    ],
    ids=["20 flips", "2000 flips"],
)
def test_flipped_bits_are_found_and_mended_to_the_same_datasets(
    copy: Path, local: Path, datasets: Datasets, flip_reader: Callable[[Path], Any], rounds: int, repairs: int
) -> None:
    """In each round one bit is flipped in each of four shards."""
    whole = {path: path.read_bytes() for path in sorted((copy / "shards").glob("*.h5"))}
    assert len(whole) == 4
    aside = [Path(shutil.copy(path, copy.parent / path.name)) for path in whole]
    readers = [flip_reader(path) for path in aside]
    generator = random.Random(11)
    changed, mended = 0, 0
    for turn in range(rounds):
        damaged = set()
        for (path, content), reader in zip(whole.items(), readers, strict=True):
            place, bit = generator.randrange(len(content)), generator.randrange(8)
            if reader.differs(place, bit):
                damaged.add(path)
            flipped = bytearray(content)
            flipped[place] ^= 1 << bit
            path.write_bytes(flipped)
        changed += len(damaged)
        assert verify(copy) == 1 or not damaged
        found = json.loads((copy / "verify.json").read_text())["detail"]["problems"]
        assert all(any(str(path) in line["problem"] for line in found) for path in damaged), (turn, damaged)
        if turn % (rounds // repairs) == 0:
            assert verify(copy, "--repair") == 0
            assert datasets(copy) == datasets(local)
            mended += len(damaged)
        for path, content in whole.items():
            path.write_bytes(content)
    for reader in readers:
        reader.end()
    assert changed > rounds and mended, "the flips must reach the content"


def test_without_media_nothing_is_removed_and_the_ids_are_listed(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = sorted((copy / "shards").glob("*.h5"))[0]
    damage(shard, "rows/efficientnet-lite0")
    before = shard.read_bytes()
    (tmp_path / "empty").mkdir()
    assert verify(copy, "--repair", "--media", tmp_path / "empty") == 1
    assert shard.read_bytes() == before
    assert len((copy / "repair-ids.csv").read_text().split()) == 2
    assert "1 videos have no media" in capsys.readouterr().out


@pytest.mark.parametrize("tombstoned", [True, False], ids=["tombstone", "journal alone"])
def test_a_video_half_forgotten_in_a_damaged_shard_gets_out(
    copy: Path, local: Path, media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tombstoned: bool
) -> None:
    shard = next(path for path in sorted((copy / "shards").glob("*.h5")) if _videos(path) == 2)
    with h5py.File(shard) as file:
        gone, kept = (name.decode() for name in file["videos/id"][:])
    own_media = Path(shutil.copytree(media, tmp_path / "media"))
    (own_media / f"{gone}.mp4").unlink()
    (copy / "forgetting.json").write_text(json.dumps({"ids": [gone]}))
    if tombstoned:
        add_tombstones(copy, [gone])
    shard.write_bytes(shard.read_bytes()[:-1000])
    forget = ["forget", "--dataset", str(copy), "--media", str(own_media)]
    assert main(forget) == 2 and "repair first: mcn verify" in capsys.readouterr().err
    assert verify(copy, "--repair", "--media", own_media) == 0
    assert "a `mcn forget` was interrupted; finish it" in capsys.readouterr().out
    with h5py.File(shard) as file:
        assert [name.decode() for name in file["videos/id"][:]] == [kept]
    assert main(forget) == 0 and verify(copy) == 0
    assert sum(map(_videos, (copy / "shards").glob("*.h5"))) == sum(map(_videos, (local / "shards").glob("*.h5"))) - 1
    assert not any(gone.encode() in path.read_bytes() for path in copy.rglob("*") if path.is_file())


def test_stored_rows_are_compared_with_rows_computed_anew(
    copy: Path, media: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(copy, "--sample", 3, "--media", media) == 0
    said = "3 videos were computed anew: 3 are equal to the bit; same host, processor, device and libraries: "
    assert f"note: {said}compared exactly" in capsys.readouterr().out
    swapped = copy.parent / "media"
    shutil.copytree(media, swapped)
    shutil.copy(media / "video-00000.mp4", swapped / "video-00003.mp4")
    assert verify(copy, "--sample", 5, "--media", swapped) == 1
    assert "sample: video video-00003: computed anew it differs in" in capsys.readouterr().out


def test_a_manifest_whose_shard_is_gone_is_told(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["freeze", str(copy), "study"]) == 0
    shard = sorted((copy / "shards").glob("*.h5"))[0]
    shard.with_suffix(".json").unlink()
    shard.unlink()
    assert verify(copy) == 1
    assert f"manifest: {copy}/manifests/study.json: its shard {shard.stem} is gone" in capsys.readouterr().out


def _videos(shard: Path) -> int:
    with h5py.File(shard) as file:
        return len(file["videos/id"])


def _done(dataset: Path) -> int:
    return sum(line.outcome == "done" for line in read_ledger(dataset / "ledger", "extract"))


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file and folder below, with its time of change and its bytes."""
    entries = {path: path.lstat().st_mtime_ns for path in [folder, *folder.rglob("*")]}
    return {str(path): (time, path.read_bytes() if path.is_file() else b"") for path, time in entries.items()}


@pytest.mark.slow
def test_a_dry_run_changes_nothing_and_tells_exactly_what_a_repair_does(
    copy: Path, media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A part, a receipt, a shard with media and one without: each is told as it is then done."""
    shards = sorted((copy / "shards").glob("*.h5"))
    (mended,) = (path for path in shards if _videos(path) == 2)
    left, other, _ = (path for path in shards if path != mended)
    receipt = other.with_suffix(".json")
    part = copy / "parts" / "000099" / "x.h5"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"half a part")
    receipt.write_text("{}")
    own_media = Path(shutil.copytree(media, tmp_path / "media"))
    for shard in (mended, left):
        damage(shard, "rows/efficientnet-lite0")
    with h5py.File(left) as file:
        (lost,) = (name.decode() for name in file["videos/id"][:])
    (own_media / f"{lost}.mp4").unlink()
    before = tree(tmp_path)
    assert verify(copy, "--repair", "--dry-run", "--media", own_media) == 1
    assert tree(tmp_path) == before
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("would ")]
    leaves = f"would leave {left} ({left.stat().st_size:,} bytes): no media of {lost}; 0 videos kept as parts"
    assert told == [
        f"would remove {part} (bad part, 11 bytes)",
        f"would rewrite {receipt} (receipt)",
        *([leaves] if left < mended else []),
        f"would replace {mended} ({mended.stat().st_size:,} bytes): 1 videos kept, 1 computed from media",
        f"would rewrite {mended.with_suffix('.json')} (receipt)",
        *([leaves] if left > mended else []),
        f"would write {copy / 'repair-ids.csv'} (1 ids)",
    ]
    computed = _done(copy)
    assert verify(copy, "--repair", "--media", own_media) == 1
    after = tree(tmp_path)
    changed = {path for path in before.keys() & after.keys() if before[path][1] != after[path][1]}
    assert changed == {str(mended), str(mended.with_suffix(".json")), str(receipt)}
    assert {path for path in before.keys() - after.keys() if Path(path).suffix} == {str(part)}
    assert _done(copy) - computed == 1 and (copy / "repair-ids.csv").read_text() == f"video_id\n{lost}\n"


def test_a_dry_run_goes_with_a_repair(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(copy, "--dry-run") == 2 and "--dry-run goes with --repair" in capsys.readouterr().err
    before = tree(copy)
    assert verify(copy, "--repair", "--dry-run") == 0 and tree(copy) == before
