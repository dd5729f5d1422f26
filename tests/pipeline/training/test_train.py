"""Training on planted features: it learns what is there, survives kills to the bit, and refuses what can't be."""

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning_fabric import Fabric

from models import batch_step as models_step
from models.kmeans import ClusterQueue
from models.losses import mcn_losses
from models.pairing import BUILTIN_SCHEMES
from models.settings import ClusterSettings
from pipeline.core.config import as_plain
from pipeline.core.errors import InputError
from pipeline.dataset.freeze import run as freeze
from pipeline.dataset.manifest import FreezeSettings
from pipeline.evaluation import retrieval as evaluate
from pipeline.evaluation.settings import RetrievalSettings
from pipeline.training import checkpoint
from pipeline.training.checkpoint import load_checkpoint, model_from
from pipeline.training.settings import TrainSettings, settings_of
from pipeline.training.train import prepare, run
from pipeline.training.trainer import Trainer

OFTEN = 1e-9
"""Minutes between checkpoints: one after every step."""
FREE = ("out", "save_every", "workers")
IDS = [f"train{n:06d}" for n in range(12)]


def changed(settings: TrainSettings, **values: Any) -> TrainSettings:
    return TrainSettings.flat(**as_plain(settings) | values)


@pytest.fixture(scope="module")
def settings(planted: Any, small_training: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> TrainSettings:
    out = tmp_path_factory.mktemp("train") / "model"
    return TrainSettings.flat(manifest=planted.manifest, out=out, epochs=3, **small_training)


@pytest.fixture
def small(settings: TrainSettings, tmp_path: Path) -> TrainSettings:
    """Three epochs of three steps into a folder of this test's own."""
    return changed(settings, out=tmp_path / "model")


@pytest.fixture(scope="module")
def uninterrupted(settings: TrainSettings) -> dict[str, Any]:
    """The checkpoint of a run that nothing disturbed."""
    report = run(settings)
    assert (report.done, report.skipped) == (3, 0)
    return load_checkpoint(settings.out)


def retrieval(planted: Any, model: Path) -> dict[str, Any]:
    asked = RetrievalSettings(checkpoint=model, clips=planted.clips, out=model, bootstrap=50)
    return dict(evaluate.run(asked).detail["metrics"])


@pytest.fixture(scope="module")
def learnt(planted: Any, settings: TrainSettings) -> dict[bool, tuple[dict[str, Any], dict[str, Any]]]:
    """Captions permuted -> (last checkpoint, retrieval) of 25 epochs."""
    found = {}
    for permuted in (False, True):
        out = settings.out.with_name(f"learnt-{permuted}")
        report = run(changed(settings, out=out, epochs=25, permute_captions=permuted))
        assert any("permuted" in note for note in report.notes) == permuted
        found[permuted] = load_checkpoint(out), retrieval(planted, out)
    return found


def test_streams_of_any_network_train(
    make_video: Any, make_dataset: Any, make_vectors: Any, small: TrainSettings, tmp_path: Path
) -> None:
    said = [(2.0 * n, 2.0 * n + 2, f"stir pot{n}") for n in range(3)]
    videos = [make_video(i, said, streams={"resnet18": 10, "r3d_18": 6}) for i in IDS[:4]]
    folder = make_dataset(tmp_path / "dataset", videos, make_vectors(["stir", "pot0", "pot1", "pot2"]))
    asked = changed(small, manifest=folder / "manifests" / "all.json", epochs=1, streams=("resnet18", "r3d_18"))
    assert run(asked).done == 1
    content = load_checkpoint(asked.out)
    assert model_from(content).settings.video_streams == (10, 6) and np.isfinite(content["history"][0]["total"])


def test_the_loss_falls(learnt: dict[bool, Any]) -> None:
    history = learnt[False][0]["history"]
    contrast = [sum(v for name, v in epoch.items() if name.startswith("contrast/")) for epoch in history]
    assert len(history) == 25 and np.mean(contrast[-3:]) < 0.6 * np.mean(contrast[:3])
    assert history[-1]["total"] < history[0]["total"]


def test_what_belongs_together_is_found_in_videos_never_seen(planted: Any, learnt: dict[bool, Any]) -> None:
    metrics = learnt[False][1]
    assert metrics["queries"] == planted.actions and metrics["chance"]["R@1"] == 1 / planted.actions
    assert metrics["recall"]["R@1"]["value"] > 8 * metrics["chance"]["R@1"]
    assert metrics["recall"]["R@5"]["value"] > 0.9 and metrics["median_rank"]["value"] <= 1.5


def test_permuted_captions_teach_nothing(learnt: dict[bool, Any]) -> None:
    metrics = learnt[True][1]
    assert metrics["recall"]["R@1"]["value"] < 0.25 and metrics["recall"]["R@5"]["value"] < 0.6
    assert metrics["median_rank"]["value"] > 3


def equal(first: Any, second: Any) -> bool:
    """Whether two nests of plain values and tensors are equal to the bit."""
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(equal(a, b) for a, b in zip(first, second, strict=True))
    return bool(first == second)


def assert_same_run(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    # `paths` are each run's own.
    for name in wanted.keys() - {"settings", "paths"}:
        assert equal(found[name], wanted[name]), name
    assert {n: v for n, v in found["settings"].items() if n not in FREE} == {
        n: v for n, v in wanted["settings"].items() if n not in FREE
    }


def begun(settings: TrainSettings) -> Trainer:
    """A trainer before its first step."""
    return prepare(Fabric(accelerator="cpu", devices=1), settings, [])


def interrupt_step(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    step, seen = Trainer._step, 0

    def killed(self: Any, *batch: Any) -> dict[str, float]:
        nonlocal seen
        seen += 1
        if seen == number:
            raise KeyboardInterrupt
        return step(self, *batch)

    monkeypatch.setattr(Trainer, "_step", killed)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("number", [1, 4, 5, 9])
def test_a_run_killed_at_any_step_and_resumed_equals_an_uninterrupted_one(
    small: TrainSettings, uninterrupted: dict[str, Any], monkeypatch: pytest.MonkeyPatch, number: int, workers: int
) -> None:
    small = changed(small, save_every=OFTEN, workers=workers)
    with monkeypatch.context() as patch:
        interrupt_step(patch, number)
        with pytest.raises(KeyboardInterrupt):
            run(small)
    assert (small.out / "checkpoint.pt").exists() == (number > 1)
    if number > 1:
        content = load_checkpoint(small.out)
        assert (content["epoch"], content["step"]) == divmod(number - 1, 3), "every step was saved"
    torch.manual_seed(12345)  # a new process has another state of the global generator
    report = run(small)
    assert (report.skipped, report.done) == ((number - 1) // 3, 3 - (number - 1) // 3)
    assert report.detail["steps"] == 9 - (number - 1)
    assert_same_run(load_checkpoint(small.out), uninterrupted)
    with open(small.out / "metrics.csv", newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2", "3"]


def test_a_kill_while_saving_leaves_the_last_checkpoint_whole(
    small: TrainSettings, uninterrupted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    save, seen = torch.save, 0

    def torn(content: Any, file: Any) -> None:
        nonlocal seen
        seen += 1
        save(content, file)
        if seen == 2:
            file.truncate(file.tell() // 2)
            raise KeyboardInterrupt

    small = changed(small, save_every=OFTEN)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.torch, "save", torn)
        with pytest.raises(KeyboardInterrupt):
            run(small)
    assert load_checkpoint(small.out)["step"] == 1
    (small.out / ".checkpoint.pt.01234567.aside").write_bytes(b"what a kill leaves")
    run(small)
    assert_same_run(load_checkpoint(small.out), uninterrupted)
    assert not list(small.out.glob(".*"))


def test_a_finished_run_does_nothing_more_and_says_so(
    small: TrainSettings, uninterrupted: dict[str, Any], settings: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(settings.out, small.out)
    before = (small.out / "checkpoint.pt").read_bytes()
    interrupt_step(monkeypatch, 1)
    report = run(small)
    assert (report.done, report.skipped) == (0, 3) and report.complete
    assert (small.out / "checkpoint.pt").read_bytes() == before
    assert report.detail["last"]["epoch"] == 3 and report.detail["videos"] == 12
    assert json.loads((small.out / "train.json").read_text())["done"] == 3, "the report of the run that did it stays"


@pytest.mark.parametrize(
    ("number", "workers"), [(None, 0), (2, 2), (4, 0)], ids=["finished", "within an epoch", "between epochs"]
)
def test_epochs_added_later_are_those_of_a_run_that_was_asked_for_them_at_once(
    small: TrainSettings,
    uninterrupted: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    number: int | None,
    workers: int,
) -> None:
    shorter = changed(small, epochs=2 if number is None else 1, save_every=OFTEN, workers=workers)
    if number is None:
        assert run(shorter).complete
    else:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            interrupt_step(patch, number)
            run(changed(shorter, epochs=2))
    torch.manual_seed(12345)
    report = run(changed(small, workers=workers))
    assert report.complete and report.notes == []
    found = load_checkpoint(small.out)
    assert_same_run(found, uninterrupted)
    assert found["settings"]["epochs"] == 3 == json.loads((small.out / "settings.json").read_text())["epochs"]
    assert json.loads((small.out / "train.json").read_text())["detail"]["settings"]["epochs"] == 3
    assert len((small.out / "metrics.csv").read_text().splitlines()) == 1 + 3
    with pytest.raises(InputError, match="made with epochs 3, asked for 2: epochs may be added, not taken away"):
        run(changed(small, epochs=2))


def test_epochs_added_to_a_run_whose_rate_depends_on_their_number_are_told_of(small: TrainSettings) -> None:
    cosine = changed(small, schedule="warm-up-cosine", warm_up_steps=4, save_every=OFTEN)
    # In the warm-up nothing depends on it yet.
    assert run(changed(cosine, epochs=1)).notes == run(changed(cosine, epochs=2)).notes == []
    report = run(cosine)
    (note,) = report.notes
    assert "epochs were added after step 6: " in note and "the warm-up-cosine schedule of 2 epochs" in note
    content = load_checkpoint(small.out)
    (group,) = content["optimizer"]["param_groups"]
    assert group["lr"] == pytest.approx(0.01 * 0.5 * (1 + np.cos(np.pi * 4 / 5)))
    at_once = changed(cosine, out=small.out / "at once")
    assert run(at_once).notes == []
    assert not equal(load_checkpoint(at_once.out)["model"], content["model"])
    # For as long as the model is there.
    assert run(cosine).notes == report.notes


def test_another_seed_gives_another_model(small: TrainSettings, uninterrupted: dict[str, Any]) -> None:
    run(changed(small, seed=2))
    assert not equal(load_checkpoint(small.out)["model"], uninterrupted["model"])


@pytest.mark.parametrize(
    "change",
    [{"seed": 2}, {"epochs": 2}, {"width": 8}, {"scheme": "disjoint"}, {"learning_rate": 0.02}, {"batch_videos": 3}],
    ids=lambda change: next(iter(change)),
)
def test_going_on_with_other_settings_is_refused(
    settings: TrainSettings, uninterrupted: dict[str, Any], change: dict[str, Any]
) -> None:
    (name,) = change
    before = (settings.out / "checkpoint.pt").read_bytes()
    with pytest.raises(InputError, match=f"made with {name} .*take another --out"):
        run(changed(settings, **change))
    assert (settings.out / "checkpoint.pt").read_bytes() == before


def test_going_on_with_other_videos_or_another_data_set_is_refused(
    settings: TrainSettings,
    uninterrupted: dict[str, Any],
    planted: Any,
    planted_copy: Any,
    tmp_path: Path,
    make_dataset: Callable[..., Path],
    make_vectors: Callable[..., Any],
) -> None:
    freeze(FreezeSettings(planted_copy.folder, "others", heldout_videos=0.3, heldout_tasks=0))
    others = planted_copy.folder / "manifests" / "others.json"
    with pytest.raises(
        InputError, match="trained on manifest planted, digest .* asked for others, digest .*another --out"
    ):
        run(changed(settings, manifest=others))
    words = planted.vectors.index_to_key
    other = make_dataset(tmp_path / "other", list(planted.videos.values()), make_vectors(words, seed=1))
    with pytest.raises(InputError, match="another data set"):
        run(changed(settings, manifest=other / "manifests" / "all.json"))


def test_going_on_with_a_manifest_frozen_anew_under_its_old_name_is_refused(
    small: TrainSettings, planted_copy: Any
) -> None:
    manifest = planted_copy.folder / "manifests" / "anew.json"

    def frozen(heldout_videos: float) -> TrainSettings:
        manifest.unlink(missing_ok=True)
        freeze(FreezeSettings(planted_copy.folder, "anew", heldout_videos=heldout_videos, heldout_tasks=0))
        return changed(small, manifest=manifest, epochs=1)

    run(frozen(0.25))
    before = (small.out / "checkpoint.pt").read_bytes()
    digests = r"trained on manifest anew, digest (\w{12}), asked for anew, digest (?!\1)\w{12}; choose another --out"
    with pytest.raises(InputError, match=digests):
        run(frozen(0.3))
    assert (small.out / "checkpoint.pt").read_bytes() == before
    assert run(frozen(0.25)).skipped == 1, "the same videos have the same digest"


@pytest.mark.parametrize(("made", "now"), [("bf16", "fp32"), ("fp32", "bf16")])
def test_going_on_in_another_precision_is_refused(
    settings: TrainSettings, uninterrupted: dict[str, Any], small: TrainSettings, made: str, now: str
) -> None:
    """As on a machine for which `auto` is another; the setting itself may change."""
    small.out.mkdir(parents=True)
    content = uninterrupted | {"precision": made, "settings": uninterrupted["settings"] | {"precision": "auto"}}
    checkpoint.save_checkpoint(small.out, content)
    with pytest.raises(InputError, match=f"made in {made}, this machine would resume in {now}; say --precision {made}"):
        run(changed(small, precision=now))
    assert run(changed(small, precision=made)).skipped == 3


@pytest.mark.parametrize("scheme", BUILTIN_SCHEMES)
def test_every_built_in_scheme_trains_and_is_found_again(small: TrainSettings, scheme: str) -> None:
    report = run(changed(small, scheme=scheme, epochs=2))
    assert report.detail["scheme"] == scheme and report.detail["parameters"] > 0
    content = load_checkpoint(small.out)
    assert all(np.isfinite(list(epoch.values())).all() for epoch in content["history"])
    kinds = {name.split("/")[0] for name in content["history"][0]}
    terms = {"contrast", "cluster", "reconstruction"}
    heldout = {"heldout"} if scheme not in ("video-audio", "audio-text") else set()
    assert kinds == {"epoch", "total", "gradient norm", "share"} | terms | heldout
    shares = [value for name, value in content["history"][0].items() if name.startswith("share/")]
    assert sum(shares) == pytest.approx(1) and len(shares) == sum(
        name.split("/")[0] in terms for name in content["history"][0]
    )
    assert model_from(content).settings.scheme.name == scheme
    assert settings_of(content) == changed(small, scheme=scheme, epochs=2)
    start = begun(changed(small, scheme=scheme, out=small.out / "new")).model.state_dict()
    moved = {name for name, value in content["model"].items() if not torch.equal(value, start[name])}
    assert moved == set(start), "every weight has a gradient"


def test_a_scheme_of_ones_own(small: TrainSettings, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    spaces = [{"name": "only", "modalities": {"video": "feature", "audio": "feature"}, "pairs": ["video-audio"]}]
    path.write_text(yaml.safe_dump({"name": "mine", "spaces": spaces}))
    own = changed(small, scheme=str(path), epochs=1)
    assert run(own).detail["scheme"] == "mine"
    asked = RetrievalSettings(checkpoint=small.out, clips=Path("none.csv"), out=small.out)
    with pytest.raises(InputError, match="none.csv: no such file"):
        evaluate.run(asked)
    path.write_text(yaml.safe_dump({"name": "mine", "spaces": [spaces[0] | {"pairs": ["video-text"]}]}))
    with pytest.raises(InputError, match=r"mine.yaml: .*text"):
        run(own)
    with pytest.raises(InputError, match="'disjiont'.*did you mean 'disjoint'"):
        run(changed(small, scheme="disjiont"))


def test_a_scheme_that_moved_is_still_the_same(small: TrainSettings, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    spaces = [{"name": "only", "modalities": {"video": "feature", "text": "feature"}, "pairs": ["video-text"]}]
    path.write_text(yaml.safe_dump({"name": "mine", "spaces": spaces}))
    run(changed(small, scheme=str(path), epochs=1))
    moved = path.rename(tmp_path / "moved.yaml")
    assert run(changed(small, scheme=str(moved), epochs=1)).skipped == 1
    moved.write_text(yaml.safe_dump({"name": "mine", "spaces": [spaces[0] | {"width": 8}]}))
    with pytest.raises(InputError, match="made with scheme 'mine', asked for 'mine', which is another"):
        run(changed(small, scheme=str(moved), epochs=1))


def test_a_save_is_no_waiting_for_data(small: TrainSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def slow_save(*_: Any) -> None:
        clock[0] += 1000.0

    training = begun(changed(small, save_every=OFTEN, epochs=1))
    monkeypatch.setattr(Trainer, "save", slow_save)
    monkeypatch.setattr("pipeline.training.trainer.time.perf_counter", lambda: clock[0])
    training.train(None)
    assert training.steps_now == 3 and (training.waited_s, training.worked_s) == (0.0, 0.0)


def test_the_optimiser_is_adam_at_the_rate_asked_for(small: TrainSettings, uninterrupted: dict[str, Any]) -> None:
    assert type(begun(small).optimizer) is torch.optim.Adam
    (group,) = uninterrupted["optimizer"]["param_groups"]
    assert (group["lr"], tuple(group["betas"]), group["weight_decay"]) == (0.01, (0.9, 0.999), 0)


@pytest.mark.parametrize("kept", [0, 1, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused_in_one_line(
    small: TrainSettings, settings: TrainSettings, uninterrupted: dict[str, Any], kept: float
) -> None:
    shutil.copytree(settings.out, small.out)
    path = small.out / "checkpoint.pt"
    os.truncate(path, int(path.stat().st_size * kept) if kept < 1 else int(kept))
    with pytest.raises(InputError) as refused:
        run(small)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_a_batch_larger_than_the_data_is_refused(small: TrainSettings) -> None:
    with pytest.raises(InputError, match="12 videos to train on make no batch of 13; lower --batch-videos"):
        run(changed(small, batch_videos=13))
    assert not small.out.exists()


def test_the_last_incomplete_batch_is_dropped(small: TrainSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    step = Trainer._step
    monkeypatch.setattr(Trainer, "_step", lambda self, clips: seen.append(len(clips)) or step(self, clips))
    run(changed(small, batch_videos=5, epochs=1))
    assert seen == [30, 30]


def test_a_loss_that_is_no_number_stops_with_its_name_and_leaves_the_checkpoint(
    small: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms_of, seen = models_step.cluster_terms, 0

    def poisoned(*arguments: Any) -> dict[str, torch.Tensor]:
        nonlocal seen
        seen += 1
        terms = terms_of(*arguments)
        return terms | {name: terms[name] * torch.nan for name in terms if seen == 5 and name.endswith("audio")}

    monkeypatch.setattr(models_step, "cluster_terms", poisoned)
    with pytest.raises(InputError, match=r"cluster/\S+audio became nan in epoch 2, step 2; .*lower --learning-rate"):
        run(changed(small, save_every=OFTEN))
    content = load_checkpoint(small.out)
    assert (content["epoch"], content["step"]) == (1, 1)
    assert all(value.isfinite().all() for value in content["model"].values())
    saved = torch.load(small.out / "not-finite.pt", weights_only=True)
    assert saved["step"] == 1 and len(saved["batch"]) == small.batch_videos and set(saved["batch"]) <= set(IDS)
    assert equal(saved["model"], content["model"])


def test_a_rate_beyond_all_reason_stops_too(small: TrainSettings) -> None:
    with pytest.raises(InputError, match=r"training: (\S+/\S+|gradient norm) became (nan|inf)"):
        run(changed(small, learning_rate=1e20))
    assert not (small.out / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    ("setting", "kind"),
    [
        ("contrast_weight", "contrast"),
        ("cluster_weight", "cluster"),
        ("reconstruction_weight", "reconstruction"),
    ],
)
def test_a_kind_of_term_can_be_switched_off(small: TrainSettings, setting: str, kind: str) -> None:
    last = run(changed(small, **{setting: 0.0}, epochs=1)).detail["last"]
    assert {"contrast", "cluster", "reconstruction"} - {name.split("/")[0] for name in last} == {kind}


def test_the_loss_is_the_models_own(small: TrainSettings) -> None:
    training = begun(changed(small, term_weights="sum"))
    clips = training.data.batches.batch(0, 0)
    video_index = torch.arange(4).repeat_interleave(6)
    (space,) = training.scheme.spaces
    before = training.model(clips)
    errors = training.model.reconstruction_errors(before)
    joint, present = before.joint(space)
    clusters = ClusterQueue(16, ClusterSettings(clusters=8, queue_rows=64)).step(
        joint, present, torch.Generator().manual_seed(small.seed)
    )
    wanted = mcn_losses(training.scheme, before, {space.name: clusters}, errors, training.settings.loss, video_index)
    found = training._step(clips)
    terms = {"total": wanted.total.item()} | {n: v.item() for n, v in wanted.terms.items()}
    assert {name: found[name] for name in terms} == pytest.approx(terms)


def test_standardised_inputs_have_mean_0_and_deviation_1(small: TrainSettings) -> None:
    standard = changed(small, standardise=True, epochs=1)
    run(standard)
    model = model_from(load_checkpoint(small.out))
    assert run(standard).done == 0, "its statistics are in the checkpoint"
    batches = begun(changed(standard, out=small.out / "new")).data.batches
    drawn = list(batches.load(0, 0, workers=0))
    for modality, values in (
        ("text", torch.cat([clips.words[clips.known_words] for clips in drawn])),
        ("audio", torch.cat([clips.audio for clips in drawn])),
    ):
        made = model.standardisation[modality](values)
        torch.testing.assert_close(made.mean(dim=0), torch.zeros_like(made[0]), atol=1e-4, rtol=0)
        torch.testing.assert_close(made.std(dim=0, correction=0), torch.ones_like(made[0]), atol=1e-3, rtol=0)


def test_bf16_trains_with_finite_losses(small: TrainSettings) -> None:
    history = run(changed(small, precision="bf16", epochs=1)).detail["last"]
    assert np.isfinite(list(history.values())).all()
    assert {value.dtype for value in load_checkpoint(small.out)["model"].values() if value.is_floating_point()} == {
        torch.float32
    }


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"clusters": 25, "queue_rows": 0}, "at least 25 clips"),
        ({"device": "warp"}, "warp"),
        ({"streams": ("resnet50",)}, "no video stream 'resnet50'; it has: resnet152"),
        ({"streams": ()}, "`video_streams` is ()"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_named_in_one_line(
    small: TrainSettings, change: dict[str, Any], named: str
) -> None:
    with pytest.raises(InputError) as refused:
        run(changed(small, **change))
    assert named in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "name", ["batch_videos", "clips_per_video", "epochs", "width", "max_words", "reconstruction_hidden"]
)
def test_counts_must_be_at_least_1(small: TrainSettings, name: str) -> None:
    with pytest.raises(InputError, match=f"{name} is 0: it must be at least 1"):
        changed(small, **{name: 0})


@pytest.mark.parametrize(
    ("change", "named"),
    [({"clusters": 1}, "clusters is 1"), ({"queue_rows": -1}, "queue_rows"), ({"temperature": 0.0}, "temperature")],
    ids=str,
)
def test_options_of_losses_and_clusters_are_checked_at_once(
    small: TrainSettings, change: dict[str, Any], named: str
) -> None:
    with pytest.raises(InputError, match=named):
        changed(small, **change)


def test_videos_without_captions_and_without_sound_are_told_of(
    tmp_path: Path,
    small: TrainSettings,
    make_video: Callable[..., Any],
    make_dataset: Callable[..., Path],
    make_vectors: Callable[..., Any],
) -> None:
    captions = [(0.0, 2.0, "a b"), (2.0, 4.0, "c d")]
    videos = [make_video(f"plain{n:06d}", captions, seed=n, sound=n > 0) for n in range(4)]
    videos.append(make_video("mute0000000", (), sound=False))
    folder = make_dataset(tmp_path / "dataset", videos, make_vectors(list("abcd")))
    manifest, streams = folder / "manifests" / "all.json", ("resnet152", "efficientnet-lite0")
    mute = changed(small, manifest=manifest, epochs=1, streams=streams)
    report = run(mute)
    assert report.detail["videos"] == 4
    assert report.notes == ["1 videos without captions can't be drawn from and are left out"]
    assert model_from(load_checkpoint(small.out)).settings.video_streams == (24, 12)


def test_a_modality_that_is_nowhere_is_refused(
    tmp_path: Path,
    small: TrainSettings,
    make_video: Callable[..., Any],
    make_dataset: Callable[..., Path],
    make_vectors: Callable[..., Any],
) -> None:
    captions = [(0.0, 2.0, "a b"), (2.0, 4.0, "c d")]
    videos = [make_video(f"plain{n:06d}", captions, seed=n, sound=False) for n in range(4)]
    folder = make_dataset(tmp_path / "dataset", videos, make_vectors(list("abcd")))
    silent = changed(small, manifest=folder / "manifests" / "all.json")
    with pytest.raises(InputError, match=r"all\.json: no clip has audio in the first 1 batches.*choose a scheme"):
        run(silent)
    assert not (small.out / "checkpoint.pt").exists()
    speechless = make_dataset(tmp_path / "speechless", videos, make_vectors(["unheard"]))
    with pytest.raises(InputError, match="no clip has audio or text"):
        run(changed(silent, manifest=speechless / "manifests" / "all.json"))
