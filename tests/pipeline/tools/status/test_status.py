"""Status: counts planted by hand come out, nothing is written, and nothing torn, missing or hostile stops it."""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cli import main
from pipeline.core.errors import InputError
from pipeline.core.files import digest_of_json, write_json
from pipeline.core.lease import this_process
from pipeline.core.ledger import LedgerWriter
from pipeline.core.records import Outcome
from pipeline.dataset.folder import add_tombstones
from pipeline.dataset.shard_plans import closed_names, read_plan, receipt_path, shard_path, write_plans
from pipeline.dataset.shard_writer import Origin, write_part
from pipeline.download.media import media_path
from pipeline.tools.status import status
from pipeline.tools.status.status import lines
from pipeline.tools.status.view import Status, StatusView

STORED = [f"stored{n:05d}" for n in range(6)]
NOW = 1_700_000_000.0


def tell(folder: Path, stage: str, *said: tuple[Any, ...]) -> None:
    """Ledger lines of (video id, outcome, reason, attempt, seconds before NOW)."""
    with LedgerWriter(folder / "ledger", stage) as ledger:
        for video_id, outcome, reason, attempt, ago in said:
            detail = {"bytes": 1000} if outcome == "done" else {}
            message = "" if outcome == "done" else f"{reason} it is"
            ledger.append(Outcome(video_id, stage, outcome, reason, message, attempt, NOW - ago, detail))


def put(media: Path, video_id: str, size: int = 1000) -> None:
    path = media_path(media, video_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))


OPEN = ["part0000000", "spoilt00000", "planned0000", "planned0001"]


@pytest.fixture(scope="session")
def begun(
    tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Path], make_video: Callable[..., Any]
) -> Path:
    """A data set of 6 videos in 2 closed shards, with an open shard of 4 of which one is in a part."""
    dataset = make_dataset(tmp_path_factory.mktemp("begun") / "dataset", [make_video(i) for i in STORED])
    (name,) = write_plans(dataset / "plans", [OPEN])
    identity = json.loads((dataset / "dataset.json").read_text())["identity"]
    write_part(dataset / "parts" / name / "part0000000.h5", make_video("part0000000"), Origin(name, identity, {}))
    return dataset


@pytest.fixture
def study(tmp_path: Path, begun: Path) -> Path:
    """A run at work on that data set: 18 ids are listed, one of the open shard has failed."""
    out = tmp_path / "out"
    dataset = shutil.copytree(begun, out / "dataset")
    extracted = [(video_id, "done", "", 1, 60.0 * n) for n, video_id in enumerate([*STORED, "part0000000"])]
    tell(dataset, "extract", *extracted, ("spoilt00000", "failed", "undecodable", 1, 30.0))
    media = out / "media"
    alive = [*STORED, *OPEN, "unplanned00"]
    tell(
        media,
        "download",
        *((video_id, "done", "", 1, 3600.0) for video_id in alive),
        *((video_id, "done", "extracted", 2, 50.0) for video_id in STORED),
        ("private0000", "failed", "private", 1, 3000.0),
        ("removed0000", "failed", "removed", 1, 3000.0),
        ("removed0001", "failed", "removed", 1, 3000.0),
        *(("givenup0000", "failed", "transient", attempt, 2000.0) for attempt in (1, 2, 3)),
        ("oncemore000", "failed", "transient", 1, 1000.0),
        ("notoutyet00", "failed", "live", 1, 1000.0),
        ("unlisted000", "done", "", 1, 3600.0),
    )
    for video_id in [*OPEN, "unplanned00", "unlisted000"]:
        put(media, video_id)
    missing = ["private0000", "removed0000", "removed0001", "givenup0000", "oncemore000", "notoutyet00", "neverasked0"]
    (tmp_path / "list.csv").write_text("video_id\n" + "\n".join([*alive, *missing]) + "\n")
    stages = {
        "download": {"out": str(media), "ids": str(tmp_path / "list.csv")},
        "extract": {"out": str(dataset), "media": str(media)},
        "train": {"epochs": 30},
    }
    (out / "run.yaml").write_text(yaml.safe_dump({"source": "study.yaml", "stages": stages}))
    return out


def seen(run: Path, **folders: Any) -> Status:
    return StatusView(run, **folders).look(NOW)


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(folder.rglob("*"))}


# What is planted


def test_where_the_ids_stand(study: Path) -> None:
    downloads = seen(study).downloads
    assert downloads is not None
    assert (downloads.listed, downloads.alive) == (18, 11)
    assert downloads.gone == {"removed": 2, "private": 1}
    assert downloads.given_up == {"transient": 1}
    assert downloads.waiting == {"not asked for": 1, "transient": 1, "live": 1}
    assert (downloads.unlisted, downloads.files, downloads.deleted, downloads.lost) == (1, 6, 6, 0)
    assert downloads.bytes == 6000


