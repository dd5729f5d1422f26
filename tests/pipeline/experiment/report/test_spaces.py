"""Maps and gaps of planted vectors, against sums by hand."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional

from pipeline.core.records import Clip
from pipeline.evaluation.lists import LabelledClip
from pipeline.experiment.report.spaces import (
    MOST_CLASSES,
    MOST_DRAWN,
    OTHER,
    EmbeddedClips,
    SpaceVectors,
    gap_figure,
    gap_table,
    map_figure,
    modality_gaps,
    space_map,
)


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
