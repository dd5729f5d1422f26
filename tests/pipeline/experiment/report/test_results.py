"""Curves, scores and examples show what the study's own files hold."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.errors import InputError
from pipeline.experiment.report.examples import Frames, retrieval_examples
from pipeline.experiment.report.results import read_study
from pipeline.experiment.report.score_figures import (
    difference_figure,
    kinds_of,
    learning_curve_figure,
    read_curves,
    score_figure,
)
from pipeline.experiment.report.tables import arms_table, circumstance_table


def test_the_reference_comes_first_and_each_arm_shows_its_first_seed(study: Any) -> None:
    assert study.arms == ["shared", "disjoint", "video-audio"]
    assert [model.name for model in study.examples()] == ["shared-seed1", "disjoint-seed1", "video-audio-seed1"]
    rows = {row[0]: row[1:] for row in arms_table(study).rows}
    pairs = {"video-audio: video-audio", "video-text: video-text"}
    assert set(rows["disjoint"][1].split("; ")) == pairs
    assert rows["shared"][1] == "shared: audio-text, video-audio, video-text" and rows["shared"][2] == "–"


def test_curves_are_the_means_of_the_seeds(study: Any) -> None:
    models = study.of_arm("shared")
    curves = read_curves([model.folder / "metrics.csv" for model in models])
    kinds = kinds_of(curves)
    assert list(kinds)[:4] == ["total", "contrast", "cluster", "reconstruction"]
    drawing = learning_curve_figure(curves, {"contrast": kinds["contrast"]})
    found = {(epoch, term): (mean, low, high) for epoch, term, mean, low, high in drawing.rows}
    for term in ("contrast/shared/video-text", "contrast/shared/audio-text", "contrast/shared/video-audio"):
        for place in range(3):
            own = []
            for model in models:
                with open(model.folder / "metrics.csv", newline="") as file:
                    own.append(float(list(csv.DictReader(file))[place][term]))
            assert found[place + 1, term] == pytest.approx((np.mean(own), min(own), max(own)))
    lines = {line.get_label(): line.get_ydata() for line in drawing.figure.axes[0].lines}
    assert lines["shared/video-text"] == pytest.approx([found[n, "contrast/shared/video-text"][0] for n in (1, 2, 3)])


@pytest.mark.parametrize(("measure", "figures"), [("R@5", "recall"), ("recall", "figures")])
def test_scores_are_drawn_with_every_seed(study: Any, measure: str, figures: str) -> None:
    drawing = score_figure(study, "width", measure, "title")
    rows = {(row[0], row[1]): row[2] for row in drawing.rows}
    assert {name for name, _ in rows} == {"shared", "disjoint", "chance"}
    for model in study.models:
        if model.arm != "video-audio":
            report = model.retrieval if measure == "R@5" else model.localization
            score = report["detail"]["metrics"][figures][measure]["value"]
            assert rows[model.arm, f"seed {model.seed}"] == pytest.approx(100 * score)
    for arm in ("shared", "disjoint"):
        assert rows[arm, "mean"] == pytest.approx(np.mean([rows[arm, f"seed {seed}"] for seed in (1, 2)]))
    (row,) = difference_figure(study, "width", measure, "title").rows
    assert row[0] == "disjoint" and row[1] == pytest.approx(rows["disjoint", "mean"] - rows["shared", "mean"])


def test_examples_are_right_ones_and_failures_and_every_arm_answers_the_same_text(study: Any) -> None:
    examples = retrieval_examples(study.examples(), Frames(None))
    reference = {example["text"]: example for example in study.examples()[0].retrieval["detail"]["examples"]}
    assert [example.right for example in examples] == sorted((e.right for e in examples), reverse=True)
    assert {example.right for example in examples} == {True, False}
    for example in examples:
        assert example.right == reference[example.text]["found"][0]["right"]
        assert [answer.arm for answer in example.answers] == ["shared", "disjoint"]
        for answer in example.answers:
            assert (answer.place == 1) == answer.found[0]["right"] and len(answer.found) == 3
            assert all(clip["picture"] == "" for clip in answer.found)


def test_a_mix_of_circumstances_is_told(study: Any) -> None:
    first = study.models[0]
    detail = first.training["detail"]
    elsewhere = detail["circumstance"] | {"host": "other-host", "processor": "Other"}
    other = replace(first, training={"detail": detail | {"circumstance": elsewhere}})
    mixed = replace(study, models=(other, *study.models[1:]))
    table = circumstance_table(mixed, public=False)
    assert table.notes == ("Models differ in processor, host.",) and "Other (1 models)" in table.text()
    assert "other-host" not in circumstance_table(mixed, public=True).text()
    assert circumstance_table(study, public=False).notes == ("The same for all models.",)


def test_a_model_that_was_trained_on_since_is_not_shown_beside_the_old_tables(copied: Callable[[], Path]) -> None:
    folder = copied()
    path = folder / "runs" / "disjoint-seed2" / "train.json"
    content = json.loads(path.read_text())
    content["detail"]["settings"]["epochs"] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"disjoint-seed2: trained to 4 epochs, the comparison .* is of 3; remove"):
        read_study(folder)
