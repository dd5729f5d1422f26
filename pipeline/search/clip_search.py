"""An index and its clips, opened: the clips nearest to a vector, or to another clip. Knows no model and no PyTorch."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.core.errors import InputError
from pipeline.core.terminal_text import plain
from pipeline.search.embeddings import EmbeddingsFile, FoundClip
from pipeline.search.index import VECTORS, IndexDescription, read_description
from pipeline.search.vector_index import Floats, IndexPlan, VectorIndex


@dataclass(frozen=True)
class Found:
    """A clip and its score, an inner product."""

    clip: FoundClip
    score: float


class ClipSearch:
    """Opens an index folder with the embeddings it was made of. InputError when either is missing or was changed."""

    def __init__(self, folder: Path, embeddings: Path | None = None) -> None:
        self.folder = folder
        self.description: IndexDescription = read_description(folder)
        self._file = self._embeddings(embeddings)
        try:
            self._vectors = self._file.vectors(self.description.space, self.description.modality)
        except InputError:
            self._file.close()
            raise
        try:
            self._index = VectorIndex(folder / VECTORS, self._vectors, IndexPlan(**self.description.plan))
        except InputError:
            self.close()
            raise

    def __enter__(self) -> "ClipSearch":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._vectors.close()
        self._file.close()

    def _embeddings(self, given: Path | None) -> EmbeddingsFile:
        there = self.description.embeddings
        places = [Path(there["path"]), self.folder / there["relative"]] if given is None else [given]
        others = []
        for place in places:
            if place.is_file() or given is not None:
                file = EmbeddingsFile(place)
                if file.digest == there["digest"]:
                    return file
                file.close()
                others.append(place)
        if others:
            raise InputError(
                f"{others[0]}: not the embeddings that {self.folder} was made of; index anew, or give --embeddings"
            )
        raise InputError(f"{places[0]}: gone, and {self.folder} was made of it; give the file with --embeddings")

    @property
    def holds_text(self) -> bool:
        """Whether texts have vectors in the index's space."""
        return "text" in self._file.made_of.widths[self.description.space]

    def nearest(self, query: Floats, top: int, without: Collection[int] = ()) -> list[Found]:
        """The best `top` clips for a query [D], best first, rows in `without` left out."""
        return [Found(self._file.clip(row), score) for row, score in self._index.search(query, top, without)]

    def like(self, video_id: str, seconds: float, top: int) -> tuple[FoundClip, list[Found]]:
        """The clip of a video at `seconds`, and the others nearest to it.

        Of several that contain the second, the one whose middle is nearest to it; of none, the nearest clip.
        """
        rows = self._file.rows_of(video_id)
        modality = self.description.modality
        if not rows:
            raise InputError(
                f"--like {plain(video_id, 80)}: {self._file.path} holds no such video, "
                f"but {len(self._file.video_ids)} others, e.g. {', '.join(self._file.video_ids[:3])}"
            )
        times = self._file.times(rows)
        away = np.maximum(np.maximum(times[:, 0] - seconds, seconds - times[:, 1]), 0)
        # Half-open: a clip that ends at the second doesn't contain it.
        away = np.where((away == 0) & (times[:, 1] <= seconds), np.finfo(float).tiny, away)
        present = self._file.present(modality)[rows.start : rows.stop]
        if not present.any():
            raise InputError(f"--like {video_id}: none of its clips has {modality}")
        order = np.lexsort((np.abs(times.mean(axis=1) - seconds), np.where(present, away, math.inf)))
        row = rows[int(order[0])]
        query = self._vectors.read(np.array([row]))[0]
        return self._file.clip(row), self.nearest(query, top, without=(row,))
