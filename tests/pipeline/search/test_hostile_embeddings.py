"""An embeddings file that someone made to do harm: one line that names it, whatever it holds, and no memory taken."""

import json
import re
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipeline.cli import main
from pipeline.core.files import digest_of_json
from pipeline.search.index import run as index
from pipeline.search.settings import IndexSettings

from ...hdf5_changes import Change, instead, put


def swelled(file: h5py.File) -> None:
    del file["vectors/made/video"]
    file.create_dataset("vectors/made/video", (1 << 50, 8), "<f4")


def stated(name: str, make: Callable[[Any], Any]) -> Change:
    """Another attribute, sealed by the right digest."""

    def change(file: h5py.File) -> None:
        content = {key: json.loads(file.attrs[key]) for key in ("made_of", "digests")}
        content[name] = make(content[name])
        file.attrs[name] = json.dumps(content[name])
        file.attrs["digest"] = digest_of_json(content)

    return change


HOSTILE: dict[str, tuple[Change, str]] = {
    "offsets fall": (put("videos/offsets", 1, 1 << 40), "videos/offsets isn't an ascending list"),
    "offsets below 0": (put("videos/offsets", 0, -7), "videos/offsets isn't an ascending list"),
    "offsets past the end": (put("videos/offsets", -1, 1 << 40), "videos/offsets isn't an ascending list"),
    "texts below 0": (put("clips/text_offsets", slice(None), -5), "has no text"),
    "texts without end": (put("clips/text_offsets", slice(1, None), 1 << 50), "has no text"),
    "texts fall": (lambda file: put("clips/text_offsets", slice(0, 9), np.arange(9)[::-1])(file), "has no text"),
    "times are NaN": (put("clips/times", slice(None), np.nan), "or no time"),
    "times are infinite": (put("clips/times", slice(None), np.inf), "or no time"),
    "ids are paths": (put("videos/id", slice(None), b"../../x"), "'../../x' can't name a video"),
    "vectors are NaN": (put("vectors/made/video", slice(None), np.nan), "clip .* has NaN or infinity in its vector"),
    "vectors are infinite": (put("vectors/made/video", slice(None), np.inf), "has NaN or infinity in its vector"),
    "fewer vectors": (instead("vectors/made/video", lambda rows: rows[:5]), "vectors/made/video has 5 entries"),
    "wider vectors": (instead("vectors/made/video", lambda rows: np.hstack([rows, rows])), "has the shape"),
    "other type": (instead("vectors/made/video", lambda rows: rows.astype("<f8")), "isn't of type <f4"),
    "fewer times": (instead("clips/times", lambda rows: rows[:5]), "has 31 entries, expected: 6"),
    "no offsets": (instead("videos/offsets", lambda rows: rows[:0]), "videos/offsets has 0 entries"),
    "2^50 vectors": (swelled, "size beyond that of the file"),
    "no attribute": (lambda file: file.attrs.__delitem__("digests"), "no embeddings of this program"),
    "no JSON": (lambda file: file.attrs.__setitem__("made_of", "{"), "attributes don't describe such a file"),
    "deep JSON": (lambda file: file.attrs.__setitem__("made_of", "[" * 60_000), "attributes don't describe"),
    "a number": (lambda file: file.attrs.__setitem__("paths", "7"), "attributes don't describe such a file"),
    "unsealed": (lambda file: file.attrs.__setitem__("digest", "0" * 64), "its attributes were changed"),
    "no widths": (stated("made_of", lambda made_of: made_of | {"widths": {}}), "attributes don't describe|digests"),
    "width of 2^40": (stated("made_of", lambda made_of: made_of | {"widths": {"made": {"video": 1 << 40}}}), "shape"),
    "width of text": (stated("made_of", lambda made_of: made_of | {"widths": {"made": {"video": "8"}}}), "a width"),
    "width below 0": (stated("made_of", lambda made_of: made_of | {"widths": {"made": {"video": -8}}}), "a width"),
    "space is a path": (stated("made_of", lambda m: m | {"widths": {"../..": {"video": 8}}}), "aren't those of"),
    "precision": (stated("made_of", lambda made_of: made_of | {"precision": "object"}), "attributes don't describe"),
    "scheme": (stated("made_of", lambda made_of: made_of | {"scheme": {"name": "x", "spaces": [7]}}), "don't describe"),
    "manifest": (stated("made_of", lambda made_of: made_of | {"manifest": {"name": 7}}), "attributes don't describe"),
    "digests of others": (stated("digests", lambda digests: {"x": "y"}), "its digests aren't those of its datasets"),
}


@pytest.fixture(scope="module")
def made(make_embeddings: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Embeddings of 30 clips, and an index of them."""
    folder = tmp_path_factory.mktemp("embeddings")
    vectors = np.random.default_rng(4).normal(size=(30, 8)).astype(np.float32)
    path = make_embeddings(folder / "clips.h5", vectors)
    index(IndexSettings(path, folder / "index"))
    return path, folder / "index"


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_embeddings_are_one_line_with_their_name(
    made: tuple[Path, Path], kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, said = HOSTILE[kind]
    path, folder = tmp_path / "clips.h5", tmp_path / "index"
    shutil.copy(made[0], path)
    shutil.copytree(made[1], folder)
    with h5py.File(path, "r+") as file:
        change(file)
        digest = file.attrs["digest"]
    # The index that comes with them says that they are its own.
    description = json.loads((folder / "index.json").read_text())
    description["embeddings"] = {"path": str(path), "relative": "../clips.h5", "digest": digest}
    (folder / "index.json").write_text(json.dumps(description))
    lines = []
    tracemalloc.start()
    commands = (["search", str(folder), "--like", "v00000p0@1"], ["index", str(path), "--out", str(tmp_path / "new")])
    for arguments in commands:
        status = main(arguments)
        error = capsys.readouterr().err
        if status != 0:
            assert status == 2 and error.count("\n") == 1 and error.startswith("mcn: ") and "\x1b" not in error
            assert str(path) in error
            lines.append(error)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert any(re.search(said, line) for line in lines), lines
    assert peak < 64 << 20


def test_the_embeddings_as_they_are_are_searched(made: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", str(made[1]), "--like", "v00000p0@1"]) == 0
    assert "v00000p0" in capsys.readouterr().out
