"""Tables of a comparison, out of results made by hand."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.experiment.comparison import compare, per_video
from pipeline.experiment.report.results import Model
from pipeline.metrics.intervals import crossed_mean, holm

CAPTIONS = {"c": 1, "a": 4, "b": 2, "d": 3}
"""Video -> its captions, in no order: videos with more of them weigh more."""
TASKS = {"a": "x", "b": "x", "c": "x", "d": "y"}
"""Three videos of one task and one of another: a task's videos share its weight."""


def model(arm: str, seed: int, equal: tuple[str, ...] = ("width",), headline: bool = True) -> Model:
    """Results drawn from the arm and the seed; every seed moves all of its videos."""
    generator = np.random.default_rng([seed, *arm.encode()])
    hits = {v: {f"R@{k}": float(generator.integers(0, n + 1)) for k in (1, 5, 10)} for v, n in CAPTIONS.items()}
    retrieval = {
        "headline": headline,
        "videos": {video: {"queries": float(CAPTIONS[video])} | of for video, of in hits.items()},
        "metrics": {"median_rank": {"value": float(generator.integers(1, 9))}},
    }
    videos = [{"video_id": v, "task_id": TASKS[v], "recall": float(generator.random() + 0.1 * seed)} for v in TASKS]
    training = {"settings": {"scheme": arm, "width": 8}, "parameters": 7}
    localization = {"detail": {"videos": videos}} if headline else None
    results = {"detail": training, "skipped": 0, "seconds": 2.0}, {"detail": retrieval}, localization, None
    return Model(f"{arm}-seed{seed}", arm, seed, equal, Path(arm), *results)


def study(*arms: str, equal: tuple[str, ...] = ("width",)) -> Any:
    return SimpleNamespace(arms=[SimpleNamespace(name=arm) for arm in arms], reference=arms[0], equal=equal)


def rows(arm: str, seeds: tuple[int, ...], measure: str) -> np.ndarray:
    """[seeds, videos a to d]: each video's part in the score, by hand."""
    found = []
    for seed in seeds:
        one = model(arm, seed)
        if measure == "recall":
            assert one.localization is not None
            weight = {"a": 4 / 6, "b": 4 / 6, "c": 4 / 6, "d": 4 / 2}
            found.append([weight[v["video_id"]] * v["recall"] for v in one.localization["detail"]["videos"]])
        else:
            videos = one.retrieval["detail"]["videos"]
            found.append([videos[video][measure] * 4 / 10 for video in "abcd"])
    return np.array(found)


@pytest.mark.parametrize("measure", ["R@1", "R@5", "R@10", "recall"])
def test_videos_weigh_as_in_the_score(measure: str) -> None:
    """The mean over captions, of which videos have one to four; and that over tasks of means over videos."""
    one = model("ours", 1)
    found = per_video(one, measure)
    assert found is not None and one.localization is not None
    np.testing.assert_allclose(found, rows("ours", (1,), measure)[0])
    if measure == "recall":
        by_task: dict[str, list[float]] = {}
        for video in one.localization["detail"]["videos"]:
            by_task.setdefault(video["task_id"], []).append(video["recall"])
        assert found.mean() == pytest.approx(np.mean([np.mean(recalls) for recalls in by_task.values()]))
    else:
        videos = one.retrieval["detail"]["videos"].values()
        assert found.mean() == pytest.approx(sum(video[measure] for video in videos) / 10)


@pytest.mark.parametrize("measure", ["R@1", "R@5", "R@10", "recall"])
def test_differences_are_of_the_same_seed_and_the_same_video(measure: str) -> None:
    seeds = (1, 2, 3)
    models = [model(arm, seed) for seed in seeds for arm in ("ours", "plain", "other")]
    table = compare(study("plain", "ours", "other"), models)["width"]
    for arm in ("ours", "other"):
        paired = crossed_mean(rows(arm, seeds, measure) - rows("plain", seeds, measure))
        found = table[arm]["differences"][measure]
        assert [found[name] for name in ("value", "low", "high", "p")] == pytest.approx(
            [paired.value, paired.low, paired.high, paired.p]
        )
        assert table[arm]["scores"][measure]["value"] == pytest.approx(rows(arm, seeds, measure).mean())
    assert table["plain"]["differences"] == {}
    p = [table[arm]["differences"]["R@5"]["p"] for arm in ("ours", "other")]
    assert [table[arm]["corrected p"] for arm in ("ours", "other")] == pytest.approx(holm(p))
    assert table["ours"]["median rank"] == pytest.approx(
        np.mean([model("ours", seed).retrieval["detail"]["metrics"]["median_rank"]["value"] for seed in seeds])
    )


def test_a_table_holds_the_models_that_were_trained_for_it() -> None:
    models = [model("plain", 1, ("width", "parameters")), model("ours", 1), model("ours", 2, ("parameters",))]
    models.append(model("plain", 2, ("parameters",)))
    tables = compare(study("plain", "ours", equal=("width", "parameters")), models)
    assert tables["width"]["ours"]["scores"]["R@1"]["value"] == pytest.approx(rows("ours", (1,), "R@1").mean())
    assert tables["parameters"]["ours"]["scores"]["R@1"]["value"] == pytest.approx(rows("ours", (2,), "R@1").mean())
    assert tables["parameters"]["plain"]["scores"]["R@1"]["seeds_sd"] == pytest.approx(
        rows("plain", (1, 2), "R@1").mean(axis=1).std(ddof=1)
    )


def test_an_arm_without_a_headline_has_no_score_and_no_difference() -> None:
    models = [model("plain", 1), model("deaf", 1, headline=False)]
    table = compare(study("plain", "deaf"), models)["width"]
    assert table["deaf"]["scores"] == {} == table["deaf"]["differences"] and table["deaf"]["median rank"] is None
    assert "corrected p" not in table["deaf"]
