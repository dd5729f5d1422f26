"""The driver's side of extraction, without networks: what it says to a download that waits for room, and at the end."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import InputError
from pipeline.core.lease import locked
from pipeline.core.signals import StoppedError
from pipeline.dataset.shard_plans import write_plans
from pipeline.download import budget as media_budget
from pipeline.download.budget import MediaBudget, download_lock
from pipeline.extraction import driver as extraction_rounds
from pipeline.extraction.driver import ExtractionRounds
from pipeline.extraction.prepare import Prepared
from pipeline.extraction.settings import ExtractSettings

from .conftest import BAD, GOOD, Extraction

BUDGET = 2_000_000.0


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExtractSettings:
    """A list of a video that has yet to come, and a media folder that another fills beyond the budget."""
    monkeypatch.setattr(extraction_rounds, "prepare", lambda settings: Prepared({}, {"identity": {}}, []))
    monkeypatch.setattr(media_budget, "_MEASURE_EVERY_S", 0.0)
    (tmp_path / "ids.csv").write_text("video_id\nlisted-late\n")
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "unlisted000.mp4").write_bytes(b"x" * 3_000_000)
    return ExtractSettings(
        tmp_path / "media",
        tmp_path / "dataset",
        ids=tmp_path / "ids.csv",
        follow=True,
        delete_media=True,
        shard_size=1.0,
    )


def offers(settings: ExtractSettings) -> bool:
    return bool(list((settings.media / ".part").glob("freeing-*.json")))


def follow(settings: ExtractSettings, monkeypatch: pytest.MonkeyPatch, each_wait: Callable[[int], bool]) -> None:
    """Run the rounds beside a download that waits for room; `each_wait(n)` in place of their n-th wait."""
    waits = 0

    def wait(seconds: float) -> bool:
        nonlocal waits
        waits += 1
        assert waits < 10, "waits for ever"
        return each_wait(waits)

    (settings.media / ".part").mkdir(exist_ok=True)
    (settings.media / ".part" / "full").write_text(str(BUDGET))
    monkeypatch.setattr(extraction_rounds.signals, "wait", wait)
    with locked(download_lock(settings.media, "1/1"), "downloading"):
        for _ in ExtractionRounds(settings, "test"):
            pass


def test_a_budget_full_of_what_no_plan_frees_ends_the_downloads_wait(
    settings: ExtractSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []

    def each_wait(number: int) -> bool:
        seen.append(offers(settings))
        return not seen[-1]

    follow(settings, monkeypatch, each_wait)
    assert seen[0] and not seen[-1], "offered at first, taken back then"
    lines = [line for line in capsys.readouterr().err.splitlines() if "budget" in line]
    assert len(lines) == 1 and "unlisted000.mp4" in lines[0] and "1 media files" in lines[0]

    def never(seconds: float) -> bool:
        raise AssertionError("the download must end, not wait")

    assert not MediaBudget(settings.media, BUDGET).wait_for_room(never)


def test_a_plan_that_waits_for_media_that_are_gone_frees_nothing_either(
    settings: ExtractSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plans(settings.out / "plans", [("planned-one", "unlisted000")])
    seen = []

    def each_wait(number: int) -> bool:
        seen.append(offers(settings))
        return not seen[-1]

    follow(settings, monkeypatch, each_wait)
    assert not seen[-1]


def test_room_is_offered_again_once_there_is_something_to_free(
    settings: ExtractSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken_back = False
    offered_again = False

    def each_wait(number: int) -> bool:
        nonlocal taken_back, offered_again
        if taken_back and offers(settings):
            offered_again = True
        elif not offers(settings):
            taken_back = True
            (settings.media / "unlisted000.mp4").write_bytes(b"")
        return offered_again

    follow(settings, monkeypatch, each_wait)
    assert offered_again


def test_what_gave_no_features_makes_room_for_a_download_and_is_not_deleted(
    extraction: Extraction, settings: ExtractSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    heavy = extraction.media / f"{BAD}.mp4"
    heavy.write_bytes(b"x" * int(BUDGET))
    extraction.run()
    following = replace(settings, media=extraction.media, out=extraction.settings.out)
    monkeypatch.setattr(media_budget, "_ASIDE_SHARE", 0.5)
    seen = []

    def each_wait(number: int) -> bool:
        seen.append((offers(following), MediaBudget(extraction.media, BUDGET).has_room()))
        return True

    assert not MediaBudget(extraction.media, BUDGET).has_room()
    follow(following, monkeypatch, each_wait)
    assert seen == [(True, True)]
    assert (extraction.media / ".undecodable" / heavy.name).read_bytes() == b"x" * int(BUDGET)


@pytest.mark.parametrize("follows", [True, False])
def test_a_video_that_may_still_come_has_not_failed_where_a_signal_ends_the_wait_for_it(
    settings: ExtractSettings, monkeypatch: pytest.MonkeyPatch, follows: bool
) -> None:
    monkeypatch.setattr(extraction_rounds.signals, "wait", lambda seconds: True)
    rounds = ExtractionRounds(replace(settings, follow=follows, delete_media=False), "test")
    assert list(rounds) == []
    report = rounds.report()
    assert (report.waiting, dict(report.failed)) == ((1, {}) if follows else (0, {"no media file": 1}))
    assert not report.complete


@pytest.fixture
def report(extraction: Extraction, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """The summary of a run of one worker on what is in the folders."""
    monkeypatch.setattr(extraction_rounds, "prepare", lambda settings: Prepared({}, {"identity": {}}, []))

    def run() -> Any:
        rounds = ExtractionRounds(extraction.settings, "test")
        for _ in rounds:
            extraction.run()
        return rounds.report()

    return run


def test_none_of_the_videos_is_status_1_each_time(extraction: Extraction, report: Callable[[], Any]) -> None:
    for path in extraction.media.iterdir():
        path.write_bytes(b"spoilt")
    first = report()
    assert (first.done, first.failed, first.complete) == (0, {"undecodable": 3}, False)
    assert any("none of 3 videos gave features" in note for note in first.notes)
    assert not report().complete, "nor when there is nothing left to try"


def test_one_of_the_videos_is_enough(extraction: Extraction, report: Callable[[], Any]) -> None:
    (extraction.media / f"{GOOD[0]}.mp4").write_bytes(b"spoilt")
    first = report()
    assert (first.done, first.failed, first.complete) == (1, {"undecodable": 2}, True)
    assert report().complete


def test_new_videos_that_all_fail_are_status_1(extraction: Extraction, report: Callable[[], Any]) -> None:
    assert report().complete
    write_plans(extraction.settings.out / "plans", [["new-video-1"]])
    (extraction.media / "new-video-1.mp4").write_bytes(b"spoilt")
    extraction.name = "000001"
    again = report()
    assert (again.done, again.skipped, again.complete) == (0, 2, False)


def test_deleting_needs_a_folder(extraction: Extraction) -> None:
    file = extraction.media / f"{GOOD[0]}.mp4"
    with pytest.raises(InputError, match="not a folder"):
        ExtractionRounds(replace(extraction.settings, media=file), "test")


def test_what_dead_processes_were_writing_goes_after_a_day_and_nothing_else(settings: ExtractSettings) -> None:
    old, young = time.time() - 25 * 3600, time.time() - 3600
    places = ("shards", "parts/000003", "plans", "leases", "manifests")
    kept, gone = [], []
    for place in places:
        (settings.out / place).mkdir(parents=True)
        for name, age, goes in (
            (".000009.h5.0badcafe.aside", old, True),
            (".000009.h5.600dcafe.aside", young, False),
            (".000009.h5.bad", old, False),
            ("mine.aside", old, False),
        ):
            path = settings.out / place / name
            path.write_text("half")
            os.utime(path, (age, age))
            (gone if goes else kept).append(path)
    ExtractionRounds(settings, "test")
    assert [path.name for path in kept if not path.exists()] == []
    assert [path.name for path in gone if path.exists()] == []


def test_a_signal_that_ends_its_wait_to_plan_ends_the_rounds(
    settings: ExtractSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, asked = extraction_rounds.locked, []

    def stopped(path: Path, what: str, **named: Any) -> Any:
        asked.append(what)
        if len(asked) > 1:
            raise StoppedError("stopped by a signal while it waited")
        return whole(path, what, **named)

    monkeypatch.setattr(extraction_rounds, "locked", stopped)
    monkeypatch.setattr(extraction_rounds.signals, "wait", lambda seconds: False)
    assert list(ExtractionRounds(settings, "test")) == []
    assert asked == [f"preparing {settings.out}", f"planning in {settings.out}"]
    assert not offers(settings), "no download waits for it any more"
