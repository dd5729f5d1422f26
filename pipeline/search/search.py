"""`mcn search`: the clips of an index that fit a text, or that are like another clip."""

import json
import math
import sys
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from extractors.thumbnails import frame_jpeg
from pipeline.core.errors import InputError
from pipeline.core.files import Closeable, write_aside
from pipeline.core.formatting import plain
from pipeline.core.reporting import RunSummary
from pipeline.core.video_ids import is_media_name
from pipeline.dataset.folder import made_from
from pipeline.download.media import MediaFinder
from pipeline.search.embeddings import EmbeddingsFile, IndexedClip
from pipeline.search.index import VECTORS, IndexDescription, read_description, recorded_place
from pipeline.search.settings import SearchSettings
from pipeline.search.vector_index import Floats, IndexPlan, VectorIndex


@dataclass(frozen=True)
class SearchResult:
    """A clip and its score, an inner product."""

    clip: IndexedClip
    score: float


class ClipSearch(Closeable):
    """Opens an index folder with the embeddings it was made of. InputError when either is missing or was changed."""

    def __init__(self, folder: Path, embeddings: Path | None = None) -> None:
        self.folder = folder
        self.description: IndexDescription = read_description(folder)
        with ExitStack() as files:
            self._file = files.enter_context(self._embeddings(embeddings))
            space, modality = self.description.space, self.description.modality
            if modality not in self._file.made_of.widths.get(space, {}):
                raise InputError(
                    f"{self._file.path}: holds no {modality} in space {space}, of which {folder} says to be an index; "
                    "make it anew with `mcn index`"
                )
            self._vectors = files.enter_context(self._file.vectors(space, modality))
            self._index = VectorIndex(folder / VECTORS, self._vectors, IndexPlan(**self.description.plan))
            # Open beyond this block, since nothing was wrong.
            self._files = files.pop_all()

    def close(self) -> None:
        """Close the files."""
        self._files.close()

    def _embeddings(self, given: Path | None) -> EmbeddingsFile:
        recorded = self.description.embeddings
        candidates = [Path(recorded["path"]), self.folder / recorded["relative"]] if given is None else [given]
        others = []
        for candidate in candidates:
            if candidate.is_file() or given is not None:
                file = EmbeddingsFile(candidate)
                if file.digest == recorded["digest"]:
                    return file
                file.close()
                others.append(candidate)
        if others:
            raise InputError(
                f"{others[0]}: not the embeddings that {self.folder} was made of; index anew, or give --embeddings"
            )
        raise InputError(f"{candidates[0]}: gone, and {self.folder} was made of it; give the file with --embeddings")

    @property
    def holds_text(self) -> bool:
        """Whether texts have vectors in the index's space."""
        return "text" in self._file.made_of.widths[self.description.space]

    def nearest(self, query: Floats, top: int, without: Collection[int] = ()) -> list[SearchResult]:
        """The best `top` clips for a query [D], best first, rows in `without` left out."""
        return [SearchResult(self._file.clip(row), score) for row, score in self._index.search(query, top, without)]

    def like(self, video_id: str, seconds: float, top: int) -> tuple[IndexedClip, list[SearchResult]]:
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


_CAPTION = 72
"""Characters of a caption that a line shows."""
_ID = 64


