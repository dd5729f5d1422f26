"""Retrieval of planted clips, against embedding each clip by itself from the source's own numbers."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.clips import ClipInputs, Embeddings
from pipeline.core.errors import InputError
from pipeline.core.records import Clip
from pipeline.evaluation import retrieval as evaluate
from pipeline.evaluation.lists import LabelledClip, read_clips
from pipeline.evaluation.settings import RetrievalSettings
from pipeline.metrics.ranking import Direction
from pipeline.training.checkpoint import load_checkpoint, model_from
from pipeline.training.settings import TrainSettings
from pipeline.training.train import run


@pytest.fixture(scope="module")
def model(planted: Any, tiny_training: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model hardly trained, so that its ranks are all over the place."""
    out = tmp_path_factory.mktemp("evaluate") / "model"
    run(TrainSettings.flat(manifest=planted.manifest, out=out, scheme="disjoint", epochs=2, **tiny_training))
    return out


@pytest.fixture
def asked(planted: Any, model: Path, tmp_path: Path) -> RetrievalSettings:
    return RetrievalSettings(checkpoint=model, clips=planted.clips, out=tmp_path / "out", bootstrap=20)


def scores_by_hand(known: Any, folder: Path, space: str, rows: list[np.ndarray], texts: list[str]) -> torch.Tensor:
    """Scores [text, clip], every clip embedded by itself: video rows as given, words as split at spaces."""
    network = model_from(load_checkpoint(folder))
    found: dict[str, list[torch.Tensor]] = {"video": [], "text": []}
    for shown, text in zip(rows, texts, strict=True):
        video = torch.from_numpy(shown.astype(np.float32))[None]
        words = torch.from_numpy(np.stack([known[word] for word in text.split()]))[None]
        masks = torch.ones(video.shape[:2], dtype=torch.bool), torch.ones(words.shape[:2], dtype=torch.bool)
        with torch.inference_mode():
            vectors = network(ClipInputs(video=video, video_rows=masks[0], words=words, known_words=masks[1])).vectors
        for modality in found:
            found[modality].append(vectors[space][modality][0].double())
    return torch.stack(found["text"]) @ torch.stack(found["video"]).T


def test_scores_are_those_of_clips_embedded_one_by_one(planted: Any, model: Path, asked: RetrievalSettings) -> None:
    report = evaluate.run(asked)
    heldout = {i: video for i, video in planted.videos.items() if i.startswith("heldout")}
    clips = [(i, caption) for i, video in heldout.items() for caption in video.captions]
    rows = [heldout[i].video["resnet152"][int(c.start) : int(c.end)] for i, c in clips]
    scores = scores_by_hand(planted.vectors, model, "video-text", rows, [caption.text for _, caption in clips])
    ranks = [int((row > row[index]).sum()) + 1 for index, row in enumerate(scores)]
    metrics = report.detail["metrics"]
    assert metrics["mean_rank"]["value"] == pytest.approx(np.mean(ranks)) and 1.5 < np.mean(ranks) < 14
    assert metrics["recall"]["R@5"]["value"] == pytest.approx(np.mean([rank <= 5 for rank in ranks]))
    assert (metrics["queries"], metrics["videos"], report.done) == (16, 4, 16)
    assert report.detail["space"] == "video-text" and report.detail["direction"] == "text -> video"
    by_video = report.detail["videos"]
    for place, video_id in enumerate(dict.fromkeys(i for i, _ in clips)):
        own = ranks[4 * place : 4 * place + 4]
        hits = {f"R@{k}": sum(rank <= k for rank in own) for k in (1, 5, 10)}
        assert by_video[video_id] == {"queries": 4} | hits
    best = int(scores[0].argmax())
    example = report.detail["examples"][0]
    found = example["found"][0]
    assert (found["video_id"], found["start"]) == (clips[best][0], clips[best][1].start)
    assert found["right"] == (best == 0) and example["text"] == clips[0][1].text


