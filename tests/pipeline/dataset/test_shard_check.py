"""Damage to shards: every flipped byte that changes what is read is found, and none can take the checker with it."""

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipeline.dataset.shard_check import ShardChecker, verify
from pipeline.dataset.shard_writer import Origin, write_part, write_shard

ROOT = Path(__file__).parents[3]


@pytest.fixture
def shard(
    tmp_path: Path, make_video: Callable[..., Any], make_identity: Callable[..., dict[str, Any]]
) -> Callable[..., Path]:
    def make(seconds: float = 1.5) -> Path:
        identity = make_identity({"resnet152": 2})
        parts = []
        for number in range(2):
            captions = [(0.0, 1.0, "cut the onion"), (1.0, 2.0, f"stir {number}")]
            video = make_video(f"video{number:06d}", captions, seconds, number, {"resnet152": 2}, masked=[1][:number])
            parts.append(tmp_path / f"{number}.h5")
            write_part(parts[-1], video, Origin("000003", identity, {"host": "here"}))
        path = tmp_path / "000003.h5"
        write_shard(path, parts, Origin("000003", identity, {"host": "here"}, "plan"))
        return path

    return make


@pytest.mark.parametrize("flips", [100, pytest.param(2000, marks=pytest.mark.endurance)])
def test_every_flip_that_changes_the_content_is_found(
    shard: Callable[..., Path], tmp_path: Path, flip_reader: Callable[[Path], Any], flips: int
) -> None:
    path = shard()
    size = path.stat().st_size
    places = random.Random(7).sample(range(size), min(flips, size))
    bits = random.Random(8).choices(range(8), k=len(places))
    flipped, reader = tmp_path / "flipped.h5", flip_reader(path)
    assert len(json.loads(reader.original)) > 40
    whole = bytearray(path.read_bytes())
    changed, missed = 0, []
    with ShardChecker() as patient:
        assert patient.check(path) == []
    with ShardChecker(seconds=10) as checker:
        for place, bit in zip(places, bits, strict=True):
            if reader.differs(place, bit):
                changed += 1
                whole[place] ^= 1 << bit
                flipped.write_bytes(whole)
                whole[place] ^= 1 << bit
                if not checker.check(flipped):
                    missed.append((place, bit))
    reader.end()
    assert missed == []
    assert changed > flips / 20, "the flips must reach the content"


def test_a_byte_order_turned_round_is_found(shard: Callable[..., Path]) -> None:
    path = shard()
    with h5py.File(path, "r+") as file:
        values = file["rows/resnet152"][:]
        del file["rows/resnet152"]
        file.create_dataset("rows/resnet152", values.shape, ">f2")
        file["rows/resnet152"][:] = values.view(">f2")
    assert "rows/resnet152 isn't of type <f2" in verify(path)[0]


@pytest.mark.parametrize(
    "how", ["chunked", "compressed", "external", "soft", "outside", "attribute", "extra", "missing"]
)
def test_what_the_format_does_not_have_is_refused(shard: Callable[..., Path], tmp_path: Path, how: str) -> None:
    path = shard()
    with h5py.File(path, "r+") as file:
        values = file["rows/video_mask"][:]
        if how == "attribute":
            file["rows/video_mask"].attrs["note"] = 1
        elif how == "extra":
            file["rows/more"] = values
        else:
            del file["rows/video_mask"]
        if how in ("chunked", "compressed"):
            more = {"compression": "gzip"} if how == "compressed" else {}
            file.create_dataset("rows/video_mask", data=values, chunks=True, **more)
        elif how == "external":
            (tmp_path / "raw").write_bytes(values.tobytes())
            external = [(str(tmp_path / "raw"), 0, len(values))]
            file.create_dataset("rows/video_mask", values.shape, "u1", external=external)
        elif how == "soft":
            file["rows/video_mask"] = h5py.SoftLink("/audio/mask")
        elif how == "outside":
            with h5py.File(tmp_path / "other.h5", "w") as other:
                other["mask"] = values
            file["rows/video_mask"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "mask")
    assert verify(path) != []


@pytest.mark.parametrize("how", ["after the last", "before the first"])
def test_a_byte_of_text_that_no_caption_owns_is_found(shard: Callable[..., Path], how: str) -> None:
    path = shard()
    with h5py.File(path, "r+") as file:
        text, offsets = file["captions/text"][:], file["captions/text_offsets"][:]
        del file["captions/text"], file["captions/text_offsets"]
        place = len(text) if how == "after the last" else 0
        file["captions/text"] = np.insert(text, place, ord("x"))
        file["captions/text_offsets"] = offsets + (how == "before the first")
    (problem,) = verify(path)
    assert "captions/text_offsets doesn't lead from the first to the last byte of captions/text" in problem


def test_a_stated_size_fills_no_memory(shard: Callable[..., Path]) -> None:
    path = shard()
    with h5py.File(path, "r+") as file:
        del file["rows/resnet152"]
        file.create_dataset("rows/resnet152", (1 << 40, 2), "<f2")
    assert "a size beyond that of the file" in verify(path)[0]


@pytest.mark.parametrize("attribute", ["name", "plan", "identity", "circumstance", "digest"])
def test_changed_attributes_are_found(shard: Callable[..., Path], attribute: str) -> None:
    path = shard()
    with h5py.File(path, "r+") as file:
        file.attrs[attribute] = file.attrs[attribute].replace("0", "1").replace("here", "there").replace("plan", "plot")
    assert verify(path) != []


def test_files_are_checked_apart_and_a_crash_costs_one(shard: Callable[..., Path], tmp_path: Path) -> None:
    path = shard()
    cut, none = tmp_path / "cut.h5", tmp_path / "none.h5"
    cut.write_bytes(path.read_bytes()[:3000])
    crashing = tmp_path / "crash.h5"
    crashing.write_bytes(path.read_bytes())
    script = tmp_path / "sitecustomize.py"
    script.write_text(
        "import os, h5py\nopened = h5py.File.__init__\n"
        "def init(self, name, *rest, **named):\n"
        "    os.kill(os.getpid(), 11) if str(name).endswith('crash.h5') else opened(self, name, *rest, **named)\n"
        "h5py.File.__init__ = init\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        with ShardChecker() as checker:
            found = {file: checker.check(file) for file in (path, cut, crashing, none, path)}
    finally:
        sys.path.remove(str(tmp_path))
    assert found[path] == [] and "not a whole" in found[cut][0] and "no such file" in found[none][0]
    assert "crashes or stops the HDF5 library" in found[crashing][0]
    assert list(found) == [path, cut, crashing, none]


def test_values_that_are_no_numbers_are_found(shard: Callable[..., Path]) -> None:
    path = shard()
    with h5py.File(path, "r+") as file:
        file["rows/resnet152"][0, 0] = np.nan
    problems = verify(path)
    assert any("NaN or infinity" in problem for problem in problems) and any(
        "sha256" in problem for problem in problems
    )