def run(settings: SearchSettings) -> RunSummary:
    """Prints what it finds; complete when there is a clip. InputError for a query that can't be answered."""
    report = RunSummary("search", unit="clip")
    if settings.like and settings.query.strip():
        raise InputError("mcn search: a query or --like, not both")
    if not settings.like and not settings.query.strip():
        raise InputError("mcn search: the query is empty: give a few words in quotes, or --like VIDEO@SECONDS")
    clip_at = parse_place(settings.like) if settings.like else None
    with ClipSearch(settings.index, settings.embeddings) as search:
        description = search.description
        if clip_at is not None:
            if settings.checkpoint is not None:
                _text_query().check_checkpoint(settings.index, description, settings.checkpoint, settings.embeddings)
            clip, results = search.like(*clip_at, settings.top)
            shown_query = (
                f"clips like {clip.video_id}, {clip.start:.1f} to {clip.end:.1f} s: {plain(clip.caption, _CAPTION)}"
            )
        else:
            if not search.holds_text:
                raise InputError(f"{settings.index}: space {description.space} holds no text; use --like VIDEO@SECONDS")
            text_query = _text_query()
            model = text_query.open_model(
                settings.index, description, settings.checkpoint, settings.manifest, settings.embeddings
            )
            vector, notes = text_query.embed_query(model, description.space, settings.query)
            report.notes += notes
            results = search.nearest(vector, settings.top)
            shown_query = plain(settings.query, 200)
    manifest = recorded_place(settings.index, description, "manifest", settings.embeddings)
    pictures = _pictures(settings, manifest, results, report.notes)
    report.done = len(results)
    report.complete = bool(results)
    report.detail = {
        "asked": shown_query,
        "space": description.space,
        "modality": description.modality,
        "found": [
            asdict(one.clip) | {"score": round(one.score, 6)} | ({"thumbnail": picture} if picture else {})
            for one, picture in zip(results, pictures, strict=True)
        ],
        "notes": report.notes,
    }
    if settings.json:
        print(json.dumps(report.detail, indent=2, ensure_ascii=False))
    else:
        print("\n".join(_lines(report.detail)))
    for note in report.notes:
        print(f"note: {note}", file=sys.stderr)
    return report.finish()


def _text_query() -> Any:
    # It brings PyTorch, which a search by --like does without.
    import pipeline.search.text_query as text_query

    return text_query


def parse_place(text: str) -> tuple[str, float]:
    """VIDEO@SECONDS as id and seconds; InputError for anything else."""
    video_id, at, number = text.rpartition("@")
    try:
        seconds = float(number)
    except ValueError:
        seconds = math.nan
    if not at or not video_id or not 0 <= seconds < math.inf:
        raise InputError(f"--like {plain(text, 80)}: expected VIDEO@SECONDS, e.g. abcdefghijk@61.5")
    return video_id, seconds


def _pictures(settings: SearchSettings, manifest: Path, results: list[SearchResult], notes: list[str]) -> list[str]:
    """The path of each found clip's picture; "" where there is none, with a note that says why."""
    if settings.thumbnails is None:
        return [""] * len(results)
    media = settings.media or _media_of(manifest)
    if media is None or not media.is_dir():
        if settings.media is not None:
            raise InputError(f"{settings.media}: no such folder; expected the folder of media files for --media")
        notes.append("no thumbnails: the media folder isn't where it was; give --media FOLDER")
        return [""] * len(results)
    finder = MediaFinder(media)
    pictures, lacking = [], 0
    for one in results:
        # An id from someone else's file may be a path.
        path = finder.find(one.clip.video_id) if is_media_name(one.clip.video_id) else None
        middle = (one.clip.start + one.clip.end) / 2
        picture = frame_jpeg(path, middle) if path is not None else b""
        target = settings.thumbnails / f"{one.clip.video_id}_{middle:.2f}.jpg"
        if picture:
            with write_aside(target) as aside:
                aside.write_bytes(picture)
        lacking += not picture
        pictures.append(str(target) if picture else "")
    if lacking:
        notes.append(f"{lacking} clips have no thumbnail: {media} has no media of theirs that can be read")
    return pictures


def _media_of(manifest: Path) -> Path | None:
    """The media folder that the manifest's data set was made from; None when that isn't known any more."""
    try:
        return made_from(manifest.parent.parent, "media")
    except InputError:
        return None


def _lines(detail: dict[str, Any]) -> list[str]:
    lines = [f"{detail['asked']}  ({detail['modality']} in space {detail['space']})"]
    width = max([8, *(len(plain(one["video_id"], _ID)) for one in detail["found"])])
    lines.append(f"{'score':>9}  {'video':<{width}}  {'start':>8}  {'end':>8}  caption")
    for one in detail["found"]:
        video_id, caption = plain(one["video_id"], _ID), plain(one["caption"], _CAPTION) or "-"
        lines.append(f"{one['score']:>9.4f}  {video_id:<{width}}  {one['start']:>8.1f}  {one['end']:>8.1f}  {caption}")
        if "thumbnail" in one:
            lines.append(f"{'':>9}  {one['thumbnail']}")
    return lines