def embedded_one_by_one(known: Any, folder: Path, videos: list[Any]) -> dict[str, dict[str, np.ndarray]]:
    """space -> modality -> [clips, D]: every caption of `videos` embedded by itself, in this order."""
    network, found = model_from(load_checkpoint(folder)), {}
    for video in videos:
        for caption in video.captions:
            rows = slice(int(caption.start), int(caption.end))
            shown = torch.from_numpy(video.video["resnet152"][rows].astype(np.float32))[None]
            heard = torch.from_numpy(video.audio[rows].astype(np.float32)).mean(dim=0)[None]
            words = torch.from_numpy(np.stack([known[word] for word in caption.text.split()]))[None]
            clip = ClipInputs(
                video=shown,
                video_rows=torch.ones(shown.shape[:2], dtype=torch.bool),
                audio=heard,
                has_audio=torch.ones(1, dtype=torch.bool),
                words=words,
                known_words=torch.ones(words.shape[:2], dtype=torch.bool),
            )
            with torch.inference_mode():
                for space, vectors in network(clip).vectors.items():
                    for modality, vector in vectors.items():
                        found.setdefault(space, {}).setdefault(modality, []).append(vector[0].double().numpy())
    return {space: {m: np.stack(v) for m, v in vectors.items()} for space, vectors in found.items()}


@pytest.mark.parametrize("scheme", ["shared", "disjoint", "fine-and-coarse", "fine-and-coarse-mmv"])
def test_every_direction_that_the_spaces_allow_is_scored(
    planted: Any, tiny_training: dict[str, Any], tmp_path: Path, scheme: str
) -> None:
    run(TrainSettings.flat(manifest=planted.manifest, out=tmp_path / "model", scheme=scheme, epochs=1, **tiny_training))
    settings = RetrievalSettings(checkpoint=tmp_path / "model", clips=planted.clips, out=tmp_path / "out", bootstrap=5)
    detail = evaluate.run(settings).detail
    videos = [video for i, video in planted.videos.items() if i.startswith("heldout")]
    vectors = embedded_one_by_one(planted.vectors, tmp_path / "model", videos)
    ways = {(way["space"], way["direction"]): way for way in detail["directions"]}
    assert len(ways) == len(detail["directions"])
    expected = {(s, f"{a} -> {b}") for s, held in vectors.items() for a in held for b in held if a != b}
    three = {s for s, held in vectors.items() if len(held) == 3}
    expected |= {(s, way) for s in three for way in ("text -> video+audio", "video+audio -> text")}
    assert set(ways) == expected
    for (space, name), way in ways.items():
        query, candidate = (
            sum(vectors[space][modality] for modality in side.split("+")) for side in name.split(" -> ")
        )
        scores = query @ candidate.T
        ranks = (scores > np.diagonal(scores)[:, None]).sum(axis=1) + 1
        assert way["metrics"]["mean_rank"]["value"] == pytest.approx(ranks.mean()), name
        assert way["metrics"]["recall"]["R@1"]["value"] == pytest.approx((ranks == 1).mean())
    first = detail["directions"][0]
    assert first["direction"] == "text -> video" and first["contrasted"]
    assert first["space"] == {"shared": "shared", "disjoint": "video-text"}.get(scheme, "coarse")
    if scheme == "fine-and-coarse-mmv":
        assert not ways["coarse", "text -> audio"]["contrasted"] and ways["fine", "video -> audio"]["contrasted"]
    headline = evaluate.run(dataclasses.replace(settings, directions="headline", out=tmp_path / "one")).detail
    assert headline["metrics"] == detail["metrics"] and len(headline["directions"]) == 1


