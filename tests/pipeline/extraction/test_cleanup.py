"""Media that go and media that stay: only what lies in a sound shard is deleted, and a dry run lists exactly that."""

from dataclasses import replace
from pathlib import Path

import h5py
import pytest

from beam_jobs.extract import run
from pipeline.core.errors import InputError
from pipeline.core.files import fenced
from pipeline.core.lease import LeaseLostError
from pipeline.core.ledger import LedgerWriter, latest_states
from pipeline.core.records import Outcome
from pipeline.dataset.freeze import reasons_of
from pipeline.dataset.shard_plans import Receipt, open_ids, receipt_path, receipts, shard_path, write_plans
from pipeline.download.budget import aside_of, move_aside, remark_aside, weight_aside
from pipeline.download.downloader import settled
from pipeline.download.media import find_media
from pipeline.extraction import cleanup
from pipeline.extraction.cleanup import delete_leftovers, move_undecodable

from .conftest import BAD, GOOD, Extraction


def of_shards(extraction: Extraction) -> list[Receipt]:
    dataset = extraction.settings.out
    return list(receipts(dataset, lambda: reasons_of(dataset / "ledger", "extract")))


def tree(*folders: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


def keeping(extraction: Extraction) -> Extraction:
    """The same, without --delete-media."""
    return replace(extraction, settings=replace(extraction.settings, delete_media=False))


@pytest.mark.parametrize(("step", "ids"), [("remove", GOOD), ("move_aside", (BAD,))])
def test_a_file_goes_only_once_its_line_is_in_the_ledger(
    extraction: Extraction, monkeypatch: pytest.MonkeyPatch, step: str, ids: tuple[str, ...]
) -> None:
    """A video without its file and without a line would be fetched again."""
    keeping(extraction).run()
    media, dataset, receipts = extraction.media, extraction.settings.out, of_shards(extraction)

    def work() -> None:
        if step == "remove":
            delete_leftovers(media, dataset, receipts)
        else:
            move_undecodable(media, receipts, ())

    def refuses(*given: object) -> None:
        raise InputError("the disk is full")

    def dies(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LedgerWriter, "append", refuses)
        with pytest.raises(InputError, match="the disk is full"):
            work()
    assert extraction.there() == extraction.content and extraction.lines("download") == []
    with monkeypatch.context() as patch:
        patch.setattr(cleanup, step, dies)
        with pytest.raises(KeyboardInterrupt):
            work()
    assert extraction.there() == extraction.content
    assert [(video_id, outcome) for video_id, outcome, *_ in extraction.lines("download")] == [(ids[0], "done")]
    work()
    assert set(find_media(media).paths) == {*GOOD, BAD} - set(ids)
    assert {video_id for video_id, *_ in extraction.lines("download")} == set(ids)


@pytest.mark.parametrize(
    "otherwise", [{"content": "0" * 64}, {"plan": "0" * 64}, {"video_ids": (GOOD[1], GOOD[0])}], ids=lambda o: min(o)
)
def test_a_sound_shard_that_is_not_the_one_of_the_receipt_costs_no_media(
    extraction: Extraction, otherwise: dict[str, object]
) -> None:
    keeping(extraction).run()
    (receipt,) = of_shards(extraction)
    other = replace(receipt, **otherwise)
    kept = delete_leftovers(extraction.media, extraction.settings.out, [other])
    assert list(kept) == [extraction.name] and "not what its receipt says: its media are kept" in kept[extraction.name]
    assert extraction.there() == extraction.content and extraction.lines("download") == []


def test_a_shard_in_which_one_value_is_another_costs_no_media(extraction: Extraction) -> None:
    keeping(extraction).run()
    with h5py.File(shard_path(extraction.settings.out, extraction.name), "r+") as file:
        file["rows/resnet152"][0, 0] += 1
    kept = delete_leftovers(extraction.media, extraction.settings.out, of_shards(extraction))
    assert "doesn't match its sha256: its media are kept" in kept[extraction.name]
    assert extraction.there() == extraction.content and extraction.lines("download") == []


def test_who_has_lost_the_lease_records_nothing_and_touches_no_file(extraction: Extraction) -> None:
    keeping(extraction).run()
    media, dataset = extraction.media, extraction.settings.out

    def lost() -> None:
        raise LeaseLostError("another one has taken it over")

    for work in (
        lambda: delete_leftovers(media, dataset, of_shards(extraction)),
        lambda: move_undecodable(media, of_shards(extraction), ()),
    ):
        with fenced(lost), pytest.raises(LeaseLostError):
            work()
    assert extraction.there() == extraction.content and extraction.lines("download") == []


def test_the_line_of_a_deleted_file_follows_that_of_its_download(extraction: Extraction) -> None:
    with LedgerWriter(extraction.media / "ledger", "download") as ledger:
        ledger.append(Outcome(GOOD[0], "download", "done", "", "", 3, 50.0, {"bytes": 7, "duration": 12.5}))
    extraction.run()
    latest = {i: state.latest for i, state in latest_states(extraction.media / "ledger", "download").items()}
    told = {i: (o.attempt, o.reason, o.detail) for i, o in latest.items()}
    sizes = {i: len(extraction.content[f"{i}.mp4"]) for i in GOOD}
    assert told == {
        GOOD[0]: (4, "extracted", {"bytes": sizes[GOOD[0]], "duration": 12.5}),
        GOOD[1]: (1, "extracted", {"bytes": sizes[GOOD[1]], "duration": 0.0}),
    }
    assert all(latest[i].time > 1e9 for i in GOOD)


def test_what_gave_no_features_is_moved_aside_and_told(extraction: Extraction) -> None:
    extraction.run()
    media, dataset = extraction.media, extraction.settings.out
    assert move_undecodable(media, of_shards(extraction), open_ids(dataset)) == 1
    (aside,) = aside_of(media, BAD)
    assert aside == media / ".undecodable" / f"{BAD}.mp4" and aside.read_bytes() == b"spoilt"
    assert not find_media(media).paths and weight_aside(media) == (1, 6)
    assert "1 media files" in remark_aside(media)[0] and "6 bytes" in remark_aside(media)[0]
    state = latest_states(media / "ledger", "download")[BAD]
    assert (state.latest.outcome, state.latest.reason) == ("done", "no-features")
    assert state.latest.message == f"it gave no features: undecodable, shard {extraction.name}"
    assert settled(state, 3, 24.0, ()) and not settled(state, 3, 24.0, ("no-features",))
    assert move_undecodable(media, of_shards(extraction), open_ids(dataset)) == 0
    extraction.run()
    assert extraction.stored() == dict.fromkeys(GOOD, extraction.name)


def test_a_video_that_is_to_be_tried_again_stays(extraction: Extraction) -> None:
    extraction.run()
    write_plans(extraction.settings.out / "plans", [[BAD]])
    assert move_undecodable(extraction.media, of_shards(extraction), open_ids(extraction.settings.out)) == 0
    assert set(extraction.there()) == {f"{BAD}.mp4"}


@pytest.mark.parametrize("reason", ["timeout", "crashed", "memory", "unknown", "forgotten"])
def test_what_may_decode_another_time_stays(extraction: Extraction, reason: str) -> None:
    extraction.run()
    (receipt,) = of_shards(extraction)
    assert move_undecodable(extraction.media, [replace(receipt, left_out={BAD: reason})], set()) == 0
    assert set(extraction.there()) == {f"{BAD}.mp4"}


def test_a_later_shard_that_has_the_video_outweighs_an_earlier_one(extraction: Extraction) -> None:
    extraction.run()
    (receipt,) = of_shards(extraction)
    later = replace(receipt, name="000001", video_ids=(BAD,), left_out={})
    assert move_undecodable(extraction.media, [receipt, later], set()) == 0


def test_files_moved_aside_never_replace_each_other(tmp_path: Path) -> None:
    for content in ("first", "second", "third"):
        (tmp_path / "one.mp4").write_text(content)
        move_aside(tmp_path, tmp_path / "one.mp4")
    assert sorted(path.read_text() for path in aside_of(tmp_path, "one")) == ["first", "second", "third"]
    assert aside_of(tmp_path, "on") == [] and not (tmp_path / "one.mp4").exists()


@pytest.mark.parametrize("receipt", ["there", "missing"])
def test_a_dry_run_lists_what_the_next_run_deletes_and_changes_nothing(
    extraction: Extraction, capsys: pytest.CaptureFixture[str], receipt: str
) -> None:
    keeping(extraction).run()
    media, dataset = extraction.media, extraction.settings.out
    if receipt == "missing":
        receipt_path(dataset, extraction.name).unlink()
    before = tree(media, dataset)
    assert run(replace(extraction.settings, dry_run=True)).complete
    assert tree(media, dataset) == before
    *lines, total = capsys.readouterr().out.splitlines()
    sizes = {video_id: len(extraction.content[f"{video_id}.mp4"]) for video_id in (*GOOD, BAD)}
    assert sorted(lines) == sorted(
        [f"would delete {media / i}.mp4, {sizes[i]} bytes: its features are in shard {extraction.name}" for i in GOOD]
        + [
            f"would move to .undecodable {media / BAD}.mp4, {sizes[BAD]} bytes: it gave no features: undecodable, "
            f"shard {extraction.name}"
        ]
    )
    assert f"2 files, {sizes[GOOD[0]] + sizes[GOOD[1]]} bytes, would be deleted" in total
    assert f"1 files, {sizes[BAD]} bytes, would be moved" in total
    delete_leftovers(media, dataset, of_shards(extraction))
    listed = {Path(line.removeprefix("would delete ").partition(",")[0]) for line in lines if "delete" in line}
    assert {Path(path) for path in before} - {Path(path) for path in tree(media, dataset)} == listed


def test_a_dry_run_says_what_is_kept_for_a_damaged_shard(
    extraction: Extraction, capsys: pytest.CaptureFixture[str]
) -> None:
    keeping(extraction).run()
    shard = extraction.settings.out / "shards" / f"{extraction.name}.h5"
    shard.write_bytes(shard.read_bytes()[:-1000])
    before = tree(extraction.media, extraction.settings.out)
    assert not run(replace(extraction.settings, dry_run=True)).complete
    said = capsys.readouterr().out
    assert "would delete" not in said and f"would keep: {shard}" in said
    assert tree(extraction.media, extraction.settings.out) == before


def test_a_dry_run_without_a_data_set_or_without_delete_media_is_refused(extraction: Extraction) -> None:
    with pytest.raises(ValueError, match="`dry_run` goes with `delete_media`"):
        replace(extraction.settings, delete_media=False, dry_run=True)
    (extraction.settings.out / "dataset.json").unlink()
    with pytest.raises(InputError, match="no data set"):
        run(replace(extraction.settings, dry_run=True))
