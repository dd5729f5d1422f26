"""A data set that grows: lists that get longer, failures tried anew, downloads and extraction side by side."""

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import h5py
import pytest

from beam_jobs.extract import ExtractSettings, run
from pipeline.core.errors import InputError
from pipeline.core.lease import locked
from pipeline.core.ledger import LedgerWriter, latest_states
from pipeline.core.records import Outcome
from pipeline.dataset.folder import add_tombstones
from pipeline.dataset.shard_plans import read_receipt
from pipeline.download.budget import download_lock

REPOSITORY = Path(__file__).resolve().parents[2]
GOOD = [f"video-{index:05d}" for index in range(4)]
SPOILT = {"not-a-video", "zero-length"}


def listed(path: Path, video_ids: Iterable[str]) -> Path:
    path.write_text("video_id\n" + "".join(f"{video_id}\n" for video_id in video_ids))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "shards").iterdir()}


def rows(folder: Path) -> dict[str, tuple[bytes, bytes]]:
    """Video -> its picture rows and log-mel frames."""
    found = {}
    for path in (folder / "shards").glob("*.h5"):
        with h5py.File(path) as file:
            bounds = [file[f"{name}/offsets"][:] for name in ("rows", "logmel")]
            for index, video_id in enumerate(file["videos/id"][:]):
                (a, b), (c, d) = (offsets[index : index + 2] for offsets in bounds)
                found[video_id.decode()] = (
                    file["rows/efficientnet-lite0"][a:b].tobytes(),
                    file["logmel/frames"][c:d].tobytes(),
                )
    return found


def test_a_list_grown_three_times_leaves_old_shards_alone(
    settings: Callable[..., ExtractSettings], media: Path, tmp_path: Path, local: Path
) -> None:
    ids = tmp_path / "ids.csv"
    growing = settings(out="growing", media=tmp_path / "media", ids=ids)
    (tmp_path / "media").mkdir()
    lists = [GOOD[:1], GOOD[:2], [*GOOD[:3], "not-a-video"], [*GOOD, "without-snd", "not-a-video", "zero-length"]]
    before: dict[str, bytes] = {}
    words = b""
    for listing in lists:
        for video_id in listing:
            with contextlib.suppress(FileExistsError):
                os.link(media / f"{video_id}.mp4", tmp_path / "media" / f"{video_id}.mp4")
        listed(ids, [video_id for video_id in listing if len(video_id) == 11])
        assert run(growing).complete
        after = contents(growing.out)
        assert {name: after[name] for name in before} == before and len(after) > len(before)
        assert words in (b"", (growing.out / "words.kv").read_bytes())
        before, words = after, (growing.out / "words.kv").read_bytes()
    assert rows(growing.out) == rows(local)
    assert words == (local / "words.kv").read_bytes()


def test_failures_are_tried_anew_in_new_shards_when_asked(
    settings: Callable[..., ExtractSettings], media: Path, tmp_path: Path
) -> None:
    shutil.copytree(media, tmp_path / "media")
    (tmp_path / "media" / "video-00000.mp4").write_bytes(b"spoilt" * 1000)
    growing = settings(out="growing", media=tmp_path / "media")
    report = run(growing)
    assert report.complete and report.failed == {"undecodable": 2, "zero-length": 1} and report.done == 4
    before = contents(growing.out)
    shutil.copy(media / "video-00000.mp4", tmp_path / "media" / "video-00000.mp4")
    assert run(growing).done == 0, "not unless asked"
    again = run(settings(out="growing", media=tmp_path / "media", ask_again=("undecodable",)))
    assert again.complete and again.done == 1
    after = contents(growing.out)
    assert {name: after[name] for name in before} == before
    assert {"video-00000", *GOOD, "without-snd"} == rows(growing.out).keys()


def test_a_forgotten_video_does_not_come_back(settings: Callable[..., ExtractSettings]) -> None:
    one = settings(out="without")
    one.out.mkdir()
    add_tombstones(one.out, ["video-00002"])
    report = run(one)
    assert "1 videos were forgotten and stay out" in report.notes and "video-00002" not in rows(one.out)
    assert report.done == 4


