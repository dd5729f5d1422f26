"""Digests of weight files kept between two starts, and every way in which a kept one no longer holds."""

import os
from pathlib import Path

import pytest

from extractors import known_weights
from extractors.known_weights import file_state, known_digest, remember_digest


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MCN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "davenet.pt"
    path.write_bytes(b"weights")
    return path


def test_a_file_that_was_read_is_known_by_network_and_place(cache: Path, weights: Path) -> None:
    assert known_digest("davenet", weights) is None
    remember_digest("davenet", weights, "ab12", file_state(weights))
    assert known_digest("davenet", weights) == "ab12"
    assert known_digest("davenet", weights.parent / "." / weights.name) == "ab12"
    assert known_digest("resnet152", weights) is None
    other = weights.with_name("other.pt")
    other.write_bytes(b"weights")
    assert known_digest("davenet", other) is None


def test_a_file_of_the_same_size_and_time_with_other_content_is_not(cache: Path, weights: Path) -> None:
    remember_digest("davenet", weights, "ab12", file_state(weights))
    before = weights.stat()
    weights.write_bytes(b"others!")
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (weights.stat().st_size, weights.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert known_digest("davenet", weights) is None
    weights.unlink()
    assert known_digest("davenet", weights) is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"file": [1, 2, 3, 4]}', '{"file"', "\0"])
def test_a_damaged_record_is_none(cache: Path, weights: Path, content: str) -> None:
    remember_digest("davenet", weights, "ab12", file_state(weights))
    (record,) = cache.rglob("*.json")
    record.write_text(content)
    assert known_digest("davenet", weights) is None
    remember_digest("davenet", weights, "ab12", file_state(weights))
    assert known_digest("davenet", weights) == "ab12"


def test_where_nothing_can_be_kept_nothing_is(cache: Path, weights: Path) -> None:
    cache.write_text("a file where the folder should be")
    remember_digest("davenet", weights, "ab12", file_state(weights))
    assert known_digest("davenet", weights) is None


def test_a_file_that_was_replaced_while_it_was_read_is_not_known(cache: Path, weights: Path) -> None:
    before = file_state(weights)
    weights.unlink()
    assert file_state(weights) == []
    weights.write_bytes(b"others, of another size")
    remember_digest("davenet", weights, "ab12", before)
    assert known_digest("davenet", weights) is None


def test_other_versions_read_it_anew(cache: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remember_digest("davenet", weights, "ab12", file_state(weights))
    monkeypatch.setattr(known_weights, "version", lambda package: "0.0.0")
    assert known_digest("davenet", weights) is None


def test_a_record_that_cannot_get_its_name_leaves_nothing_behind(cache: Path, weights: Path) -> None:
    remember_digest("davenet", weights, "ab12", file_state(weights))
    (record,) = cache.rglob("*.json")
    record.unlink()
    record.mkdir()
    remember_digest("davenet", weights, "ab12", file_state(weights))
    assert [*cache.rglob("*.aside")] == [] and [*record.iterdir()] == []
