"""Embeddings against each clip embedded by itself from the source's own rows; killed at ten moments, the same bytes."""

import dataclasses
import json
import multiprocessing
import runpy
import shutil
import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from extractors.text import words
from models.clips import ClipInputs
from pipeline.cli import main
from pipeline.core import signals
from pipeline.core.errors import InputError
from pipeline.core.files import write_json
from pipeline.core.lease import LeaseLostError, this_process
from pipeline.search import embed
from pipeline.search.embed import run
from pipeline.search.embeddings import EmbeddingsFile, damage, join_parts
from pipeline.search.settings import EmbedSettings
from pipeline.training.checkpoint import load_checkpoint, model_from


@pytest.fixture(scope="module")
def embedded(trained: Any, tmp_path_factory: Any) -> Path:
    """Embeddings that nothing disturbed."""
    out = Path(tmp_path_factory.mktemp("embedded") / "clips.h5")
    assert run(EmbedSettings(trained.model, out)).complete
    return out


def by_itself(trained: Any, video_id: str, start: float, end: float, text: str) -> dict[str, torch.Tensor]:
    """A clip's vectors, by `SPACE/MODALITY`, from the source's rows: those whose second lies in it."""
    network, video = model_from(load_checkpoint(trained.model)), trained.videos[video_id]
    seconds = np.arange(len(video.video_mask))
    rows = (seconds >= start) & (seconds < end)
    known = [trained.vectors[word] for word in words(text) if word in trained.vectors][:20]
    heard = video.audio[rows & (seconds < start + 10) & video.audio_mask].astype(np.float32)
    inputs = ClipInputs(
        video=torch.from_numpy(video.video["resnet152"][rows].max(axis=0).astype(np.float32))[None, None],
        video_rows=torch.ones(1, 1, dtype=torch.bool),
        audio=torch.from_numpy(heard.mean(axis=0) if len(heard) else np.zeros(1024, np.float32))[None],
        has_audio=torch.tensor([bool(len(heard))]),
        words=torch.from_numpy(np.stack(known) if known else np.zeros((1, 16), np.float32))[None],
        known_words=torch.full((1, max(1, len(known))), bool(known)),
    )
    with torch.inference_mode():
        vectors = network(inputs).vectors
    return {f"{space}/{modality}": vector[0] for space, of in vectors.items() for modality, vector in of.items()}


def test_every_clip_is_as_embedded_by_itself(trained: Any, embedded: Path) -> None:
    with EmbeddingsFile(embedded) as file:
        assert sorted(file.video_ids) == sorted(trained.videos)
        present = {modality: file.present(modality) for modality in ("video", "audio", "text")}
        names = ["video-text/video", "video-text/text", "video-audio/video", "video-audio/audio"]
        assert sorted(name for name in file.digests if name.startswith("vectors")) == sorted(
            f"vectors/{n}" for n in names
        )
        silent = 0
        for row in range(file.clips):
            clip = file.clip(row)
            wanted = by_itself(trained, clip.video_id, clip.start, clip.end, clip.caption)
            for name in names:
                found, there = file.dataset(f"vectors/{name}")[row], present[name.split("/")[1]][row]
                silent += not there
                # Half precision keeps eleven bits.
                right = wanted[name].numpy() if there else np.zeros_like(found)
                np.testing.assert_allclose(found.astype(np.float32), right, rtol=2e-3, atol=2e-3, err_msg=name)
        assert silent, "a clip without sound and one without words must be among them"
        assert not present["audio"][list(file.rows_of("nosound0001"))].any()
        assert not present["text"][list(file.rows_of("nocaption01"))].any()


def test_clips_are_the_grown_captions_and_windows_where_none_are(trained: Any, embedded: Path) -> None:
    with EmbeddingsFile(embedded) as file:
        rows = file.rows_of("heldout0001")
        # Captions of 2 s beside each other, grown to 3 s: each takes one neighbour, the one before where there is one.
        assert file.times(rows).tolist() == [[0, 4], [2, 6], [4, 8]]
        said = [caption.text for caption in trained.videos["heldout0001"].captions]
        assert file.clip(rows[1]).caption == f"{said[1]} {said[2]}"
        assert file.times(file.rows_of("nocaption01")).tolist() == [[0, 10], [10, 20], [20, 23]]
        assert file.clip(file.rows_of("nocaption01")[0]).caption == ""


def test_vectors_read_by_row_are_those_that_hdf5_reads(embedded: Path) -> None:
    with EmbeddingsFile(embedded) as file, closing(file.vectors("video-text", "video")) as vectors:
        rows = np.array([5, 0, file.clips - 1, 5])
        stored = file.dataset("vectors/video-text/video")[:]
        assert np.array_equal(vectors.read(rows), stored[rows].astype(np.float32))
        assert np.array_equal(np.concatenate([block for _, block in vectors.blocks(64)]), stored.astype(np.float32))


