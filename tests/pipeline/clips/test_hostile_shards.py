"""A shard that someone made to do harm: one line that names it, whatever it holds, and no memory taken."""

import json
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipeline.clips.cutting import Cutter
from pipeline.clips.dataset import FeatureDataset
from pipeline.clips.rules import ClipRules, caption_clips, window_clips
from pipeline.core.errors import InputError

from ...hdf5_changes import Change, instead, put

SHARD = "000001"
RULES = ClipRules()

def stated(make: Callable[[dict[str, Any]], Any]) -> Change:
    """Another Identity, in the shard alone."""

    def change(file: h5py.File) -> None:
        made = make(json.loads(file.attrs["identity"]))
        file.attrs["identity"] = made if isinstance(made, str) else json.dumps(made)

    return change


def without_width(identity: dict[str, Any]) -> dict[str, Any]:
    del identity["streams"]["resnet152"]["width"]
    return identity


def wide(width: Any) -> Change:
    return stated(lambda identity: identity | {"streams": {"resnet152": {"width": width}}})


def swelled(file: h5py.File) -> None:
    """2^40 captions, by every index that says how many there are."""
    file["captions/offsets"][-1] = 1 << 40
    del file["captions/times"]
    file.create_dataset("captions/times", (1 << 40, 2), "<f8")


HOSTILE: dict[str, tuple[Change, str]] = {
    "offsets fall": (put("rows/offsets", 1, 1 << 40), "rows/offsets isn't an ascending list"),
    "offsets below 0": (put("captions/offsets", 0, -1), "captions/offsets isn't an ascending list"),
    "offsets past the end": (put("audio/offsets", -1, 1 << 62), "audio/offsets isn't an ascending list"),
    "word offsets": (put("captions/word_offsets", -1, 1 << 31), "captions/word_offsets isn't"),
    "text offsets fall": (put("captions/text_offsets", 1, -5), "text_offsets points elsewhere"),
    "text offsets past the end": (put("captions/text_offsets", -1, 1 << 40), "text_offsets points elsewhere"),
    "table of words": (put("words/offsets", 1, 1 << 40), "words/offsets isn't an ascending list"),
    "word below 0": (put("captions/words", 0, -1), "captions/words points past the table"),
    "word past the table": (put("captions/words", -1, 1 << 30), "captions/words points past the table"),
    "mask": (put("rows/video_mask", 0, 7), "rows/video_mask holds values other than 0 and 1"),
    "time is NaN": (put("captions/times", (0, 0), np.nan), "captions/times holds NaN or infinity"),
    "time is infinite": (put("captions/times", (0, 1), np.inf), "captions/times holds NaN or infinity"),
    "time below 0": (put("captions/times", (0, 0), -1e300), "captions/times holds a time that is negative"),
    "time reversed": (put("captions/times", (1, 1), 0.0), "an end that isn't after its start"),
    "duration is NaN": (put("videos/duration", 0, np.nan), "videos/duration holds NaN"),
    "duration without rows": (put("videos/duration", 0, 1e300), "videos/duration doesn't fit"),
    "sound starts nowhere": (put("videos/logmel_start", 0, -np.inf), "videos/logmel_start holds NaN or infinity"),
    "rows are NaN": (put("rows/resnet152", (3, 3), np.nan), "resnet152 of video .* holds NaN or infinity"),
    "sound is infinite": (put("audio/davenet", (3, 3), np.inf), "davenet of video .* holds NaN or infinity"),
    "id is a path": (put("videos/id", 0, b"../../x"), "'../../x' can't name a video"),
    "id isn't ASCII": (put("videos/id", 0, b"\xff\x1b[2J"), "can't name a video"),
    "id is empty": (put("videos/id", 0, b""), "can't name a video"),
    "id twice": (lambda file: put("videos/id", 0, file["videos/id"][1])(file), "holds a video twice"),
    "words aren't UTF-8": (put("words/text", 0, 0xFF), "can't decode byte 0xff"),
    "texts aren't UTF-8": (put("captions/text", 0, 0xFF), "can't decode byte 0xff"),
    "decoder isn't UTF-8": (put("videos/decoder", 0, b"\xff"), "can't decode byte 0xff"),
    "fewer rows": (instead("rows/resnet152", lambda rows: rows[:-1]), "rows/resnet152 has .* entries, expected"),
    "fewer masks": (instead("audio/mask", lambda rows: rows[:-1]), "audio/davenet has .* entries, expected"),
    "more durations": (instead("videos/duration", lambda rows: np.zeros(5000)), "videos/duration has 5000 entries"),
    "fewer digests": (instead("digests/id", lambda rows: rows[:1]), "digests/id has 1 entries"),
    "no offsets": (instead("rows/offsets", lambda rows: rows[:0]), "rows/offsets has 0 entries"),
    "wider rows": (instead("rows/resnet152", lambda rows: np.hstack([rows, rows])), "has the shape"),
    "other type": (instead("captions/times", lambda rows: rows.astype("<f4")), "captions/times isn't of type <f8"),
    "2^40 captions": (swelled, "size beyond that of the file"),
    "no JSON": (stated(lambda identity: "{"), "attributes don't describe such a file"),
    "no object": (stated(lambda identity: "[1]"), "attributes don't describe such a file"),
    "deep JSON": (stated(lambda identity: "[" * 60_000), "attributes don't describe such a file"),
    "no rows a second": (stated(lambda identity: identity | {"feature_fps": 0}), "feature_fps is '0'"),
    "text a second": (stated(lambda identity: identity | {"feature_fps": "1"}), "feature_fps"),
    "no width": (stated(without_width), "attributes don't describe such a file .KeyError"),
    "width of text": (wide("24"), "of width '24'"),
    "width below 0": (wide(-24), "of width '-24'"),
    "width of 2^40": (wide(1 << 40), "of width '1099511627776'"),
    "stream is a path": (
        stated(lambda identity: identity | {"streams": {"../../x": {"width": 24}}}),
        "a stream is '../../x'",
    ),
    "sound of no kind": (stated(lambda identity: identity | {"audio": {"rate": 1, "store": []}}), "audio is"),
    "another Identity": (stated(lambda identity: identity | {"frame_size": "1x1"}), "its Identity isn't that of"),
    "no attribute": (lambda file: file.attrs.__delitem__("plan"), "its attributes are"),
    "a foreign attribute": (lambda file: file.attrs.__setitem__("note", "x"), "its attributes are"),
    "no provenance": (lambda file: file.attrs.__setitem__("circumstance", "7"), "attributes don't describe"),
    "a kind of its own": (lambda file: file.attrs.__setitem__("kind", "x\x1b[2J"), "neither a shard nor a part"),
    "another schema": (lambda file: file.attrs.__setitem__("schema", np.int64(2)), "schema 2, this program reads 1"),
}


