"""Inspect: what was planted in a file is told; what is broken, hostile or unknown is one line and status 2."""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from models.mcn import MCN
from models.pairing import builtin_scheme, scheme_to_dict
from models.settings import ModelSettings
from pipeline.cli import main
from pipeline.core.files import digest_of_json, write_json
from pipeline.core.lease import Lease, LeaseWatch
from pipeline.core.ledger import LedgerWriter
from pipeline.core.records import Outcome
from pipeline.core.reporting import RunSummary
from pipeline.dataset.caption_store import build_caption_store
from pipeline.dataset.folder import add_tombstones, read_description
from pipeline.dataset.manifest import read_manifest
from pipeline.dataset.shard_plans import receipt_path, shard_path
from pipeline.dataset.shard_writer import Origin, write_part
from pipeline.training.checkpoint import KEYS, save_checkpoint

CAPTIONS = [(0.0, 2.0, "chop an onion"), (2.5, 4.0, "stir it")]
STORED = [f"stored{n:05d}" for n in range(5)]
Facts = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def made(
    tmp_path_factory: pytest.TempPathFactory,
    make_dataset: Callable[..., Path],
    make_video: Callable[..., Any],
    make_vectors: Callable[..., Any],
) -> Path:
    """A data set with one file of each kind: five videos, one silent, one with a row that shows nothing."""
    folder = tmp_path_factory.mktemp("made")
    odd: dict[str, dict[str, Any]] = {STORED[1]: {"sound": False}, STORED[2]: {"masked": [3]}}
    videos = [make_video(i, CAPTIONS, **odd.get(i, {})) for i in STORED]
    dataset = make_dataset(folder / "dataset", videos, make_vectors(["chop", "onion", "stir"]), shards=1)
    identity = read_description(dataset)["identity"]
    circumstance = {"host": "node7", "device": "cpu", "processor": "slow", "libraries": {"torch": "2"}, "command": "x"}
    write_part(dataset / "parts" / "000001" / "a.h5", make_video("a"), Origin("000001", identity, circumstance))
    with LedgerWriter(dataset / "ledger", "extract") as ledger:
        for video_id in STORED:
            ledger.append(Outcome(video_id, "extract", "done", time=1_700_000_000.0))
        ledger.append(Outcome("spoilt", "extract", "failed", "timeout", "late", 1, 1_700_000_060.0))
        ledger.append(Outcome("spoilt", "extract", "failed", "undecodable", "no frame", 2, 1_700_003_600.0))
    add_tombstones(dataset, ["forgotten00", "forgotten01"])
    source = folder / "caption.json"
    source.write_text(json.dumps({"abcdefghijk": {"start": [0, 5], "end": [2, 4], "text": ["Öl", "odd"]}}))
    build_caption_store(source, dataset / "captions.h5", False).close()
    report = RunSummary("verify", "file", done=3, detail={"videos": 5}, notes=["a note"])
    write_json(dataset / "verify.json", report.as_json())
    _save(folder / "model")
    return folder


def _save(folder: Path) -> None:
    sizes = {"width": 8, "video_streams": [12], "audio_dim": 6, "word_dim": 5, "reconstruction_hidden": 4}
    scheme = builtin_scheme("fine-and-coarse")
    model = MCN(ModelSettings(scheme=scheme, **(sizes | {"video_streams": (12,)})))
    known: dict[str, Any] = {
        "model": model.state_dict(),
        "epoch": 7,
        "step": 3,
        "history": [{"epoch": 6, "total": 9.0}, {"epoch": 7, "total": 8.25}],
        "settings": {"epochs": 30, "scheme": "fine-and-coarse"},
        "model_settings": sizes,
        "scheme": scheme_to_dict(scheme),
        "identity": {"schema": 1},
        "words": "f" * 64,
        "manifest": {"name": "spring", "digest": "d" * 64},
        "videos": 321,
    }
    save_checkpoint(folder, dict.fromkeys(KEYS) | known)