def test_media_are_deleted_once_their_shard_is_closed(
    settings: Callable[..., ExtractSettings], media: Path, tmp_path: Path
) -> None:
    shutil.copytree(media, tmp_path / "media")
    report = run(settings(out="freed", media=tmp_path / "media", delete_media=True))
    assert report.complete and report.done == 5
    assert {path.stem for path in (tmp_path / "media").rglob("*.mp4")} == SPOILT, "without features nothing goes"
    states = latest_states(tmp_path / "media" / "ledger", "download")
    assert states.keys() == {*GOOD, "without-snd"}
    for video_id, state in states.items():
        shard = state.latest.message.removeprefix("its features are in shard ")
        receipt = read_receipt(tmp_path / "freed", shard)
        assert (state.latest.outcome, state.latest.reason) == ("done", "extracted")
        assert receipt is not None and video_id in receipt.video_ids
    assert run(settings(out="freed", media=tmp_path / "media", delete_media=True)).skipped == 5


def test_a_kill_between_closing_and_deleting_is_made_good(
    settings: Callable[..., ExtractSettings], media: Path, tmp_path: Path
) -> None:
    shutil.copytree(media, tmp_path / "media")
    run(settings(out="freed", media=tmp_path / "media"))
    assert list((tmp_path / "media").rglob("video*.mp4"))
    run(settings(out="freed", media=tmp_path / "media", delete_media=True))
    assert {path.stem for path in (tmp_path / "media").rglob("*.mp4")} == SPOILT


@pytest.mark.parametrize("fault", ["cut", "value", "swapped"])
def test_media_of_a_damaged_shard_are_never_deleted(
    settings: Callable[..., ExtractSettings],
    media: Path,
    tmp_path: Path,
    local: Path,
    fault: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy = Path(shutil.copytree(local, tmp_path / "damaged"))
    kept = Path(shutil.copytree(media, tmp_path / "media"))
    shard, *others = sorted((copy / "shards").glob("*.h5"))
    receipt = read_receipt(copy, shard.stem)
    assert receipt is not None and others
    if fault == "cut":
        shard.write_bytes(shard.read_bytes()[:-1000])
    elif fault == "value":
        with h5py.File(shard, "r+") as file:
            file["logmel/frames"][0] = file["logmel/frames"][0] + 1
    else:
        shard.write_bytes(others[0].read_bytes())
    report = run(settings(out="damaged", media=kept, delete_media=True))
    there = {path.stem for path in kept.glob("*.mp4")}
    assert there == {*receipt.video_ids, *SPOILT}
    assert not report.complete and report.skipped == 5 - len(receipt.video_ids)
    assert report.failed["damaged shard"] == len(receipt.video_ids)
    assert f"{shard}" in capsys.readouterr().out and "verify" in report.notes[-1]


def test_a_cut_shard_is_not_counted_as_there(
    settings: Callable[..., ExtractSettings], local: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(local, tmp_path / "cut"))
    shard = min((copy / "shards").glob("*.h5"))
    receipt = read_receipt(copy, shard.stem)
    assert receipt is not None
    shard.write_bytes(shard.read_bytes()[:-1])
    report = run(settings(out="cut"))
    assert not report.complete and report.skipped == 5 - len(receipt.video_ids)


def test_another_process_may_finish_a_file_while_this_one_starts(
    settings: Callable[..., ExtractSettings], local: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(local, tmp_path / "busy"))
    # Gone to whoever asks what it is, as a file that was renamed between the listing and the look.
    (copy / "leases" / ".000000.json.0.aside").symlink_to("renamed meanwhile")
    assert run(settings(out="busy")).complete


def test_media_that_went_away_keep_their_plan_open_and_others_go_on(
    settings: Callable[..., ExtractSettings], media: Path, tmp_path: Path
) -> None:
    shutil.copytree(media, tmp_path / "media")
    growing = settings(out="growing", media=tmp_path / "media")
    from pipeline.dataset.shard_plans import write_plans

    write_plans(growing.out / "plans", [("video-00000", "video-00001"), ("video-00002", "video-00003")])
    (tmp_path / "media" / "video-00001.mp4").unlink()
    report = run(growing)
    assert not report.complete and any("plans are open" in note for note in report.notes)
    assert "video-00002" in rows(growing.out) and "video-00000" not in rows(growing.out)
    shutil.copy(media / "video-00001.mp4", tmp_path / "media" / "video-00001.mp4")
    assert run(growing).complete and {"video-00000", "video-00001"} <= rows(growing.out).keys()
    receipt = read_receipt(growing.out, "000000")
    assert receipt is not None and receipt.video_ids == ("video-00000", "video-00001")


def arrive(path: Path, source: Path) -> None:
    """Whole at once, as a download gives a file its name."""
    shutil.copy(source, path.with_suffix(".part"))
    path.with_suffix(".part").rename(path)


def wait_for(condition: Callable[[], object], process: "subprocess.Popen[str]") -> None:
    while not condition() and process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.02)
    assert condition(), process.communicate()[0]


