"""`mcn freeze`: what a manifest says of a data set, and that it stays so while the data set grows."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import pytest

from pipeline.core.config import from_mapping
from pipeline.core.errors import InputError
from pipeline.core.ledger import LedgerWriter
from pipeline.core.records import Outcome
from pipeline.dataset.folder import add_tombstones
from pipeline.dataset.freeze import run
from pipeline.dataset.manifest import FreezeSettings, read_manifest


def canonical(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def id_of(number: int) -> str:
    return f"video{number:06d}"


@pytest.fixture
def stored(tmp_path: Path) -> Callable[..., Path]:
    """A data set folder of which only receipts are read: its shards are files of a byte."""

    def make(
        shards: Sequence[Sequence[str]], left_out: Mapping[str, str] | None = None, processors: Sequence[str] = ("P",)
    ) -> Path:
        folder = tmp_path / "dataset"
        (folder / "shards").mkdir(parents=True, exist_ok=True)
        description = {"identity": {"schema": 1}, "words": "w" * 64, "settings": {}, "announcements": []}
        (folder / "dataset.json").write_text(json.dumps(description))
        for number, ids in enumerate(shards):
            name = f"{number:06d}"
            circumstance = {"processor": processors[number % len(processors)], "device": "cpu", "libraries": {"a": "1"}}
            content = {
                "schema": 1, "name": name, "plan": "0" * 64, "video_ids": list(ids),
                "left_out": dict(left_out or {}) if number == 0 else {}, "content": canonical(sorted(ids)), "bytes": 1,
                "seconds": 1.0, "circumstance": circumstance | {"host": f"h{number}", "time": str(number)},
            }  # fmt: skip
            (folder / "shards" / f"{name}.h5").write_bytes(b"x")
            (folder / "shards" / f"{name}.json").write_text(json.dumps(content | {"digest": canonical(content)}))
        return folder

    return make


def listed(path: Path, tasks: Mapping[str, str]) -> Path:
    path.write_text("video_id,task_id\n" + "".join(f"{i},{task}\n" for i, task in tasks.items()))
    return path


def frozen(folder: Path, name: str = "study") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "manifests" / f"{name}.json").read_text())
    return content


def sides(folder: Path, name: str) -> dict[str, str]:
    return {video_id: side for side, ids in frozen(folder, name)["splits"].items() for video_id in ids}


def test_a_manifest_says_what_the_shards_hold(
    tmp_path: Path, make_video: Callable[..., Any], make_dataset: Callable[..., Path]
) -> None:
    folder = make_dataset(tmp_path / "dataset", [make_video(id_of(n)) for n in range(7)], shards=3)
    report = run(FreezeSettings(folder, "study", heldout_videos=0.5, heldout_tasks=0))
    content = frozen(folder)
    held: dict[str, list[str]] = {}
    for path in sorted((folder / "shards").glob("*.h5")):
        with h5py.File(path) as file:
            held[path.stem] = [name.decode() for name in file["videos/id"][:]]
    assert {name: shard["videos"] for name, shard in content["shards"].items()} == {n: len(i) for n, i in held.items()}
    for name, shard in content["shards"].items():
        assert shard["content"] == json.loads((folder / "shards" / f"{name}.json").read_text())["content"]
    everything = [i for ids in content["splits"].values() for i in ids]
    assert sorted(everything) == sorted(i for ids in held.values() for i in ids) and len(set(everything)) == 7
    assert all(ids == sorted(ids) for ids in content["splits"].values()) and all(content["splits"][k] for k in
        ("train", "heldout-videos"))  # fmt: skip
    assert content["identity"] == canonical(json.loads((folder / "dataset.json").read_text())["identity"])
    body = {key: value for key, value in content.items() if key not in ("digest", "circumstances")}
    assert content["digest"] == canonical(body) == report.detail["digest"]
    assert content["list"] is None and content["schema"] == 1 and content["name"] == "study"
    assert report.done == 7 and json.loads((folder / "freeze.json").read_text())["detail"] == report.detail


def test_every_listed_id_that_is_missing_has_its_reason(tmp_path: Path, stored: Callable[..., Path]) -> None:
    folder = stored([[id_of(0), id_of(1)], [id_of(2)]], left_out={id_of(3): "undecodable"})
    ids = listed(tmp_path / "list.csv", {id_of(n): "1" for n in range(10) if n != 2})
    with LedgerWriter(folder / "ledger", "extract") as ledger:
        ledger.append(Outcome(id_of(4), "extract", "failed", "memory"))
    with LedgerWriter(tmp_path / "media" / "ledger", "download") as ledger:
        for number, outcome, reason in (
            (0, "done", ""), (3, "done", ""), (4, "done", ""), (5, "failed", "private"), (6, "waiting", ""),
            (7, "waiting", "premiere"), (8, "done", ""),
        ):  # fmt: skip
            ledger.append(Outcome(id_of(number), "download", outcome, reason))
    report = run(FreezeSettings(folder, "study", ids, tmp_path / "media", heldout_tasks=0, heldout_videos=0))
    content = frozen(folder)
    assert content["missing"] == {
        "undecodable": [id_of(3)], "memory": [id_of(4)], "private": [id_of(5)], "waiting": [id_of(6)],
        "premiere": [id_of(7)], "not extracted yet": [id_of(8)], "not tried": [id_of(9)],
    }  # fmt: skip
    assert content["splits"]["train"] == [id_of(0), id_of(1)] and content["left_out"] == {"unlisted": [id_of(2)]}
    assert list(content["shards"]) == ["000000"], "a shard without a video of the list isn't needed"
    digest = hashlib.sha256(ids.read_bytes()).hexdigest()
    assert content["list"] == {"source": "list.csv", "sha256": digest, "ids": 9}
    assert report.complete and report.detail["missing"]["not tried"] == 1
    run(FreezeSettings(folder, "offline", ids))
    assert set(frozen(folder, "offline")["missing"]) == {"undecodable", "memory", "not in the data set"}


def test_benchmarks_are_on_no_side(tmp_path: Path, stored: Callable[..., Path]) -> None:
    folder = stored([[id_of(n) for n in range(9)]])
    (tmp_path / "a.csv").write_text(f"start,video_id,text\n1,{id_of(1)},x\n2,{id_of(1)},y\n3,{id_of(20)},z\n")
    (tmp_path / "b.txt").write_text(f"{id_of(4)}\n\n{id_of(5)}\n")
    benchmarks = (tmp_path / "a.csv", tmp_path / "b.txt")
    run(FreezeSettings(folder, "study", exclude=benchmarks, heldout_tasks=0, heldout_videos=0))
    content = frozen(folder)
    assert content["left_out"] == {"benchmark": [id_of(1), id_of(4), id_of(5)]}
    assert content["splits"]["train"] == [id_of(n) for n in (0, 2, 3, 6, 7, 8)]
    assert content["rule"]["exclude"] == {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in benchmarks}


def test_a_first_line_that_is_no_id_is_told_of_when_it_is_passed_over(
    tmp_path: Path, stored: Callable[..., Path]
) -> None:
    folder = stored([[id_of(n) for n in range(9)]])
    short = tmp_path / "short.txt"
    short.write_text(f"{id_of(0)[:10]}\n{id_of(1)}\n{id_of(2)}\n")
    report = run(FreezeSettings(folder, "study", exclude=(short,)))
    assert f"{short}: its first line is taken for the name of a column: {id_of(0)[:10]!r}" in report.notes
    (tmp_path / "named.csv").write_text(f"video_id\n{id_of(1)}\n")
    report = run(FreezeSettings(folder, "other", exclude=(tmp_path / "named.csv",)))
    assert not any("first line" in note for note in report.notes)


def test_a_list_that_excludes_nothing_is_refused_unless_that_is_accepted(
    tmp_path: Path, stored: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stored([[id_of(n) for n in range(9)]])
    some, none = tmp_path / "some.csv", tmp_path / "none.csv"
    some.write_text(f"1,{id_of(1)},https://youtu.be/{id_of(1)}\n2,{id_of(20)},https://youtu.be/{id_of(20)}\n")
    none.write_text(f"v_{id_of(30)}\nv_{id_of(31)}\n")
    with pytest.raises(
        InputError, match=f"none.csv: none of its 2 ids is in the data set, e.g. {id_of(30)}"
    ) as refused:
        run(FreezeSettings(folder, "study", exclude=(some, none)))
    assert "--allow-empty" in str(refused.value) and not (folder / "manifests").exists()
    report = run(FreezeSettings(folder, "study", exclude=(some, none), allow_empty=True))
    said = capsys.readouterr().out
    assert f"exclude, {some}: 1 of 2 ids are in the data set" in said
    assert f"exclude, {none}: 0 of 2 ids are in the data set" in said
    assert not any("elsewhere" in note for note in report.notes)
    some.write_text(f"{id_of(1)},{id_of(1)}\n{id_of(2)},{id_of(1)}\n{id_of(3)},{id_of(4)}\n")
    others = run(FreezeSettings(folder, "others", exclude=(some,)))
    assert frozen(folder, "others")["left_out"] == {"benchmark": [id_of(1), id_of(2), id_of(3)]}
    said = f"{some}: the ids of column 1 are left out; 1 others of the data set stand elsewhere in it, e.g. {id_of(4)}"
    assert said in others.notes
    assert report.detail["exclude"][str(some)] == {"ids": 2, "in the data set": 1}
    assert frozen(folder)["left_out"] == {"benchmark": [id_of(1)]}


def test_lists_of_one_name_are_each_part_of_the_rule(tmp_path: Path, stored: Callable[..., Path]) -> None:
    folder = stored([[id_of(n) for n in range(9)]])
    lists = (tmp_path / "first" / "test.csv", tmp_path / "second" / "test.csv")
    for number, path in enumerate(lists):
        path.parent.mkdir()
        path.write_text(f"{id_of(number)}\n")
    run(FreezeSettings(folder, "study", exclude=lists))
    assert run(FreezeSettings(folder, "study", exclude=lists[::-1])).skipped == 7
    lists[0].write_text(f"{id_of(5)}\n")
    with pytest.raises(InputError, match="frozen with exclude {'test.csv': "):
        run(FreezeSettings(folder, "study", exclude=lists))


def test_lines_of_the_lists_that_are_passed_over_are_said(tmp_path: Path, stored: Callable[..., Path]) -> None:
    folder = stored([[id_of(0), id_of(1)]])
    ids, split = tmp_path / "list.csv", tmp_path / "split.csv"
    ids.write_text(f"video_id\n\n{id_of(0)}\n{id_of(0)}\n{id_of(1)}\n{id_of(0)}\n")
    split.write_text(f"video_id,split\n{id_of(0)},train\n\n{id_of(1)},heldout\n")
    report = run(FreezeSettings(folder, "study", ids, split=split))
    assert f"{ids}: passed over: 1 (empty line), 2 (id listed again, its first line counts)" in report.notes
    assert f"{split}: passed over: 1 (empty line)" in report.notes


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "no such file"),
        (b"", "lists no id"),
        (b"video_id\n", "lists no id"),
        (b"a b\n", "lists no id"),
        (b"\xff\n", "line 1: byte 0xff isn't UTF-8"),
    ],
)
def test_a_list_of_benchmarks_that_is_none_is_refused(
    tmp_path: Path, stored: Callable[..., Path], content: bytes | None, named: str
) -> None:
    path = tmp_path / "benchmark.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=named) as refused:
        run(FreezeSettings(stored([[id_of(0)]]), "study", exclude=(path,)))
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_sides_follow_from_seed_and_id_or_task_alone(tmp_path: Path, stored: Callable[..., Path]) -> None:
    tasks = {id_of(n): str(n % 200) for n in range(4000)}
    shares: dict[str, Any] = {"heldout_videos": 0.1, "heldout_tasks": 0.2}
    few = stored([list(tasks)[:1000]])
    run(FreezeSettings(few, "few", listed(tmp_path / "few.csv", dict(list(tasks.items())[:1000])), **shares))
    # Grown, in other shards and in another order.
    ids = listed(tmp_path / "all.csv", dict(reversed(tasks.items())))
    folder = stored([list(tasks)[::-1][:2500], list(tasks)[::-1][2500:]])
    run(FreezeSettings(folder, "all", ids, **shares))
    before, after = sides(few, "few"), sides(folder, "all")
    assert len(before) == 1000 and len(after) == 4000 and before.items() <= after.items()

    held = {tasks[video_id] for video_id, side in after.items() if side == "heldout-tasks"}
    assert all((tasks[video_id] in held) == (side == "heldout-tasks") for video_id, side in after.items())
    # Binomial, within 4 standard deviations: 200 tasks of which a fifth, then a tenth of the other videos.
    assert abs(len(held) - 40) < 4 * (200 * 0.2 * 0.8) ** 0.5
    others = [side for side in after.values() if side != "heldout-tasks"]
    assert abs(others.count("heldout-videos") - 0.1 * len(others)) < 4 * (0.09 * len(others)) ** 0.5
    run(FreezeSettings(folder, "seed", ids, seed=1, **shares))
    assert sides(folder, "seed") != after
    # A larger share keeps what was held out.
    run(FreezeSettings(folder, "more", ids, heldout_videos=0.3, heldout_tasks=0.2))
    more = sides(folder, "more")
    assert all(more[video_id] == side for video_id, side in after.items() if side != "train")


def test_without_tasks_none_are_held_out_and_it_is_said(stored: Callable[..., Path]) -> None:
    report = run(FreezeSettings(stored([[id_of(n) for n in range(50)]]), "study"))
    assert any("no tasks are known" in note for note in report.notes)
    assert report.detail["splits"]["heldout-tasks"] == 0


def test_sides_may_be_given(tmp_path: Path, stored: Callable[..., Path]) -> None:
    split = tmp_path / "split.csv"
    split.write_text(f"video_id,split\n{id_of(0)},heldout\n{id_of(1)},train\n{id_of(3)},train\n")
    folder = stored([[id_of(0), id_of(1), id_of(2)]])
    run(FreezeSettings(folder, "study", split=split))
    content = frozen(folder)
    assert content["splits"] == {"train": [id_of(1)], "heldout": [id_of(0)]}
    assert content["left_out"] == {"unlisted": [id_of(2)]}
    assert content["rule"]["split"] == hashlib.sha256(split.read_bytes()).hexdigest()


def test_growth_leaves_a_manifest_as_it_is_and_says_so(stored: Callable[..., Path]) -> None:
    shards = [[id_of(n) for n in range(20)]]
    folder = stored(shards)
    run(FreezeSettings(folder, "study"))
    path = folder / "manifests" / "study.json"
    before = path.read_bytes()
    again = run(FreezeSettings(folder, "study"))
    assert (again.done, again.skipped) == (0, 20) and not any("since then" in note for note in again.notes)
    stored([*shards, [id_of(n) for n in range(20, 25)]])
    grown = run(FreezeSettings(folder, "study"))
    assert grown.complete and grown.skipped == 20 and path.read_bytes() == before
    assert any("5 videos gained" in note and "freeze under another name" in note for note in grown.notes)
    assert run(FreezeSettings(folder, "later")).done == 25


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 3}, "seed 0, not 3"),
        ({"heldout_videos": 0.5}, "heldout_videos 0.02, not 0.5"),
        ({"exclude": True}, "exclude {}, not"),
        ({"split": True}, "split None, not"),
    ],
    ids=str,
)
def test_the_same_name_by_another_rule_is_refused(
    tmp_path: Path, stored: Callable[..., Path], change: dict[str, Any], named: str
) -> None:
    folder = stored([[id_of(n) for n in range(20)]])
    run(FreezeSettings(folder, "study"))
    before = (folder / "manifests" / "study.json").read_bytes()
    (tmp_path / "split.csv").write_text(f"video_id,split\n{id_of(0)},train\n")
    (tmp_path / "benchmark.csv").write_text(f"{id_of(7)}\n")
    given = {"split": tmp_path / "split.csv", "exclude": (tmp_path / "benchmark.csv",)}
    change = {name: given.get(name, value) for name, value in change.items()}
    with pytest.raises(InputError, match="frozen with") as refused:
        run(FreezeSettings(folder, "study", **change))
    assert named in str(refused.value) and "another name" in str(refused.value)
    assert (folder / "manifests" / "study.json").read_bytes() == before


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "../a", "a b", "ä", "a" * 65, "a\n"])
def test_a_name_that_can_be_none_is_refused(stored: Callable[..., Path], name: str) -> None:
    with pytest.raises(InputError, match="letters, digits, - _"):
        FreezeSettings(stored([[id_of(0)]]), name)


@pytest.mark.parametrize("share", [-0.1, 1.0, 2.0])
def test_shares_are_below_one(share: float) -> None:
    for name in ("heldout_videos", "heldout_tasks"):
        with pytest.raises(InputError, match="shares from 0 to below 1"):
            from_mapping(FreezeSettings, {"dataset": "d", "name": "n", name: share}, "")


def test_nothing_to_freeze_is_refused(tmp_path: Path, stored: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match=r"dataset\.json: no such file"):
        run(FreezeSettings(tmp_path / "none", "study"))
    with pytest.raises(InputError, match="no video to freeze"):
        run(FreezeSettings(stored([]), "study"))
    (tmp_path / "all.txt").write_text(f"{id_of(0)}\n")
    with pytest.raises(InputError, match=r"no video to freeze \(left out: 1 benchmark\); finish"):
        run(FreezeSettings(stored([[id_of(0)]]), "study", exclude=(tmp_path / "all.txt",)))
    with pytest.raises(InputError, match=f"video {id_of(0)} is in another shard too"):
        run(FreezeSettings(stored([[id_of(0)], [id_of(0)]]), "study"))
    assert not (tmp_path / "dataset" / "manifests").exists()


def test_a_kill_leaves_a_whole_manifest_or_none(stored: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = stored([[id_of(n) for n in range(20)]])
    run(FreezeSettings(folder, "undisturbed"))

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    for moment in ("fsync", "link"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, moment, killed)
            run(FreezeSettings(folder, "study"))
        assert not (folder / "manifests" / "study.json").exists()
    run(FreezeSettings(folder, "study"))
    assert frozen(folder) | {"name": 0, "digest": 0} == frozen(folder, "undisturbed") | {"name": 0, "digest": 0}


def test_of_two_at_once_the_first_one_counts(stored: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    shards = [[id_of(n) for n in range(20)]]
    folder = stored(shards)
    link, path = os.link, folder / "manifests" / "study.json"
    run(FreezeSettings(folder, "study"))
    other = path.read_bytes()
    path.unlink()
    stored([*shards, [id_of(30)]])

    def late(source: Path, target: Path) -> None:
        if target == path:
            path.write_bytes(other)
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    report = run(FreezeSettings(folder, "study"))
    assert path.read_bytes() == other and report.skipped == 20
    assert any("1 videos gained" in note for note in report.notes)


@pytest.mark.parametrize(
    ("damage", "named"),
    [(Path.unlink, "is gone"), (lambda path: path.write_bytes(b"foreign"), "has 7 bytes, its receipt says 1")],
)
def test_a_lost_or_foreign_shard_is_not_passed_over(
    stored: Callable[..., Path], damage: Callable[[Path], Any], named: str
) -> None:
    folder = stored([[id_of(0), id_of(1)], [id_of(2)]])
    damage(folder / "shards" / "000001.h5")
    with pytest.raises(InputError, match=f"000001.h5: {named}; repair first: mcn verify {folder} --repair"):
        run(FreezeSettings(folder, "study"))
    assert not (folder / "manifests").exists()


def test_a_forgotten_video_is_in_no_manifest(tmp_path: Path, stored: Callable[..., Path]) -> None:
    folder = stored([[id_of(0), id_of(1), id_of(2)]])
    add_tombstones(folder, [id_of(1), id_of(5)])
    report = run(FreezeSettings(folder, "study", listed(tmp_path / "list.csv", {id_of(n): "" for n in range(7)})))
    text = (folder / "manifests" / "study.json").read_text()
    assert id_of(0) in text and id_of(6) in text and id_of(1) not in text and id_of(5) not in text
    assert any("2 listed videos were forgotten" in note for note in report.notes)


def test_a_mix_of_circumstances_is_told(stored: Callable[..., Path]) -> None:
    folder = stored([[id_of(0), id_of(1)], [id_of(2)], [id_of(3)]], processors=["old", "new"])
    report = run(FreezeSettings(folder, "study", heldout_videos=0, heldout_tasks=0))
    assert any("have 2 different provenances" in note for note in report.notes)
    found = {one["processor"]: one["videos"] for one in frozen(folder)["circumstances"]}
    assert found == {"old": 3, "new": 1}
    # Only recorded: the same videos under another processor have the same digest.
    digest = frozen(folder)["digest"]
    shutil.rmtree(folder / "manifests")
    stored([[id_of(0), id_of(1)], [id_of(2)], [id_of(3)]], processors=["third"])
    assert run(FreezeSettings(folder, "study", heldout_videos=0, heldout_tasks=0)).detail["digest"] == digest


def test_split_names_select(stored: Callable[..., Path], tmp_path: Path) -> None:
    tasks = {id_of(n): str(n % 20) for n in range(200)}
    folder = stored([list(tasks)])
    run(FreezeSettings(folder, "study", listed(tmp_path / "l.csv", tasks), heldout_videos=0.2, heldout_tasks=0.2))
    manifest = read_manifest(folder / "manifests" / "study.json")
    by_side: dict[str, list[str]] = frozen(folder)["splits"]
    assert manifest.ids("heldout-tasks") == by_side["heldout-tasks"] and manifest.ids("train") == by_side["train"]
    assert manifest.ids("heldout") == sorted(by_side["heldout-tasks"] + by_side["heldout-videos"])
    assert manifest.ids("all") == sorted(tasks)
    with pytest.raises(InputError, match="no split 'test'; it has: .*train"):
        manifest.ids("test")
