"""A forgotten video is found nowhere; everything else is as it was; an interruption loses nothing."""

import dataclasses
import gzip
import json
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from matplotlib.figure import Figure

from pipeline.cli import main
from pipeline.clips.dataset import FeatureDataset
from pipeline.clips.rules import ClipRules, ClipSpan
from pipeline.core import lease
from pipeline.core.errors import InputError
from pipeline.core.figures import Drawing, FigureFiles
from pipeline.core.lease import Lease, LeaseLostError, LeaseWatch, locked
from pipeline.core.ledger import LedgerWriter, latest_states
from pipeline.core.records import Outcome
from pipeline.core.reporting import RunSummary
from pipeline.core.tables import Table
from pipeline.dataset import shard_plans
from pipeline.dataset.caption_store import CaptionStore, build_caption_store
from pipeline.dataset.folder import forgotten, is_forgotten
from pipeline.dataset.freeze import run as freeze
from pipeline.dataset.manifest import FreezeSettings, read_manifest
from pipeline.download.media import media_path
from pipeline.experiment.page import write_page
from pipeline.experiment.settings import ReportSettings
from pipeline.search.embeddings import EmbeddingsFile, MadeOf, join_parts, write_part
from pipeline.search.index import make_index
from pipeline.tools.forget import forget
from pipeline.tools.settings import ForgetSettings
from pipeline.tools.verify.findings import examine

GONE, KEPT = "train000003", "train000004"


