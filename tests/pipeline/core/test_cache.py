"""The cache: files within a budget, the longest unused deleted first, none that a process holds."""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.core.cache import GIB, FileCache, NoRoomError
from pipeline.core.errors import InputError

SIZE = 1000


def filling(content: bytes, times: list[int] | None = None) -> Callable[[Path], None]:
    def fill(path: Path) -> None:
        path.write_bytes(content)
        if times is not None:
            times.append(1)

    return fill


def put(cache: FileCache, key: str, at: float = 0.0) -> Path:
    path = cache.get(key, f"{key}.mp4", SIZE, filling(key.encode() * SIZE))
    if at:
        os.utime(path, (at, at))
    return path


def room(files: float) -> float:
    return files * SIZE / GIB


def test_a_file_is_filled_once(tmp_path: Path) -> None:
    filled: list[int] = []
    for _ in range(2):
        with FileCache(tmp_path, room(1)) as cache:
            path = cache.get("a", "a.mp4", 3, filling(b"abc", filled))
            assert path.read_bytes() == b"abc" and path.name == "a.mp4"
    assert len(filled) == 1


def test_the_longest_unused_makes_room(tmp_path: Path) -> None:
    with FileCache(tmp_path, room(3)) as cache:
        paths = {key: put(cache, key, at) for key, at in (("a", 300.0), ("b", 100.0), ("c", 200.0))}
        for key in paths:
            cache.release(key)
        put(cache, "d")
        assert {key for key, path in paths.items() if path.exists()} == {"a", "c"}


def test_what_is_held_stays_and_the_want_of_room_is_told(tmp_path: Path) -> None:
    with FileCache(tmp_path, room(2.5)) as cache, FileCache(tmp_path, room(2.5)) as other:
        held = [put(cache, "a", 100.0), put(other, "b", 200.0)]
        with pytest.raises(NoRoomError):
            put(cache, "c")
        assert all(path.exists() for path in held)
        assert not [path for path in tmp_path.rglob("*") if path.is_file() and path not in held and path.stat().st_size]
        cache.release("a")
        put(cache, "c")
        assert [path.exists() for path in held] == [False, True]


def test_a_file_larger_than_the_budget_is_refused(tmp_path: Path) -> None:
    with FileCache(tmp_path, room(0.5)) as cache, pytest.raises(InputError, match=r"a\.mp4 has 1 kB.*--cache-size"):
        put(cache, "a")


def _hold_and_die(folder: Path) -> None:
    cache = FileCache(folder, room(1))
    put(cache, "a")
    cache.get("b", "b.mp4", 0, lambda aside: os._exit(1))


def test_what_a_dead_process_held_or_fetched_makes_room(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_hold_and_die, args=(tmp_path,))
    process.start()
    process.join()
    assert [path.name for path in tmp_path.rglob("*.aside")]
    with FileCache(tmp_path, room(1)) as cache:
        kept = put(cache, "c")
        files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"]
        assert files == [kept]


def test_what_is_being_fetched_counts_whole(tmp_path: Path) -> None:
    with FileCache(tmp_path, room(1.5)) as cache, FileCache(tmp_path, room(1.5)) as other:

        def fill(path: Path) -> None:
            with pytest.raises(NoRoomError):
                put(other, "b")
            path.write_bytes(b"a" * SIZE)

        cache.get("a", "a.mp4", SIZE, fill)


def test_a_fetch_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError

    with FileCache(tmp_path, room(1)) as cache:
        with pytest.raises(RuntimeError):
            cache.get("a", "a.mp4", SIZE, fail)
        assert not cache.is_used
        assert put(cache, "a").stat().st_size == SIZE


def test_a_folder_that_can_not_be_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="the cache can't be used"):
        FileCache(tmp_path / "file" / "cache", 1.0)