def test_clips_past_the_end_of_their_video_are_never_found(
    planted: Any, asked: RetrievalSettings, tmp_path: Path
) -> None:
    first, *rest = planted.clips.read_text().splitlines()
    lines = [line for line in rest if line.startswith("heldout")]
    late = tmp_path / "late.csv"
    moved = [",".join([line.split(",")[0], "8.0", f"9.{n}", line.split(",")[3]]) for n, line in enumerate(lines[:3])]
    late.write_text("\n".join([first, *moved, *lines[3:]]))
    report = evaluate.run(dataclasses.replace(asked, clips=late))
    assert report.detail["missing"] == {"queries": 0, "candidates": 3}
    assert any("3 clips start at their video's end or later" in note for note in report.notes)
    ways = {way["direction"]: way["missing"] for way in report.detail["directions"]}
    assert ways["video -> audio"] == {"queries": 3, "candidates": 3}


def test_published_ties_inflate(planted: Any, asked: RetrievalSettings, tmp_path: Path) -> None:
    first, *rest = planted.clips.read_text().splitlines()
    clips = tmp_path / "clips.csv"
    # Every text is the same, so that all queries score alike; and from the other side all candidates tie.
    same = [line.rsplit(",", 1)[0] + ",now again" for line in rest]
    clips.write_text("\n".join([first, *same]))
    fair = evaluate.run(dataclasses.replace(asked, clips=clips)).detail
    inflated = evaluate.run(dataclasses.replace(asked, clips=clips, published_ties=True)).detail
    recalls = [
        {way["direction"]: way["metrics"]["recall"]["R@5"]["value"] for way in detail["directions"]}
        for detail in (fair, inflated)
    ]
    assert recalls[0]["video -> text"] == pytest.approx(5 / 16) and recalls[1]["video -> text"] == 5.0
    assert "each tied position is a further hit" in (asked.out / "retrieval.md").read_text()


def test_tables_hold_what_the_json_holds(asked: RetrievalSettings) -> None:
    detail = evaluate.run(asked).detail
    text, latex = ((asked.out / f"retrieval.{suffix}").read_text() for suffix in ("md", "tex"))
    for way in detail["directions"]:
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {way['direction']} ")]
        recalls = [f"{100 * way['metrics']['recall'][name]['value']:.1f}" for name in ("R@1", "R@5", "R@10")]
        assert [cell.strip() for cell in line.split("|")[3:6]] == recalls
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 2
    assert r"95 \%" in latex and "whole videos" in latex and "caption average" in text


def test_whole_videos_are_found_by_all_their_captions(planted: Any, model: Path, asked: RetrievalSettings) -> None:
    whole = evaluate.run(asked).detail["full video"]
    videos = [video for i, video in sorted(planted.videos.items()) if i.startswith("heldout")]
    vectors = embedded_one_by_one(planted.vectors, model, videos)["video-text"]
    best = (vectors["text"] @ vectors["video"].T).reshape(16, 4, 4).max(axis=2)
    means = best.reshape(4, 4, 4).mean(axis=1)
    ranks = (means > np.diagonal(means)[:, None]).sum(axis=1) + 1
    assert whole["caption average"]["mean_rank"]["value"] == pytest.approx(ranks.mean())
    own = best[np.arange(16), np.arange(16) // 4]
    assert whole["one caption"]["mean_rank"]["value"] == pytest.approx((best > own[:, None]).sum(axis=1).mean() + 1)
    assert whole["videos"] == 4 and whole["caption average"]["chance"]["R@1"] == 0.25
    assert whole["votes for videos"]["recall"]["R@5"]["value"] == 1.0


def test_the_report_is_written_beside_the_scores(asked: RetrievalSettings, capsys: pytest.CaptureFixture[str]) -> None:
    report = evaluate.run(asked)
    written = json.loads((asked.out / "retrieval.json").read_text())
    assert written["detail"]["metrics"] == json.loads(json.dumps(report.detail["metrics"]))
    assert {"manifest", "trained on", "clips digest"} <= written["detail"].keys()
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:1] == ["R@1"] and line.endswith("6.2 %") for line in lines)
    assert any(line.split()[:2] == ["median", "rank"] and line.endswith("8.5") for line in lines)