@pytest.mark.slow
def test_extraction_follows_a_download_to_its_end(
    settings: Callable[..., ExtractSettings],
    command_of: Callable[..., list[str]],
    media: Path,
    tmp_path: Path,
    local: Path,
) -> None:
    folder = tmp_path / "media"
    folder.mkdir()
    listed(tmp_path / "ids.csv", [*GOOD, "deadvideo00"])
    out = tmp_path / "followed"
    shutil.copy(media / "video-00000.mp4", folder / "video-00000.mp4")
    with locked(download_lock(folder, "1/1"), "downloading"):
        # A shard of 20 kB holds about a second of video: each video fills one.
        flags = ["--shard-size", 0.02, "--delete-media", "--follow", "--ids", tmp_path / "ids.csv", "--poll", 0.2]
        process = subprocess.Popen(
            command_of(settings(out="followed", media=folder), *flags),
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        wait_for(lambda: len(list(out.glob("shards/*.json"))) == 1 and not list(folder.rglob("*.mp4")), process)
        assert list((folder / ".part").glob("freeing-*.json")), "a download must know that room is made"
        arrive(folder / "video-00001.mp4", media / "video-00001.mp4")
        arrive(folder / "video-00002.mp4", media / "video-00002.mp4")
        wait_for(lambda: not list(folder.rglob("*.mp4")), process)
        with LedgerWriter(folder / "ledger", "download") as ledger:
            ledger.append(Outcome("deadvideo00", "download", "failed", "private"))
        arrive(folder / "video-00003.mp4", media / "video-00003.mp4")
        output, _ = process.communicate()
    assert process.returncode == 0, output
    assert rows(out) == {video_id: found for video_id, found in rows(local).items() if video_id in GOOD}
    assert not list((folder / ".part").glob("freeing-*.json"))


def test_following_needs_a_list(settings: Callable[..., ExtractSettings]) -> None:
    with pytest.raises(ValueError, match="`follow` needs `ids`"):
        settings(follow=True)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"captions": None}, r"captions\.(format|source|sha256)"),
        ({"drop_overlaps": True}, "--drop-overlaps was false, now true"),
        pytest.param({"streams": ("resnet152",), "weights": "random:0"}, "--streams was ", marks=pytest.mark.slow),
        ({"davenet_weights": "random:1"}, r"audio\.weights was [0-9a-f]{12}, now [0-9a-f]{12}"),
    ],
)
def test_other_settings_are_refused_by_field(
    settings: Callable[..., ExtractSettings], local: Path, change: dict[str, Any], field: str
) -> None:
    before = contents(local)
    other = settings(**change)
    with pytest.raises(InputError, match=field):
        run(ExtractSettings(**{**other.__dict__, "out": local}))
    assert contents(local) == before and json.loads((local / "extract.json").read_text())["complete"]
