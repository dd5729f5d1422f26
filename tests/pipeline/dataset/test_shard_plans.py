"""Shard plans: every id once, in the order of its hash, never changed afterwards."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import InputError
from pipeline.core.records import ShardPlan
from pipeline.dataset.shard_plans import (
    SMALL_SET_SHARDS,
    cut_into_shards,
    make_receipt,
    next_number,
    plan_names,
    read_plan,
    read_receipt,
    shard_path,
    write_plans,
)
from pipeline.dataset.shard_reader import FeatureFile
from pipeline.dataset.shard_writer import Origin, write_shard


def by_hash(video_ids: list[str]) -> list[str]:
    return sorted(video_ids, key=lambda video_id: hashlib.sha256(video_id.encode("ascii")).hexdigest())


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.text("abcXYZ019_-", min_size=1, max_size=11), st.floats(0, 5000), max_size=60),
    st.floats(10, 20_000),
)
def test_every_id_is_in_one_shard_in_the_order_of_its_hash(seconds: dict[str, float], shard_seconds: float) -> None:
    shards = cut_into_shards(seconds, shard_seconds)
    assert [video_id for shard in shards for video_id in shard] == by_hash(list(seconds))
    assert all(shards)
    # A shard is an equal share of the whole, plus at most the one video that straddles each end.
    if shards and any(seconds.values()):
        longest = max(seconds.values())
        assert max(sum(seconds[i] for i in shard) for shard in shards) <= shard_seconds + longest + 1e-6


def test_the_cut_does_not_depend_on_the_order_given() -> None:
    seconds = {f"video{n:06d}": 10.0 + n % 7 for n in range(500)}
    assert cut_into_shards(seconds, 600) == cut_into_shards(dict(reversed(seconds.items())), 600)


def test_shards_are_balanced_by_duration_and_as_long_as_asked() -> None:
    seconds = {f"video{n:06d}": 5.0 + (n * 37 % 100) for n in range(2000)}
    shards = cut_into_shards(seconds, 2000)
    lengths = [sum(seconds[i] for i in shard) for shard in shards]
    assert len(shards) == -(-sum(seconds.values()) // 2000)
    assert max(lengths) <= 2000 + 105 and min(lengths) >= sum(seconds.values()) / len(shards) - 105


@pytest.mark.parametrize(("videos", "shards"), [(0, 0), (1, 1), (2, 1), (4, 2), (16, 8), (100, 8)])
def test_small_sets_are_shared_by_several_workers(videos: int, shards: int) -> None:
    found = cut_into_shards({f"v{n}": 10.0 for n in range(videos)}, 1e9)
    assert len(found) == shards <= SMALL_SET_SHARDS


def test_videos_of_unknown_length_count_alike() -> None:
    found = cut_into_shards({f"v{n}": 0.0 for n in range(16)}, 100)
    assert [len(shard) for shard in found] == [2] * 8


def test_a_plan_holds_what_the_page_says(tmp_path: Path) -> None:
    assert write_plans(tmp_path, [["bbb", "aaa"], ["ccc"]]) == ["000000", "000001"]
    content = json.loads((tmp_path / "000000.json").read_text())
    digest = content.pop("digest")
    assert content == {"schema": 1, "name": "000000", "video_ids": ["bbb", "aaa"]}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    assert digest == hashlib.sha256(canonical).hexdigest()
    assert read_plan(tmp_path, "000000") == ShardPlan("000000", ("bbb", "aaa"), digest)


def test_growth_leaves_the_plans_there_are_alone(tmp_path: Path) -> None:
    first = {f"first{n:06d}": 3.0 for n in range(20)}
    names = write_plans(tmp_path, cut_into_shards(first, 1e9))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    second = {f"second{n:05d}": 3.0 for n in range(5)}
    more = write_plans(tmp_path, cut_into_shards(second, 1e9))
    assert not set(names) & set(more) and plan_names(tmp_path) == names + more
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    ids = [i for name in plan_names(tmp_path) for i in read_plan(tmp_path, name).video_ids]
    assert len(ids) == len(set(ids)) and set(ids) == first.keys() | second.keys()
    (tmp_path / f"{names[0]}.json").unlink()
    assert write_plans(tmp_path, [["late"]]) == [f"{len(names + more):06d}"], "a name is never given twice"


def test_files_being_written_are_no_plans(tmp_path: Path) -> None:
    write_plans(tmp_path, [["a"]])
    for name in (".000001.json.12345678.aside", "000002.json.bak", "notes.json", "000003.txt"):
        (tmp_path / name).write_text("{}")
    assert plan_names(tmp_path) == ["000000"] and plan_names(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("old", "new"),
    [('"aaa"', '"aab"'), ('"000000"', '"000001"'), ('"schema": 1', '"schema": 2'), ('"digest"', '"digestt"')],
)
def test_a_changed_plan_is_refused(tmp_path: Path, old: str, new: str) -> None:
    write_plans(tmp_path, [["aaa"]])
    path = tmp_path / "000000.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=r"000000\.json: its digest doesn't match: the plan was changed"):
        read_plan(tmp_path, "000000")


def test_missing_and_broken_plans_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_plan(tmp_path, "000000")
    for content in ("[]", "3", "{}"):
        (tmp_path / "000000.json").write_text(content)
        with pytest.raises(InputError, match="digest doesn't match"):
            read_plan(tmp_path, "000000")


def test_a_receipt_says_why_each_planned_video_is_missing(
    tmp_path: Path, make_dataset: Callable[..., Path], make_video: Callable[..., Any]
) -> None:
    stored = [make_video(f"stored{n:05d}") for n in range(2)]
    dataset = make_dataset(tmp_path / "dataset", stored, shards=1)
    with FeatureFile(shard_path(dataset, "000000")) as file:
        identity, ids = file.identity, file.video_ids
    (name,) = write_plans(dataset / "plans", [["spoilt-one", *ids, "nobody-knows"]])
    origin = Origin(name, identity, {"host": "here"}, read_plan(dataset / "plans", name).digest)
    write_shard(shard_path(dataset, name), [shard_path(dataset, "000000")], origin)
    receipt = make_receipt(dataset, name, {"spoilt-one": "undecodable", "another": "timeout", "nobody-knows": ""})
    assert receipt.left_out == {"spoilt-one": "undecodable", "nobody-knows": "unknown"}
    assert receipt.video_ids == tuple(ids) and receipt.seconds == sum(video.duration for video in stored)
    assert receipt.bytes == shard_path(dataset, name).stat().st_size and receipt.circumstance == {"host": "here"}
    assert read_receipt(dataset, name) == receipt
    shutil.copy(shard_path(dataset, "000000"), shard_path(dataset, name))
    with pytest.raises(InputError, match=f"{name}.h5: not the shard of plan {name}; see `mcn verify"):
        make_receipt(dataset, name, {})
    assert read_receipt(dataset, name) == receipt


def test_plans_of_a_process_that_was_taken_for_dead_are_refused(tmp_path: Path) -> None:
    first = next_number(tmp_path)
    write_plans(tmp_path, [["theirs"]])
    with pytest.raises(InputError, match="another extraction is planning there"):
        write_plans(tmp_path, [["mine"], ["too"]], first)
    assert plan_names(tmp_path) == ["000000"]
