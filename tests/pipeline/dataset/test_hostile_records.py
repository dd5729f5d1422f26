"""Plans, receipts, manifests, journals, ledgers whose names are paths: one line, and nothing outside of the folder."""

import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from pipeline.core.errors import InputError
from pipeline.core.files import LARGEST_JSON, digest_of_json, read_json
from pipeline.core.ledger import decode_line, latest_states
from pipeline.dataset.folder import forgotten, half_forgotten, is_forgotten
from pipeline.dataset.manifest import read_manifest
from pipeline.dataset.shard_plans import read_plan, read_receipt, receipts

PATHS = ["../../outside", "/etc/passwd", "a\0b", "x" * 5000, "", ".", "..", "a/b", "\x1b[2J", 7, None, ["a"], {"a": 1}]


@pytest.fixture
def folder(planted: Any, tmp_path: Path) -> Path:
    """A data set, and beside it files that a path would lead to."""
    dataset = Path(shutil.copytree(planted.folder, tmp_path / "made" / "dataset"))
    for name in ("outside", "outside.h5", "outside.mp4", "outside.csv"):
        (tmp_path / "made" / name).write_text("mine")
    return dataset


def outside(dataset: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of all that lies outside of the data set."""
    files = (path for path in dataset.parents[1].rglob("*") if path.is_file() and dataset not in path.parents)
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def rewrite(path: Path, **values: Any) -> None:
    """Change a record and seal it by its right digest, as whoever makes one can."""
    content = json.loads(path.read_text()) | values
    sealed = {key: value for key, value in content.items() if key not in ("digest", "circumstances")}
    if "circumstances" not in content:
        sealed = {key: value for key, value in content.items() if key != "digest"}
    path.write_text(json.dumps(content | {"digest": digest_of_json(sealed)}))


@pytest.mark.parametrize("name", PATHS)
def test_a_plan_of_paths_is_refused(folder: Path, name: Any) -> None:
    rewrite(folder / "plans" / "000001.json", video_ids=["video000001", name])
    before = outside(folder)
    with pytest.raises(InputError, match=r"000001\.json: not the plan 000001, or one whose ids can't name videos"):
        read_plan(folder / "plans", "000001")
    assert outside(folder) == before


def test_commands_tell_a_plan_of_paths_in_a_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "plans" / "000001.json"
    rewrite(path, video_ids=["video000001", "../../outside"])
    assert main(["verify", str(folder)]) == 1
    output = capsys.readouterr()
    assert f"plan: {path}: not the plan" in output.out and output.err == ""
    assert main(["forget", "video000001", "--dataset", str(folder)]) == 2
    assert capsys.readouterr().err.startswith(f"mcn: {path}: not the plan")


@pytest.mark.parametrize("change", [{"name": "../../outside"}, {"name": "000000"}, {"video_ids": "abc"}])
def test_a_plan_of_another_name_or_form_is_refused(folder: Path, change: dict[str, Any]) -> None:
    rewrite(folder / "plans" / "000001.json", **change)
    with pytest.raises(InputError, match="not the plan 000001"):
        read_plan(folder / "plans", "000001")


def test_a_plan_that_names_a_video_twice_is_refused(folder: Path) -> None:
    rewrite(folder / "plans" / "000001.json", video_ids=["video000001", "video000001"])
    with pytest.raises(InputError, match="not the plan 000001"):
        read_plan(folder / "plans", "000001")


@pytest.mark.parametrize(
    "change",
    [
        *({"video_ids": [name]} for name in PATHS),
        *({"left_out": {name: "removed"}} for name in PATHS if isinstance(name, str)),
        {"name": "../../outside"},
        {"name": "000000"},
        {"left_out": {"video000001": ["x"]}},
        {"left_out": []},
        {"bytes": "9"},
        {"seconds": "nan"},
        {"content": 5},
        {"circumstance": 5},
    ],
    ids=lambda change: f"{next(iter(change))} {str(next(iter(change.values())))[:20]!a}",
)
def test_a_receipt_of_paths_counts_as_none_and_is_made_anew(folder: Path, change: dict[str, Any]) -> None:
    path = folder / "shards" / "000001.json"
    stated = json.loads(path.read_text())
    rewrite(path, **change)
    before = outside(folder)
    assert read_receipt(folder, "000001") is None
    assert [receipt.name for receipt in receipts(folder, dict)] == ["000000", "000001"]
    assert json.loads(path.read_text()) == stated and outside(folder) == before


@pytest.mark.parametrize(
    "change",
    [
        *({"splits": {"train": [name]}} for name in PATHS),
        {"left_out": {"benchmark": ["../../outside"]}},
        {"missing": {"private": ["/etc/passwd"]}},
        {"splits": {"train": ["video000001", "video000001"]}},
        {"splits": []},
        {"shards": {"../../outside": {"content": "0", "videos": 1}}},
        {"shards": {"١": {"content": "0", "videos": 1}}},
        {"shards": {"000000": {"content": 5, "videos": 1}}},
        {"shards": {"000000": {"content": "5", "videos": "1"}}},
        {"words": 5},
        {"identity": ["a"]},
        {"rule": 5},
    ],
    ids=lambda change: f"{next(iter(change))} {str(next(iter(change.values())))[:32]!a}",
)
def test_a_manifest_of_paths_is_refused(
    folder: Path, planted: Any, change: dict[str, Any], opened: Callable[[Path], Any]
) -> None:
    path = folder / "manifests" / planted.manifest.name
    rewrite(path, **change)
    watch = opened(folder.parent / "outside.h5")
    with pytest.raises(InputError, match="not a manifest; make one with") as error:
        read_manifest(path)
    assert main(["train", "--manifest", str(path), "--out", str(folder / "model"), "--device", "cpu"]) == 2
    assert watch() == 0 and "\n" not in str(error.value) and "\x1b" not in str(error.value)


@pytest.mark.parametrize("content", [*({"ids": [name]} for name in PATHS), {"ids": "abc"}, {}, [], 5])
def test_a_journal_of_paths_deletes_nothing(
    folder: Path, content: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "forgetting.json").write_text(json.dumps(content))
    before, shards = outside(folder), sorted(os.listdir(folder / "shards"))
    with pytest.raises(InputError, match=r"forgetting\.json: not a list of ids"):
        half_forgotten(folder)
    assert main(["forget", "--dataset", str(folder), "--media", str(folder.parent)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert outside(folder) == before and sorted(os.listdir(folder / "shards")) == shards


def test_tombstones_are_compared_and_never_taken_for_names(folder: Path) -> None:
    (folder / "forgotten.json").write_text(json.dumps({"schema": 1, "sha256": ["../../outside", "/etc/passwd"]}))
    before = outside(folder)
    assert not is_forgotten("outside", forgotten(folder))
    assert main(["verify", str(folder)]) == 0 and outside(folder) == before
    (folder / "forgotten.json").write_text(json.dumps({"schema": 1, "sha256": [5]}))
    with pytest.raises(InputError, match=r"forgotten\.json: not a list of forgotten videos"):
        forgotten(folder)


def _line(**values: Any) -> bytes:
    fields = {
        "attempt": 1,
        "detail": {},
        "message": "",
        "outcome": "done",
        "reason": "",
        "stage": "extract",
        "time": 1.0,
        "video_id": "video000001",
    } | values

    def encoded(what: dict[str, Any]) -> bytes:
        return json.dumps(what, sort_keys=True, separators=(",", ":")).encode()

    return encoded(fields | {"crc32": f"{zlib.crc32(encoded(fields)):08x}"})


@pytest.mark.parametrize(
    "values",
    [
        {"video_id": ["a"]},
        {"video_id": None},
        {"video_id": 5},
        {"attempt": "x"},
        {"attempt": None},
        {"attempt": 1e400},
        {"attempt": True},
        {"time": "x"},
        {"detail": []},
        {"message": 5},
        {"reason": 5},
        {"outcome": {}},
    ],
)
def test_a_ledger_line_of_other_types_counts_as_torn(tmp_path: Path, values: dict[str, Any]) -> None:
    assert decode_line(_line()) is not None
    assert decode_line(_line(**values)) is None
    (tmp_path / "extract-host-1-aaaaaaaa.jsonl").write_bytes(_line(**values) + b"\n" + _line(attempt=2) + b"\n")
    states = latest_states(tmp_path, "extract")
    assert [state.latest.attempt for state in states.values()] == [2]


def test_a_ledger_line_of_a_path_leads_nowhere(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [_line(video_id=name, outcome="failed", reason="undecodable") for name in PATHS if isinstance(name, str)]
    (folder / "ledger").mkdir(exist_ok=True)
    (folder / "ledger" / "extract-host-1-aaaaaaaa.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    before = outside(folder)
    for arguments in (["verify", str(folder)], ["freeze", str(folder), "again"], ["status", str(folder)]):
        assert main(arguments) in (0, 1)
    assert main(["inspect", str(folder / "ledger")]) == 0
    output = capsys.readouterr()
    assert "\x1b" not in output.out and output.err == "" and outside(folder) == before


def test_a_record_that_is_no_file_or_too_large_is_told_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "000000.json")
    with pytest.raises(InputError, match="not a regular file"):
        read_json(tmp_path / "000000.json")
    with open(tmp_path / "large.json", "wb") as file:
        file.truncate(LARGEST_JSON + 1)
    with pytest.raises(InputError, match="too large for a file of this program"):
        read_json(tmp_path / "large.json")
