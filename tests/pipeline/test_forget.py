"""A forgotten video is found nowhere; everything else is as it was; an interruption loses nothing."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import forget
from pipeline.caption_store import CaptionStore, build_caption_store
from pipeline.cli import main
from pipeline.clip_rules import ClipRules
from pipeline.dataset import FeatureDataset
from pipeline.errors import InputError
from pipeline.forget import ForgetSettings
from pipeline.freeze import FreezeSettings
from pipeline.freeze import run as freeze
from pipeline.lease import locked
from pipeline.ledger import LedgerWriter, latest_states
from pipeline.manifest import read_manifest
from pipeline.media_folder import media_path
from pipeline.records import Outcome
from pipeline.tombstones import forgotten, is_forgotten
from pipeline.verify import examine

GONE, KEPT = "train000003", "train000004"


@pytest.fixture
def whole(tmp_path: Path, planted: Any) -> Path:
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
    (run / "models" / "saw" / "retrieval.json").write_text(json.dumps({"found": [GONE]}))
    (run / "models" / "did-not" / "retrieval.json").write_text(json.dumps({"found": [KEPT]}))
    (run / "index.html").write_text(f"<p>{GONE}</p>")
    return run


def naming(folder: Path, video_id: str) -> list[str]:
    """Files whose name or bytes hold the id."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return [str(p.relative_to(folder)) for p in paths if video_id in p.name or video_id.encode() in p.read_bytes()]


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
    assert main(["forget", GONE, "--run", str(whole)]) == 0
    check(whole, before)
    assert read_manifest(whole / "dataset" / "manifests" / "study.json").digest != digest
    output = capsys.readouterr().out
    assert f"{whole / 'models' / 'saw'} was trained on some of them" in output and "did-not" not in output
    left = {path.name: path.read_bytes() for path in (whole / "dataset" / "shards").glob("*.h5")}
    assert sum(name in left and left[name] == content for name, content in untouched.items()) == len(untouched) - 1
    assert (whole / "models" / "did-not" / "retrieval.json").exists()
    assert main(["forget", GONE, "--run", str(whole)]) == 0, "a second time there is nothing to do, and that is said"


STEPS = [
    "_forget_media",
    "_forget_captions",
    "_forget_in_manifests",
    "_forget_in_ledger",
    "_forget_reports",
    "write_shard",
]
STEPS += ["make_receipt", "write_part", "write_plans"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_interrupted_anywhere_it_goes_on(whole: Path, monkeypatch: pytest.MonkeyPatch, step: str, when: str) -> None:
    before = rows(whole / "dataset" / "manifests" / "study.json")
    real: Callable[..., Any] = getattr(forget, step)

    def dies(*arguments: Any, **named: Any) -> Any:
        if when == "after":
            real(*arguments, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(forget, step, dies)
        with pytest.raises(KeyboardInterrupt):
            forget.run(ForgetSettings(ids=(GONE,), run=whole))
    with pytest.raises(InputError, match="a `mcn forget` was interrupted; finish it first"):
        freeze(FreezeSettings(whole / "dataset", "another"))
    assert forget.run(ForgetSettings(run=whole)).complete
    check(whole, before)


def test_a_process_at_work_is_not_disturbed(whole: Path) -> None:
    asked = ForgetSettings(ids=(GONE,), run=whole)
    with locked(whole / "dataset" / "leases" / "000000.json", "work"):
        with pytest.raises(InputError, match="extracting shard 000000: already at work"):
            forget.run(asked)
    assert GONE in read_manifest(whole / "dataset" / "manifests" / "study.json").video_ids
    with pytest.raises(InputError, match="can't name a video"):
        forget.run(dataclasses.replace(asked, ids=("../../etc",)))
    with pytest.raises(InputError, match="ids are needed"):
        forget.run(dataclasses.replace(asked, ids=()))
