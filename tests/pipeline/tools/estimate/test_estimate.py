"""Estimate: sums done anew by hand, measured figures planted in a run's folder, a probe of a tiny budget."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import Tensor

from models.batch_step import BatchStep
from models.clips import ClipInputs
from models.settings import ClusterSettings
from pipeline.cli import main, parse
from pipeline.core.config import as_plain, from_mapping
from pipeline.core.files import digest_of_json, write_json
from pipeline.core.formatting import count
from pipeline.core.ledger import LedgerWriter
from pipeline.core.records import Outcome
from pipeline.extraction.settings import ExtractSettings
from pipeline.extraction.speed import ExtractionRates, probe_extraction
from pipeline.tools.estimate.estimate import run
from pipeline.tools.estimate.stages import Figures
from pipeline.tools.settings import EstimateSettings
from pipeline.training import speed
from pipeline.training.settings import TrainSettings
from pipeline.training.speed import TrainingRates, TrainingShape

STUDY = Path(__file__).resolve().parents[4] / "configs" / "study-howto100m.yaml"
STREAM = "efficientnet-lite0"


def study(folder: Path, **sections: Any) -> Path:
    path = folder / "study.yaml"
    content = {
        "out": str(folder / "run"),
        "schemes": ["shared", "disjoint"],
        "download": {"ids": "absent.csv"},
        "extract": {"ids": "absent.csv", "streams": [STREAM], "weights": "random:0"},
        "train": {
            "streams": [STREAM],
            "width": 16,
            "batch_videos": 10,
            "clips_per_video": 4,
            "epochs": 3,
            "clusters": 2,
        }
        | {"queue_rows": 100, "reconstruction_hidden": 8},
        "evaluate": {"clips": str(folder / "clips.csv")},
    }
    path.write_text(yaml.safe_dump(content | sections))
    return path


def figures_of(settings: EstimateSettings) -> dict[tuple[str, str], dict[str, Any]]:
    report = run(settings)
    assert report.complete
    found = {(f["stage"], f["name"]): f for f in report.detail["figures"]}
    assert len(found) == len(report.detail["figures"]), "a figure stands there twice"
    return found


@pytest.fixture(autouse=True)
def _short_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.extraction.speed.CLIP_S", 2)


@pytest.fixture(scope="module")
def published() -> dict[tuple[str, str], dict[str, Any]]:
    """The shipped study, not probed."""
    return figures_of(EstimateSettings(STUDY, probe_seconds=0))


def test_the_published_list_gives_the_sums_of_the_documents(published: dict[tuple[str, str], dict[str, Any]]) -> None:
    def value(stage: str, name: str) -> float:
        return float(published[stage, name]["value"])

    assert value("videos", "listed") == 1_220_000
    assert value("videos", "seconds in all") == pytest.approx(15 * 365.25 * 24 * 3600)
    assert value("videos", "seconds each") / 60 == pytest.approx(6.5, abs=0.05)
    # The settings sleep 15 s in the mean, 240 videos an hour, which is slower than the 300 that a guest may fetch.
    assert value("download", "days") == pytest.approx(1_220_000 * 15 / 86_400)
    assert round(value("download", "days")) == 212
    assert value("download", "TB") == pytest.approx(12)
    assert value("extract", "bytes a second of video") == 2048 * 2 + 1024 * 2 + 100 * 40 * 2
    assert value("extract", "TB") == pytest.approx(6.7, abs=0.05)
    # 2 % of the videos and 2 % of the tasks are held out.
    batches = int(1_220_000 * 0.98 * 0.98) // 128
    assert value("train shared-seed1", "steps") == batches * 30
    assert value("all", "TB") == pytest.approx(18.7, abs=0.1)


def test_each_figure_says_where_it_comes_from(published: dict[tuple[str, str], dict[str, Any]]) -> None:
    assert all(figure["source"] for figure in published.values())
    assert (
        published["videos", "listed"]["origin"] == "cited" and "isn't here" in published["videos", "listed"]["source"]
    )
    assert published["download", "bytes a video"]["origin"] == "cited"
    assert published["download", "days"]["origin"] == "arithmetic"
    assert published["download", "internet addresses"]["origin"] == "given"
    assert not any(figure["origin"] == "measured" for figure in published.values())
    assert all((figure["value"] is None) == (figure["origin"] == "unknown") for figure in published.values())


def test_what_is_not_probed_is_unknown_and_not_zero(published: dict[tuple[str, str], dict[str, Any]]) -> None:
    assert published["extract", "days"]["origin"] == "unknown"
    assert published["extract", "days"]["source"] == "needs extract: core hours"
    total = published["all", "days, at least"]
    assert total["value"] == published["download", "days"]["value"] and "extract" in total["source"]


@pytest.mark.parametrize(
    ("download", "addresses", "hourly"),
    [
        ({}, 1, 240),
        ({}, 3, 720),
        ({"sleep_interval": 4, "max_sleep_interval": 6}, 1, 300),
        ({"sleep_interval": 4, "max_sleep_interval": 6}, 2, 600),
        ({"sleep_interval": 60, "max_sleep_interval": 60}, 1, 60),
    ],
)
def test_the_slower_pace_of_site_and_settings_counts(
    download: dict[str, float], addresses: int, hourly: float, tmp_path: Path
) -> None:
    path = study(tmp_path, download={"ids": "absent.csv"} | download)
    found = figures_of(EstimateSettings(path, probe_seconds=0, addresses=addresses, ids=7200))
    assert found["download", "videos an hour"]["value"] == hourly
    assert found["download", "days"]["value"] == pytest.approx(7200 / hourly / 24)
    assert found["videos", "listed"]["origin"] == "given"


def test_a_list_that_is_there_is_counted(tmp_path: Path) -> None:
    listed = tmp_path / "ids.csv"
    listed.write_text("video_id\n" + "".join(f"video{n:06d}\n" for n in range(17)))
    found = figures_of(EstimateSettings(study(tmp_path, download={"ids": str(listed)}), probe_seconds=0))
    assert found["videos", "listed"]["value"] == 17 and str(listed) in found["videos", "listed"]["source"]


def plant_run(folder: Path) -> None:
    """30 videos done and 10 gone, one settled every 12 s but for a pause of a day; a shard; a trained model."""
    with LedgerWriter(folder / "run/media/ledger", "download") as ledger:
        for n in range(40):
            when = 1e9 + 12 * n + (86_400 if n >= 25 else 0)
            video_id, gone = f"video{n:06d}", n % 4 == 3
            detail = {} if gone else {"bytes": 5_000_000, "duration": 100.0}
            state, reason = ("failed", "removed") if gone else ("done", "")
            ledger.append(Outcome(video_id, "download", state, reason, "", 1, when, detail))
        ledger.append(Outcome("video999999", "download", "failed", "network", "", 1, 1e9, {}))
    shards = folder / "run/dataset/shards"
    shards.mkdir(parents=True)
    for name in ("000000", "000001"):
        (shards / f"{name}.h5").touch()
    content = {
        "schema": 1,
        "name": "000000",
        "plan": "",
        "video_ids": ["video000000", "video000001"],
        "left_out": {},
        "content": "",
        "bytes": 1_600_000,
        "seconds": 160.0,
        "circumstance": {},
    }
    write_json(shards / "000000.json", content | {"digest": digest_of_json(content)})


def test_a_run_that_is_on_measures_itself(tmp_path: Path) -> None:
    plant_run(tmp_path)
    before = sorted(path for path in tmp_path.rglob("*"))
    found = figures_of(EstimateSettings(study(tmp_path), probe_seconds=0, ids=4000))
    assert found["videos", "share alive"]["value"] == 0.75
    assert found["videos", "alive"]["value"] == 3000
    assert found["videos", "seconds each"]["value"] == 80.0
    assert found["download", "videos an hour"]["value"] == pytest.approx(300)
    assert found["download", "days"]["value"] == pytest.approx(4000 / 300 / 24)
    assert found["download", "TB"]["value"] == pytest.approx(3000 * 5e6 / 1e12)
    assert found["extract", "bytes a second of video"]["value"] == 10_000
    assert found["extract", "TB"]["value"] == pytest.approx(3000 * 80 * 10_000 / 1e12)
    for key in (("videos", "share alive"), ("download", "videos an hour"), ("extract", "bytes a second of video")):
        assert found[key]["origin"] == "measured"
    assert sorted(path for path in tmp_path.rglob("*")) == sorted([*before, tmp_path / "study.yaml"])


def test_durations_of_the_downloads_serve_before_the_first_shard(tmp_path: Path) -> None:
    plant_run(tmp_path)
    (tmp_path / "run/dataset/shards/000000.json").unlink()
    found = figures_of(EstimateSettings(study(tmp_path), probe_seconds=0))
    assert found["videos", "seconds each"]["value"] == 100.0
    assert not (tmp_path / "run/dataset/shards/000000.json").exists()


def test_a_trained_models_report_is_taken_where_its_steps_cost_the_same(tmp_path: Path) -> None:
    path = study(tmp_path)
    values = yaml.safe_load(path.read_text())["train"]
    made = from_mapping(TrainSettings, values | {"manifest": "m", "out": "o"}, "")
    settings = as_plain(made)
    for scheme, width in (("shared", 16), ("disjoint", 32)):
        report = {"done": 3, "seconds": 60.0, "detail": {"videos": 105, "settings": settings | {"width": width}}}
        write_json(tmp_path / f"run/models/{scheme}-seed1/train.json", report)
    found = figures_of(EstimateSettings(path, probe_seconds=0, ids=1000))
    assert found["train shared-seed1", "seconds a step"]["value"] == 60 / (3 * 10)
    assert found["train shared-seed1", "seconds a step"]["origin"] == "measured"
    assert found["train shared-seed1", "steps"]["value"] == 960 // 10 * 3  # 960 of 1000 are not held out
    assert found["train shared-seed1", "hours"]["value"] == pytest.approx(96 * 3 * 2 / 3600)
    assert found["train disjoint-seed1", "seconds a step"]["origin"] == "unknown"


def planted_extraction(device: str) -> ExtractionRates:
    gpu = device != "cpu"
    return ExtractionRates(device, "bf16", 0.1 if gpu else 0.5, 0.02 if gpu else 0.0, {"decoding": 0.1})


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_days_follow_from_rates_workers_and_gpus(device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.tools.estimate.estimate.probe_extraction", lambda *given: planted_extraction(device))
    rates = TrainingRates(device, 2 if device == "cpu" else 1, 1.5, 0.5, 40, 0.001)
    monkeypatch.setattr(
        "pipeline.tools.estimate.estimate.probe_training", lambda shapes, seconds: dict.fromkeys(shapes, rates)
    )
    (tmp_path / "clips.csv").write_text("video_id,start,end,text\n" + "video000000,0,1,a\n" * 500)
    found = figures_of(EstimateSettings(study(tmp_path), ids=1_220_000, workers=8, gpus=4))
    seconds = 15 * 365.25 * 86_400
    if device == "cpu":
        assert found["extract", "core hours"]["value"] == pytest.approx(seconds * 0.5 / 3600)
        assert found["extract", "days"]["value"] == pytest.approx(seconds * 0.5 / 8 / 86_400)
        assert found["extract", "GPU hours"]["origin"] == "unknown"
    else:
        assert found["extract", "GPU hours"]["value"] == pytest.approx(seconds * 0.02 / 3600)
        # 8 workers decode in 0.1 / 8 s what 4 GPUs embed in 0.02 / 4 s: the workers are slower.
        assert found["extract", "days"]["value"] == pytest.approx(seconds * 0.1 / 8 / 86_400)
    steps = int(1_220_000 * 0.98 * 0.98) // 10 * 3
    trained = found["train disjoint-seed1", "days"]["value"]
    assert trained == pytest.approx(steps * 1.5 / 86_400)
    hours = found["train disjoint-seed1", "core hours" if device == "cpu" else "GPU hours"]["value"]
    assert hours == pytest.approx(steps * 1.5 / 3600 * (2 if device == "cpu" else 1))
    assert found["evaluate shared-seed1", "days"]["value"] == pytest.approx(500 * 0.001 / 86_400)
    beside = max(found["download", "days"]["value"], found["extract", "days"]["value"])
    assert found["all", "days"]["value"] == pytest.approx(beside + 2 * trained + 2 * 0.5 / 86_400)


def test_a_probe_that_fails_leaves_its_figures_unknown(tmp_path: Path) -> None:
    path = study(tmp_path)
    content = yaml.safe_load(path.read_text())
    content["extract"]["device"] = content["train"]["device"] = "cuda:77"
    path.write_text(yaml.safe_dump(content))
    found = figures_of(EstimateSettings(path, probe_seconds=0.01))
    for key in (("extract", "core hours"), ("train shared-seed1", "seconds a step")):
        assert found[key]["origin"] == "unknown" and "cuda:77" in found[key]["source"]


def test_the_command_with_a_tiny_probe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "estimate.json"
    assert main(["estimate", str(study(tmp_path)), "--probe-seconds", "0.01", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("stage") and "needs evaluate: clips" in printed
    figures = {(f["stage"], f["name"]): f for f in json.loads(out.read_text())["detail"]["figures"]}
    assert figures["extract", "s of video a core second"]["value"] > 0
    assert figures["train disjoint-seed1", "seconds a step"]["value"] > 0


def test_the_extraction_probe_measures_every_part() -> None:
    rates = probe_extraction(ExtractSettings(Path("m"), Path("o"), streams=(STREAM,), device="cpu"), 0.0)
    assert set(rates.parts) == {"decoding", "sound", "davenet", STREAM}
    assert all(seconds > 0 for seconds in rates.parts.values())
    assert rates.core_s == pytest.approx(sum(rates.parts.values())) and rates.gpu_s == 0


def shape(scheme: str = "shared", **other: Any) -> TrainingShape:
    values: dict[str, Any] = {
        "scheme": scheme,
        "width": 24,
        "streams": (STREAM,),
        "min_clip_seconds": 3.0,
        "max_words": 4,
        "batch_videos": 16,
        "clips_per_video": 4,
        "reconstruction_hidden": 8,
        "clusters": 6,
        "queue_rows": 200,
        "device": "cpu",
    }
    return TrainingShape(TrainSettings.flat(manifest="m", out="o", **values | other), 1)


class Machine:
    """A clock that goes forward by what work is planted to cost: of a step, and of a round of k-means."""

    def __init__(self, step: Callable[[int], float], row_round_s: float = 0.0) -> None:
        self.now, self.step, self.row_round_s = 0.0, step, row_round_s
        self.steps: list[int] = []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def backward(batch_step: BatchStep, clips: ClipInputs, *given: object) -> None:
            self.steps.append(len(clips))
            self.now += self.step(len(clips))

        def kmeans(data: Tensor, settings: ClusterSettings, *given: object) -> None:
            self.now += self.row_round_s * len(data) * settings.iterations

        monkeypatch.setattr(BatchStep, "backward", backward)
        monkeypatch.setattr(speed, "cosine_kmeans", kmeans)
        monkeypatch.setattr(speed, "perf_counter", lambda: self.now)


@pytest.mark.parametrize("seconds", [0.0, 4.0, 1000.0])
def test_a_step_of_a_large_batch_follows_from_smaller_ones(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine of 1 ms a clip beside 0.25 s a step, whichever steps the probe has time for."""
    machine = Machine(lambda clips: 0.25 + 1e-3 * clips, row_round_s=1e-6)
    machine.install(monkeypatch)
    shapes = {name: shape(name, batch_videos=250) for name in ("shared", "disjoint")}
    for name, rate in speed.probe_training(shapes, seconds).items():
        # 100 rounds on 200 rows of the queue and 1000 of the batch, every 20 steps, in each space.
        rounds = 100 * 1e-6 * 1200 / 20 * (1 if name == "shared" else 2)
        assert rate.kmeans_s == pytest.approx(rounds)
        assert rate.step_s == pytest.approx(0.25 + 1.0 + rounds)
        assert rate.clip_s == pytest.approx(1e-3 / 3)
        assert rate.timed_clips == {0.0: 128, 4.0: 256, 1000.0: 1000}[seconds]
    assert max(machine.steps) == rate.timed_clips