@pytest.fixture(scope="module")
def whole(planted: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(planted.folder, tmp_path_factory.mktemp("hostile") / "dataset"))


def read(manifest: Path) -> int:
    """All that training and embedding read of the videos."""
    dataset = FeatureDataset(manifest)
    dataset.without_captions()
    clips = 0
    for video_id in dataset.video_ids:
        video = dataset.video(video_id, RULES, texts=True)
        cutter = Cutter(video, RULES)
        for span in (*caption_clips(video, RULES), *window_clips(video, 2.0)):
            cutter.cut(span.start, span.end)
            clips += 1
    dataset.close()
    return clips


def test_the_shard_as_it_is_can_be_read(whole: Path, planted: Any) -> None:
    assert read(whole / "manifests" / planted.manifest.name) > 100


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_shard_is_one_line_with_its_name(whole: Path, planted: Any, kind: str) -> None:
    change, said = HOSTILE[kind]
    shard = whole / "shards" / f"{SHARD}.h5"
    sound = shard.read_bytes()
    shard.unlink()  # a file of its own: HDF5 knows one that is still open
    shard.write_bytes(sound)
    with h5py.File(shard, "r+") as file:
        change(file)
    try:
        tracemalloc.start()
        with pytest.raises(InputError, match=said) as error:
            read(whole / "manifests" / planted.manifest.name)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        shard.unlink()
        shard.write_bytes(sound)
    line = str(error.value)
    assert line.startswith(f"{shard}: ") and "mcn verify" in line and "\n" not in line and "\x1b" not in line
    assert peak < 32 << 20