def test_texts_of_unknown_words_count_as_misses(planted: Any, asked: RetrievalSettings, tmp_path: Path) -> None:
    first, *rest = planted.clips.read_text().splitlines()
    lines = [line for line in rest if line.startswith("heldout")]
    clips = tmp_path / "clips.csv"
    clips.write_text("\n".join([first, *(line.rsplit(",", 1)[0] + ",zzz qqq" for line in lines[:4]), *lines[4:]]))
    known = evaluate.run(asked).detail
    found = evaluate.run(dataclasses.replace(asked, clips=clips)).detail
    assert found["missing"] == {"queries": 4, "candidates": 0} and known["missing"]["queries"] == 0
    assert found["metrics"]["queries"] == 16
    # The other twelve queries rank as before; the four stand last.
    ranks = 16 * found["metrics"]["mean_rank"]["value"] - 4 * 16
    assert 12 <= ranks <= 16 * known["metrics"]["mean_rank"]["value"] - 4
    assert found["clips digest"] != known["clips digest"] and found["manifest"] == known["manifest"]


def test_clips_without_a_frame_are_never_found_and_other_videos_are_counted(
    tmp_path: Path,
    tiny_training: dict[str, Any],
    make_video: Callable[..., Any],
    make_dataset: Callable[..., Path],
    make_vectors: Callable[..., Any],
) -> None:
    captions = [(0.0, 2.0, "a b"), (2.0, 4.0, "c d")]
    videos = [make_video(f"video{n:06d}", captions, 4.0, n, masked=range(4) if n < 2 else ()) for n in range(4)]
    vectors = make_vectors(list("abcd"))
    folder = make_dataset(tmp_path / "dataset", videos, vectors)
    manifest = folder / "manifests" / "all.json"
    run(
        TrainSettings.flat(
            manifest=manifest, out=tmp_path / "model", seed=3, min_clip_seconds=0, epochs=1, **tiny_training
        )
    )
    clips = [(video, caption) for video in videos for caption in video.captions]
    texts = ["zzz" if n == 5 else caption.text for n, (_, caption) in enumerate(clips)]
    lines = [f"{v.video_id},{c.start},{c.end},{text}\n" for (v, c), text in zip(clips, texts, strict=True)]
    path = tmp_path / "clips.csv"
    path.write_text("video_id,start,end,text\n" + "".join(lines) + "elsewhere00,0,1,a\n")
    report = evaluate.run(
        RetrievalSettings(checkpoint=tmp_path / "model", clips=path, out=tmp_path / "out", split="all", bootstrap=10)
    )
    assert report.detail["missing"] == {"queries": 1, "candidates": 4} and report.done == 8
    assert report.failed == {"video not in the manifest": 1} and "left out on both sides" in report.notes[0]

    rows = [video.video["resnet152"][int(caption.start) : int(caption.end)] for video, caption in clips]
    scores = scores_by_hand(vectors, tmp_path / "model", "shared", rows, [text.replace("zzz", "a") for text in texts])
    # Clips 0 to 3 have no frame: they share places 5 to 8. Query 5 has no known word: its clip is the last of all.
    ranks = {n: 1.0 + sum(bool(scores[n, other] > scores[n, n]) for other in range(4, 8)) for n in range(4, 8)}
    ranks |= dict.fromkeys(range(4), 6.5) | {5: 8.0}
    assert report.detail["metrics"]["mean_rank"]["value"] == pytest.approx(sum(ranks.values()) / 8)
    places = [[(found["video_id"], found["start"]) for found in e["found"]] for e in report.detail["examples"]]
    for place, text in zip(places, texts, strict=True):
        assert text == "zzz" or {video_id for video_id, _ in place[:4]} == {"video000002", "video000003"}


