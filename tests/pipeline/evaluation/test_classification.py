"""Zero-shot classification of planted clips, against embedding every second by itself."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.clips import ClipInputs
from pipeline.core.errors import InputError
from pipeline.core.records import Clip
from pipeline.evaluation import classification
from pipeline.evaluation.classification import spoken
from pipeline.evaluation.lists import LabelledClip
from pipeline.evaluation.settings import ClassificationSettings
from pipeline.training.checkpoint import load_checkpoint, model_from
from pipeline.training.settings import TrainSettings
from pipeline.training.train import run as train


@pytest.fixture(scope="module")
def model(planted: Any, tiny_training: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("classification") / "model"
    train(TrainSettings.flat(manifest=planted.manifest, out=out, epochs=2, **tiny_training))
    return out


@pytest.fixture
def asked(planted: Any, model: Path, tmp_path: Path) -> ClassificationSettings:
    clips = tmp_path / "classes.csv"
    lines = [f"{i},{c.start},{c.end},now_{c.text.split()[1]}\n" for i, v in planted.videos.items() for c in v.captions]
    clips.write_text("video_id,start,end,class\n" + "".join(lines))
    return ClassificationSettings(checkpoint=model, clips=clips, out=tmp_path / "out", window_seconds=1, bootstrap=50)


def test_scores_are_means_over_windows_embedded_one_by_one(planted: Any, model: Path, asked: Any) -> None:
    network = model_from(load_checkpoint(model))

    def embed(rows: np.ndarray | None, text: str) -> dict[str, torch.Tensor]:
        words = torch.from_numpy(np.stack([planted.vectors[word] for word in text.split()]))[None]
        video = None if rows is None else torch.from_numpy(rows.astype(np.float32))[None]
        shown = None if video is None else torch.ones(video.shape[:2], dtype=torch.bool)
        clip = ClipInputs(video=video, video_rows=shown, words=words, known_words=torch.ones(1, words.shape[1]).bool())
        with torch.inference_mode():
            return {m: v[0].double() for m, v in network(clip).vectors["shared"].items()}

    heldout = [(i, c) for i, v in planted.videos.items() if i.startswith("heldout") for c in v.captions]
    names = sorted({caption.text.split()[1] for _, caption in heldout})
    classes = torch.stack([embed(None, f"now {name}")["text"] for name in names])
    ranks = []
    for video_id, caption in heldout:
        rows = planted.videos[video_id].video["resnet152"]
        seconds = range(int(caption.start), int(caption.end))
        vector = torch.stack([embed(rows[k : k + 1], "now")["video"] for k in seconds]).mean(dim=0)
        scores = classes @ vector
        ranks.append(int((scores > scores[names.index(caption.text.split()[1])]).sum()) + 1)
    metrics = classification.run(asked).detail["metrics"]
    for k in (1, 5):
        wanted = np.mean([rank <= k for rank in ranks])
        assert metrics[f"top-{k}"]["value"] == pytest.approx(wanted)
        # Each class has one held-out clip.
        assert metrics[f"top-{k} by class"]["value"] == pytest.approx(wanted)
        assert metrics["chance"][f"top-{k}"] == k / 16
    assert 1.2 < np.mean(ranks) < 15


def test_common_classes_don_t_outweigh_rare_ones_by_class(asked: Any, tmp_path: Path) -> None:
    lines = [line for line in asked.clips.read_text().splitlines() if line.startswith("heldout")]
    often = [lines[0]] * 9 + lines[1:]
    (tmp_path / "often.csv").write_text("\n".join(["video_id,start,end,class", *often]))
    plain = classification.run(asked).detail["metrics"]
    skewed = classification.run(dataclasses.replace(asked, clips=tmp_path / "often.csv", out=tmp_path / "b")).detail
    assert skewed["metrics"]["top-1 by class"]["value"] == pytest.approx(plain["top-1"]["value"])
    hit = skewed["metrics"]["top-1"]["value"] * 24 - plain["top-1"]["value"] * 16
    assert min(abs(hit), abs(hit - 8)) < 1e-9


def test_all_classes_given_lower_the_chance(asked: Any, tmp_path: Path) -> None:
    lines = [line for line in asked.clips.read_text().splitlines() if line.startswith("heldout")]
    few = tmp_path / "few.csv"
    few.write_text("\n".join(["video_id,start,end,class", *lines[:3]]))
    names = tmp_path / "classes.txt"
    names.write_text("".join(f"now_action{n}\n" for n in range(16)) + "\n")
    alone = classification.run(dataclasses.replace(asked, clips=few)).detail
    among = classification.run(dataclasses.replace(asked, clips=few, classes=names, out=tmp_path / "b")).detail
    assert (alone["classes"], among["classes"], among["classes with clips"]) == (3, 16, 3)
    assert among["metrics"]["top-1"]["value"] <= alone["metrics"]["top-1"]["value"]
    marked = "\ufeff" + names.read_text().replace("\n", "\r\n") + "\r\nnow_action3\r\n"
    names.write_bytes(marked.encode())
    report = classification.run(dataclasses.replace(asked, clips=few, classes=names, out=tmp_path / "d"))
    assert report.detail["metrics"] == among["metrics"] and report.detail["classes"] == 16
    assert f"{names}: passed over: 1 (class listed again), 2 (empty line)" in report.notes
    names.write_text("now_action1\n")
    with pytest.raises(InputError, match=r"classes\.txt: class 'now_action\d+' of .* isn't in it"):
        classification.run(dataclasses.replace(asked, clips=few, classes=names, out=tmp_path / "c"))


def test_classes_without_a_known_word_are_misses_and_announced(asked: Any, tmp_path: Path) -> None:
    lines = [line for line in asked.clips.read_text().splitlines() if line.startswith("heldout")]
    some = tmp_path / "some.csv"
    some.write_text(
        "\n".join(["video_id,start,end,class", *(line.rsplit(",", 1)[0] + ",zzz" for line in lines[:4]), *lines[4:]])
    )
    report = classification.run(dataclasses.replace(asked, clips=some))
    assert report.detail["missing"] == {"clips": 0, "classes": 1} and report.detail["classes"] == 13
    assert "no known word, e.g. 'zzz'" in " ".join(report.notes)
    some.write_text("\n".join(["video_id,start,end,class", *(line.rsplit(",", 1)[0] + ",zzz" for line in lines)]))
    with pytest.raises(InputError, match="no class name has a word"):
        classification.run(dataclasses.replace(asked, clips=some))


def test_a_class_without_a_known_word_is_a_miss_among_few_classes_too(asked: Any, tmp_path: Path) -> None:
    lines = [line for line in asked.clips.read_text().splitlines() if line.startswith("heldout")][:4]
    few = tmp_path / "few.csv"
    few.write_text(
        "\n".join(["video_id,start,end,class", *lines[:2], *(x.rsplit(",", 1)[0] + ",zzz" for x in lines[2:])])
    )
    metrics = classification.run(dataclasses.replace(asked, clips=few)).detail["metrics"]
    assert metrics["top-5"]["value"] == 0.5 and metrics["chance"]["top-5"] == 1.0


def test_what_is_given_must_be_there_also_when_results_are(asked: Any, tmp_path: Path) -> None:
    classification.run(asked)
    with pytest.raises(InputError, match=r"typo\.txt: no such file"):
        classification.run(dataclasses.replace(asked, classes=tmp_path / "typo.txt"))


@pytest.mark.parametrize("lost", ["classification.md", "classification.tex", "classification.json"])
def test_what_is_lost_is_made_again(asked: Any, lost: str) -> None:
    classification.run(asked)
    whole = (asked.out / lost).read_bytes()
    (asked.out / lost).unlink()
    assert classification.run(asked).skipped == 0
    assert (asked.out / lost).exists() and (lost.endswith("json") or (asked.out / lost).read_bytes() == whole)


@pytest.mark.parametrize("content", ["[]", '{"detail": null}', '{"detail": {}}'])
def test_a_foreign_file_in_the_place_of_results_is_no_result(asked: Any, content: str) -> None:
    asked.out.mkdir()
    (asked.out / "classification.json").write_text(content)
    assert classification.run(asked).done == 16


def test_a_list_saved_by_a_spreadsheet_is_read(asked: Any) -> None:
    asked.clips.write_bytes(b"\xef\xbb\xbf" + asked.clips.read_bytes())
    assert classification.run(asked).done == 16


def test_results_are_written_in_three_forms_and_not_made_twice(asked: Any, capsys: Any) -> None:
    first = classification.run(asked)
    written = json.loads((asked.out / "classification.json").read_text())
    assert written["detail"]["metrics"] == first.detail["metrics"] and "manifest" in written["detail"]
    shown = f"{100 * first.detail['metrics']['top-5']['value']:.1f}"
    assert f"| {shown} |" in (asked.out / "classification.md").read_text()
    assert shown in (asked.out / "classification.tex").read_text() and shown in capsys.readouterr().out
    again = classification.run(asked)
    assert (again.done, again.skipped) == (0, first.done) and again.detail == first.detail


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("video_id,start,end,text\n", "line 1: no column class; expected video_id,start,end,class"),
        ("video_id,start,end,class\nheldout0000,2,1,a\n", "line 2: expected 0 <= start < end"),
        ("video_id,start,end,class\nheldout0000,0,nan,a\n", "line 2: expected 0 <= start < end"),
        ("video_id,start,end,class\nheldout0000,0,1,\n", "and a class"),
        ("video_id,start,end,class\nnowhere0000,0,1,a\n", "no video in split heldout"),
        ("", "line 1"),
    ],
)
def test_what_is_wrong_with_the_list_is_said(asked: Any, content: str, problem: str) -> None:
    asked.clips.write_text(content)
    with pytest.raises(InputError, match=problem):
        classification.run(asked)


def test_class_names_become_words() -> None:
    assert spoken("peel_banana") == "peel banana" and spoken("PeelBanana") == "Peel Banana"
    assert (
        spoken("CleanAndJerk") == "Clean And Jerk"
        and spoken("YoYo") == "Yo Yo"
        and spoken("cut-in/half") == "cut in half"
    )


@pytest.mark.parametrize(
    ("seconds", "longest", "count"),
    [(25.0, 10.0, 3), (20.0, 10.0, 2), (20.001, 10.0, 3), (9.0, 10.0, 1), (0.3, 0.1, 3), (0.7, 0.1, 7), (1.1, 2.5, 1)],
)
def test_windows_are_equal_and_no_longer_than_asked(seconds: float, longest: float, count: int) -> None:
    """0.3 / 0.1 is a little more than 3 in floating point, 0.7 / 0.1 a little less than 7."""
    windows = classification._windows(LabelledClip("x", Clip("v", 2.0, 2.0 + seconds)), longest)
    assert len(windows) == count and (windows[0][0], windows[-1][1]) == (2.0, 2.0 + seconds)
    for start, end in windows:
        assert end - start == pytest.approx(seconds / count) and end - start <= longest + 1e-6
    assert [end for _, end in windows[:-1]] == [start for start, _ in windows[1:]]
