"""Schedules, clusters over epochs, held-out scores, and DaveNet in training."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from extractors.weights import load_weights
from pipeline.core.config import as_plain, from_mapping
from pipeline.core.errors import InputError
from pipeline.training.checkpoint import load_checkpoint, model_from
from pipeline.training.settings import TrainSettings, find_scheme
from pipeline.training.train import prepare, run
from pipeline.training.trainer import Trainer, learning_rate_at


def changed(settings: TrainSettings, **values: Any) -> TrainSettings:
    return TrainSettings.flat(**as_plain(settings) | values)


@pytest.fixture
def small(planted: Any, small_training: dict[str, Any], tmp_path: Path) -> TrainSettings:
    return TrainSettings.flat(manifest=planted.manifest, out=tmp_path / "model", epochs=2, **small_training)


def begun(settings: TrainSettings) -> Trainer:
    return prepare(Fabric(accelerator="cpu", devices=1), settings, [])


def test_the_published_schedule_by_hand(small: TrainSettings) -> None:
    cosine = changed(small, schedule="warm-up-cosine", warm_up_steps=10, learning_rate=0.5)
    rates = [learning_rate_at(cosine, step, 30) for step in range(30)]
    assert rates[:11] == pytest.approx([0.05 * step for step in range(11)])
    assert rates[20] == pytest.approx(0.25) and rates[15] == pytest.approx(0.25 + 0.25 * math.sqrt(0.5))
    assert 0 < rates[29] < 0.005 and learning_rate_at(cosine, 30, 30) == pytest.approx(0)
    assert {learning_rate_at(small, step, 30) for step in range(30)} == {0.01}


def test_the_optimiser_follows_the_schedule(small: TrainSettings) -> None:
    warm = changed(small, schedule="warm-up-cosine", warm_up_steps=4)
    training = begun(warm)
    before = {name: tensor.clone() for name, tensor in training.model.state_dict().items()}
    training._step(training.data.batches.batch(0, 0))
    assert all(torch.equal(tensor, before[name]) for name, tensor in training.model.state_dict().items())
    training._step(training.data.batches.batch(0, 1))
    # Adam's first steps move every weight by about the rate, here a quarter of 0.01.
    moved = max(float((tensor - before[name]).abs().max()) for name, tensor in training.model.state_dict().items())
    assert moved == pytest.approx(0.0025, rel=0.3)


def test_the_mean_of_an_epoch_is_that_of_its_steps(small: TrainSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    training, figures = begun(changed(small, epochs=1)), []
    step = training._step
    monkeypatch.setattr(training, "_step", lambda clips: figures.append(step(clips)) or figures[-1])
    training.train(None)
    (epoch,) = training.history
    assert len(figures) == 3
    for name in figures[0]:
        assert epoch[name] == pytest.approx(np.mean([one[name] for one in figures]))


@pytest.mark.parametrize(("restart", "batches"), [(False, 6), (True, 3)])
def test_clusters_live_on_or_begin_anew_with_each_epoch(small: TrainSettings, restart: bool, batches: int) -> None:
    run(changed(small, restart_clusters=restart))
    queues = load_checkpoint(small.out)["queues"]
    assert int(queues["shared.batches"]) == batches and int(queues["shared.filled"]) == 64


def test_held_out_scores_are_those_of_a_plain_ranking(small: TrainSettings) -> None:
    training = begun(small)
    heldout = training.data.heldout
    assert len(heldout.videos) == 4 and all(video_id.startswith("heldout") for video_id in heldout.videos)
    found = heldout.scores(training.model, torch.device("cpu"), batch=7)
    assert training.model.training
    model = training.model.eval()
    with torch.no_grad():
        vectors = model(heldout._inputs()).vectors["shared"]
    ranks = []
    for index, text in enumerate(vectors["text"]):
        scores = [float(text @ video) for video in vectors["video"]]
        higher = sum(score > scores[index] + 1e-6 for score in scores)
        equal = sum(abs(score - scores[index]) <= 1e-6 for score in scores) - 1
        ranks.append(1 + higher + equal / 2)
    assert found["heldout/median rank"] == pytest.approx(float(np.median(ranks)))
    for k in (1, 5, 10):
        assert found[f"heldout/R@{k}"] == pytest.approx(np.mean([rank <= k for rank in ranks]))
    assert found["heldout/R@1"] < found["heldout/R@5"] < found["heldout/R@10"], "such ranks tell the cutoffs apart"
    assert begun(changed(small, heldout_clips=0)).data.heldout.scores(model, torch.device("cpu")) == {}


@pytest.fixture
def heard(
    tmp_path: Path,
    make_video: Callable[..., Any],
    make_dataset: Callable[..., Path],
    make_vectors: Callable[..., Any],
) -> Path:
    """Four videos with log-mel; their captions begin at 0, where it is there."""
    captions = [(0.0, 2.0, "a b"), (0.05, 4.0, "c d")]
    videos = [make_video(f"video{n:06d}", captions, seed=30 * n + 20) for n in range(4)]
    folder = make_dataset(tmp_path / "dataset", videos, make_vectors(list("abcd")))
    return folder / "manifests" / "all.json"


def test_davenet_inside_learns_from_the_logmel(small: TrainSettings, heard: Path) -> None:
    inside = changed(
        small, manifest=heard, audio_from="logmel", logmel_frames=48, epochs=1, clips_per_video=2, clusters=2
    )
    start = begun(inside).model.state_dict()
    run(inside)
    content = load_checkpoint(inside.out)
    assert content["model_settings"]["audio_from"] == "logmel"
    moved = {name for name, tensor in content["model"].items() if not torch.equal(tensor, start[name])}
    assert {name for name in start if name.startswith("davenet.")} <= moved
    assert model_from(content).davenet is not None


def test_davenet_alone_gives_weights_that_the_extractor_takes(
    small: TrainSettings, small_training: dict[str, Any], heard: Path
) -> None:
    values = small_training | {"clips_per_video": 2, "epochs": 1, "logmel_frames": 48}
    alone = from_mapping(TrainSettings, values | {"manifest": heard, "out": small.out, "model": "davenet"}, "")
    assert (alone.scheme, alone.network.audio_from, alone.loss.cluster_weight) == ("video-audio", "logmel", 0.0)
    report = run(alone)
    weights = load_weights("davenet", Path(report.detail["davenet"]))
    trained = load_checkpoint(small.out)["model"]
    assert all(torch.equal(tensor, trained[f"davenet.{name}"]) for name, tensor in weights.state.items())
    assert {name.split("/")[0] for name in report.detail["last"]} & {"cluster", "reconstruction"} == set()


@pytest.mark.parametrize("scheme", ["disjoint", "shared"])
def test_davenet_alone_takes_no_scheme_with_text(small: TrainSettings, heard: Path, scheme: str) -> None:
    asked = changed(small, manifest=heard, model="davenet", audio_from="logmel", scheme=scheme)
    with pytest.raises(InputError, match=f"scheme {scheme}: model davenet is trained on sound and pictures alone"):
        run(asked)


def test_streams_are_looked_at_before_anything_is_copied(small: TrainSettings, tmp_path: Path) -> None:
    asked = changed(small, streams=("resnext101",), stage_to=tmp_path / "copies")
    with pytest.raises(InputError, match="no video stream 'resnext101'; it has: resnet152"):
        run(asked)
    assert not (tmp_path / "copies").exists()


def test_what_is_infinite_before_any_cluster_is_there_stops_with_its_term(small: TrainSettings) -> None:
    training = begun(small)
    clips = training.data.batches.batch(0, 0)
    assert clips.audio is not None
    with pytest.raises(InputError, match=r"training: contrast/shared/\S*audio\S* became nan in epoch 1, step 1"):
        training._step(dataclasses.replace(clips, audio=torch.full_like(clips.audio, torch.inf)))
    assert (small.out / "not-finite.pt").exists()


def test_rows_or_logmel_that_were_not_stored_are_missed_in_one_line(
    small: TrainSettings,
    tmp_path: Path,
    make_video: Callable[..., Any],
    make_dataset: Callable[..., Path],
    make_vectors: Callable[..., Any],
    make_identity: Callable[..., dict[str, Any]],
) -> None:
    video = make_video("video000000", [(0.0, 2.0, "a")])
    identity = make_identity({name: rows.shape[1] for name, rows in video.video.items()}, store="davenet")
    folder = make_dataset(tmp_path / "dataset", [video], make_vectors(["a"]), shards=1, identity=identity)
    asked = changed(small, manifest=folder / "manifests" / "all.json", audio_from="logmel")
    with pytest.raises(InputError, match="extracted with --audio-store davenet.*extract with --audio-store both"):
        run(asked)


def test_the_published_preset_is_what_the_published_command_says() -> None:
    values = {"manifest": "m", "out": "o", "preset": "mcn-iccv21"}
    made = from_mapping(TrainSettings, values, "")
    scheme = find_scheme(made.scheme)
    assert (made.batch_videos, made.clips_per_video, made.epochs, made.learning_rate) == (128, 32, 30, 0.0001)
    assert (made.network.width, made.warm_up_steps, made.schedule) == (6144, 5000, "warm-up-cosine")
    model = made.model_settings(scheme, (2048, 2048), 300)
    assert (model.audio_from, model.zeros_for_missing, model.detach_targets) == ("logmel", True, False)
    assert (model.mask_padding_words, model.own_frames_in_training, model.reconstruction_hidden) == (False, False, 1024)
    clusters, losses, rules = made.clustering, made.loss, made.clip_rules(scheme)
    assert (clusters.clusters, clusters.queue_rows, clusters.refit_every) == (256, 20 * 16 * 128, 20)
    assert clusters.labels_before_update and clusters.queue_only_when_full
    assert not clusters.reseed_dead and not clusters.spread_start
    assert (losses.cluster_weight, losses.reconstruction_weight) == (1 / 3, 50) and losses.margin == 0.001
    assert (made.restart_clusters, losses.term_weights, made.chunk) == (True, "sum", 1024)
    assert (losses.temperature, losses.normalise, losses.directions, losses.mask_same_video) == (
        1,
        False,
        "both",
        False,
    )
    assert rules.word_order == "absorbed"
    assert (rules.bounds, rules.clamp_logmel_start, rules.logmel_padding) == ("inclusive", False, "loudest")
    assert (rules.logmel_frames, rules.min_clip_seconds, rules.max_words) == (1000, 10.0, 20)
    kept = from_mapping(TrainSettings, values | {"width": 64}, "")
    assert kept.network.width == 64 and not kept.network.detach_targets


def test_clips_that_are_all_too_short_are_refused(small: TrainSettings) -> None:
    run(changed(small, min_clip_seconds=16.0, epochs=1))  # captions of 8 x 2 s
    with pytest.raises(InputError, match=r"the longest span of captions takes 16.0 s, --min-clip-seconds is 16.5"):
        run(changed(small, min_clip_seconds=16.5, out=small.out / "short"))


def test_a_preset_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="model: 'davnet' is unknown; did you mean 'davenet'"):
        from_mapping(TrainSettings, {"manifest": "m", "out": "o", "model": "davnet"}, "train")
