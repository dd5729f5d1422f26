"""The vectors of figures are the model's own, of the clips that were evaluated."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.core.errors import InputError
from pipeline.core.files import sha256_of_file
from pipeline.experiment.report import spaces
from pipeline.experiment.report.results import read_study
from pipeline.experiment.report.spaces import embed_evaluated
from pipeline.training.checkpoint import load_checkpoint


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
