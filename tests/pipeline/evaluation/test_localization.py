"""Localization of planted steps, against embedding each second by itself and trying every assignment."""

import dataclasses
import json
from collections.abc import Callable
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.clips import ClipInputs
from pipeline.core.errors import InputError
from pipeline.evaluation import localization
from pipeline.evaluation.settings import LocalizationSettings
from pipeline.training.checkpoint import load_checkpoint, model_from
from pipeline.training.settings import TrainSettings
from pipeline.training.train import run

HEAD = "video_id,task_id,step,start,end,text\n"


@pytest.fixture(scope="module")
def models(planted: Any, tiny_training: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models hardly trained, so that their scores are all over the place."""
    folder = tmp_path_factory.mktemp("localization")
    for scheme in ("shared", "disjoint", "video-audio"):
        run(
            TrainSettings.flat(manifest=planted.manifest, out=folder / scheme, scheme=scheme, epochs=2, **tiny_training)
        )
    return {scheme: folder / scheme for scheme in ("shared", "disjoint", "video-audio")}


def lines_of(planted: Any, prefix: str = "heldout") -> list[str]:
    """Each caption of a video is a step; the first two videos are of one task."""
    return [
        f"{video_id},{0 if video_id[-1] in '01' else 1},{step},{caption.start},{caption.end},{caption.text}\n"
        for video_id, video in planted.videos.items()
        if video_id.startswith(prefix)
        for step, caption in enumerate(video.captions)
    ]


@pytest.fixture
def asked(planted: Any, models: dict[str, Path], tmp_path: Path) -> LocalizationSettings:
    annotations = tmp_path / "annotations.csv"
    annotations.write_text(HEAD + "".join(lines_of(planted)))
    return LocalizationSettings(
        checkpoint=models["shared"], annotations=annotations, out=tmp_path / "out", bootstrap=20, chance_draws=5
    )


@cache
def network_of(folder: Path) -> torch.nn.Module:
    return model_from(load_checkpoint(folder))


def embedded(folder: Path, space: str, modality: str, inputs: ClipInputs) -> np.ndarray:
    """One vector, in double precision."""
    with torch.inference_mode():
        vector: np.ndarray = network_of(folder)(inputs).vectors[space][modality][0].double().numpy()
    return vector


def scores_by_hand(planted: Any, folder: Path, space: str, video_id: str, hears: int = 0) -> np.ndarray:
    """Scores [second, step], each second and each text by itself; with `hears`, the mean sound of so many seconds."""
    video = planted.videos[video_id]
    one = torch.ones(1, 1, dtype=torch.bool)
    seconds = []
    for second, row in enumerate(video.video["resnet152"].astype(np.float32)):
        seconds.append(embedded(folder, space, "video", ClipInputs(torch.from_numpy(row)[None, None], one)))
        if hears:
            first = min(max(second - hears // 2, 0), len(video.audio) - hears)
            sound = video.audio[first : first + hears].astype(np.float32).mean(axis=0)
            heard = ClipInputs(audio=torch.from_numpy(sound)[None], has_audio=one[0])
            seconds[-1] += embedded(folder, space, "audio", heard)
    texts = []
    for caption in video.captions:
        words = torch.from_numpy(np.stack([planted.vectors[word] for word in caption.text.split()]))[None]
        known = ClipInputs(words=words, known_words=torch.ones(words.shape[:2], dtype=torch.bool))
        texts.append(embedded(folder, space, "text", known))
    return np.stack(seconds) @ np.stack(texts).T


def recall_by_hand(scores: np.ndarray) -> tuple[tuple[int, ...], float]:
    """The best of all assignments, and its recall where step k is done in seconds 2 k and 2 k + 1."""
    seconds, steps = scores.shape
    chosen = max(combinations(range(seconds), steps), key=lambda of: scores[list(of), range(steps)].sum())
    return chosen, float(np.mean([second // 2 == step for step, second in enumerate(chosen)]))


@pytest.mark.parametrize(
    ("scheme", "space", "hears"), [("shared", "joint", 0), ("disjoint", "video-text", 0), ("shared", "joint", 3)]
)
def test_recall_is_that_of_seconds_embedded_one_by_one(
    planted: Any, models: dict[str, Path], asked: LocalizationSettings, scheme: str, space: str, hears: int
) -> None:
    asked = dataclasses.replace(asked, checkpoint=models[scheme])
    if hears:
        asked = dataclasses.replace(asked, fusion="video+audio", audio_seconds=hears)
    detail = localization.run(asked).detail
    assert detail["direction"] == "steps -> seconds"
    space = detail["space"] if scheme == "shared" else space
    assert detail["space"] == space and len(detail["videos"]) == 4
    recalls: dict[str, list[float]] = {}
    for video in detail["videos"]:
        scores = scores_by_hand(planted, models[scheme], space, video["video_id"], hears)
        chosen, recall = recall_by_hand(scores)
        assert [step["second"] for step in video["steps"]] == list(chosen)
        assert video["recall"] == recall and (video["present"], video["seconds"]) == (4, 8)
        right = np.mean([row.argmax() == second // 2 for second, row in enumerate(scores)])
        assert video["unordered recall"] == pytest.approx(right)
        recalls.setdefault(video["task_id"], []).append(recall)
    assert {task: len(found) for task, found in recalls.items()} == {"0": 2, "1": 2}
    figures = detail["metrics"]["figures"]
    assert figures["recall"]["value"] == pytest.approx(np.mean([np.mean(found) for found in recalls.values()]))


def test_wider_windows_take_the_maximum_over_their_rows(planted: Any, asked: LocalizationSettings) -> None:
    """A window of the whole video makes all seconds alike: the first assignment is taken."""
    detail = localization.run(dataclasses.replace(asked, video_seconds=8)).detail
    assert all([step["second"] for step in video["steps"]] == [0, 1, 2, 3] for video in detail["videos"])
    assert {step["found"] is None for video in detail["videos"] for step in video["steps"]} == {False}


def test_what_is_written_and_printed(asked: LocalizationSettings, capsys: pytest.CaptureFixture[str]) -> None:
    report = localization.run(asked)
    written = json.loads((asked.out / "localization.json").read_text())
    assert written["detail"] == json.loads(json.dumps(report.detail)) and report.done == 4 and not report.notes
    assert {"manifest", "trained on", "steps digest", "settings", "circumstance"} <= written["detail"].keys()
    metrics = report.detail["metrics"]
    assert (metrics["videos"], metrics["tasks"], metrics["steps"]) == (4, 2, 16)
    printed = capsys.readouterr().out
    for name in ("recall", "pooled recall", "unordered recall", "IoU", "IoD"):
        score, chance = metrics["figures"][name], metrics["chance"][name]
        assert score["low"] <= score["value"] <= score["high"] and 0 < chance < 1
        (line,) = [line for line in printed.splitlines() if line.strip().startswith(name + " ")]
        assert f"{100 * score['value']:.1f}" in line and line.endswith(f"{100 * chance:.1f}")
    assert "4 videos of 2 tasks" in (asked.out / "localization.md").read_text()
    assert r"\begin{table}" in (asked.out / "localization.tex").read_text()


def test_chance_is_the_same_program_on_random_scores(asked: LocalizationSettings) -> None:
    """One step a video, in two of its eight seconds: the best second of random scores is right one time in four."""
    lines = asked.annotations.read_text().splitlines(keepends=True)
    asked.annotations.write_text(HEAD + "".join(line for line in lines if ",2,4.0," in line))
    chance = localization.run(dataclasses.replace(asked, chance_draws=800)).detail["metrics"]["chance"]
    assert chance["recall"] == chance["pooled recall"] == pytest.approx(0.25, abs=0.03)
    assert chance["unordered recall"] == 1.0, "with one step every second is its"


def test_all_steps_of_a_task_are_looked_for_where_a_list_names_them(
    planted: Any, asked: LocalizationSettings, tmp_path: Path
) -> None:
    """The list of task 0 is what its first video does, with a step before; its second video does step 2 alone."""
    texts = [caption.text for caption in planted.videos["heldout0000"].captions]
    steps, annotations = tmp_path / "steps.csv", tmp_path / "few.csv"
    steps.write_text("task_id,step,text\n0,0,now again\n" + "".join(f"0,{n + 1},{t}\n" for n, t in enumerate(texts)))
    whole = "".join(f"heldout0000,0,{n + 1},{2 * n},{2 * n + 2}\n" for n in range(4))
    annotations.write_text("video_id,task_id,step,start,end\n" + whole + "heldout0001,0,2,0,4\n")
    detail = localization.run(dataclasses.replace(asked, annotations=annotations, steps=steps)).detail
    first, second = detail["videos"]
    assert len(first["steps"]) == len(second["steps"]) == 5
    assert (first["present"], second["present"], detail["metrics"]["steps"]) == (4, 1, 5)
    assert [step["true"] for step in second["steps"]] == [[], [], [[0.0, 4.0]], [], []]
    assert second["hits"] == (second["steps"][2]["second"] < 4)
    assert all(step["second"] is not None for step in second["steps"])


def test_odd_annotations_are_told_and_counted(planted: Any, asked: LocalizationSettings) -> None:
    lines = lines_of(planted)
    known = localization.run(asked).detail
    lines[0] = lines[0].rsplit(",", 1)[0] + ",zzz qqq\n"
    lines.append("heldout0001,0,9,7.5,60,now again\nheldout0002,1,9,70,71,now again\n")
    lines.append("nowhere0000,0,0,0,1,now again\ntrain000000,0,0,0,1,now again\n")
    asked.annotations.write_text(HEAD + "".join(lines))
    report = localization.run(asked)
    notes = "\n".join(report.notes)
    assert "1 annotated videos are not in the manifest, e.g. nowhere0000: they are in no mean" in notes
    assert "1 steps without a known word in 1 videos, e.g. heldout0000: they are not looked for" in notes
    assert "2 annotated segments reach past the end in 2 videos, e.g. heldout0001: cut off there" in notes
    assert report.failed == {"video not in the manifest": 1} and report.done == 4
    assert report.detail["missing"]["steps without a known word"] == 1
    assert report.detail["metrics"]["steps"] == 18 == known["metrics"]["steps"] + 2
    unknown = report.detail["videos"][0]
    assert unknown["video_id"] == "heldout0000" and (unknown["present"], unknown["hits"] <= 3) == (4, True)
    assert unknown["steps"][0]["second"] is None and unknown["steps"][0]["found"] is None
    past = report.detail["videos"][2]
    assert past["video_id"] == "heldout0002" and past["present"] == 5 and past["recall"] <= 4 / 5
    assert past["steps"][4]["second"] is not None, "it is looked for, and can't be found"


def test_steps_that_no_known_word_describes_find_nothing(planted: Any, asked: LocalizationSettings) -> None:
    # Each is the one step of its video, done in its first second: where a tie would place it.
    lines = [f"heldout000{n},0,0,0,1,{'zzz' if n else 'now again'}\n" for n in range(4)]
    asked.annotations.write_text(HEAD + "".join(lines))
    videos = localization.run(asked).detail["videos"]
    for video in videos[1:]:
        assert (video["recall"], video["IoU"], video["IoD"], video["unordered recall"]) == (0, 0, 0, 0)


def test_fewer_seconds_than_steps(planted: Any, asked: LocalizationSettings) -> None:
    """Ten steps in eight seconds: eight of them get one, all ten count."""
    lines = [
        f"heldout0000,0,{step},0,8,{planted.videos['heldout0000'].captions[step % 4].text}\n" for step in range(10)
    ]
    asked.annotations.write_text(HEAD + "".join(lines))
    report = localization.run(asked)
    (video,) = report.detail["videos"]
    seconds = [step["second"] for step in video["steps"] if step["second"] is not None]
    assert seconds == list(range(8)) and video["recall"] == 8 / 10
    # Every step is true in all eight seconds; eight are found in one each.
    assert video["IoU"] == pytest.approx(0.8 / 8) and video["IoD"] == pytest.approx(0.8)
    assert report.notes == [
        "2 steps beyond the number of seconds in 1 videos, e.g. heldout0000: as many steps as there are seconds get "
        "one, the others count as missed"
    ]


def test_seconds_without_a_frame_score_lowest_and_count(
    tmp_path: Path,
    tiny_training: dict[str, Any],
    make_video: Callable[..., Any],
    make_dataset: Callable[..., Path],
    make_vectors: Callable[..., Any],
) -> None:
    captions = [(0.0, 2.0, "a b"), (2.0, 4.0, "c d")]
    masked = [range(0, 3), range(4), (), ()]
    videos = [make_video(f"video{n:06d}", captions, 4.0, n, masked=masked[n]) for n in range(4)]
    folder = make_dataset(tmp_path / "dataset", videos, make_vectors(list("abcd")))
    manifest = folder / "manifests" / "all.json"
    run(TrainSettings.flat(manifest=manifest, out=tmp_path / "model", min_clip_seconds=0, epochs=1, **tiny_training))
    annotations = tmp_path / "annotations.csv"
    annotations.write_text(HEAD + "".join(f"{v.video_id},0,0,0,2,a b\n" for v in videos))
    settings = LocalizationSettings(
        checkpoint=tmp_path / "model", annotations=annotations, out=tmp_path / "out", split="all", bootstrap=5
    )
    report = localization.run(dataclasses.replace(settings, chance_draws=2))
    first, second, *others = report.detail["videos"]
    assert first["steps"][0]["second"] == 3, "the one second with a frame"
    assert second["steps"][0]["second"] == 0, "no score says anything: the first"
    assert report.done == 4 and all(video["present"] == 1 for video in (first, second, *others))
    assert any("7 seconds without anything to score in 2 videos, e.g. video000000" in note for note in report.notes)
    assert any("the model was trained on 4 of these videos" in note for note in report.notes)


def test_scores_that_are_no_numbers_end_in_one_line(
    models: dict[str, Path], asked: LocalizationSettings, tmp_path: Path
) -> None:
    content = load_checkpoint(models["shared"])
    name = next(name for name in content["model"] if name.startswith("heads.") and name.endswith("bias"))
    content["model"][name] = torch.full_like(content["model"][name], torch.nan)
    torch.save(content, tmp_path / "broken.pt")
    with pytest.raises(InputError, match="its scores of video heldout0000 hold NaN or infinity") as refused:
        localization.run(dataclasses.replace(asked, checkpoint=tmp_path / "broken.pt"))
    assert "\n" not in str(refused.value) and not asked.out.exists()


def test_what_cant_be_asked_is_refused(models: dict[str, Path], asked: LocalizationSettings) -> None:
    with pytest.raises(InputError, match="never contrasts text with video"):
        localization.run(dataclasses.replace(asked, checkpoint=models["video-audio"]))
    with pytest.raises(InputError, match="space video-text of scheme disjoint holds no audio; use --fusion video"):
        localization.run(dataclasses.replace(asked, checkpoint=models["disjoint"], fusion="video+audio"))
    asked.annotations.write_text(HEAD + "train000000,0,0,0,1,now again\n")
    with pytest.raises(InputError, match="no video in split heldout of .*; check --split and the list"):
        localization.run(asked)
    for change, named in (
        ({"bootstrap": 0}, "`bootstrap` must be at least 1"),
        ({"chance_draws": 0}, "`chance_draws` must be at least 1"),
        ({"seed": -1}, "`seed` at least 0"),
        ({"video_seconds": 0}, "`video_seconds`, `audio_seconds`, `max_words` must be"),
        ({"step_seconds": 0.0}, "`step_seconds` above 0"),
    ):
        with pytest.raises(ValueError, match=named):
            dataclasses.replace(asked, **change)


def test_two_models_are_compared_on_the_same_videos(
    models: dict[str, Path], asked: LocalizationSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = dataclasses.replace(asked, checkpoint=models["disjoint"], out=tmp_path / "other")
    theirs = localization.run(other).detail
    asked = dataclasses.replace(asked, against=tmp_path / "other" / "localization.json")
    mine = localization.run(asked).detail
    against = mine["against"]
    for name, found in against["differences"].items():
        values = [detail["metrics"]["figures"][name]["value"] for detail in (mine, theirs)]
        assert (
            found["value"] == pytest.approx(values[0] - values[1]) and found["low"] <= found["value"] <= found["high"]
        )
    assert against["checkpoint"] == str(models["disjoint"]) and "More than the model of" in capsys.readouterr().out
    assert "More than the model of" in (asked.out / "localization.md").read_text()
    # Against itself a model is no better, in any draw.
    same = localization.run(dataclasses.replace(other, out=tmp_path / "x", against=asked.against)).detail["against"]
    assert all(set(found.values()) == {0.0} for found in same["differences"].values())


def test_unlike_results_are_not_compared(planted: Any, asked: LocalizationSettings, tmp_path: Path) -> None:
    localization.run(asked)
    asked = dataclasses.replace(asked, against=asked.out / "localization.json", out=tmp_path / "x")
    with pytest.raises(InputError, match=r"made with --step-seconds 5.0, this is with 2.0"):
        localization.run(dataclasses.replace(asked, step_seconds=2.0))
    asked.annotations.write_text(HEAD + "".join(lines_of(planted)[1:]))
    with pytest.raises(InputError, match="of other videos or steps than these"):
        localization.run(asked)
    for content in ("[]", '{"detail": {"direction": "text -> video"}}'):
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(InputError, match="not a localization.json"):
            localization.run(dataclasses.replace(asked, against=tmp_path / "x.json"))
    with pytest.raises(InputError, match="no such file"):
        localization.run(dataclasses.replace(asked, against=tmp_path / "none.json"))


def test_equal_inputs_are_not_evaluated_twice(
    asked: LocalizationSettings, planted: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    first = localization.run(asked)
    table = capsys.readouterr().out.partition("\n")[2]
    again = localization.run(asked)
    assert capsys.readouterr().out.partition("\n")[2] == table
    assert (again.done, again.skipped) == (0, first.done) and again.detail == json.loads(json.dumps(first.detail))
    assert localization.run(dataclasses.replace(asked, background=0.5)).done == first.done
    asked.annotations.write_text(HEAD + "".join(lines_of(planted)[4:]))
    assert localization.run(asked).done == first.done - 1