def test_media_that_were_moved_aside_are_counted_and_not_lost(study: Path) -> None:
    media = study / "media"
    tell(media, "download", ("spoilt00000", "done", "no-features", 2, 20.0))
    (media / ".undecodable").mkdir()
    media_path(media, "spoilt00000").rename(media / ".undecodable" / "spoilt00000.mp4")
    found = seen(study)
    downloads = found.downloads
    assert downloads is not None and (downloads.aside, downloads.aside_bytes) == (1, 1000)
    assert (downloads.alive, downloads.files, downloads.deleted, downloads.lost) == (11, 5, 6, 0)
    assert "1 without features in .undecodable, 1 kB" in "\n".join(lines(found))


def test_where_the_videos_and_shards_stand(study: Path) -> None:
    found = seen(study)
    shards = found.shards
    assert shards is not None
    assert (shards.closed, shards.open, shards.planned) == (2, 1, 10)
    assert (shards.in_closed_shards, shards.in_parts, shards.videos, shards.waiting) == (6, 1, 7, 2)
    assert shards.failed == {"undecodable": 1}
    assert shards.seconds == 6 * 6.5
    assert shards.bytes == sum(path.stat().st_size for path in (study / "dataset").rglob("*") if path.is_file())
    assert (found.unplanned, found.to_extract) == (1, 3)


def test_the_same_is_seen_from_data_set_and_media(study: Path, tmp_path: Path) -> None:
    whole = seen(study)
    of_dataset = seen(study / "dataset", media=study / "media", ids=tmp_path / "list.csv")
    assert of_dataset.kind == "data set" and of_dataset.downloads == whole.downloads
    assert of_dataset.shards == whole.shards
    of_media = seen(study / "media", ids=tmp_path / "list.csv")
    assert of_media.kind == "media" and of_media.shards is None and of_media.downloads is not None
    # Shards know of videos that a media folder's ledger does not: none here.
    assert of_media.downloads.waiting == {"not asked for": 1, "transient": 1, "live": 1}


def test_a_data_set_finds_the_media_it_was_made_from(study: Path) -> None:
    assert seen(study / "dataset").downloads is None
    detail = {"settings": {"media": str(study / "media"), "ids": None}}
    write_json(study / "dataset" / "extract.json", {"detail": detail})
    downloads = seen(study / "dataset").downloads
    assert downloads is not None and downloads.listed is None and downloads.alive == 12
    # Without a list there is no knowing of ids that were never asked for.
    assert downloads.waiting == {"transient": 1, "live": 1}


def test_rates_and_ends_follow_from_the_ledger(tmp_path: Path) -> None:
    media = tmp_path / "media"
    settled = [(f"video{n:06d}", *(("done", "") if n % 3 else ("failed", "private")), 1, 12.0 * n) for n in range(300)]
    tell(media, "download", *settled)
    ids = [f"video{n:06d}" for n in range(900)]
    (tmp_path / "list.csv").write_text("video_id\n" + "\n".join(ids) + "\n")
    downloads = seen(media, ids=tmp_path / "list.csv").downloads
    assert downloads is not None and downloads.settled is not None and downloads.fetched is not None
    assert downloads.settled.hourly == pytest.approx(300, rel=0.01)
    assert downloads.fetched.hourly == pytest.approx(200, rel=0.01)
    assert downloads.hours_left == pytest.approx(600 / 300, rel=0.01)


def test_extraction_ends_not_before_what_the_download_may_still_bring(study: Path) -> None:
    found = seen(study)
    assert found.shards is not None and found.shards.extracted is not None and found.downloads is not None
    coming = 3 * 11 / (11 + 3 + 1)
    own = (3 + coming) / found.shards.extracted.hourly
    assert found.downloads.hours_left is not None
    assert found.hours_left == pytest.approx(max(own, found.downloads.hours_left))


def test_attempts_are_those_that_the_download_was_told(study: Path) -> None:
    write_json(study / "media" / "download.json", {"detail": {"settings": {"attempts": 5}}})
    downloads = seen(study).downloads
    assert downloads is not None and downloads.given_up == {} and downloads.waiting["transient"] == 2