def test_another_data_set_and_a_scheme_without_text_are_refused(
    planted: Any, model: Path, asked: RetrievalSettings, tmp_path: Path, make_dataset: Any, make_vectors: Any
) -> None:
    words = planted.vectors.index_to_key
    other = make_dataset(tmp_path / "other", list(planted.videos.values()), make_vectors(words, seed=9))
    with pytest.raises(InputError, match="trained on another data set"):
        evaluate.run(dataclasses.replace(asked, manifest=other / "manifests" / "all.json"))
    content = load_checkpoint(model)
    content["scheme"]["spaces"] = [s for s in content["scheme"]["spaces"] if s["name"] == "video-audio"]
    kept = {name: value for name, value in content["model"].items() if "video-text" not in name}
    torch.save(content | {"model": kept}, tmp_path / "deaf.pt")
    deaf = dataclasses.replace(asked, checkpoint=tmp_path / "deaf.pt")
    with pytest.raises(InputError, match="never contrasts text with video"):
        evaluate.run(dataclasses.replace(deaf, directions="headline"))
    report = evaluate.run(deaf)
    assert [way["direction"] for way in report.detail["directions"]] == ["video -> audio", "audio -> video"]
    assert any("no headline score" in note for note in report.notes)
    torch.save(content, tmp_path / "crooked.pt")
    with pytest.raises(InputError, match="doesn't fit its own settings"):
        evaluate.run(dataclasses.replace(asked, checkpoint=tmp_path / "crooked.pt"))


def test_the_data_set_may_have_moved(planted: Any, asked: RetrievalSettings, tmp_path: Path) -> None:
    import shutil

    moved = tmp_path / "moved"
    shutil.copytree(planted.folder, moved)
    assert (
        evaluate.run(dataclasses.replace(asked, manifest=moved / "manifests" / "planted.json")).detail["metrics"]
        == (evaluate.run(asked).detail["metrics"])
    )


def test_queries_are_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "clips.csv"
    path.write_text('more,video_id,start,end,text\nx,a,0,1.5,"cut, then stir"\ny,b,2e0,3,größe\n', encoding="utf-8")
    first, second = read_clips(path, "text")
    assert (first.clip.video_id, first.clip.start, first.clip.end, first.label) == ("a", 0.0, 1.5, "cut, then stir")
    assert (second.clip.start, second.label) == (2.0, "größe")


def test_bootstrap_and_seed_are_checked() -> None:
    for change in ({"bootstrap": 0}, {"seed": -1}):
        with pytest.raises(ValueError, match="`bootstrap` must be at least 1, `seed` at least 0"):
            RetrievalSettings(checkpoint=Path("c"), clips=Path("c"), out=Path("o"), **change)


def test_equal_inputs_are_not_evaluated_twice(asked: RetrievalSettings, tmp_path: Path) -> None:
    asked = dataclasses.replace(asked, out=tmp_path / "twice")
    first = evaluate.run(asked)
    again = evaluate.run(asked)
    assert (again.done, again.skipped) == (0, first.done) and again.detail == first.detail
    clips = tmp_path / "clips.csv"
    clips.write_text("".join(asked.clips.read_text().splitlines(keepends=True)[:-1]))
    changed = evaluate.run(dataclasses.replace(asked, clips=clips))
    assert (changed.done, changed.skipped) == (first.done - 1, 0)


@dataclasses.dataclass(frozen=True)
class ManyCaptions:
    """Sixteen clips, each with one to four captions, listed in no order; a clip past its video's end."""

    path: Path
    clips: list[tuple[str, float, float]]
    rows: list[tuple[int, str]]
    """Each caption's clip and text, as listed."""
    detail: dict[str, Any]
    report: Any


LATE = 16


