"""Nearest vectors by inner product: FAISS finds candidates, the exact vectors, read from their file, rank them.

N vectors of width D. What FAISS holds is either all of them (`flat`), or codes of a few bytes in inverted lists
(`ivf-pq`: an inverted file with product quantisation, after a projection to principal directions where D is large).
FAISS takes a tenth of a second and 40 MB to load: only what needs it does.
"""

import errno
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.core.files import write_aside
from pipeline.search.embeddings import BLOCK_BYTES, VectorRows

RESERVE = 192 << 20
"""Bytes that Python and the libraries take by themselves, without PyTorch."""
FEWEST_CODED = 1024
"""Fewer vectors than this are never compressed: a quantiser of 256 codes can't be learnt from them."""
WIDEST = 1024
"""Wider vectors are projected to so many principal directions before they are coded."""
PROJECTION_COPIES = 5
"""Matrices of D x D that are held at once to find the principal directions."""
MOST_CODE_BYTES = 128
FEWEST_CODE_BYTES = 4
SCANNED = 32_768
"""Codes that a query looks at to begin with."""
DEPTHS = (256, 512, 1024, 2048, 4096)
"""Candidates that are ranked by their exact vectors: the smallest of these that finds enough."""
AIM = 0.98
"""Recall@10 of the sampled queries up to which lists and candidates are added."""
QUERIES = 64
"""Sampled to choose these by."""

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class IndexPlan:
    """How vectors are held; chosen by `plan_index` from their number and width and the memory there is."""

    kind: Literal["flat", "ivf-pq"]
    lists: int = 0
    """Inverted lists."""
    probes: int = 0
    """Lists that a query looks into."""
    depth: int = 0
    """Candidates that are ranked by their exact vectors."""
    code_bytes: int = 0
    """Of one vector's code."""
    width: int = 0
    """Of the vectors that are coded; below D they are projected first."""
    sample: int = 0
    """Vectors that lists, projection and codes are learnt from."""

    def __str__(self) -> str:
        if self.kind == "flat":
            return "flat (all vectors as they are)"
        return f"ivf-pq ({self.lists} lists, {self.code_bytes} bytes a vector, coded from {self.width} dimensions)"


