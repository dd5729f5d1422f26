"""Training and evaluation on a manifest: what is seen, what is said of it, what is refused."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cli import main
from pipeline.core.errors import InputError
from pipeline.dataset.freeze import run as freeze
from pipeline.dataset.manifest import FreezeSettings, read_manifest
from pipeline.evaluation import retrieval as evaluate
from pipeline.evaluation.settings import RetrievalSettings
from pipeline.training.checkpoint import load_checkpoint
from pipeline.training.settings import TrainSettings
from pipeline.training.train import run


@pytest.fixture(scope="module")
def one_epoch(tiny_training: dict[str, Any]) -> dict[str, Any]:
    return tiny_training | {"epochs": 1}


@pytest.fixture(scope="module")
def model(planted: Any, one_epoch: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("manifest") / "model"
    run(TrainSettings.flat(manifest=planted.manifest, out=out, **one_epoch))
    return out


def test_a_model_says_which_videos_it_saw(planted: Any, model: Path) -> None:
    digest = json.loads(planted.manifest.read_text())["digest"]
    seen = sorted(i for i in planted.videos if i.startswith("train"))
    assert (model / "videos.txt").read_text() == "".join(f"{i}\n" for i in seen)
    content = load_checkpoint(model)
    assert content["manifest"] == {"name": "planted", "digest": digest} and content["videos"] == len(seen)
    assert Path(content["settings"]["manifest"]) == planted.manifest
    detail = json.loads((model / "train.json").read_text())["detail"]
    assert detail["manifest"] == content["manifest"] and detail["videos"] == len(seen)
    assert {"processor", "device", "libraries"} <= detail["circumstance"].keys()


def test_the_ids_are_there_before_the_first_step(
    planted: Any, one_epoch: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.training.trainer.Trainer.train", killed)
    with pytest.raises(KeyboardInterrupt):
        run(TrainSettings.flat(manifest=planted.manifest, out=tmp_path / "model", **one_epoch))
    assert len((tmp_path / "model" / "videos.txt").read_text().splitlines()) == 12


def test_beside_a_score_stand_number_and_digest(
    planted: Any, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = json.loads(planted.manifest.read_text())["digest"]
    evaluate.run(RetrievalSettings(checkpoint=model, clips=planted.clips, out=tmp_path, bootstrap=5))
    assert f"trained on 12 videos of manifest planted, digest {digest[:12]}" in capsys.readouterr().out
    detail = json.loads((tmp_path / "retrieval.json").read_text())["detail"]
    assert detail["trained on"] == {"name": "planted", "digest": digest, "videos": 12}
    assert detail["manifest"] == {"name": "planted", "digest": digest}
    assert {"processor", "device", "libraries"} <= detail["circumstance"].keys()


@pytest.mark.parametrize(("split", "clips"), [("heldout", 16), ("train", 96), ("all", 112)])
def test_the_clips_are_those_of_a_split(planted: Any, model: Path, tmp_path: Path, split: str, clips: int) -> None:
    report = evaluate.run(
        RetrievalSettings(checkpoint=model, clips=planted.clips, out=tmp_path, split=split, bootstrap=5)
    )
    assert report.done == clips
    assert any("trained on 12 of these videos" in note for note in report.notes) == (split != "heldout")


def test_held_out_by_video_and_by_task_count_as_held_out(planted_copy: Any, model: Path, tmp_path: Path) -> None:
    ids = tmp_path / "ids.csv"
    ids.write_text("video_id,task_id\n" + "".join(f"{i},{i[-1]}\n" for i in planted_copy.videos))
    freeze(FreezeSettings(planted_copy.folder, "both", ids, heldout_videos=0.3, heldout_tasks=0.3))
    path = planted_copy.folder / "manifests" / "both.json"
    splits = json.loads(path.read_text())["splits"]
    clips = [line.split(",")[0] for line in planted_copy.clips.read_text().splitlines()[1:]]
    wanted = sum(clips.count(i) for name in ("heldout-videos", "heldout-tasks") for i in splits[name])
    assert splits["heldout-videos"] and splits["heldout-tasks"], "the seed gives both kinds"
    found = evaluate.run(
        RetrievalSettings(checkpoint=model, clips=planted_copy.clips, out=tmp_path, manifest=path, bootstrap=5)
    )
    assert found.done == wanted


def test_splits_without_a_video_are_refused(
    planted_copy: Any, one_epoch: dict[str, Any], model: Path, tmp_path: Path
) -> None:
    split = tmp_path / "split.csv"
    everything = planted_copy.folder / "manifests" / "all.json"
    asked = RetrievalSettings(checkpoint=model, clips=planted_copy.clips, out=tmp_path / "out", bootstrap=5)
    with pytest.raises(InputError, match=r"no video in split heldout of .*all\.json"):
        evaluate.run(dataclasses.replace(asked, manifest=everything))
    with pytest.raises(InputError, match="no split 'test'; it has: "):
        evaluate.run(dataclasses.replace(asked, split="test"))
    split.write_text("video_id,split\n" + "".join(f"{i},heldout\n" for i in planted_copy.videos))
    freeze(FreezeSettings(planted_copy.folder, "nothing", split=split))
    with pytest.raises(InputError, match=r"nothing\.json: 0 videos to train on"):
        nothing = planted_copy.folder / "manifests" / "nothing.json"
        run(TrainSettings.flat(manifest=nothing, out=tmp_path / "model", **one_epoch))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("key", ["splits", "shards", "rule", "words", "name"])
def test_a_changed_manifest_is_refused(planted: Any, tmp_path: Path, key: str) -> None:
    path = tmp_path / "study.json"
    content = json.loads(planted.manifest.read_text())
    for value, named in (
        ("other" if isinstance(content[key], str) else {}, "its digest doesn't match"),
        (3, r"not a manifest|digest doesn't match"),
    ):
        path.write_text(json.dumps(content | {key: value}))
        with pytest.raises(InputError, match=named):
            read_manifest(path)
    del content[key]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="not a manifest"):
        read_manifest(path)


def test_a_hostile_manifest_names_no_path(planted: Any, tmp_path: Path) -> None:
    content = json.loads(planted.manifest.read_text())
    content["shards"] = {"../../other": content["shards"]["000000"]}
    body = {key: value for key, value in content.items() if key not in ("digest", "circumstances")}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    (tmp_path / "study.json").write_text(json.dumps(content | {"digest": digest}))
    with pytest.raises(InputError, match="not a manifest"):
        read_manifest(tmp_path / "study.json")


def test_a_manifest_goes_on_serving_while_the_data_set_grows(
    planted: Any,
    one_epoch: dict[str, Any],
    model: Path,
    tmp_path: Path,
    make_video: Callable[..., Any],
    make_dataset: Callable[..., Path],
) -> None:
    grown = tmp_path / "grown"
    shutil.copytree(planted.folder, grown)
    streams = {"resnet152": 24}
    more = make_dataset(tmp_path / "more", [make_video("another0000", [(0, 2, "now")], streams=streams)], shards=1)
    for place, suffix in (("plans", "json"), ("shards", "h5"), ("shards", "json")):
        shutil.copy(more / place / f"000000.{suffix}", grown / place / f"000007.{suffix}")
    run(TrainSettings.flat(manifest=grown / "manifests" / "planted.json", out=tmp_path / "model", **one_epoch))
    one, two = (load_checkpoint(folder)["model"] for folder in (model, tmp_path / "model"))
    assert all((one[name] == two[name]).all() for name in one)
    assert (tmp_path / "model" / "videos.txt").read_bytes() == (model / "videos.txt").read_bytes()


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("shard", "its shard"),
        ("digest", "its digest doesn't match"),
        ("elsewhere", "frozen of another data set"),
        ("none", "(--manifest: Manifest made by `mcn freeze`"),
    ],
)
def test_a_manifest_that_can_not_be_met_is_one_line(
    planted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str, named: str
) -> None:
    folder = tmp_path / "dataset"
    shutil.copytree(planted.folder, folder)
    path = folder / "manifests" / "planted.json"
    content = json.loads(path.read_text())
    if fault == "shard":
        (folder / "shards" / "000001.h5").unlink()
    elif fault == "digest":
        content["splits"]["train"].append(content["splits"]["heldout"].pop())
        path.write_text(json.dumps(content))
    elif fault == "elsewhere":
        description = json.loads((folder / "dataset.json").read_text())
        description["identity"]["feature_fps"] = 2
        (folder / "dataset.json").write_text(json.dumps(description))
    else:
        path.unlink()
    assert main(["train", "--manifest", str(path), "--out", str(tmp_path / "out"), "--batch-videos", "4"]) == 2
    error = capsys.readouterr().err
    assert str(path) in error and named in error and error.count("\n") == 1
    assert fault != "shard" or ("000001.h5" in error and f"mcn verify {folder.resolve()} --repair" in error)


def test_a_run_freezes_before_it_trains(planted: Any, one_epoch: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(planted.folder, out / "dataset")
    split = tmp_path / "split.csv"
    split.write_text("video_id,split\n" + "".join(f"{i},{i.rstrip('0123456789')}\n" for i in planted.videos))
    config = tmp_path / "run.yaml"
    content: dict[str, Any] = {
        "out": str(out), "freeze": {"split": str(split)}, "train": one_epoch, "evaluate": {"clips": str(planted.clips)},
    }  # fmt: skip
    config.write_text(yaml.safe_dump(content))
    assert main(["run", str(config)]) == 0
    frozen = json.loads((out / "dataset" / "manifests" / "run.json").read_text())
    results = json.loads((out / "results.json").read_text())
    assert [stage["stage"] for stage in results["stages"]] == ["freeze", "train", "evaluate retrieval"]
    expected = {"name": "run", "digest": frozen["digest"]}
    assert results["scores"][0]["trained on"] == expected | {"videos": 12}
    assert results["scores"][0]["manifest"] == expected
    page = (out / "index.html").read_text()
    assert "12 videos of manifest run" in page and frozen["digest"] in page
    before = (out / "models" / "shared-seed1" / "checkpoint.pt").read_bytes()
    # Without its own section the manifest is made all the same; the one that is there was made by another rule.
    config.write_text(yaml.safe_dump({key: value for key, value in content.items() if key != "freeze"}))
    assert main(["run", str(config)]) == 2
    config.write_text(yaml.safe_dump(content))
    assert main(["run", str(config)]) == 0
    assert (out / "models" / "shared-seed1" / "checkpoint.pt").read_bytes() == before
