"""The bound on media and the two that share it: a download that waits, an extraction that frees."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.lease import locked
from pipeline.download import budget as media_budget
from pipeline.download.budget import DownloadWatch, MediaBudget, download_lock, freeing


@pytest.fixture(autouse=True)
def measured_each_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(media_budget, "_MEASURE_EVERY_S", 0.0)
    yield


def fill(media: Path, name: str, size: int) -> Path:
    path = media / name[:2] / f"{name}.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


def test_room_is_what_the_files_leave(tmp_path: Path) -> None:
    assert MediaBudget(tmp_path, 0).has_room() and MediaBudget(tmp_path, 10_000).has_room()
    fill(tmp_path, "aa", 6_000)
    budget = MediaBudget(tmp_path, 10_000)
    assert budget.has_room()
    fill(tmp_path, "bb", 6_000)
    assert not budget.has_room() and MediaBudget(tmp_path, 12_001).has_room() and MediaBudget(tmp_path, 0).has_room()


def test_without_anyone_to_free_it_a_full_budget_is_told_at_once(tmp_path: Path) -> None:
    fill(tmp_path, "aa", 10_000)

    def wait(seconds: float) -> bool:
        raise AssertionError("nobody would ever end this wait")

    assert not MediaBudget(tmp_path, 10_000).wait_for_room(wait)


def test_a_download_waits_for_the_extraction_and_is_seen_to_wait(tmp_path: Path) -> None:
    path = fill(tmp_path, "aa", 10_000)
    watch = DownloadWatch(tmp_path)
    waits = 0

    def wait(seconds: float) -> bool:
        nonlocal waits
        waits += 1
        assert not watch.goes_on(), "the extraction must know to plan what is there"
        if waits == 3:
            path.unlink()
        return waits > 3

    with locked(download_lock(tmp_path, "1/1"), "downloading"):
        assert watch.goes_on()
        with freeing(tmp_path):
            assert MediaBudget(tmp_path, 10_000).wait_for_room(wait) and waits == 3
        assert watch.goes_on(), "the mark goes with the wait"
    assert not watch.goes_on()


def test_an_extraction_that_ends_ends_the_wait(tmp_path: Path) -> None:
    fill(tmp_path, "aa", 10_000)
    works = freeing(tmp_path)
    works.__enter__()

    def wait(seconds: float) -> bool:
        works.__exit__(None, None, None)
        return False

    assert not MediaBudget(tmp_path, 10_000).wait_for_room(wait)


def test_a_wait_is_seen_to_be_stuck_when_nothing_changes(tmp_path: Path) -> None:
    fill(tmp_path, "aa", 10_000)
    watch = DownloadWatch(tmp_path)
    seen = []

    def wait(seconds: float) -> bool:
        seen.append(watch.is_stuck())
        if len(seen) == 2:
            fill(tmp_path, "bb", 5_000)  # a video that was in flight
        if len(seen) == 4:
            (tmp_path / "aa" / "aa.mp4").unlink()  # room, which the download has yet to see
            seen.append(watch.is_stuck())
        return len(seen) > 5

    assert not watch.is_stuck(), "nobody waits"
    with freeing(tmp_path):
        assert MediaBudget(tmp_path, 10_000).wait_for_room(wait)
    assert seen == [False, True, False, True, False]
    assert not watch.is_stuck() and not watch.is_stuck()


def test_files_moved_aside_take_a_tenth_of_the_budget_beyond_it(tmp_path: Path) -> None:
    def weighs(size: int) -> float:
        fill(tmp_path, "aa", 5_000)
        (tmp_path / ".undecodable").mkdir(exist_ok=True)
        (tmp_path / ".undecodable" / "bb.mp4").write_bytes(b"x" * size)
        return media_budget.counted_weight(tmp_path, 10_000)

    assert [weighs(size) for size in (0, 600, 1_000, 1_001, 9_000)] == [5_000, 5_000, 5_000, 5_001, 13_000]
    assert not MediaBudget(tmp_path, 10_000).has_room()
