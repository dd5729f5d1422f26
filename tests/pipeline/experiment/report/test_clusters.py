"""Planted clusters: their sizes, steps, words by lift and nearest clips are known beforehand."""

import pytest
import torch

from pipeline.core.records import Clip
from pipeline.evaluation.lists import LabelledClip
from pipeline.experiment.report.clusters import cluster_contents, cluster_table
from pipeline.experiment.report.methods import ShownNames
from pipeline.experiment.report.spaces import EmbeddedClips, SpaceVectors

TEXTS = ["the red pan", "the red pot", "the red cup", "the blue pan", "the blue sky", "the end"]
CLASSES = ("fry", "fry", "boil", "look", "look", "none")
# Two clusters along the axes, of any length; the last clip lacks every modality.
JOINT = torch.tensor([[5.0, 0.1], [1.0, 0.0], [1.0, 0.9], [0.1, 2.0], [0.0, 0.3], [0.0, 0.0]])


def embedded(centroids: torch.Tensor | None) -> EmbeddedClips:
    clips = tuple(LabelledClip(text, Clip(f"video{n}", 0.0, 1.0)) for n, text in enumerate(TEXTS))
    space = SpaceVectors("joint", {}, JOINT, centroids)
    return EmbeddedClips(clips, CLASSES, len(clips), {}, (space,))


def test_contents_are_what_was_planted() -> None:
    # A third cluster that no clip is near.
    clips = embedded(torch.tensor([[0.0, 3.0], [7.0, 0.0], [-1.0, -1.0]]))
    found = cluster_contents(clips.spaces[0], clips)
    assert found is not None and (found.number, found.used) == (3, 2)
    red, blue = found.largest
    assert (red.number, red.size, red.step, red.share) == (1, 3, "fry", pytest.approx(2 / 3))
    assert (blue.number, blue.size, blue.step, blue.share) == (0, 2, "look", 1.0)
    # "the" is everywhere, and "pan" once in each: no word of either.
    assert red.words == ("red",) and blue.words == ("blue",)
    assert [clip.clip.video_id for clip in red.nearest] == ["video1", "video0"]
    assert [clip.clip.video_id for clip in blue.nearest] == ["video4", "video3"]


def test_clusters_that_are_the_steps_agree_wholly() -> None:
    clips = EmbeddedClips(embedded(None).clips, ("a", "a", "a", "b", "b", "b"), 6, {}, ())
    found = cluster_contents(SpaceVectors("joint", {}, JOINT, torch.eye(2)), clips)
    assert found is not None and found.agreement == pytest.approx(1.0)


def test_without_clusters_there_are_no_contents() -> None:
    clips = embedded(None)
    assert cluster_contents(clips.spaces[0], clips) is None
    with pytest.raises(ValueError, match="no clusters"):
        clips.spaces[0].clusters()


def test_a_public_table_has_numbers_for_steps_and_no_words() -> None:
    clips = embedded(torch.eye(2))
    found = cluster_contents(clips.spaces[0], clips)
    assert found is not None
    shown, hidden = (cluster_table("arm", found, ShownNames(public)) for public in (False, True))
    assert shown.rows[0][2:] == ("fry", "66.7", "red") and hidden.rows[0][2:] == ("class 1", "66.7")
    assert "red" not in hidden.text() and "2 of 2 clusters" in hidden.text()
