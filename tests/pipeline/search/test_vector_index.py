"""Both kinds of index against looking at every vector; plans against the room there is."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.errors import InputError
from pipeline.search.embeddings import EmbeddingsFile, damage
from pipeline.search.index import make_index
from pipeline.search.vector_index import (
    FEWEST_CODED,
    IndexPlan,
    VectorIndex,
    build_index,
    exact_best,
    plan_index,
    tuned,
)

COUNT, WIDTH = 4000, 30
CODED = 300_000
"""Bytes in which these must be coded."""


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """Clusters in all directions, far from zero and of unequal lengths."""
    generator = np.random.default_rng(3)
    centres = 4 * generator.normal(size=(40, WIDTH)) + 1
    values = centres[generator.integers(40, size=COUNT)] + generator.normal(size=(COUNT, WIDTH))
    return values.astype(np.float16)


@pytest.fixture(scope="module")
def present() -> np.ndarray:
    return np.random.default_rng(4).random(COUNT) > 0.1


@pytest.fixture(scope="module")
def file(vectors: Any, present: Any, make_embeddings: Callable[..., Path], tmp_path_factory: Any) -> Any:
    path = make_embeddings(tmp_path_factory.mktemp("made") / "clips.h5", vectors, present)
    with EmbeddingsFile(path) as opened:
        yield opened


def brute_force(vectors: np.ndarray, present: np.ndarray, query: np.ndarray, top: int) -> tuple[list[int], list[float]]:
    scores = np.where(present, vectors.astype(np.float64) @ query.astype(np.float64), -np.inf)
    order = np.argsort(-scores, kind="stable")[:top]
    return order.tolist(), scores[order].tolist()


@pytest.mark.parametrize(("room", "kind"), [(1 << 30, "flat"), (CODED, "ivf-pq")])
def test_the_best_are_those_of_brute_force(
    file: Any, vectors: np.ndarray, present: np.ndarray, tmp_path: Path, room: int, kind: str
) -> None:
    said: list[str] = []
    made = make_index(file, tmp_path / "index", "made", "video", 1 << 30, room, said.append)
    assert made.plan["kind"] == kind and kind in said[0]
    assert (made.count, made.left_out) == (int(present.sum()), int((~present).sum()))
    queries = np.random.default_rng(5).normal(size=(20, WIDTH)).astype(np.float32) + vectors[:20]
    right = 0
    with closing(file.vectors("made", "video")) as exact:
        index = VectorIndex(tmp_path / "index" / "vectors.faiss", exact, IndexPlan(**made.plan))
        for query in queries.astype(np.float32):
            rows, scores = brute_force(vectors, present, query, 10)
            found = index.search(query, 10)
            right += len({row for row, _ in found} & set(rows))
            if kind == "flat":
                assert [row for row, _ in found] == rows
                assert [score for _, score in found] == pytest.approx(scores, rel=1e-6)
            exact_scores = [float(vectors[row].astype(np.float64) @ query.astype(np.float64)) for row, _ in found]
            assert [score for _, score in found] == pytest.approx(exact_scores, rel=1e-6)
            assert exact_scores == sorted(exact_scores, reverse=True)
            assert all(present[row] for row, _ in found)
    assert right >= 0.95 * 10 * len(queries)


def test_a_row_left_out_is_replaced_by_the_next(file: Any, vectors: np.ndarray, present: Any, tmp_path: Path) -> None:
    make_index(file, tmp_path, "made", "video", 1 << 30, 1 << 30, lambda text: None)
    query = vectors[7].astype(np.float32)
    rows, _ = brute_force(vectors, present, query, 6)
    with closing(file.vectors("made", "video")) as exact:
        index = VectorIndex(tmp_path / "vectors.faiss", exact, IndexPlan("flat"))
        assert [row for row, _ in index.search(query, 5, without=rows[:1])] == rows[1:]


def test_lists_are_added_until_enough_is_found(file: Any, present: np.ndarray, tmp_path: Path) -> None:
    """Queries unlike the vectors find little in one list: what is tuned finds it, and says truly how much."""
    rows = np.flatnonzero(present)
    queries = np.random.default_rng(9).normal(size=(32, WIDTH)).astype(np.float32)
    poor = IndexPlan("ivf-pq", 25, 1, 256, 8, 24, 1024)
    with closing(file.vectors("made", "video")) as exact:
        build_index(tmp_path / "v.faiss", exact, rows, poor)
        before = VectorIndex(tmp_path / "v.faiss", exact, poor)
        plan, recall = tuned(tmp_path / "v.faiss", exact, rows, queries, poor)
        after = VectorIndex(tmp_path / "v.faiss", exact, plan)
        best = exact_best(exact, rows, queries, 10)

        pairs = list(zip(queries, best, strict=True))

        def share(index: VectorIndex) -> float:
            return float(np.mean([[s >= b[-1] - 1e-3 for _, s in index.search(q, 10)] for q, b in pairs]))

        assert plan.probes > 1 and recall >= 0.95
        assert share(after) == pytest.approx(recall, abs=0.02) and share(before) < share(after)


def test_exact_best_is_brute_force(file: Any, vectors: np.ndarray, present: np.ndarray) -> None:
    queries = np.random.default_rng(6).normal(size=(3, WIDTH)).astype(np.float32)
    with closing(file.vectors("made", "video")) as exact:
        found = exact_best(exact, np.flatnonzero(present), queries, 7)
        assert np.concatenate([rows for _, rows in exact.blocks(1000)]).shape == vectors.shape
    for row, query in zip(found, queries, strict=True):
        assert row.tolist() == pytest.approx(brute_force(vectors, present, query, 7)[1], rel=1e-4)


@pytest.mark.parametrize("count", [10, 5_000, 1_000_000, 20_000_000])
@pytest.mark.parametrize("width", [8, 30, 512, 4096])
@pytest.mark.parametrize("room", [320 << 20, 832 << 20, 32 << 30])
def test_a_plan_stays_within_its_room(count: int, width: int, room: int) -> None:
    try:
        plan = plan_index(count, width, room)
    except InputError as error:
        assert "raise --memory" in str(error)
        assert count * 12 > 0.3 * room or (width > 1024 and 5 * 4 * width**2 > room)
        return
    if plan.kind == "flat":
        assert count * width * 4 <= room / 2 or count < FEWEST_CODED
        return
    # Codes and numbers, at worst twice while they grow; the sample in all its copies.
    assert 2 * count * (plan.code_bytes + 8) <= 0.61 * room
    assert 2 * plan.sample * plan.width * 4 <= 0.51 * room
    assert plan.width % plan.code_bytes == 0 and 0 < plan.width <= width
    assert 1 <= plan.probes <= plan.lists <= plan.sample // 40 and plan.sample <= count


def test_nan_is_refused_and_never_ranked(
    vectors: np.ndarray, make_embeddings: Callable[..., Path], tmp_path: Path
) -> None:
    spoilt = vectors[:50].copy()
    spoilt[17, 3] = np.nan
    path = make_embeddings(tmp_path / "clips.h5", spoilt)
    with EmbeddingsFile(path) as opened, closing(opened.vectors("made", "video")) as exact:
        with pytest.raises(InputError, match="clip 17 has NaN"):
            build_index(tmp_path / "v.faiss", exact, np.arange(50), IndexPlan("flat"))
        rows = np.delete(np.arange(50), 17)
        build_index(tmp_path / "v.faiss", exact, rows, IndexPlan("flat"))
        index = VectorIndex(tmp_path / "v.faiss", exact, IndexPlan("flat"))
        with pytest.raises(InputError, match="query's vector holds NaN"):
            index.search(np.full(WIDTH, np.nan, np.float32), 5)


def test_a_changed_file_is_told(file: Any, vectors: np.ndarray, make_embeddings: Any, tmp_path: Path) -> None:
    path = make_embeddings(tmp_path / "clips.h5", vectors[:50])
    assert damage(path) == ""
    with EmbeddingsFile(path) as opened:
        offset = opened.dataset("vectors/made/video").id.get_offset()
    with open(path, "r+b") as raw:
        raw.seek(offset + 10)
        raw.write(b"\x01\x02")
    assert damage(path) == "vectors/made/video doesn't match its sha256"
    with EmbeddingsFile(path) as opened, closing(opened.vectors("made", "video")) as exact:
        path.write_bytes(path.read_bytes()[: offset + 100])
        with pytest.raises(InputError, match="was cut short"):
            exact.read(np.arange(50))


def test_a_cut_index_is_one_line(file: Any, tmp_path: Path) -> None:
    make_index(file, tmp_path, "made", "video", 1 << 30, 1 << 30, lambda text: None)
    whole = (tmp_path / "vectors.faiss").read_bytes()
    (tmp_path / "vectors.faiss").write_bytes(whole[: len(whole) // 2])
    with closing(file.vectors("made", "video")) as exact, pytest.raises(InputError, match="not a whole index"):
        VectorIndex(tmp_path / "vectors.faiss", exact, IndexPlan("flat"))