def plan_index(count: int, width: int, room: int) -> IndexPlan:
    """The plan for `count` vectors of `width` in `room` bytes; InputError says how much more room it takes."""
    if count < FEWEST_CODED or count * width * 4 <= room // 2:
        return IndexPlan("flat")
    # Codes grow list by list, by doubling: up to twice their size while they are added, beside the block in hand.
    affordable = int(0.3 * room / count) - 8
    if affordable < FEWEST_CODE_BYTES:
        needed = math.ceil(count * (8 + FEWEST_CODE_BYTES) / 0.3) + RESERVE
        raise InputError(f"{count:,} vectors take at least {needed / 2**30:.1f} GiB: raise --memory")
    if width > WIDEST and PROJECTION_COPIES * 4 * width**2 > room:
        needed = PROJECTION_COPIES * 4 * width**2 + RESERVE
        raise InputError(f"vectors of width {width} take at least {needed / 2**30:.1f} GiB to project: raise --memory")
    code_bytes = 1 << int(math.log2(min(affordable, max(1, width // 2), MOST_CODE_BYTES)))
    sample = min(count, max(FEWEST_CODED, room // 4 // (4 * min(width, WIDEST)), 256), 1 << 17)
    lists = max(1, min(int(2 * math.sqrt(count)), sample // 40))
    return IndexPlan(
        kind="ivf-pq",
        lists=lists,
        probes=min(lists, max(8, math.ceil(SCANNED * lists / count))),
        depth=DEPTHS[0],
        code_bytes=code_bytes,
        width=min(width, WIDEST) // code_bytes * code_bytes,
        sample=sample,
    )


def build_index(path: Path, vectors: VectorRows, rows: Rows, plan: IndexPlan, seed: int = 0) -> None:
    """Write the index of `vectors[rows]` to `path`, whole or not at all; its numbers are those of `rows`."""
    import faiss

    index = (
        faiss.IndexIDMap2(faiss.IndexFlatIP(vectors.width))
        if plan.kind == "flat"
        else _trained(vectors, rows, plan, seed)
    )
    # Vectors of length 1 in the mean, as the lists' centroids are: their order by inner product stays.
    scale = np.float32(1) if plan.kind == "flat" else _scale(vectors, rows, plan, seed)
    for part, block in _blocks(vectors, rows):
        index.add_with_ids(block * scale, rows[part])
    with write_aside(path) as aside:
        try:
            faiss.write_index(index, str(aside))
        except RuntimeError as error:  # how FAISS tells of a full disk
            raise OSError(errno.ENOSPC, f"no room on the disk ({str(error)[-80:]})") from None


def _sample(vectors: VectorRows, rows: Rows, plan: IndexPlan, seed: int) -> Rows:
    return np.sort(np.random.default_rng(seed).choice(rows, plan.sample, replace=False))


def _scale(vectors: VectorRows, rows: Rows, plan: IndexPlan, seed: int) -> np.float32:
    sample = vectors.read(_sample(vectors, rows, plan, seed)[:: max(1, plan.sample // 4096)])
    return np.float32(1 / max(math.sqrt(float(np.square(sample).sum(axis=1).mean())), 1e-20))


def _blocks(vectors: VectorRows, rows: Rows) -> Iterator[tuple[slice, Floats]]:
    """The vectors of `rows`, a block at a time, each with the part of `rows` that it holds."""
    step = max(1, BLOCK_BYTES // (4 * vectors.width))
    for first in range(0, len(rows), step):
        part = slice(first, first + step)
        yield part, vectors.read(rows[part])


def _trained(vectors: VectorRows, rows: Rows, plan: IndexPlan, seed: int) -> Any:
    """An empty index whose lists and codes are learnt from a sample."""
    import faiss

    chosen = _sample(vectors, rows, plan, seed)
    scale = _scale(vectors, rows, plan, seed)
    projection = None
    if plan.width < vectors.width:
        projection = _principal_directions(vectors, chosen, plan.width, seed)
    sample = np.empty((len(chosen), plan.width), np.float32)
    for part, block in _blocks(vectors, chosen):
        block = block * scale
        sample[part] = block if projection is None else block @ projection.T
    lists = faiss.IndexFlatIP(plan.width)
    index = faiss.IndexIVFPQ(lists, plan.width, plan.lists, plan.code_bytes, 8, faiss.METRIC_INNER_PRODUCT)
    # FAISS writes a warning for each small cluster otherwise.
    index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1
    index.cp.seed = index.pq.cp.seed = seed + 1
    index.train(sample)
    if projection is None:
        return index
    linear = faiss.LinearTransform(vectors.width, plan.width, False)
    faiss.copy_array_to_vector(projection.ravel(), linear.A)
    linear.is_trained = True
    return faiss.IndexPreTransform(linear, index)


def _principal_directions(vectors: VectorRows, chosen: Rows, width: int, seed: int) -> Floats:
    """[width, D]: orthonormal directions that keep most of the vectors' length, turned at random among themselves.

    No mean is taken off, which would change the order by inner product; turned, since codes share out what the
    directions hold best when it is equal in all.
    """
    total = np.zeros((vectors.width, vectors.width), np.float32)
    for _, block in _blocks(vectors, chosen):
        total += block.T @ block
    _, directions = np.linalg.eigh(total)
    turn, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((width, width)).astype(np.float32))
    return np.ascontiguousarray(turn @ directions[:, ::-1][:, :width].T, np.float32)


class _Faiss(Protocol):
    d: int
    """Width of the vectors."""
    metric_type: int

    def search(self, queries: Floats, k: int) -> tuple[Floats, Rows]:
        """Scores and numbers [Q, k], best first; -1 where there are fewer."""


class VectorIndex:
    """An index opened for search: what FAISS holds is mapped into memory, the exact vectors are read by row."""

    def __init__(self, path: Path, vectors: VectorRows, plan: IndexPlan) -> None:
        import faiss

        self.path, self.plan, self._vectors = path, plan, vectors
        try:
            self._index: _Faiss = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
            if plan.kind == "ivf-pq":
                faiss.extract_index_ivf(self._index).nprobe = plan.probes
        except (RuntimeError, MemoryError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][-100:]
            raise InputError(f"{path}: not a whole index ({reason}); make it anew with `mcn index`") from None
        if (self._index.d, self._index.metric_type) != (vectors.width, faiss.METRIC_INNER_PRODUCT):
            raise InputError(
                f"{path}: an index of width {self._index.d}, expected {vectors.width} and inner products, as "
                f"{vectors.path} has; make it anew with `mcn index`"
            )

    def search(self, query: Floats, top: int, without: Collection[int] = ()) -> list[tuple[int, float]]:
        """The best `top` (row, inner product) for a query [D], best first, rows in `without` left out.

        InputError when the query, or a vector, holds NaN or infinity.
        """
        if not np.isfinite(query).all():
            raise InputError("the query's vector holds NaN or infinity: its scores mean nothing; train the model anew")
        candidates = self.candidates(query[None], max(self.plan.depth, 10 * top, top + len(without)))[0]
        rows = candidates[(candidates >= 0) & ~np.isin(candidates, list(without))]
        scores = self.exact_scores(query, rows)
        best = np.lexsort((rows, -scores))[:top]
        return list(zip(rows[best].tolist(), scores[best].tolist(), strict=True))

    def candidates(self, queries: Floats, count: int) -> Rows:
        """Rows [Q, count] that FAISS finds, best first by its codes; -1 where there are fewer.

        InputError for the number of a row that the vectors' file doesn't have.
        """
        import faiss

        threads = faiss.omp_get_max_threads()
        # One query is one thread's work; others would wait for it and, on a busy machine, make it wait.
        faiss.omp_set_num_threads(1 if len(queries) == 1 else threads)
        try:
            rows = self._index.search(np.ascontiguousarray(queries, np.float32), count)[1]
        finally:
            faiss.omp_set_num_threads(threads)
        if rows.max(initial=-1) >= self._vectors.count:
            raise InputError(
                f"{self.path}: names clip {rows.max()}, {self._vectors.path} has {self._vectors.count}; make it anew "
                "with `mcn index`"
            )
        return rows

    def exact_scores(self, query: Floats, rows: Rows) -> NDArray[np.float64]:
        """Inner products [n] of a query [D] with the stored vectors."""
        return np.asarray(self._vectors.read(rows).astype(np.float64) @ query.astype(np.float64))


def exact_best(vectors: VectorRows, rows: Rows, queries: Floats, top: int) -> NDArray[np.float64]:
    """Inner products [Q, top] of each query with its `top` best of `vectors[rows]`, best first, by looking at all."""
    selected = np.zeros(vectors.count, bool)
    selected[rows] = True
    best = np.full((len(queries), top), -np.inf)
    for first, block in vectors.blocks():
        scores = queries @ block[selected[first : first + len(block)]].T
        both = np.concatenate([best, scores.astype(np.float64)], axis=1)
        best = -np.sort(np.partition(-both, top - 1, axis=1)[:, :top], axis=1)
    return best


def tuned(path: Path, vectors: VectorRows, rows: Rows, queries: Floats, plan: IndexPlan) -> tuple[IndexPlan, float]:
    """The plan with as many lists and candidates as the sampled queries need, and its recall@10 by them.

    A candidate counts as found when its exact score is among the ten best, so that equal clips stand for each other.
    """
    if plan.kind == "flat":
        return plan, 1.0
    top = min(10, len(rows))
    best = exact_best(vectors, rows, queries, top)
    least = best[:, -1] - 1e-4 * np.abs(best[:, -1])
    recall, probes = 0.0, plan.probes
    while True:
        index = VectorIndex(path, vectors, replace(plan, probes=probes))
        candidates = index.candidates(queries, min(DEPTHS[-1], len(rows)))
        right = np.zeros(candidates.shape, bool)
        for number, query in enumerate(queries):
            valid = candidates[number] >= 0
            right[number, valid] = index.exact_scores(query, candidates[number, valid]) >= least[number]
        for depth in DEPTHS:
            recall = float(np.minimum(right[:, :depth].sum(axis=1), top).mean() / top)
            if recall >= AIM:
                return replace(plan, probes=probes, depth=depth), recall
        if probes == plan.lists:
            return replace(plan, probes=probes, depth=DEPTHS[-1]), recall
        probes = min(2 * probes, plan.lists)