def test_windows_and_split_and_float32(trained: Any, planted: Any, tmp_path: Path) -> None:
    settings = EmbedSettings(trained.model, tmp_path / "c.h5", clips="windows", window_seconds=4, precision="float32")
    run(settings)
    with EmbeddingsFile(settings.out) as file:
        assert file.dataset("vectors/video-text/video").dtype == np.float32
        assert file.times(file.rows_of("heldout0002")).tolist() == [[0, 4], [4, 8]]
    with pytest.raises(InputError, match="no split 'nowhere'"):
        run(dataclasses.replace(settings, out=tmp_path / "d.h5", split="nowhere"))


def test_the_same_again_is_skipped_and_another_refused(trained: Any, embedded: Path, monkeypatch: Any) -> None:
    before = embedded.stat().st_mtime_ns
    monkeypatch.setattr(embed, "write_part", lambda *arguments: pytest.fail("nothing is to be computed"))
    report = run(EmbedSettings(trained.model, embedded))
    assert report.complete and report.done == 0 and report.skipped == report.detail["clips"] > 0
    for other, named in ({"clips": "windows"}, "another clips"), ({"precision": "float32"}, "another precision"):
        with pytest.raises(InputError, match=named):
            run(dataclasses.replace(EmbedSettings(trained.model, embedded), **other))
    assert embedded.stat().st_mtime_ns == before