@pytest.fixture(scope="module")
def several(planted: Any, model: Path, tmp_path_factory: pytest.TempPathFactory) -> ManyCaptions:
    folder = tmp_path_factory.mktemp("several")
    clips = [(i, c.start, c.end) for i, v in planted.videos.items() if i[0] == "h" for c in v.captions]
    texts = [c.text for i, v in planted.videos.items() if i[0] == "h" for c in v.captions]
    rows = [(clip, text) for clip, text in enumerate(texts)]
    # Others' texts, equal ones, and one that no vector knows; all of clip 5's further captions are of clip 6's text.
    rows += [(clip, f"again {texts[(clip + 3) % 16]}") for clip in range(0, 16, 2)]
    rows += [(1, "now"), (1, "now"), (4, "now"), (2, "zzz"), (5, texts[6]), (5, texts[6]), (LATE, texts[9])]
    clips.append((clips[0][0], 8.0, 9.0))
    order = np.random.default_rng(3).permutation(len(rows)).tolist()
    rows = [rows[index] for index in order]
    lines = [f"{','.join(map(str, clips[clip]))},{text}\n" for clip, text in rows]
    path = folder / "several.csv"
    path.write_text("video_id,start,end,text\n" + "".join(lines))
    asked = RetrievalSettings(checkpoint=model, clips=path, out=folder / "out", bootstrap=200)
    report = evaluate.run(asked)
    return ManyCaptions(path, clips, rows, report.detail, report)


def best_places(scores: np.ndarray, right: np.ndarray, there: np.ndarray) -> np.ndarray:
    """[N]: the mean place of each row's best right column where equal ones stand in any order; no row is absent."""
    scores = np.where(there, scores, -np.inf)
    places = []
    for row, own in zip(scores, right, strict=True):
        best = row[own].max()
        others, alike = row[~own], int((row[own] >= best - 1e-9).sum())
        level = int((np.abs(others - best) <= 1e-9).sum()) if np.isfinite(best) else int(np.isinf(others).sum())
        places.append(1 + int((others > best + 1e-9).sum()) + level / (alike + 1))
    return np.array(places)


def test_captions_of_one_clip_are_no_rivals(planted: Any, model: Path, several: ManyCaptions) -> None:
    """Every direction by hand, out of clips and texts embedded one by one."""
    rows, clips = several.rows, several.clips
    of_video = embedded_one_by_one(planted.vectors, model, [v for i, v in planted.videos.items() if i[0] == "h"])
    network, texts = model_from(load_checkpoint(model)), []
    for _, text in rows:
        words = torch.from_numpy(
            np.stack([planted.vectors[w] for w in text.split() if w in planted.vectors] or [np.zeros(16, np.float32)])
        )[None]
        with torch.inference_mode():
            known = torch.ones(words.shape[:2], dtype=torch.bool)
            texts.append(network(ClipInputs(words=words, known_words=known)).vectors["video-text"]["text"][0].numpy())
    clip_of = np.array([clip for clip, _ in rows])
    told, shown = np.array([text != "zzz" for _, text in rows]), np.arange(17) != LATE
    video = np.concatenate([of_video["video-text"]["video"], np.zeros((1, 8))])
    scores = np.stack(texts).astype(np.float64) @ video.T
    own = clip_of[:, None] == np.arange(17)
    forth = np.where(told, best_places(scores, own, shown), 17)
    back = best_places(scores.T, own.T, told)
    back[LATE] = len(rows) - 1 + 1  # its clip isn't there: its one caption stands last
    ways = {way["direction"]: way for way in several.detail["directions"]}
    assert ways["text -> video"]["metrics"]["mean_rank"]["value"] == pytest.approx(forth.mean())
    assert ways["text -> video"]["metrics"]["median_rank"]["value"] == pytest.approx(np.median(forth))
    assert ways["video -> text"]["metrics"]["mean_rank"]["value"] == pytest.approx(back.mean())
    alone = np.delete(np.arange(len(rows)), np.flatnonzero(~told | (clip_of == LATE)))
    first = [int((scores[n][:16] >= scores[n, clip_of[n]]).sum()) == 1 for n in alone]
    assert ways["text -> video"]["metrics"]["recall"]["R@1"]["value"] == pytest.approx(np.sum(first) / len(rows))
    between = of_video["video-audio"]["video"] @ of_video["video-audio"]["audio"].T
    among = (between > np.diagonal(between)[:, None]).sum(axis=1) + 1
    assert ways["video -> audio"]["metrics"]["mean_rank"]["value"] == pytest.approx((among.sum() + 17) / 17)
    asked = {name: way["metrics"]["queries"] for name, way in ways.items()}
    assert asked == {"text -> video": 31, "video -> text": 17, "video -> audio": 17, "audio -> video": 17}
    assert ways["text -> video"]["missing"] == {"queries": 1, "candidates": 1}
    assert ways["video -> text"]["missing"] == {"queries": 1, "candidates": 1}
    by_video = several.detail["videos"]
    for video_id in by_video:
        mine = np.array([clips[clip][0] == video_id for clip in clip_of])
        assert by_video[video_id]["queries"] == mine.sum()
        assert by_video[video_id]["R@5"] == pytest.approx((forth[mine & told & (clip_of != LATE)] <= 5).sum())


