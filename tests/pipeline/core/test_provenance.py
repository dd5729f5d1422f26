"""Where a recorded path is after a move."""

from pathlib import Path

import pytest

from pipeline.core.provenance import recorded_path, recorded_places


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