def test_the_last_error_is_of_either_side(study: Path) -> None:
    error = seen(study).last_error
    assert error is not None
    assert (error.video_id, error.stage, error.reason) == ("spoilt00000", "extract", "undecodable")
    tell(study / "media", "download", ("abcdefghijk", "waiting", "rate-limited", 1, 1.0))
    error = seen(study).last_error
    assert error is not None and (error.reason, error.message) == ("rate-limited", "rate-limited it is")


def test_who_is_at_work(study: Path) -> None:
    here = asdict(this_process()) | {"beat": 3}
    elsewhere = here | {"host": "node7", "boot": "another", "pid": 77}
    leases = study / "dataset" / "leases"
    write_json(leases / "000002.json", here)
    write_json(leases / "planning.json", here | {"pid": 2**22 + 1, "started": "1"})
    write_json(study / "media" / ".part" / "download-1-of-2.json", elsewhere)
    write_json(study / "media" / ".part" / "freeing-0a.json", elsewhere)
    write_json(leases / "000003.json", elsewhere)
    now = time.time()
    os.utime(leases / "000003.json", (now - 300, now - 300))
    os.utime(study / "media" / ".part" / "freeing-0a.json", (now - 4000, now - 4000))
    found = {one.what: one for one in StatusView(study).look(now).workers}
    assert (found["shard 000002"].state, found["shard 000002"].process) == ("at work", os.getpid())
    assert found["planning"].state == "ended"
    assert (found["download 1 of 2"].state, found["download 1 of 2"].host) == ("at work", "node7")
    assert found["shard 000003"].state == "at work", "its clock, or the folder's, may be minutes late"
    silent = found["extraction that deletes media (0a)"]
    assert silent.state == "silent" and silent.seconds == pytest.approx(4000, abs=5)
    text = "\n".join(lines(StatusView(study).look(now)))
    assert "1 open, 2 in work" in text and "silent for 67 min" in text


def test_where_the_models_stand(study: Path) -> None:
    for name, rows in {
        "shared-seed1": "1,9.5,4.0\n2,8.25,3.5\n3,7.0",
        "disjoint-seed1": "",
        "done-seed1": "2,1.5,1\n",
    }.items():
        folder = study / "models" / name
        write_json(folder / "settings.json", {"epochs": 2 if name.startswith("done") else 30})
        (folder / "metrics.csv").write_text("epoch,total,contrast/shared/video-text\n" + rows)
    write_json(study / "models" / "shared-seed1" / "lock.json", asdict(this_process()) | {"beat": 0})
    found = {model.name: model for model in StatusView(study).look(time.time()).models}
    shared = found["shared-seed1"]
    # The third line isn't whole yet.
    assert (shared.epoch, shared.epochs, shared.losses["total"]) == (2, 30, 8.25)
    assert shared.worker is not None and shared.worker.alive and not shared.finished
    assert found["disjoint-seed1"].epoch == 0 and found["disjoint-seed1"].losses == {}
    assert found["done-seed1"].finished
    text = "\n".join(lines(StatusView(study).look(time.time())))
    assert "shared-seed1: epoch 2 of 30, loss 8.25, trained by" in text
    assert "disjoint-seed1: epoch 0 of 30, nobody trains it" in text
    assert "done-seed1: epoch 2 of 2, loss 1.5\n" in text + "\n"


def test_forgotten_ids_are_counted_apart(study: Path) -> None:
    add_tombstones(study / "media", ["neverasked0", "elsewhere00"])
    downloads = seen(study).downloads
    assert downloads is not None and downloads.forgotten == 1 and downloads.unlisted == 1
    assert downloads.waiting == {"transient": 1, "live": 1}


def test_files_of_ones_own_are_alive_without_a_ledger(tmp_path: Path) -> None:
    (tmp_path / "media" / ".part").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "media" / f"my-clip-{number}.MKV").write_bytes(bytes(50))
    (tmp_path / "media" / "notes.txt").write_text("no video")
    downloads = seen(tmp_path / "media").downloads
    assert downloads is not None and (downloads.alive, downloads.files, downloads.bytes) == (3, 3, 150)


def test_a_download_without_its_file_is_told(study: Path) -> None:
    media_path(study / "media", "unplanned00").unlink()
    found = seen(study)
    assert found.downloads is not None and found.downloads.lost == 1 and found.downloads.files == 5
    assert any("1 downloaded videos have no file now" in note for note in found.notes)