@pytest.fixture
def facts(capsys: pytest.CaptureFixture[str]) -> Facts:
    """`mcn inspect PATH --json`, after the same for people has been printed too; returns the JSON."""

    def look(path: Path | str, *flags: str) -> dict[str, Any]:
        assert main(["inspect", str(path), *flags]) == 0
        printed = capsys.readouterr().out
        assert str(path) in printed.splitlines()[0]
        assert main(["inspect", str(path), *flags, "--json"]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert printed.startswith(f"{found['kind']} ")
        return found

    return look


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line with which a path is refused."""

    def look(*arguments: object) -> str:
        assert main(["inspect", *map(str, arguments)]) == 2
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1 and captured.out == "", captured
        return captured.err

    return look


# What is in a file


def test_a_shard(made: Path, facts: Facts) -> None:
    found = facts(made / "dataset" / "shards" / "000000.h5")
    assert (found["kind"], found["videos"], sorted(found["video ids"])) == ("shard", 5, STORED)
    assert (found["seconds"], found["captions"], found["words"]) == (5 * 6.5, 10, 5)
    assert (found["videos without sound"], found["seconds without picture"]) == (1, 1.0)
    assert found["decoders"] == {"decord": 4, "decord+pyav": 1}
    assert found["identity"] == read_description(made / "dataset")["identity"]
    assert found["datasets"]["rows/resnet152"] == "<f2 [35, 24]"
    receipt = json.loads(receipt_path(made / "dataset", "000000").read_text())
    assert (found["content"], found["plan"]) == (receipt["content"], receipt["plan"])


def test_a_part_and_what_made_it(made: Path, facts: Facts) -> None:
    found = facts(made / "dataset" / "parts" / "000001" / "a.h5")
    assert (found["kind"], found["name"], found["video ids"]) == ("part", "000001", ["a"])
    assert found["circumstance"]["host"] == "node7"


def test_silence_shows_without_the_log_mel(
    tmp_path: Path, make_video: Callable[..., Any], make_identity: Callable[..., Any], facts: Facts
) -> None:
    identity = make_identity({"resnet152": 24, "efficientnet-lite0": 12}, store="davenet")
    for name, sound in (("loud", True), ("quiet", False)):
        video = replace(make_video(name, sound=sound), logmel=None)
        write_part(tmp_path / f"{name}.h5", video, Origin("000000", identity, {}))
        assert facts(tmp_path / f"{name}.h5")["videos without sound"] == int(not sound)


def test_seconds_without_picture_are_seconds_at_any_rate(
    tmp_path: Path, make_video: Callable[..., Any], make_identity: Callable[..., Any], facts: Facts
) -> None:
    identity = make_identity({"resnet152": 24, "efficientnet-lite0": 12}) | {"feature_fps": 2}
    video = replace(make_video("twice", seconds=8.0, masked=[1, 4, 5]), feature_fps=2, duration=4.0)
    write_part(tmp_path / "twice.h5", video, Origin("000000", identity, {}))
    assert facts(tmp_path / "twice.h5")["seconds without picture"] == 1.5


def test_a_video_that_is_heard_in_part_is_not_without_sound(
    tmp_path: Path, make_video: Callable[..., Any], make_identity: Callable[..., Any], facts: Facts
) -> None:
    identity = make_identity({"resnet152": 24, "efficientnet-lite0": 12}, store="davenet")
    video = make_video("partly")
    mask = video.audio_mask.copy()
    mask[:-1] = False
    write_part(tmp_path / "partly.h5", replace(video, logmel=None, audio_mask=mask), Origin("000000", identity, {}))
    assert facts(tmp_path / "partly.h5")["videos without sound"] == 0


def test_a_shard_that_says_another_name_than_it_was_written_with_is_refused(
    made: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    path = tmp_path / "changed.h5"
    shutil.copy(shard_path(made / "dataset", "000000"), path)
    with h5py.File(path, "r+") as file:
        file.attrs["name"] = "000001"
    assert "its attributes don't match their sha256: it was changed" in refused(path)


def test_a_plan(made: Path, facts: Facts) -> None:
    found = facts(made / "dataset" / "plans" / "000000.json")
    assert (found["kind"], found["videos"], found["shard"], found["stored in it"]) == ("plan", 5, "closed", 5)
    assert found["in the order of the ids' sha256"] is True


def test_a_receipt(made: Path, facts: Facts, tmp_path: Path) -> None:
    found = facts(made / "dataset" / "shards" / "000000.json")
    size = shard_path(made / "dataset", "000000").stat().st_size
    assert (found["kind"], found["videos"], found["bytes"], found["shard"]) == ("receipt", 5, size, "there")
    shutil.copytree(made / "dataset", tmp_path / "dataset")
    shard_path(tmp_path / "dataset", "000000").unlink()
    assert facts(tmp_path / "dataset" / "shards" / "000000.json")["shard"] == "gone"


def test_a_data_set(made: Path, facts: Facts) -> None:
    found = facts(made / "dataset")
    assert (found["kind"], found["videos in closed shards"], found["closed shards"]) == ("data set", 5, 1)
    assert (found["plans"], found["parts"], found["manifests"], found["forgotten videos"]) == (1, 1, ["all"], 2)
    assert found["identity"]["streams"]["resnet152"]["width"] == 24
    assert facts(made / "dataset" / "dataset.json")["identity"] == found["identity"]


def test_a_manifest(made: Path, facts: Facts) -> None:
    path = made / "dataset" / "manifests" / "all.json"
    found = facts(path)
    assert (found["kind"], found["videos"], found["splits"]["train"]) == ("manifest", 5, 5)
    assert found["digest"] == read_manifest(path).digest


@pytest.mark.parametrize("folder", [True, False])
def test_a_ledger(made: Path, facts: Facts, folder: bool) -> None:
    path = made / "dataset" / "ledger"
    found = facts(path if folder else next(path.iterdir()))
    assert (found["kind"], found["lines"], found["videos"], found["torn lines"]) == ("ledger", 7, 6, 0)
    assert found["lines by stage"] == {"extract": {"done": 5, "failed, timeout": 1, "failed, undecodable": 1}}
    assert (found["first line"], found["last line"]) == ("2023-11-14T22:13:20Z", "2023-11-14T23:13:20Z")
    assert found["most attempts at a video"] == 2


def test_a_torn_ledger(made: Path, facts: Facts, tmp_path: Path) -> None:
    (path,) = (made / "dataset" / "ledger").iterdir()
    torn = tmp_path / path.name
    torn.write_bytes(path.read_bytes()[:-5])
    found = facts(torn)
    assert (found["lines"], found["torn lines"]) == (6, 1)


def test_captions(made: Path, facts: Facts) -> None:
    found = facts(made / "dataset" / "captions.h5")
    assert (found["kind"], found["videos"], found["captions"], found["bytes of text"]) == ("captions", 1, 1, 3)
    assert found["left out"] == {"reversed or negative time": 1} and found["source"]["source"] == "caption.json"


def test_word_vectors(made: Path, facts: Facts) -> None:
    found = facts(made / "dataset" / "words.kv")
    assert (found["kind"], found["words"], found["width"]) == ("word vectors", 3, 16)
    assert found["first words"] == ["chop", "onion", "stir"] and found["those of the data set"] is True
    assert found["digest"] == read_description(made / "dataset")["words"]


def test_tombstones_and_reports(made: Path, facts: Facts) -> None:
    assert facts(made / "dataset" / "forgotten.json")["forgotten videos"] == 2
    found = facts(made / "dataset" / "verify.json")
    assert (found["kind"], found["done"], found["notes"]) == ("report of verify", 3, ["a note"])


def test_a_lease(tmp_path: Path, facts: Facts) -> None:
    lease = Lease(tmp_path / "000003.json")
    assert lease.acquire(LeaseWatch())
    found = facts(lease.path)
    lease.release()
    assert (found["kind"], found["ended"]) == ("lease", False)


@pytest.mark.parametrize("name", ["model", "model/checkpoint.pt"])
def test_a_checkpoint(made: Path, facts: Facts, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = facts(made / name)
    assert (found["kind"], found["epochs"], found["of epochs"]) == ("checkpoint", 7, 30)
    assert found["steps of the next epoch"] == 3
    assert found["manifest"] == {"name": "spring", "digest": "d" * 64} and found["videos"] == 321
    assert found["last epoch's figures"] == {"total": 8.25} and found["scheme"] == "fine-and-coarse"
    saved = torch.load(made / "model" / "checkpoint.pt", weights_only=True)["model"]
    assert found["parameters"] == sum(tensor.numel() for tensor in saved.values())
    assert found["pairing"]["spaces"][0]["vectors"][0]["width_in"] == 12
    assert main(["inspect", str(made / name)]) == 0
    assert "space coarse, width 8" in capsys.readouterr().out


def test_nothing_is_written(made: Path, facts: Facts) -> None:
    def tree() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in sorted(made.rglob("*"))}

    before = tree()
    for path in [made / "dataset", *made.rglob("*.json"), *made.rglob("*.h5"), *made.rglob("*.kv")]:
        if path.name != "caption.json" and "all.json" not in path.name:
            facts(path)
    assert tree() == before


# What can't be told


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dataset/plan/000000.json", "did you mean 'MADE/dataset/plans/000000.json'?"),
        ("dataset/shards/00000.h5", "did you mean 'MADE/dataset/shards/000000.h5'?"),
        ("datasat", "did you mean 'MADE/dataset'?"),
        ("dataset/parts", "a folder that is no data set, no model, no index and no ledger"),
        ("caption.json", "none that this program knows"),
        ("dataset/" + "x" * 5000, "can't be read"),
    ],
)
def test_a_path_that_leads_nowhere(made: Path, refused: Callable[..., str], name: str, said: str) -> None:
    assert said.replace("MADE", str(made)) in refused(made / name)


def test_a_misspelt_scheme(refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "no such file, nor a built-in pairing scheme" in refused("no\x1bsuch")


KINDS = [
    "dataset/plans/000000.json",
    "dataset/shards/000000.json",
    "dataset/manifests/all.json",
    "dataset/verify.json",
    "dataset/forgotten.json",
    "dataset/words.kv",
    "dataset/dataset.json",
    "model/checkpoint.pt",
]


@pytest.mark.parametrize("name", KINDS)
def test_cut_and_altered_files_never_end_in_a_traceback(
    made: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = (made / name).read_bytes()
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    chance = random.Random(name)
    for turn in range(16):
        spoilt = bytearray(sound[: chance.randrange(len(sound))] if turn % 2 else sound)
        if not turn % 2:
            for _ in range(1 + turn):
                spoilt[chance.randrange(len(spoilt))] ^= 1 << chance.randrange(8)
        path.write_bytes(spoilt)
        status = main(["inspect", str(path)])
        error = capsys.readouterr().err
        assert status == 0 or (status == 2 and error.count("\n") == 1 and str(path) in error), error


@pytest.mark.parametrize("name", ["dataset/shards/000000.h5", "dataset/captions.h5"])
def test_damaged_hdf5_is_refused_in_a_line(
    made: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = (made / name).read_bytes()
    path = tmp_path / Path(name).name
    chance = random.Random(name)
    for turn in range(6):
        spoilt = bytearray(sound[: chance.randrange(9, len(sound))] if turn % 2 else sound)
        if not turn % 2:
            # The library's own structures lie in front.
            for _ in range(20):
                spoilt[chance.randrange(8, 3000)] ^= 1 << chance.randrange(8)
        path.write_bytes(spoilt)
        status = main(["inspect", str(path)])
        error = capsys.readouterr().err
        assert status == 0 or (status == 2 and error.count("\n") == 1), error


def test_a_shard_that_lies_about_itself_is_refused(made: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    path = shutil.copy(shard_path(made / "dataset", "000000"), tmp_path / "000000.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["name"] = "000009"
    assert "don't match their sha256" in refused(path)
    with h5py.File(path, "r+") as file:
        del file["rows/offsets"]
    assert "rows/offsets is missing" in refused(path)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.zeros(3)
    assert "no shard, part, captions or embeddings" in refused(tmp_path / "other.h5")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", b""),
        ("a.json", b"[" * 100_000),
        ("a.json", b"null"),
        ("a.json", b'{"video_ids": 5, "digest": "x", "name": "a", "schema": 1}'),
        ("a.json", b'{"video_ids": [], "digest": "x", "name": "a", "content": 1}'),
        ("a.json", b'{"stage": {}, "unit": 1, "done": [], "failed": 5, "detail": null}'),
        ("a.json", b'{"token": 1, "host": [], "beat": {}}'),
        ("forgotten.json", b'{"schema": 1, "sha256": "abc"}'),
        ("a.jsonl", b""),
        ("a.jsonl", b"\xff\n\n{}\n[1]\n"),
        ("a.kv", b"99999999 300\n"),
        ("a.kv", b"\x80\x04pickle"),
        ("a.pt", b"PK\x03\x04rubbish"),
        ("a.pt", b"\x80\x02pickle"),
        ("a.h5", b"\x89HDF\r\n\x1a\n" + b"\xff" * 500),
        ("a.h5", b"not HDF5"),
        ("a.yaml", b"name: x"),
        ("a.yaml", b"spaces: 5\nname: x"),
        ("a.yaml", b"{" * 5000),
        ("a.mp4", b"\0\0\0 ftypisom"),
        ("noname", b"text"),
    ],
)
def test_what_is_no_file_of_ours_is_refused_in_a_line(
    tmp_path: Path, refused: Callable[..., str], name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    assert str(tmp_path / name) in refused(tmp_path / name)


def test_a_plan_of_an_unsound_order_is_told(made: Path, tmp_path: Path, facts: Facts) -> None:
    content: dict[str, Any] = {"schema": 1, "name": "000000", "video_ids": ["b", "a", "c"]}
    write_json(tmp_path / "plans" / "000000.json", content | {"digest": digest_of_json(content)})
    found = facts(tmp_path / "plans" / "000000.json")
    # sha256("b") = 3e..., sha256("a") = ca..., sha256("c") = 2e...
    assert found["in the order of the ids' sha256"] is False and found["shard"] == "open"


def test_what_others_wrote_can_not_move_the_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = RunSummary("\x1b[31mstage", notes=["\x07\x1b[2J\u202e"], detail={"\x1b[H": ["\x1b"]})
    write_json(tmp_path / "report.json", report.as_json())
    assert main(["inspect", str(tmp_path / "report.json")]) == 0
    printed = capsys.readouterr().out
    assert not [c for c in printed if not c.isprintable() and c != "\n"]
