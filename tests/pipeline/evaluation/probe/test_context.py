"""Context against content, against brute force and planted vectors."""

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from pipeline.core.records import Clip
from pipeline.evaluation.probe.clips import INPUT, ClipVectors
from pipeline.evaluation.probe.context import average_precision, chance_precision, context_scores, neighbourhood
from pipeline.evaluation.settings import Draws

DRAWS = Draws(bootstrap=50, permutations=0, seed=0)


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_scikit_learn_s(seed: int) -> None:
    random = np.random.default_rng(seed)
    order = random.random((5, 12)) < 0.3
    order[0] = False
    found = average_precision(order)
    assert np.isnan(found[0])
    for row, value in zip(order[1:], found[1:], strict=True):
        if row.any():
            assert value == pytest.approx(average_precision_score(row, -np.arange(12)))


@pytest.mark.parametrize(("right", "searched"), [(1, 1), (1, 5), (2, 5), (4, 6), (6, 6)])
def test_chance_is_the_mean_over_all_orders(right: int, searched: int) -> None:
    orders = np.array(list(permutations([True] * right + [False] * (searched - right))))
    wanted = average_precision(orders).mean()
    assert chance_precision(np.array([right]), np.array([searched]))[0] == pytest.approx(wanted)


def clips_of(videos: int, per_video: int, tasks: int) -> tuple[list[Clip], list[str]]:
    clips = [Clip(f"v{v}", 5.0 * k, 5.0 * k + 5) for v in range(videos) for k in range(per_video)]
    return clips, [f"t{int(clip.video_id[1:]) % tasks}" for clip in clips]


def test_who_is_right_and_who_is_searched() -> None:
    clips, tasks = clips_of(4, 4, 2)
    tasks[-4:] = [""] * 4
    among = neighbourhood(clips, tasks, apart=5.0)
    queries = np.arange(len(clips))
    for measure in ("same video", "same video within task", "same task"):
        right, searched = among.right_and_searched(measure, queries)
        for q, asking in enumerate(clips):
            for c, clip in enumerate(clips):
                own, task = clip.video_id == asking.video_id, tasks[q] == tasks[c] != ""
                near = own and max(clip.start - asking.end, asking.start - clip.end) < 5.0
                wanted = {
                    "same video": (own and not near, not near),
                    "same video within task": (own and not near, task and not near),
                    "same task": (task and not own, not own),
                }[measure]
                found = (bool(right[q, c] and searched[q, c]), bool(searched[q, c]))
                assert found == (wanted[0] and wanted[1], wanted[1])


@pytest.mark.parametrize("kept", ["video", "task", "nothing"])
def test_what_vectors_hold_decides(kept: str) -> None:
    clips, tasks = clips_of(12, 4, 3)
    random = np.random.default_rng(0)
    codes = {"video": np.eye(12)[[int(c.video_id[1:]) for c in clips]], "task": np.eye(12)[[int(t[1:]) for t in tasks]]}
    noise = random.normal(size=(len(clips), 12))
    vectors = (codes.get(kept, 0) + (1.0 if kept == "nothing" else 0.01) * noise).astype(np.float32)
    held = ClipVectors({(INPUT, "video"): vectors, ("s", "video"): vectors}, {"video": np.ones(len(clips), bool)})
    found = list(context_scores(held, neighbourhood(clips, tasks, apart=5.0), DRAWS))
    assert [entry["space"] for entry in found] == [INPUT, "s"]
    own, within, task = (
        found[1][m]["average precision"]["value"] for m in ("same video", "same video within task", "same task")
    )
    chance = {m: found[1][m]["chance"] for m in ("same video", "same video within task", "same task")}
    if kept == "video":
        assert own == within == 1.0 and abs(task - chance["same task"]) < 0.15
        assert found[1]["context over content"]["low"] > 1
    elif kept == "task":
        assert task == 1.0 and abs(within - chance["same video within task"]) < 0.15 and own > 2 * chance["same video"]
        assert found[1]["context over content"]["high"] < 1
    else:
        assert all(abs(found[1][m]["times chance"]["value"] - 1) < 0.35 for m in chance)


def test_equal_vectors_give_chance() -> None:
    clips, tasks = clips_of(10, 6, 2)
    vectors = np.ones((60, 3), np.float32)
    held = ClipVectors({(INPUT, "text"): vectors}, {"text": np.ones(60, bool)})
    (found,) = context_scores(held, neighbourhood(clips, tasks, apart=5.0), DRAWS)
    for measure in ("same video", "same video within task", "same task"):
        assert found[measure]["times chance"]["value"] == pytest.approx(1, abs=0.25)


def test_without_tasks_or_far_clips_a_measure_is_left_out() -> None:
    clips, _ = clips_of(6, 3, 2)
    vectors = np.random.default_rng(0).normal(size=(18, 3)).astype(np.float32)
    present = np.ones(18, bool)
    present[:3] = False
    held = ClipVectors({(INPUT, "audio"): vectors}, {"audio": present})

    def measures(apart: float) -> list[dict[str, Any]]:
        return list(context_scores(held, neighbourhood(clips, [""] * 18, apart), DRAWS))

    (found,) = measures(5.0)
    assert found["clips"] == 15 and "same video" in found and "same task" not in found
    assert "context over content" not in found
    assert measures(60.0) == []