def test_a_file_of_someone_else_is_left_alone(trained: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.h5").write_text("mine")
    with pytest.raises(InputError, match="not a whole HDF5 file"):
        run(EmbedSettings(trained.model, tmp_path / "notes.h5"))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(InputError, match="no embeddings of this program"):
        run(EmbedSettings(trained.model, tmp_path / "other.h5"))
    assert (tmp_path / "notes.h5").read_text() == "mine"


@pytest.mark.parametrize(
    ("value", "precision", "said"),
    [
        (70_000.0, "float16", "beyond 65,504; use --precision float32"),
        (np.nan, "float16", "NaN or infinity"),
        (np.inf, "float32", "NaN or infinity"),
    ],
)
def test_a_value_that_cant_be_stored_names_the_video(
    trained: Any, tmp_path: Path, monkeypatch: Any, value: float, precision: Any, said: str
) -> None:
    real = embed.TrainedModel.embed

    def spoilt(self: Any, clips: Any, *rest: Any) -> Any:
        clips = list(clips)
        found = real(self, clips, *rest)
        for place, clip in enumerate(clips):
            if clip.video_id == "train000004":
                found.vectors["video-text"]["video"][place, 2] = value
                break
        return found

    monkeypatch.setattr(embed.TrainedModel, "embed", spoilt)
    with pytest.raises(InputError, match=f"video train000004 at .*video-text/video.*{said}"):
        run(EmbedSettings(trained.model, tmp_path / "c.h5", precision=precision))
    assert not (tmp_path / "c.h5").exists()


def test_a_signal_ends_it_after_the_part_in_hand(
    trained: Any, embedded: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    real, written = embed.write_part, []

    def asked_meanwhile(path: Path, *rest: Any) -> None:
        real(path, *rest)
        written.append(path.name)
        if len(written) == 2:
            signals.ask_to_stop()

    monkeypatch.setattr(embed, "write_part", asked_meanwhile)
    arguments = ["embed", "--checkpoint", str(trained.model), "--out", str(tmp_path / "c.h5")]
    assert main(arguments) == 75
    assert len(written) == 2 and not (tmp_path / "c.h5").exists()
    assert main(arguments) == 0
    assert len(written) == len(set(written)) == 5
    assert (tmp_path / "c.h5").read_bytes() == embedded.read_bytes()


def test_once_its_lock_is_anothers_it_writes_and_deletes_nothing(
    trained: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    real, written = embed.write_part, []
    parts, lock = tmp_path / ".c.h5.parts", tmp_path / ".c.h5.parts" / "lock.json"

    def taken_over(path: Path, *rest: Any) -> None:
        if len(written) == 2:
            write_json(lock, this_process().__dict__ | {"host": "far-away", "boot": "another", "beat": 0})
        real(path, *rest)
        written.append(path)

    monkeypatch.setattr(embed, "write_part", taken_over)
    with pytest.raises(LeaseLostError, match=r"far-away, process \d+ has taken it over"):
        run(EmbedSettings(trained.model, tmp_path / "c.h5"))
    assert sorted(path for path in parts.rglob("*") if path.is_file()) == sorted([*written, lock])
    assert len(written) == 2 and not (tmp_path / "c.h5").exists()


DOOMED = """
import os, shutil, signal, sys
from pipeline.core import hdf5
from pipeline.cli import main
from pipeline.search import embed

kind, left = moment

def dies(name, call):
    def doomed(*arguments, **named):
        global left
        left -= name == kind
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **named)
    return doomed

for name in ("fsync", "replace"):
    setattr(os, name, dies(name, getattr(os, name)))
embed.remove_tree = dies("remove_tree", embed.remove_tree)
hdf5._ErrorKeepingFile.write = dies("write", hdf5._ErrorKeepingFile.write)
join_parts = embed.join_parts

def joining(*arguments):
    hdf5._ErrorKeepingFile.write = dies("joining", hdf5._ErrorKeepingFile.write)
    join_parts(*arguments)

embed.join_parts = joining
sys.exit(main(arguments))
"""
"""Runs `mcn embed` and kills itself at the n-th call of a kind: what another's SIGKILL does at that very moment."""

MOMENTS = [
    ("fsync", 1),  # the lock is being written
    ("write", 3),  # the first part is half written
    ("replace", 1),  # the first part is whole, and not yet renamed
    ("replace", 2),  # likewise the second
    ("write", 25),
    ("fsync", 9),
    ("joining", 1),  # all parts are there, the file is begun
    ("joining", 30),
    ("replace", 1),  # the file is whole, and not yet renamed
    ("remove_tree", 1),  # the file is there, and its parts too
]


@pytest.mark.slow
def test_killed_ten_times_the_file_has_the_same_bytes(trained: Any, embedded: Path, tmp_path: Path) -> None:
    script, out = tmp_path / "doomed.py", tmp_path / "out" / "clips.h5"
    script.write_text(DOOMED)
    arguments = ["embed", "--checkpoint", str(trained.model), "--out", str(out)]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipeline.search.embed"])
    states = []
    for moment in [*MOMENTS, ("never", 1)]:
        given = {"moment": moment, "arguments": arguments}
        process = context.Process(target=runpy.run_path, args=(str(script), given, "doomed"))
        process.start()
        process.join()
        assert process.exitcode == (0 if moment[0] == "never" else -signal.SIGKILL), f"{moment}: {process.exitcode}"
        parts = sorted(path.name for path in (tmp_path / "out").rglob("0*.h5"))
        states.append((len(parts), out.exists()))
    assert [parts for parts, _ in states[:4]] == [0, 0, 0, 1] and states[6] == states[8] == (5, False)
    assert states[9] == (5, True) and states[10] == (0, True)
    assert out.read_bytes() == embedded.read_bytes()
    assert sorted(path.name for path in out.parent.iterdir()) == ["clips.h5", "clips.json"], "nothing is left behind"
    assert json.loads((out.parent / "clips.json").read_text())["detail"]["clips"] > 0


def test_a_part_cut_short_is_computed_anew(trained: Any, embedded: Path, tmp_path: Path, monkeypatch: Any) -> None:
    out = tmp_path / "clips.h5"
    monkeypatch.setattr(embed, "join_parts", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(EmbedSettings(trained.model, out))
    monkeypatch.undo()
    (part, *_) = sorted(tmp_path.rglob("000002.h5"))
    part.write_bytes(part.read_bytes()[:700])
    assert run(EmbedSettings(trained.model, out)).complete
    assert out.read_bytes() == embedded.read_bytes() and damage(out) == ""


def test_a_part_that_a_disk_has_changed_is_told(
    make_embeddings: Callable[..., Path], tmp_path: Path, monkeypatch: Any
) -> None:
    path = make_embeddings(tmp_path / "clips.h5", np.ones((30, 8), np.float16))
    parts = sorted(tmp_path.glob("clips-*.h5"))
    with EmbeddingsFile(parts[1]) as part:
        made_of, offset = part.made_of, part.dataset("vectors/made/video").id.get_offset()
    join_parts(tmp_path / "again.h5", made_of, {"checkpoint": "nowhere", "manifest": "nowhere"}, parts)
    assert (tmp_path / "again.h5").read_bytes() == path.read_bytes()
    with open(parts[1], "r+b") as raw:
        raw.seek(offset)
        raw.write(b"\x01")
    with pytest.raises(InputError, match="clips-1.h5: damaged; delete it"):
        join_parts(tmp_path / "other.h5", made_of, {}, parts)
    assert not (tmp_path / "other.h5").exists()


def test_a_moved_model_gives_the_same_vectors(trained: Any, embedded: Path, tmp_path: Path) -> None:
    shutil.copytree(trained.model, tmp_path / "elsewhere")
    run(EmbedSettings(tmp_path / "elsewhere", tmp_path / "clips.h5", trained.manifest))
    with EmbeddingsFile(embedded) as one, EmbeddingsFile(tmp_path / "clips.h5") as other:
        assert one.digest == other.digest and one.paths != other.paths


def test_out_must_be_an_h5_file(trained: Any, tmp_path: Path) -> None:
    make: Callable[..., Any] = EmbedSettings
    with pytest.raises(ValueError, match="ends in .h5"):
        make(trained.model, tmp_path / "clips.json")