def test_a_probe_takes_about_as_long_as_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(lambda clips: 1e-3 * clips)
    machine.install(monkeypatch)
    speed.probe_training({name: shape(name, batch_videos=100_000) for name in ("shared", "disjoint")}, 100.0)
    assert 25 < machine.now < 100


def test_a_busy_machine_does_not_make_clips_free(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(lambda clips: 1.0 / clips, row_round_s=1e-9).install(monkeypatch)
    rates = speed.probe_training({"shared": shape(batch_videos=250)}, 0.0)["shared"]
    assert rates.step_s > rates.kmeans_s > 0 and rates.clip_s > 0


def test_clusters_that_are_off_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(lambda clips: 1.0, row_round_s=1.0).install(monkeypatch)
    assert speed.probe_training({"shared": shape(cluster_weight=0.0)}, 0.0)["shared"].kmeans_s == 0


@pytest.mark.parametrize(
    "other",
    [
        {"scheme": "fine-and-coarse"},
        {"scheme": "audio-text", "chunk_clips": 16},
        {"precision": "bf16", "standardise": True, "refit_every": 1},
        {"audio_from": "logmel", "logmel_frames": 40, "zeros_for_missing": True, "batch_videos": 5},
        {"batch_videos": 1, "clips_per_video": 2, "queue_rows": 6},
    ],
)
def test_every_kind_of_training_is_timed(other: dict[str, Any]) -> None:
    of = shape(**other)
    rates = speed.probe_training({"one": of}, 0.0)["one"]
    assert rates.step_s > rates.kmeans_s > 0 and rates.clip_s > 0 and rates.timed_clips == of.clips


def test_a_sum_with_an_unknown_part_is_unknown() -> None:
    figures = Figures()
    known, lacking = figures.of("a").add("x", 2.0, "given", "-"), figures.of("b").add("y", None, "cited", "-")
    assert figures.of("c").sum("z", lambda x: 3 * x, "3 x", known).value == 6
    assert figures.of("c").sum("w", lambda x, y: x * y, "x y", known, lacking).source == "needs b: y"
    assert lacking.origin == "unknown" and len(figures.table().splitlines()) == 5


@pytest.mark.parametrize(("value", "text"), [(0.00171, "0.00171"), (211.8, "212"), (1e6, "1,000,000")])
def test_numbers_for_people(value: float, text: str) -> None:
    assert count(value) == text


def test_an_unknown_figure_is_shown_by_a_question_mark() -> None:
    figures = Figures("download")
    figures.add("days", None, "unknown", "none fetched so far")
    assert figures.table().splitlines()[1].split()[:4] == ["download", "days", "?", "unknown"]


def test_a_study_that_cannot_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = study(tmp_path, train={"widht": 3})
    assert main(["estimate", str(path)]) == 2
    assert main(["estimate", str(tmp_path / "none.yaml")]) == 2
    assert main(["estimate"]) == 2
    assert capsys.readouterr().err.count("\n") == 3
    assert parse("estimate", [str(STUDY)])[0].probe_seconds == 60
    for values in ({"addresses": 0}, {"probe_seconds": -1}, {"workers": -1}):
        with pytest.raises(ValueError):
            EstimateSettings(STUDY, **values)
