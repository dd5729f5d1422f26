"""What the benchmark of scale measures on: whole files of the format, in which one video alone is left to do."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.scale_folder import STORED, fate, fill, video_id, write_captions, write_list
from pipeline.core.ledger import latest_states
from pipeline.core.video_ids import read_video_list
from pipeline.dataset.captions import read_caption_file
from pipeline.dataset.shard_plans import closed_names, plan_names, read_plan, read_receipt, write_plans
from pipeline.download.media import media_path
from pipeline.extraction.planning import take_stock
from pipeline.extraction.settings import ExtractSettings

COUNT = 400


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 ids beside the plan of a video that was there before, and a video that is new."""
    folder = tmp_path_factory.mktemp("scale")
    write_plans(folder / "dataset" / "plans", [[video_id(COUNT)]])
    (folder / "dataset" / "shards").mkdir()
    new = media_path(folder / "media", video_id(COUNT + 1))
    new.parent.mkdir(parents=True)
    new.touch()
    fill(folder / "dataset", folder / "media", COUNT, {"host": "here"})
    write_list(folder / "list.csv", [video_id(number) for number in range(COUNT + 2)])
    return folder


def test_plans_receipts_and_ledgers_are_whole(folder: Path) -> None:
    dataset = folder / "dataset"
    names = plan_names(dataset / "plans")
    plans = [read_plan(dataset / "plans", name) for name in names[1:]]
    assert names == [f"{number:06d}" for number in range(len(names))] and closed_names(dataset) == names[1:]
    torn: Counter[str] = Counter()
    states = latest_states(folder / "media" / "ledger", "download", torn)
    extracted = latest_states(dataset / "ledger", "extract", torn)
    assert not torn and states.keys() == {video_id(number) for number in range(COUNT)}
    stored: list[str] = []
    for plan in plans:
        receipt = read_receipt(dataset, plan.name)
        assert receipt is not None and receipt.plan == plan.digest and receipt.circumstance == {"host": "here"}
        assert sorted([*receipt.video_ids, *receipt.left_out]) == sorted(plan.video_ids)
        assert all(extracted[i].latest.reason == reason for i, reason in receipt.left_out.items())
        stored += receipt.video_ids
    assert sorted(stored) == sorted(video_id(number) for number in range(COUNT) if fate(number) == STORED)
    assert all(extracted[i].latest.outcome == states[i].latest.outcome == "done" for i in stored)
    with open(folder / "list.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(read_video_list(folder / "list.csv")) == COUNT + 2


def test_one_video_is_left_and_none_is_waited_for(folder: Path) -> None:
    stock = take_stock(ExtractSettings(folder / "media", folder / "dataset", ids=folder / "list.csv"))
    assert list(stock.new) == [video_id(COUNT + 1)] and stock.unsettled == 0
    assert stock.absent == sum(fate(number) not in (STORED, "undecodable") for number in range(COUNT))
    assert not stock.notes


def test_captions_are_as_published_and_as_large_as_asked(tmp_path: Path) -> None:
    ids = [video_id(number) for number in range(1200)]
    write_captions(tmp_path / "caption.json", ids, 1500)
    left_out: Counter[str] = Counter()
    found = dict(read_caption_file(tmp_path / "caption.json", left_out))
    assert list(found) == ids and not left_out and all(found.values())
    assert json.loads((tmp_path / "caption.json").read_text()).keys() == set(ids)
    assert (tmp_path / "caption.json").stat().st_size == pytest.approx(1500 * len(ids), rel=0.2)