@pytest.fixture
def whole(tmp_path: Path, planted: Any, page: str) -> Path:
    """A run's folder: data set, media, ledgers, a model, reports."""
    run = tmp_path / "run"
    dataset = run / "dataset"
    shutil.copytree(planted.folder, dataset)
    source = tmp_path / "caption.json"
    said = {i: {"start": [0], "end": [1], "text": [f"words of {i}"]} for i in planted.videos}
    source.write_text(json.dumps(said))
    build_caption_store(source, dataset / "captions.h5", drop_overlaps=False).close()
    for folder, stage in ((dataset, "extract"), (run / "media", "download")):
        with LedgerWriter(folder / "ledger", stage) as ledger:
            for video_id in planted.videos:
                ledger.append(Outcome(video_id, stage, "done", message=f"{video_id} is fine"))
    for video_id in planted.videos:
        path = media_path(run / "media", video_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(video_id)
    freeze(FreezeSettings(dataset, "study", heldout_videos=0.2, heldout_tasks=0))
    for name, ids in (("saw", planted.videos), ("did-not", [KEPT])):
        (run / "models" / name).mkdir(parents=True)
        (run / "models" / name / "videos.txt").write_text("".join(f"{i}\n" for i in ids))
        summary = RunSummary("evaluate retrieval", detail={"examples": [{"video_id": i} for i in ids]})
        summary.publish(run / "models" / name / "retrieval.json")
    results = {"source": "a.yaml", "stages": [], "scores": [{"video_id": GONE}], "processors": 2}
    (run / "results.json").write_text(json.dumps(results))
    (run / "index.html").write_text(page)
    return run


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a run that shows the video."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "metrics.csv").write_text("epoch,total/loss\n1,0.5\n2,0.4\n")
    bounds = {"value": 0.5, "low": 0.4, "high": 0.6}
    recall = {f"R@{k}": bounds for k in (1, 5, 10)}
    metrics = {"queries": 1, "videos": 1, "recall": recall, "chance": dict.fromkeys(recall, 0.1)}
    metrics |= {"median_rank": bounds, "chance_median_rank": 1.0}
    clip = {"video_id": GONE, "start": 0.0, "end": 1.0, "text": "said"}
    trained = {"name": "study", "digest": "0" * 64, "videos": 1}
    detail = {"metrics": metrics, "examples": [clip | {"found": [clip | {"right": True}]}], "trained on": trained}
    detail |= {"scheme": "shared", "space": "joint", "direction": "text -> video", "manifest": trained}
    detail |= {"clips digest": "1" * 64}
    stage = RunSummary("evaluate retrieval", detail=detail).as_json()
    stage |= {"asked": {"checkpoint": str(folder)}, "wall_seconds": 1.0}
    write_page(folder / "index.html", {"source": "a.yaml", "stages": [stage]}, folder / "media")
    return (folder / "index.html").read_text()


def naming(folder: Path, video_id: str) -> list[str]:
    """Whatever lies there under a name that holds the id, and files whose bytes do."""
    found = [p for p in folder.rglob("*") if video_id in p.name or p.is_file() and video_id.encode() in p.read_bytes()]
    return sorted(str(path.relative_to(folder)) for path in found)


def rows(manifest: Path) -> dict[str, bytes]:
    dataset = FeatureDataset(manifest)
    return {i: np.concatenate([*dataset.video(i, ClipRules()).video.values()]).tobytes() for i in dataset.video_ids}


def check(run: Path, before: dict[str, bytes]) -> None:
    manifest = run / "dataset" / "manifests" / "study.json"
    assert naming(run, GONE) == []
    assert rows(manifest) == {i: content for i, content in before.items() if i != GONE}
    assert examine(run / "dataset", 1).problems == []
    assert is_forgotten(GONE, forgotten(run / "dataset")) and is_forgotten(GONE, forgotten(run / "media"))
    assert dict(CaptionStore(run / "dataset" / "captions.h5").items()).keys() == before.keys() - {GONE}
    assert latest_states(run / "media" / "ledger", "download").keys() == before.keys() - {GONE}
    assert media_path(run / "media", KEPT).exists()
    assert not (run / "dataset" / "forgetting.json").exists()


def test_a_forgotten_video_is_nowhere_and_the_others_are_as_they_were(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = rows(whole / "dataset" / "manifests" / "study.json")
    digest = read_manifest(whole / "dataset" / "manifests" / "study.json").digest
    untouched = {path.name: path.read_bytes() for path in (whole / "dataset" / "shards").glob("*.h5")}
    assert len(naming(whole, GONE)) > 8
    rewritten = shard_of(whole / "dataset", GONE).stem
    assert main(["forget", GONE, "--run", str(whole)]) == 0
    check(whole, before)
    assert read_manifest(whole / "dataset" / "manifests" / "study.json").digest != digest
    output = capsys.readouterr().out
    assert f"{whole / 'models' / 'saw'} was trained on some of them" in output and "did-not" not in output
    assert re.findall(r"delete (\S+) there by hand", output) == [f"{rewritten}-*.h5"]
    left = {path.name: path.read_bytes() for path in (whole / "dataset" / "shards").glob("*.h5")}
    assert sum(name in left and left[name] == content for name, content in untouched.items()) == len(untouched) - 1
    assert (whole / "models" / "did-not" / "retrieval.json").exists()
    assert main(["forget", GONE, "--run", str(whole)]) == 0, "a second time there is nothing to do, and that is said"


def embed(whole: Path, **held: list[str]) -> None:
    """Embeddings, by name, of clips of these videos, and an index of each."""
    for name, ids in held.items():
        made_of = MadeOf("c" * 64, {"name": "s", "spaces": []}, {}, "all", "captions", 10.0, {}, "float16", False, {})
        made_of = dataclasses.replace(made_of, widths={"s": {"video": 4}})
        spans = [(video_id, [ClipSpan(0, 10, "said", ())]) for video_id in ids]
        rows = [("present/video", np.ones(len(ids))), ("vectors/s/video", np.ones((len(ids), 4)))]
        write_part(whole / "models" / f"{name}.part", made_of, spans, rows)
        join_parts(whole / "models" / f"{name}.h5", made_of, {}, [whole / "models" / f"{name}.part"])
        (whole / "models" / f"{name}.part").unlink()
        with EmbeddingsFile(whole / "models" / f"{name}.h5") as file:
            make_index(file, whole / "models" / f"{name}-index", "s", "video", 1 << 30, 1 << 30)


def test_embeddings_and_indices_that_hold_the_video_are_listed(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    embed(whole, hold=[KEPT, GONE], clean=[KEPT])
    assert main(["forget", GONE, "--run", str(whole)]) == 0
    output = capsys.readouterr().out
    assert f"{whole / 'models' / 'hold.h5'} holds their clips: delete it, and embed anew" in output
    assert f"{whole / 'models' / 'hold-index'} is an index of such a file" in output and "clean" not in output
    assert naming(whole, GONE) == ["models/hold.h5"]


def test_an_index_whose_embeddings_are_gone_or_moved_is_judged_by_what_can_be_known(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    embed(whole, hold=[KEPT, GONE], clean=[KEPT])
    models = whole / "models"
    (models / "hold.h5").unlink()
    assert forget.run(ForgetSettings(ids=(GONE,), run=whole)).detail["indices"] == [str(models / "hold-index")]
    said = capsys.readouterr().out
    assert f"{models / 'hold-index'} is an index of such a file, or of one that is gone" in said and "clean" not in said
    # Beside its index still, in a folder that has another name now.
    models.rename(whole / "renamed")
    again = forget.run(ForgetSettings(ids=(GONE,), run=whole)).detail["indices"]
    assert again == [str(whole / "renamed" / "hold-index")]


@pytest.mark.parametrize("place", ["dataset", "media"])
@pytest.mark.parametrize("cut", ["begins", "in the middle", "ends"])
def test_torn_ledger_lines_that_name_it_go_and_others_stay(whole: Path, place: str, cut: str) -> None:
    stage = {"dataset": "extract", "media": "download"}[place]
    (path,) = (whole / place / "ledger").glob(f"{stage}-*.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    mine = next(line for line in lines if GONE.encode() in line)
    other = next(line for line in lines if KEPT.encode() in line)
    torn = {"begins": mine[-len(mine) // 2 :], "in the middle": mine[:-30] + b"\n", "ends": mine[:-12]}[cut]
    assert GONE.encode() in torn
    further = path.with_name(f"{stage}-elsewhere-7-0badcafe.jsonl")
    further.write_bytes(other[:-30] + b"\n" + other + torn)
    assert forget.run(ForgetSettings(ids=(GONE,), run=whole)).complete
    assert naming(whole, GONE) == []
    assert further.read_bytes().rstrip(b"\n") == other[:-30] + b"\n" + other.rstrip(b"\n")


STEPS = [
    "add_tombstones",
    "_forget_media",
    "_forget_captions",
    "_forget_in_manifests",
    "_forget_in_ledger",
    "_forget_reports",
    "write_shard",
]
STEPS += ["make_receipt", "_move_features", "write_plans"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_interrupted_anywhere_it_goes_on(whole: Path, monkeypatch: pytest.MonkeyPatch, step: str, when: str) -> None:
    before = rows(whole / "dataset" / "manifests" / "study.json")
    home = forget if hasattr(forget, step) else shard_plans
    real: Callable[..., Any] = getattr(home, step)

    def dies(*arguments: Any, **named: Any) -> Any:
        if when == "after":
            real(*arguments, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(home, step, dies)
        with pytest.raises(KeyboardInterrupt):
            forget.run(ForgetSettings(ids=(GONE,), run=whole))
    with pytest.raises(InputError, match="a `mcn forget` was interrupted; finish it first"):
        freeze(FreezeSettings(whole / "dataset", "another"))
    assert forget.run(ForgetSettings(run=whole)).complete
    check(whole, before)


@pytest.mark.parametrize("step", ["_forget_media", "_move_features", "_forget_captions", "_forget_in_ledger"])
def test_stopped_for_longer_than_its_lock_lasts_it_changes_nothing_more(
    whole: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    before = rows(whole / "dataset" / "manifests" / "study.json")
    monkeypatch.setattr(lease, "BEATS_EVERY_S", 0.005)
    real: Callable[..., Any] = getattr(forget, step)

    def stops(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGSTOP)
        return real(*arguments)

    process = os.fork()
    if process == 0:
        status = 1
        try:
            monkeypatch.setattr(forget, step, stops)
            forget.run(ForgetSettings(ids=(GONE,), run=whole))
        except LeaseLostError:
            status = 0
        finally:
            os._exit(status)
    assert os.WIFSTOPPED(os.waitpid(process, os.WUNTRACED)[1])
    mine, watch = Lease(whole / "dataset" / "leases" / "planning.json"), LeaseWatch(expires_s=0.02)
    while not mine.acquire(watch):
        threading.Event().wait(0.005)

    def content() -> dict[Path, bytes]:
        # Beats of this process's own lease are no change.
        paths = (path for path in whole.rglob("*") if path.is_file() and path.parent.name not in ("leases", ".part"))
        return {path: path.read_bytes() for path in paths}

    there = content()
    os.kill(process, signal.SIGCONT)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    assert content() == there and mine.is_mine()
    mine.release()
    assert forget.run(ForgetSettings(run=whole)).complete
    check(whole, before)


@pytest.mark.parametrize("at", range(4))
def test_interrupted_between_deletions_it_goes_on(whole: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    before = rows(whole / "dataset" / "manifests" / "study.json")
    calls: list[Path] = []

    def dies(folder: Path) -> None:
        calls.append(folder)
        if len(calls) > at:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(forget, "fsync_folder", dies)
        with pytest.raises(KeyboardInterrupt):
            forget.run(ForgetSettings(ids=(GONE,), run=whole))
    assert forget.run(ForgetSettings(run=whole)).complete
    check(whole, before)


def test_files_that_are_not_its_own_are_left_and_told(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset, media = whole / "dataset", whole / "media"
    given = {"captions": media / "caption.json", "ids": media / "my-list.csv", "split": whole / "split.json"}
    description = json.loads((dataset / "dataset.json").read_text())
    (dataset / "dataset.json").write_text(json.dumps(description | {"settings": {k: str(v) for k, v in given.items()}}))
    report = RunSummary("looks like one", detail={"id": GONE})
    texts = {
        media / "caption.json": json.dumps({GONE: {"start": [0], "end": [1], "text": ["said"]}}),
        media / "my-list.csv": f"video_id\n{GONE}\n",
        media / "NOTES.md": f"Seen: {GONE}.",
        whole / "split.json": json.dumps(report.as_json()),
        whole / "results" / "results.json": json.dumps({"mine": GONE}),
        whole / "thumbs" / f"{GONE}_1.jpg": "a picture",
    }
    for path, text in texts.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    (media / "mine" / GONE).mkdir(parents=True)
    (media / "mine" / f"{GONE}.mp4").symlink_to(whole / "nothing there")
    unreadable = [media / "mine" / GONE, media / "mine" / f"{GONE}.mp4"]
    (media / ".part" / GONE).mkdir(parents=True)
    (media / ".part" / GONE / f"{GONE}.mp4.part").write_text("half")
    other = whole / "other.md"
    other.write_text(f"{GONE}0 and x{GONE} are others")
    (dataset / "repair-ids.csv").write_text(f"video_id\n{GONE}\n")
    assert main(["forget", GONE, "--run", str(whole)]) == 0
    output = capsys.readouterr().out
    for path, text in texts.items():
        assert path.read_text() == text and f"still names the id: {path}\n" in output, path
    assert all(f"still names the id: {path}\n" in output for path in unreadable)
    assert str(other) not in output and "8 files that aren't this program's still name them" in output
    left = [*texts, *unreadable, other, media / ".part" / GONE]
    assert naming(whole, GONE) == sorted(str(path.relative_to(whole)) for path in left)


def test_a_report_goes_with_all_its_figures(whole: Path) -> None:
    """In a PDF the text is compressed: whether it names the video can't be seen."""
    settings = ReportSettings(whole / "study")
    files = FigureFiles(settings.figures, settings.command())
    files.table("clusters", Table("Clusters", ("words",), (("said",),), ()))
    files.figure("steps", f"video {GONE}", Drawing(Figure(), ("step",), ((1,),)))
    settings.file.write_text(f"<!doctype html>\n<title>mcn report: study</title>\n{GONE}")
    mine = settings.figures / "mine.csv"
    mine.write_text("step\n1\n")
    assert {path.suffix for path in settings.figures.iterdir()} == {".tex", ".pdf", ".csv"}
    assert main(["forget", GONE, "--run", str(whole)]) == 0
    assert not settings.file.exists() and list(settings.figures.iterdir()) == [mine]


def damage(shard: Path) -> None:
    """Change 5 values of a video that is kept, and no digest."""
    with h5py.File(shard, "r+") as file:
        place = next(place for place, name in enumerate(file["videos/id"][:]) if name.decode() != GONE)
        first = int(file["rows/offsets"][place])
        file["rows/resnet152"][first, :5] = np.arange(5) + 100


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def shard_of(dataset: Path, video_id: str) -> Path:
    """The shard that holds the video."""
    for path in sorted((dataset / "shards").glob("*.h5")):
        with h5py.File(path, "r") as file:
            if video_id.encode() in file["videos/id"][:]:
                return path
    raise AssertionError(video_id)


@pytest.mark.parametrize("fault", ["values", "cut", "gone", "another"])
def test_damaged_rows_get_no_valid_digests(whole: Path, fault: str) -> None:
    shard = shard_of(whole / "dataset", GONE)
    other = next(path for path in sorted(shard.parent.glob("*.h5")) if path != shard)
    if fault == "values":
        damage(shard)
    elif fault == "cut":
        shard.write_bytes(shard.read_bytes()[:-1000])
    elif fault == "gone":
        shard.unlink()
    else:
        shard.write_bytes(other.read_bytes())
    before = contents(whole)
    with pytest.raises(InputError, match=f"{shard.name}: .*; nothing was forgotten, repair first: mcn verify") as told:
        forget.run(ForgetSettings(ids=(GONE,), run=whole))
    assert "\n" not in str(told.value)
    assert contents(whole) == before, "nothing was begun: no journal, no tombstone, no media gone"
    assert len(examine(whole / "dataset", 1).bad_shards) == 1


def test_what_a_repair_left_aside_goes_too(whole: Path) -> None:
    shard = shard_of(whole / "dataset", GONE)
    shutil.copy(shard, shard.with_name(f".{shard.name}.bad"))
    shutil.copy(whole / "dataset" / "captions.h5", whole / "dataset" / ".captions.h5.0badcafe.aside")
    assert len(naming(whole / "dataset", GONE)) > 2
    assert forget.run(ForgetSettings(ids=(GONE,), run=whole)).complete
    assert naming(whole, GONE) == []


def test_an_id_that_nothing_names_is_told_and_not_kept_out(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong, dataset = "trian000003", whole / "dataset"
    assert main(["forget", wrong, "--run", str(whole)]) == 1
    output = capsys.readouterr().out
    assert f"nothing names {wrong}" in output and "0 videos done" in output and "failed, unknown: 1" in output
    assert not (dataset / "forgotten.json").exists() and not (dataset / "forgetting.json").exists()
    assert main(["forget", wrong, GONE, "--run", str(whole)]) == 1
    assert "1 video done" in capsys.readouterr().out and naming(whole, GONE) == []
    assert len(forgotten(dataset)) == 1 and is_forgotten(GONE, forgotten(dataset))
    assert main(["forget", wrong, "--even-if-unknown", "--run", str(whole)]) == 0
    assert is_forgotten(wrong, forgotten(dataset)) and naming(whole, wrong) == []


@pytest.mark.parametrize("place", ["list", "captions", "csv", "media", "ledger", "videos"])
def test_an_id_is_known_wherever_it_stands(whole: Path, tmp_path: Path, place: str) -> None:
    video_id, dataset = "onlyhere_01", whole / "dataset"
    given: dict[str, str] = {}
    if place == "list":
        given["ids"] = str(tmp_path / "list.csv")
        (tmp_path / "list.csv").write_text(f"video_id\n{video_id}\n")
    elif place == "captions":
        source = tmp_path / "further.json"
        source.write_text(json.dumps({video_id: {"start": [0], "end": [1], "text": ["said"]}}))
        (dataset / "captions.h5").unlink()
        build_caption_store(source, dataset / "captions.h5", drop_overlaps=False).close()
    elif place == "csv":
        given["captions"] = str(tmp_path)
        (tmp_path / f"{video_id}.csv").write_text("start,end,text\n0,1,said\n")
    elif place == "media":
        (whole / "media" / f"{video_id}.webm").touch()
    elif place == "ledger":
        with LedgerWriter(whole / "media" / "ledger", "download") as ledger:
            ledger.append(Outcome(video_id, "download", "failed", "private"))
    else:
        (whole / "models" / "saw" / "videos.txt").write_text(f"{KEPT}\n{video_id}\n")
    description = json.loads((dataset / "dataset.json").read_text())
    (dataset / "dataset.json").write_text(json.dumps(description | {"settings": given}))
    report = forget.run(ForgetSettings(ids=(video_id,), run=whole))
    assert report.complete and report.done == 1 and is_forgotten(video_id, forgotten(dataset))


@pytest.mark.parametrize("plan", ["of the video", "another"])
def test_a_process_at_work_is_not_disturbed(whole: Path, plan: str) -> None:
    asked = ForgetSettings(ids=(GONE,), run=whole)
    names = shard_plans.plan_names(whole / "dataset" / "plans")
    (name,) = {shard_of(whole / "dataset", GONE).stem} ^ (set() if plan == "of the video" else set(names))
    before = contents(whole)
    with locked(shard_plans.lease_path(whole / "dataset", name), "work"):
        with pytest.raises(InputError, match=f"extracting shard {name}: already at work"):
            forget.run(asked)
    assert contents(whole) == before
    for lock, what in (("download-1-of-1", "downloading to"), ("download-2-of-3", "download-2-of-3 in")):
        with locked(whole / "media" / ".part" / f"{lock}.json", "work"):
            with pytest.raises(InputError, match=f"{what} .*: already at work"):
                forget.run(asked)
    assert contents(whole) == before
    with pytest.raises(InputError, match="can't name a video"):
        forget.run(dataclasses.replace(asked, ids=("../../etc",)))
    with pytest.raises(InputError, match="ids are needed"):
        forget.run(dataclasses.replace(asked, ids=()))


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file and folder below, with its time of change and its bytes."""
    entries = {path: path.lstat().st_mtime_ns for path in [folder, *folder.rglob("*")]}
    return {str(path): (time, path.read_bytes() if path.is_file() else b"") for path, time in entries.items()}


@pytest.fixture
def richer(whole: Path) -> Path:
    """A run's folder with all that may hold a video: parts, what was killed, what lies aside, someone else's files."""
    shard = shard_of(whole / "dataset", GONE)
    shutil.copy(shard, shard.with_name(f".{shard.name}.bad"))
    shutil.copy(whole / "dataset" / "captions.h5", whole / "dataset" / ".captions.h5.0badcafe.aside")
    (whole / "media" / ".part" / "run").mkdir(parents=True)
    (whole / "media" / ".part" / "run" / f"{GONE}.mp4.part").write_text("half")
    (whole / "media" / "mine").mkdir()
    (whole / "media" / "mine" / f"{GONE}.webm").write_text("again")
    (whole / "media" / ".undecodable").mkdir()
    (whole / "media" / ".undecodable" / f"{GONE}.mkv").write_text("aside")
    (whole / "dataset" / "repair-ids.csv").write_text(f"video_id\n{GONE}\n")
    (whole / "list.csv.gz").write_bytes(gzip.compress(f"video_id\n{GONE}\n".encode()))
    (whole / "list.csv").write_text(f"video_id\n{GONE}\n", encoding="utf-16")
    (whole / "list.csv.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(20))
    return whole


def test_a_dry_run_changes_nothing_and_tells_exactly_what_goes(
    richer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, counted = tree(richer), {str(path): path.stat().st_size for path in richer.rglob("*") if path.is_file()}
    assert main(["forget", GONE, "--run", str(richer), "--dry-run"]) == 0
    assert tree(richer) == before
    printed = capsys.readouterr().out
    removed = dict(re.findall(r"^would remove (/\S+) \(.*?([0-9,]+) bytes\)$", printed, re.MULTILINE))
    rewritten = set(re.findall(r"^would rewrite (/\S+) \(", printed, re.MULTILINE))
    assert len(removed) > 10 and {path: int(size.replace(",", "")) for path, size in removed.items()} == {
        path: counted[path] for path in removed
    }
    total = sum(counted[path] for path in removed)
    assert f"would remove {len(removed)} files with {total:,} bytes, and rewrite {len(rewritten)}" in printed
    left = [line for line in printed.splitlines() if line.startswith(("still names", "not searched"))]
    assert len(left) == 3 and "nothing was changed" in printed

    assert main(["forget", GONE, "--run", str(richer)]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("still names", "not searched"))]
    after = tree(richer)
    files = set(counted)
    assert files - after.keys() == set(removed)
    changed = {path for path in before.keys() & after.keys() if before[path][1] != after[path][1]}
    tombstones = {str(richer / name / "forgotten.json") for name in ("dataset", "media")}
    assert changed <= rewritten and rewritten - changed <= {str(richer / "dataset" / "captions.h5"), *tombstones}
    assert naming(richer, GONE) == [], "a second copy, an unfinished one, one aside"
    made = {path for path in after.keys() - before.keys() if Path(path).is_file()}
    assert {Path(path).name for path in made - tombstones} == {"forget.json", "000002.json", "000002.h5"}
    assert told == left


@pytest.mark.parametrize(("answer", "flags", "status"), [("n", [], 1), ("", [], 1), ("y", [], 0), (None, ["--yes"], 0)])
def test_on_a_terminal_it_asks_first(
    whole: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: str | None,
    flags: list[str],
    status: int,
) -> None:
    asked: list[str] = []

    def reply(prompt: str) -> str:
        asked.append(prompt)
        assert answer is not None
        return answer

    monkeypatch.setattr("builtins.input", reply)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    before = tree(whole)
    assert main(["forget", GONE, "--run", str(whole), *flags]) == status
    assert (tree(whole) == before) == (status == 1)
    assert asked == (["forget 1 videos for good? [y/N] "] if answer is not None else [])
    assert ("would remove" in capsys.readouterr().out) == (answer is not None)


def test_a_script_is_not_asked(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda prompt: pytest.fail("asked"))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)  # standard input is none
    assert main(["forget", GONE, "--run", str(whole)]) == 0 and naming(whole, GONE) == []


def test_a_dry_run_of_what_cannot_be_forgotten_says_so(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(whole)
    assert main(["forget", "trian000003", "--run", str(whole), "--dry-run"]) == 1
    assert "nothing names trian000003" in capsys.readouterr().out and tree(whole) == before
    damage(shard_of(whole / "dataset", GONE))
    before = tree(whole)
    assert main(["forget", GONE, "--run", str(whole), "--dry-run"]) == 2
    assert "repair first: mcn verify" in capsys.readouterr().err and tree(whole) == before