def test_chance_and_counts_are_of_different_clips_and_of_all_captions(several: ManyCaptions) -> None:
    detail, rows = several.detail, several.rows
    assert (detail["captions"], detail["clips"], several.report.done) == (31, 17, 17)
    assert "1 clips start at their video's end or later" in several.report.notes[0]
    ways = {way["direction"]: way["metrics"] for way in detail["directions"]}
    assert ways["text -> video"]["chance"] == {"R@1": 1 / 17, "R@5": 5 / 17, "R@10": 10 / 17}
    assert ways["text -> video"]["chance_median_rank"] == ways["video -> audio"]["chance_median_rank"] == 9
    each = np.bincount([clip for clip, _ in rows])
    assert ways["video -> text"]["chance"]["R@1"] == pytest.approx(np.mean(each / 31))
    text = several.path.parent.joinpath("out", "retrieval.md").read_text()
    (clips, captions) = [line.split("|") for line in text.splitlines() if line.startswith("| chance")][:2]
    assert [cell.strip() for cell in clips[1:4]] == ["chance", "", "5.9"]
    assert [cell.strip() for cell in captions[1:4]] == ["chance, -> text", "", f"{100 / 17:.1f}"]
    assert float(captions[8]) == pytest.approx(np.mean(32 / (each + 1)), abs=0.05)
    assert "Retrieval, 31 captions of 17 clips of 4 videos" in text
    assert (
        evaluate.headline_text(detail).splitlines()[0].startswith("text -> video, 31 captions of 17 clips of 4 videos ")
    )
    assert len({len(line) for line in evaluate.headline_text(detail).splitlines()[1:-2]}) == 1


def test_whole_videos_are_asked_for_by_every_caption(several: ManyCaptions) -> None:
    whole = several.detail["full video"]
    assert (whole["one caption"]["queries"], whole["caption average"]["queries"], whole["videos"]) == (31, 4, 4)
    assert whole["one caption"]["chance"]["R@1"] == 0.25 and whole["one caption"]["chance_median_rank"] == 2.5


def test_whole_videos_are_asked_for_by_every_caption_of_a_single_clip(
    planted: Any, asked: RetrievalSettings, tmp_path: Path
) -> None:
    """Each video one clip of three captions, as MSR-VTT has twenty: whole videos are asked for by all of them."""
    first, *rest = [line for line in planted.clips.read_text().splitlines() if line[:5] in ("video", "heldo")]
    clips = [line.rsplit(",", 1)[0] for line in rest[::4]]
    path = tmp_path / "three.csv"
    path.write_text("\n".join([first, *(f"{clip},{text.rsplit(',', 1)[1]}" for clip in clips for text in rest[3:6])]))
    detail = evaluate.run(dataclasses.replace(asked, clips=path)).detail
    assert (detail["captions"], detail["clips"]) == (12, 4)
    whole = detail["full video"]
    assert whole["one caption"]["mean_rank"] == detail["metrics"]["mean_rank"]
    assert whole["caption average"]["queries"] == 4 and whole["caption average"]["chance"]["R@1"] == 0.25
    # All are asked for by the same texts: each ranks the four alike.
    assert whole["caption average"]["mean_rank"]["value"] == detail["metrics"]["chance_median_rank"] == 2.5


