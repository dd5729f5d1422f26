"""Maps and gaps of planted vectors, against sums by hand; the vectors of figures are those that were evaluated."""

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from pipeline.core.errors import InputError
from pipeline.core.files import sha256_of_file
from pipeline.core.records import Clip
from pipeline.evaluation.lists import LabelledClip
from pipeline.experiment.report import spaces
from pipeline.experiment.report.results import read_study
from pipeline.experiment.report.spaces import (
    MOST_CLASSES,
    MOST_DRAWN,
    OTHER,
    EmbeddedClips,
    SpaceVectors,
    embed_evaluated,
    gap_figure,
    gap_table,
    map_figure,
    modality_gaps,
    space_map,
)
from pipeline.training.checkpoint import load_checkpoint


def planted_clips(count: int = 40, width: int = 6) -> EmbeddedClips:
    """Video and text; every seventh clip has no text, and zeros for it."""
    generator = torch.Generator().manual_seed(3)
    rows = {m: functional.normalize(torch.randn(count, width, generator=generator), dim=1) for m in ("video", "text")}
    heard = torch.arange(count) % 7 != 0
    rows["text"] = functional.normalize(rows["text"] + torch.eye(width)[0] * 2, dim=1) * heard.unsqueeze(1)
    present = {"video": torch.ones(count, dtype=torch.bool), "text": heard}
    clips = tuple(LabelledClip(f"text {n}", Clip("video", n, n + 1.0)) for n in range(count))
    space = SpaceVectors("joint", rows, torch.zeros(count, width), None)
    return EmbeddedClips(clips, tuple(f"step {n % 20}" for n in range(count)), count, present, (space,))


def test_gaps_are_the_means_distance_and_the_cosines_means() -> None:
    clips = planted_clips()
    (gap,) = modality_gaps("arm", clips)
    both = [n for n in range(40) if n % 7]
    video, text = (clips.spaces[0].vectors[m].numpy().astype(float)[both] for m in ("video", "text"))
    assert gap.distance == pytest.approx(np.linalg.norm(video.mean(0) - text.mean(0)))
    assert gap.same == pytest.approx(np.mean([v @ t for v, t in zip(video, text, strict=True)]))
    pairs = itertools.permutations(range(len(both)), 2)
    assert gap.other == pytest.approx(np.mean([video[i] @ text[j] for i, j in pairs]))
    assert (gap.arm, gap.space, gap.pair) == ("arm", "joint", "video-text")
    assert gap_table([gap]).rows[0][3] == f"{gap.distance:.3f}"
    assert gap_figure([gap]).figure.axes[0].patches[0].get_width() == pytest.approx(gap.distance)


def test_the_map_is_the_plane_of_most_variance() -> None:
    clips = planted_clips()
    found = space_map(clips.spaces[0], clips.present, seed=0)
    assert found is not None
    there = np.concatenate(
        [clips.spaces[0].vectors["video"].numpy(), clips.spaces[0].vectors["text"].numpy()[clips.present["text"]]]
    ).astype(float)
    singular = np.linalg.svd(there - there.mean(0), compute_uv=False) ** 2
    assert found.shares == pytest.approx(singular[:2] / singular.sum())
    placed = np.concatenate([found.places["video"], found.places["text"][clips.present["text"].numpy()]])
    assert placed.var(axis=0) == pytest.approx(singular[:2] / len(there))
    assert np.isnan(found.places["text"][~clips.present["text"].numpy()]).all()


def test_a_map_draws_who_is_there_and_so_many_at_most() -> None:
    clips = planted_clips(MOST_DRAWN + 50)
    found = space_map(clips.spaces[0], clips.present, seed=0)
    assert found is not None
    by_modality = map_figure(found, clips, None)
    drawn = [row[0] for row in by_modality.rows]
    assert drawn.count("video") == (MOST_DRAWN + 50) // 2 > drawn.count("text") > 0
    classes = clips.drawn_classes()
    assert len(set(classes)) == MOST_CLASSES + 1 and OTHER in classes
    by_step = map_figure(found, clips, classes)
    labels = [text.get_text() for text in by_step.figure.legends[0].get_texts()]
    assert len(labels) == len(set(labels)) and set(labels) <= set(classes) and OTHER in labels


