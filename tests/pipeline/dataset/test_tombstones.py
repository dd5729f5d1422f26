"""Tombstones keep a video out without naming it."""

from pathlib import Path

import pytest

from pipeline.core.errors import InputError
from pipeline.dataset.folder import FILE, add_tombstones, forgotten, is_forgotten


def test_a_forgotten_id_is_known_and_not_written_down(tmp_path: Path) -> None:
    assert forgotten(tmp_path) == frozenset() and not is_forgotten("abcdefghijk", forgotten(tmp_path))
    add_tombstones(tmp_path, ["abcdefghijk"])
    add_tombstones(tmp_path, ["lmnopqrstuv", "abcdefghijk"])
    found = forgotten(tmp_path)
    assert len(found) == 2 and is_forgotten("abcdefghijk", found) and is_forgotten("lmnopqrstuv", found)
    assert not is_forgotten("Abcdefghijk", found)
    assert "abcdefghijk" not in (tmp_path / FILE).read_text()


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"schema": 1, "sha256": 3}', '{"schema": 9, "sha256": []}'])
def test_a_broken_file_is_not_taken_for_empty(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(InputError, match="restore it from a copy"):
        forgotten(tmp_path)
