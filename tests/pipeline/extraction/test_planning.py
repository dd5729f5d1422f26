"""What is left to plan: every video once, whatever came before, and as long as its download measured it."""

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractors import timm_networks
from pipeline.core.errors import InputError
from pipeline.core.files import write_json
from pipeline.core.ledger import LedgerWriter
from pipeline.core.records import Outcome
from pipeline.dataset.folder import add_tombstones
from pipeline.dataset.shard_plans import plan_names, read_plan, shard_path, write_plans, write_receipt
from pipeline.download.media import media_path
from pipeline.extraction.planning import IdSet, check_inputs, plan_videos, take_stock
from pipeline.extraction.settings import ExtractSettings


def name(number: int) -> str:
    return f"video{number:06d}"


IDS = [name(number) for number in range(12)]


@pytest.fixture
def settings(tmp_path: Path) -> ExtractSettings:
    """Media of IDS[:6], a list of all twelve, no data set yet."""
    for video_id in IDS[:6]:
        arrive(tmp_path / "media", video_id)
    return ExtractSettings(tmp_path / "media", tmp_path / "dataset", ids=listed(tmp_path / "ids.csv", IDS))


def arrive(media: Path, video_id: str, suffix: str = ".mp4") -> None:
    path = media_path(media, video_id, suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def listed(path: Path, video_ids: Iterable[str]) -> Path:
    path.write_text("video_id\n" + "".join(f"{video_id}\n" for video_id in video_ids))
    return path


def record(media: Path, *lines: tuple[str, str, str, dict[str, Any]], attempt: int = 1) -> None:
    """A ledger file of (video, outcome, reason, detail)."""
    with LedgerWriter(media / "ledger", "download") as ledger:
        for video_id, outcome, reason, detail in lines:
            ledger.append(Outcome(video_id, "download", outcome, reason, "", attempt, 1e9, detail))


def close(settings: ExtractSettings, plan: str, left_out: dict[str, str]) -> None:
    """The shard of `plan` as it counts for planning: closed, with a receipt."""
    write_receipt(settings.out, plan, read_plan(settings.out / "plans", plan).digest, left_out)
    shard_path(settings.out, plan).touch()


def planned(settings: ExtractSettings) -> list[str]:
    """All ids of all plans, repeated where plans repeat them."""
    folder = settings.out / "plans"
    return [video_id for plan in plan_names(folder) for video_id in read_plan(folder, plan).video_ids]


def test_lines_of_the_list_that_are_passed_over_are_said(settings: ExtractSettings) -> None:
    assert settings.ids is not None and take_stock(settings).notes == []
    settings.ids.write_text(settings.ids.read_text() + f"\n{IDS[0]}\n{IDS[8]}\n")
    stock = take_stock(settings)
    assert stock.notes == [f"{settings.ids}: passed over: 1 (empty line), 2 (id listed again, its first line counts)"]
    assert list(stock.new) == IDS[:6] and stock.absent == 6


def test_what_is_planned_is_not_planned_again(settings: ExtractSettings) -> None:
    write_plans(settings.out / "plans", [[IDS[0], IDS[7]], [IDS[1]]])
    close(settings, "000000", {IDS[7]: "timeout"})
    stock = take_stock(settings)
    assert list(stock.new) == IDS[2:6], "in the list's order; neither open nor closed plans again"
    assert stock.absent == stock.unsettled == 5, "what is in a plan isn't missed"
    plan_videos(settings, stock.new)
    assert sorted(planned(settings)) == sorted([*IDS[:6], IDS[7]])
    assert take_stock(settings).new == {}


def test_however_lists_and_media_grow_each_video_is_in_one_plan(settings: ExtractSettings) -> None:
    generator = random.Random(3)
    for _ in range(12):
        chosen = generator.sample(IDS, generator.randint(1, 12))
        listed(settings.ids or Path(), [*chosen, *chosen[:2]])
        arrive(settings.media, generator.choice(IDS), generator.choice([".mp4", ".webm"]))
        there = {path.stem for path in settings.media.rglob("video*")}
        before = planned(settings)
        stock = take_stock(settings)
        assert stock.new.keys() == (set(chosen) & there) - set(before)
        assert stock.absent == len(set(chosen) - there - set(before))
        plan_videos(settings, stock.new)
        assert sorted(planned(settings)) == sorted(set(before) | stock.new.keys())


def test_without_a_list_all_media_are_taken(settings: ExtractSettings) -> None:
    write_plans(settings.out / "plans", [IDS[:2]])
    stock = take_stock(ExtractSettings(settings.media, settings.out))
    assert list(stock.new) == IDS[2:6] and (stock.absent, stock.unsettled) == (0, 0)


def test_failures_of_closed_shards_are_planned_anew_for_their_reason_alone(settings: ExtractSettings) -> None:
    write_plans(settings.out / "plans", [IDS[:3], IDS[3:5], [IDS[5]]])
    close(settings, "000000", {IDS[0]: "timeout", IDS[1]: "undecodable"})
    # The second plan is open: its receipt is that of a shard to be made anew.
    write_receipt(settings.out, "000001", read_plan(settings.out / "plans", "000001").digest, {IDS[3]: "timeout"})
    asking = ExtractSettings(settings.media, settings.out, ids=settings.ids, ask_again=("timeout", "crashed"))
    assert take_stock(settings).new == {}
    assert take_stock(asking).new == {IDS[0]: 1.0}
    write_plans(settings.out / "plans", [[IDS[0]]])
    assert take_stock(asking).new == {}, "a later plan has it"
    close(settings, "000003", {IDS[0]: "undecodable"})
    assert take_stock(asking).new == {}, "what came of it last counts"
    close(settings, "000003", {IDS[0]: "crashed"})
    assert take_stock(asking).new == {IDS[0]: 1.0}


def test_forgotten_videos_stay_out(settings: ExtractSettings) -> None:
    settings.out.mkdir()
    add_tombstones(settings.out, [IDS[0], IDS[11]])
    stock = take_stock(settings)
    assert list(stock.new) == IDS[1:6] and stock.absent == 5
    assert stock.notes == ["2 videos were forgotten and stay out"]


def test_a_video_is_as_long_as_its_download_measured(settings: ExtractSettings) -> None:
    record(settings.media, (IDS[0], "done", "", {"duration": 61.5}), (IDS[1], "done", "", {"duration": 12.0}))
    # Files come in any order: what failed, before or after, has measured nothing.
    for attempt in range(2, 8):
        record(settings.media, (IDS[0], "failed", "transient", {"seconds": 1.5}), attempt=attempt)
    found = take_stock(settings).new
    # The files are empty: of a video that no download measured nothing is known, and 1 s stands for it.
    assert found == dict(zip(IDS[:6], [61.5, 12.0, 1.0, 1.0, 1.0, 1.0], strict=True))


def test_only_what_may_still_come_is_waited_for(settings: ExtractSettings) -> None:
    gone = [(IDS[6], "failed", "private", {}), (IDS[7], "done", "extracted", {"duration": 9.0})]
    record(settings.media, *gone, (IDS[8], "failed", "transient", {}), (IDS[9], "failed", "transient", {}))
    record(settings.media, (IDS[9], "failed", "transient", {}), attempt=2)
    record(settings.media, (IDS[9], "failed", "transient", {}), attempt=3)
    stock = take_stock(settings)
    assert (stock.absent, stock.unsettled) == (6, 3), "8 has two attempts left; 10 and 11 weren't tried"


def test_only_full_shards_are_planned_when_more_is_to_come(settings: ExtractSettings) -> None:
    small = ExtractSettings(settings.media, settings.out, ids=settings.ids, shard_size=1.0)
    shard_seconds = 2**20 / small.bytes_per_second()
    new = {video_id: shard_seconds * 0.4 for video_id in IDS[:10]}
    names = plan_videos(small, new, full_only=True)
    lengths = [len(read_plan(small.out / "plans", plan).video_ids) for plan in names]
    assert sum(lengths) == 9, "three and three and three fill a shard, one waits"
    assert plan_videos(small, {IDS[10]: shard_seconds * 0.4}, full_only=True) == []


def test_shards_are_cut_by_the_widths_that_the_data_set_states(settings: ExtractSettings) -> None:
    streams = ("timm.any.tag", "resnet18")
    both = ExtractSettings(settings.media, settings.out, ids=settings.ids, shard_size=1.0, streams=streams)
    identity = {"streams": {"timm.any.tag": {"width": 1536}, "resnet18": {"width": 512}}}
    write_json(settings.out / "dataset.json", {"identity": identity})
    # As wide as ResNet152.
    seconds = 2**20 / ExtractSettings(settings.media, settings.out).bytes_per_second()
    plans = plan_videos(both, dict.fromkeys(IDS[:4], seconds * 0.4), full_only=True)
    assert sum(len(read_plan(both.out / "plans", plan).video_ids) for plan in plans) == 3, "they fill a shard"


def test_a_library_of_networks_that_is_missing_is_told_before_anything_is_read(
    settings: ExtractSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timm_networks, "find_spec", lambda name: None)
    asked = ExtractSettings(settings.media, settings.out, ids=settings.ids, streams=("resnet18", "timm.any.tag"))
    with pytest.raises(InputError, match=r"^timm's networks need the package timm: pip install 'mcn\[timm\]'$"):
        check_inputs(asked)
    check_inputs(settings)


def test_odd_files_are_told_of(settings: ExtractSettings) -> None:
    arrive(settings.media, IDS[3], ".webm")
    (settings.media / "two words.mp4").touch()
    (settings.media / "\udcff.mp4").touch()
    write_plans(settings.out / "plans", [IDS[:2]])
    first, second = take_stock(settings).notes
    assert first.startswith("2 media files are left out, their names can't be ids")
    assert second == f"1 videos have several media files, e.g. {IDS[3]}: the first is used"


def test_what_can_not_be_used_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    absent = ExtractSettings(tmp_path / "media", tmp_path / "dataset")
    with pytest.raises(InputError, match="media: no such folder"):
        check_inputs(absent)
    (tmp_path / "media").mkdir()
    with pytest.raises(InputError, match="holds no video file named by an id"):
        check_inputs(absent)
    write_plans(tmp_path / "dataset" / "plans", [IDS])
    check_inputs(absent)  # plans whose media aren't there now may be closed, or wait
    ids = listed(tmp_path / "ids.csv", [*IDS, "spoilt id"])
    with pytest.raises(InputError, match="ids.csv line 14: 'spoilt id' is not a video id"):
        check_inputs(ExtractSettings(tmp_path / "media", tmp_path / "dataset", ids=ids))


ids = st.text("abcXYZ019_-", min_size=1, max_size=12)


@given(st.lists(st.lists(ids, max_size=6), max_size=6), st.sets(ids, max_size=4), st.lists(ids, max_size=8))
def test_it_answers_as_a_set(groups: list[list[str]], but: set[str], asked: list[str]) -> None:
    truth = {video_id for group in groups for video_id in group}
    found = IdSet(groups, but)
    # The last is how Python names a file whose name isn't UTF-8.
    for video_id in [*truth, *but, *asked, "", "é", "\udcff"]:
        assert (video_id in found) == (video_id in truth and video_id not in but)