def test_a_video_planned_once_more_waits_again(study: Path) -> None:
    # `mcn extract --ask-again` plans anew what a closed shard left out.
    name = closed_names(study / "dataset")[0]
    receipt = json.loads(receipt_path(study / "dataset", name).read_text())
    lost = receipt["video_ids"].pop()
    receipt |= {"left_out": {lost: "timeout"}}
    del receipt["digest"]
    write_json(receipt_path(study / "dataset", name), receipt | {"digest": digest_of_json(receipt)})
    tell(study / "dataset", "extract", (lost, "failed", "timeout", 2, 10.0))
    shards = seen(study).shards
    assert shards is not None and shards.failed == {"undecodable": 1, "timeout": 1} and shards.in_closed_shards == 5
    write_plans(study / "dataset" / "plans", [[lost]])
    shards = seen(study).shards
    assert shards is not None and shards.failed == {"undecodable": 1} and shards.waiting == 3


# What may be missing, torn, hostile, growing


def test_nothing_is_written(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in closed_names(study / "dataset"):
        receipt_path(study / "dataset", name).unlink()
    before = tree(tmp_path)
    whole = os.open

    def reading(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        assert not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT), path
        return whole(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", reading)
    shards = seen(study).shards
    assert tree(tmp_path) == before
    # Receipts that are still to be made: plans and ledger say the same.
    assert shards is not None and (shards.closed, shards.without_receipt, shards.in_closed_shards) == (2, 2, 6)


@pytest.mark.parametrize("gone", ["plans", "shards", "parts", "ledger", "leases", "dataset.json", "manifests"])
def test_a_missing_piece_of_a_data_set_is_no_obstacle(study: Path, gone: str) -> None:
    path = study / "dataset" / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    found = seen(study)
    assert found.shards is not None and found.downloads is not None and found.downloads.alive == 11
    assert lines(found)


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("stages: {download: {out: nowhere}}\n")
    found = seen(tmp_path)
    assert found.downloads is None and found.shards is None and found.models == []
    assert lines(found)


@pytest.mark.parametrize(
    "content", ["", "[1]", "stages: 5", "stages: {download: [], extract: {out: 3}}", "{", "\x00", "stages: {train: {}}"]
)
def test_a_broken_run_file_is_no_obstacle(study: Path, content: str) -> None:
    (study / "run.yaml").write_text(content)
    found = seen(study)
    assert found.downloads is not None and found.downloads.alive == 12 and found.shards is not None


def test_a_list_that_went_away_is_told(study: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").unlink()
    found = seen(study)
    assert found.downloads is not None and found.downloads.listed is None
    assert any("list.csv: no such file" in note for note in found.notes)
    with pytest.raises(InputError, match="no such file"):
        seen(study, ids=tmp_path / "list.csv")


def test_broken_plans_receipts_and_leases_are_told_or_passed_over(study: Path) -> None:
    dataset = study / "dataset"
    (dataset / "plans" / "000003.json").write_text("{}")
    (dataset / "plans" / "000004.json").write_text("{" * 5000)
    (dataset / "plans" / "000005.json").write_text('["x"]')
    receipt_path(dataset, "000000").write_text('{"schema": 1, "video_ids": 7}')
    write_json(dataset / "leases" / "000002.json", {"host": 3, "beat": "x"})
    (dataset / "leases" / "planning.json").write_bytes(b"\xff")
    found = seen(study)
    assert found.shards is not None and found.shards.in_closed_shards == 6 and found.workers == []
    assert [note for note in found.notes if "000003.json" in note] and len(found.shards.notes) == 3


def test_a_video_of_an_open_shard_is_there_only_as_a_part(study: Path) -> None:
    before = seen(study).shards
    tell(study / "dataset", "extract", ("planned0001", "done", "", 1, 10.0))
    after = seen(study).shards
    assert before is not None and after is not None and before.waiting == 2
    # Its part is gone, or damaged and removed: it is computed once more.
    assert (after.in_closed_shards, after.in_parts, after.waiting) == (6, 1, 2)


def test_a_receipt_that_is_written_anew_is_read_anew(study: Path) -> None:
    view = StatusView(study)
    before = view.look(NOW).shards
    path = receipt_path(study / "dataset", "000000")
    content = json.loads(path.read_text())
    del content["digest"]
    content["left_out"] = {content["video_ids"].pop(): "undecodable"}
    write_json(path, content | {"digest": digest_of_json(content)})
    after = view.look(NOW).shards
    assert before is not None and after is not None
    assert after.in_closed_shards == before.in_closed_shards - 1
    assert after.failed["undecodable"] == before.failed["undecodable"] + 1
    assert after == StatusView(study).look(NOW).shards


def test_a_shard_that_vanished_is_told(study: Path) -> None:
    shard_path(study / "dataset", "000001").unlink()
    found = seen(study)
    assert found.shards is not None and (found.shards.closed, found.shards.open, found.shards.lost) == (1, 2, 1)
    assert any("1 shards are gone" in note and "--repair" in note for note in found.notes)


def test_torn_lines_are_told(study: Path) -> None:
    path = next((study / "media" / "ledger").iterdir())
    path.write_bytes(path.read_bytes()[:-20])
    found = seen(study)
    assert any("1 ledger lines were torn" in note for note in found.notes)


def test_what_others_wrote_can_not_move_the_cursor(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = study / "dataset"
    with LedgerWriter(dataset / "ledger", "extract") as ledger:
        ledger.append(Outcome("\x1b[2Jid", "extract", "failed", "\x1b[31mred", "\x07bell\u202e \ud7ff", 9, NOW * 1.01))
    write_json(dataset / "leases" / "000002.json", asdict(replace(this_process(), host="\x1b[H")) | {"beat": 0})
    assert main(["status", str(study)]) == 0
    printed = capsys.readouterr().out
    assert not [c for c in printed if not c.isprintable() and c != "\n"]
    assert "\\x1b[31mred" in printed and "\\x07bell" in printed


def test_it_sees_growth_without_reading_anew(study: Path) -> None:
    view = StatusView(study)
    first = view.look(NOW)
    tell(study / "media", "download", ("neverasked0", "done", "", 1, 0.0), ("oncemore000", "failed", "private", 2, 0.0))
    put(study / "media", "neverasked0")
    (name,) = write_plans(study / "dataset" / "plans", [["neverasked0"]])
    second = view.look(NOW + 5)
    assert first.downloads is not None and second.downloads is not None and second.shards is not None
    assert second.downloads.alive == first.downloads.alive + 1
    assert second.downloads.waiting == {"live": 1} and second.downloads.lost == 0
    assert (second.shards.open, second.shards.planned, second.unplanned) == (2, 11, 1)
    # What a fresh look sees is the same.
    fresh = StatusView(study).look(NOW + 5)
    assert fresh.downloads == second.downloads and fresh.shards == second.shards
    assert read_plan(study / "dataset" / "plans", name).video_ids == ("neverasked0",)


# The command


def test_json_holds_what_is_printed(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(study), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "run" and found["downloads"]["gone"] == {"removed": 2, "private": 1}
    assert found["shards"]["videos"] == 7 and found["last_error"]["video_id"] == "spoilt00000"
    assert found["disks"][0]["total"] > found["disks"][0]["free"] > 0
    assert main(["status", str(study)]) == 0
    text = capsys.readouterr().out
    assert "18 listed: 11 alive, 3 gone, 1 given up, 3 waiting" in text
    assert (
        "7 extracted (6 in closed shards, 1 in parts), 1 failed, 2 planned and waiting, 1 alive in no plan yet" in text
    )
    assert "2 closed, 1 open, 0 in work" in text and "extract spoilt00000: undecodable: undecodable it is" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["OUT/datset"], "no such file or folder; did you mean "),
        (["OUT/run.yaml"], "not a folder"),
        (["OUT/models"], "neither a data set, nor a media folder, nor the folder of a run"),
        (["OUT", "--media", "OUT/none"], "no such file or folder (--media: Media folder"),
        (["OUT/dataset", "--ids", "OUT/dataset/dataset.json"], "give --media"),
        (["OUT", "--every", "0"], "--every must be above 0"),
    ],
)
def test_what_is_no_run_is_refused_in_a_line(
    study: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (study / "models").mkdir()
    assert main(["status", *(argument.replace("OUT", str(study)) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_watch_looks_again_until_it_is_interrupted(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        tell(study / "dataset", "extract", (f"planned{len(waits):04d}", "failed", "timeout", 1, 0.0))
        if len(waits) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(status.time, "sleep", wait)
    assert main(["status", str(study), "--watch", "--every", "2", "--json"]) == 0
    looks = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert waits == [2.0] * 3 and len(looks) == 3
    assert [look["shards"]["failed"].get("timeout", 0) for look in looks] == [0, 1, 1]


def test_ctrl_c_ends_watching_quietly_on_a_terminal(study: Path) -> None:
    terminal, other = pty.openpty()
    command = [sys.executable, "-m", "pipeline.cli", "status", str(study), "--watch", "--every", "600"]
    # A shell makes what it starts in the background ignore Ctrl-C, and whatever that starts in its turn.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(command, stdout=other, stderr=other, cwd=Path(__file__).parents[4])
    finally:
        signal.signal(signal.SIGINT, before)
    os.close(other)
    printed = b""
    while b"last error" not in printed:
        printed += os.read(terminal, 65536)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 0
    assert printed.startswith(b"\x1b[H\x1b[J") and b"Traceback" not in printed