def test_classes_that_begin_alike_keep_a_colour_each_in_the_legend() -> None:
    clips = planted_clips()
    found = space_map(clips.spaces[0], clips.present, seed=0)
    assert found is not None
    alike = [f"chop the onion with {('a knife', 'scissors')[place % 2]}" for place in range(40)]
    legend = map_figure(found, clips, alike).figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["chop the onion wi…"] * 2
    assert len({tuple(handle.get_facecolor()[0]) for handle in legend.legend_handles}) == 2


def test_vectors_that_span_no_plane_have_no_map() -> None:
    clips = planted_clips()
    same = SpaceVectors("joint", {"video": torch.ones(40, 6)}, torch.zeros(40, 6), None)
    assert space_map(same, clips.present, seed=0) is None
    few = SpaceVectors("joint", {"video": clips.spaces[0].vectors["video"][:2]}, torch.zeros(2, 6), None)
    assert space_map(few, {"video": clips.present["video"][:2]}, seed=0) is None


def test_they_rank_clips_as_the_evaluation_did(study: Any) -> None:
    model = study.of_arm("shared")[0]
    clips = embed_evaluated(model, seed=0)
    detail = model.retrieval["detail"]
    assert len(clips.clips) == clips.of == detail["metrics"]["queries"] == 16
    assert {clip.clip.video_id for clip in clips.clips} == set(detail["videos"])
    assert {name[:4] for name in clips.classes} == {"verb"}
    (space,) = clips.spaces
    lengths = torch.cat([vectors[clips.present[name]].norm(dim=1) for name, vectors in space.vectors.items()])
    assert torch.allclose(lengths, torch.ones_like(lengths), atol=1e-5)
    checkpoint = load_checkpoint(model.folder)
    assert space.centroids is not None and torch.equal(space.centroids, checkpoint["queues"]["shared.centroids"])
    assert space.clusters().tolist() == (
        torch.nn.functional.cosine_similarity(space.joint[:, None], space.centroids[None], dim=2).argmax(dim=1).tolist()
    )


def test_many_clips_are_a_sample_that_the_seed_draws(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spaces, "MOST_CLIPS", 5)
    model = study.of_arm("disjoint")[0]
    drawn = [embed_evaluated(model, seed) for seed in (0, 0, 1)]
    assert [len(clips.clips) for clips in drawn] == [5, 5, 5] and drawn[0].of == 16
    assert drawn[0].clips == drawn[1].clips != drawn[2].clips


def test_a_space_without_clusters_says_so(copied: Callable[[], Path]) -> None:
    folder = copied()
    path = folder / "runs" / "shared-seed1" / "checkpoint.pt"
    content = torch.load(path, weights_only=True)
    content["queues"]["shared.fitted"] = torch.tensor(False)
    torch.save(content, path)
    model = read_study(folder).of_arm("shared")[0]
    with pytest.raises(InputError, match="the model or the clips are others than were evaluated"):
        embed_evaluated(model, seed=0)
    detail = model.retrieval["detail"]
    detail = detail | {"inputs": detail["inputs"] | {"checkpoint": sha256_of_file(path)}}
    (space,) = embed_evaluated(replace(model, retrieval={"detail": detail}), seed=0).spaces
    assert space.centroids is None


def test_clips_that_have_changed_since_are_not_shown_for_those_evaluated(study: Any, tmp_path: Path) -> None:
    model = study.of_arm("shared")[0]
    detail = model.retrieval["detail"]
    lines = Path(detail["settings"]["clips"]).read_text().splitlines(keepends=True)
    for changed, refused in ((lines, False), (lines[:-1], True)):
        (tmp_path / "clips.csv").write_text("".join(changed))
        asked = detail | {"settings": detail["settings"] | {"clips": str(tmp_path / "clips.csv")}}
        with pytest.raises(InputError, match="others than were evaluated") if refused else nullcontext():
            assert embed_evaluated(replace(model, retrieval={"detail": asked}), seed=0).of == 16


def test_a_list_that_is_gone_is_told(study: Any) -> None:
    model = study.of_arm("shared")[0]
    detail = dict(model.retrieval["detail"])
    detail["settings"] = detail["settings"] | {"clips": "gone.csv"}
    with pytest.raises(InputError, match=r"gone\.csv: no such file"):
        embed_evaluated(replace(model, retrieval={"detail": detail}), seed=0)