def test_examples_show_a_clip_once(several: ManyCaptions) -> None:
    examples = several.detail["examples"]
    assert [example["text"] for example in examples] == [text for _, text in several.rows]
    for example, (clip, text) in zip(examples, several.rows, strict=True):
        found = [(one["video_id"], one["start"], one["end"]) for one in example["found"]]
        assert len(set(found)) == len(found) == (0 if text == "zzz" else 5)
        assert [one["right"] for one in example["found"]] == [one == several.clips[clip] for one in found]
        assert all(one["text"] == text for one in example["found"] if one["right"])


def test_one_caption_more_changes_no_other_query(planted: Any, asked: RetrievalSettings, tmp_path: Path) -> None:
    """Every caption twice: text -> video stays as it is, and so do video and sound; the best of two equal texts stands
    where the one did, among twice as many."""
    once = evaluate.run(asked).detail
    first, *rest = planted.clips.read_text().splitlines()
    twice = tmp_path / "twice.csv"
    twice.write_text("\n".join([first, *rest, *rest]))
    found = evaluate.run(dataclasses.replace(asked, clips=twice, out=tmp_path / "twice")).detail
    for before, after in zip(once["directions"], found["directions"], strict=True):
        ranks = [way["metrics"]["mean_rank"]["value"] for way in (before, after)]
        if before["direction"] == "video -> text":
            assert ranks[1] - 1 == pytest.approx(2 * (ranks[0] - 1))
        else:
            assert ranks[1] == pytest.approx(ranks[0])
            assert after["metrics"]["chance"] == before["metrics"]["chance"]
            assert after["metrics"]["recall"]["R@5"]["low"] == pytest.approx(before["metrics"]["recall"]["R@5"]["low"])
    for rule in ("one caption", "caption average"):
        for name in ("mean_rank", "median_rank"):
            assert found["full video"][rule][name] == pytest.approx(once["full video"][rule][name])


def test_results_that_took_captions_for_rivals_are_not_found_done(
    several: ManyCaptions, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = RetrievalSettings(checkpoint=model, clips=several.path, out=tmp_path, bootstrap=5)
    evaluate.run(asked)
    written = json.loads((tmp_path / "retrieval.json").read_text())
    del written["detail"]["inputs"]["candidates"]
    (tmp_path / "retrieval.json").write_text(json.dumps(written))
    assert evaluate.run(asked).done == 17 and "they are replaced" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("clips", "places"), [(1, [0]), (64, [*range(64)]), (65, [*range(0, 65, 2)]), (130, [*range(0, 130, 3)])]
)
def test_examples_are_spread_over_the_list(clips: int, places: list[int]) -> None:
    listed = evaluate.Captions.of([LabelledClip(str(n), Clip("v", n, n + 1)) for n in range(clips)])
    vectors = {"s": {name: torch.ones(clips, 2) for name in ("text", "video")}}
    present = {name: torch.ones(clips, dtype=torch.bool) for name in ("text", "video")}
    whole = Embeddings(vectors, present, {})
    way = Direction("s", ("text",), ("video",), True)
    shown = evaluate._examples(way, evaluate._Embedded(listed, whole, whole))
    assert [int(example["text"]) for example in shown] == places


def test_clips_keep_the_order_of_their_first_captions() -> None:
    spans = [("b", 0.0), ("a", 0.0), ("b", 0.0), ("b", 2.0), ("a", 0.0)]
    listed = evaluate.Captions.of([LabelledClip("x", Clip(video, start, 5.0)) for video, start in spans])
    assert [(clip.video_id, clip.start) for clip in listed.clips] == [("b", 0.0), ("a", 0.0), ("b", 2.0)]
    assert listed.clip_of == (0, 1, 0, 2, 1) and listed.first == (0, 1, 3)
