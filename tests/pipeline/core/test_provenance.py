"""Where a recorded path is after a move, and what recorded versions and machines say of rounding."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.provenance import provenance, recorded_path, recorded_places, rounding_changes


@pytest.mark.parametrize(
    ("recorded", "home", "places"),
    [
        ("/old/data/m.json", "/old/model", ["/old/data/m.json", "NOW/data/m.json"]),
        ("/old/model/m.json", "/old/model", ["/old/model/m.json", "NOW/model/m.json"]),
        # From where the program was started then, which nobody knows any more.
        ("runs/data/m.json", "runs/model", ["NOW/data/m.json", "runs/data/m.json"]),
        ("../data/m.json", "model", ["NOW/../data/m.json", "../data/m.json"]),
        ("data/m.json", "/old/model", ["data/m.json"]),
        ("/old/data/m.json", "model", ["/old/data/m.json"]),
    ],
)
def test_it_is_where_it_was_or_as_far_from_its_record(
    tmp_path: Path, recorded: str, home: str, places: list[str]
) -> None:
    (tmp_path / "now").mkdir()
    expected = [Path(place.replace("NOW/..", str(tmp_path)).replace("NOW", str(tmp_path / "now"))) for place in places]
    assert recorded_places(recorded, home, tmp_path / "now" / "model") == expected


def test_what_is_there_is_taken_the_old_place_of_an_absolute_path_first(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "m.json").touch()
    recorded = (str(old / "m.json"), str(old / "model"), new / "model")
    assert recorded_path(*recorded) == old / "m.json"
    (old / "m.json").unlink()
    assert recorded_path(*recorded) == new / "m.json"
    (new / "m.json").unlink()
    assert recorded_path(*recorded) == old / "m.json"


HERE: dict[str, Any] = {
    "libraries": {"python": "3.11.7", "torch": "2.11.0", "av": "18.1.0", "numpy": "2.4.6", "h5py": "3.16.0"},
    "processor": "Xeon",
    "device": "cuda:0",
    "host": "node1",
    "command": "mcn extract",
    "time": "2026-01-01T00:00:00Z",
}


@pytest.mark.parametrize(
    ("then", "changes"),
    [
        ({"host": "node2"}, ["host node2"]),
        ({"processor": "EPYC", "host": "node2"}, ["host node2", "processor EPYC"]),
        ({"device": "cpu"}, ["device cpu"]),
        ({"libraries": HERE["libraries"] | {"torch": "2.9.1", "av": "17.0.0"}}, ["torch 2.9.1", "av 17.0.0"]),
        ({"libraries": {"torch": "2.11.0", "numpy": "2.4.6"}}, ["av unknown"]),
        ({"libraries": 7, "host": None}, ["host unknown", "torch unknown", "av unknown", "numpy unknown"]),
    ],
)
def test_what_may_have_rounded_rows_otherwise_is_named_as_it_was(then: dict[str, Any], changes: list[str]) -> None:
    assert rounding_changes(HERE | then, HERE) == changes


def test_what_touches_no_row_is_no_change() -> None:
    then = {"device": "cuda:3", "command": "mcn run", "time": "2025-01-01T00:00:00Z"}
    then_libraries = HERE["libraries"] | {"h5py": "3.1.0", "python": "3.12.0"}
    assert rounding_changes(HERE | then | {"libraries": then_libraries}, HERE) == []
    assert rounding_changes({}, HERE) == ["where is not recorded"]


def test_a_process_s_own_provenance_is_no_change() -> None:
    assert rounding_changes(json.loads(json.dumps(provenance("cpu"))), provenance("cpu")) == []
