"""Stored videos computed anew from their media and compared row by row."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from pipeline.core.errors import InputError
from pipeline.core.records import VideoFeatures
from pipeline.dataset.caption_store import open_captions
from pipeline.dataset.folder import read_description
from pipeline.dataset.shard_plans import shard_path
from pipeline.dataset.shard_reader import Array, FeatureFile, columns
from pipeline.download.media import MediaFinder
from pipeline.extraction.features import Extracted, FeatureExtractor
from pipeline.extraction.prepare import prepare_weights
from pipeline.extraction.settings import settings_of

LEAST_COSINE = 0.999
"""Rows of one video agree so well across processor types; less is a fault."""


def compare(dataset: Path, chosen: Sequence[tuple[str, str]], media: Path | None) -> tuple[list[str], list[str]]:
    """Compute the `chosen` (shard, video id) anew; returns problems and notes, a line each."""
    settings = settings_of(dataset, media)
    identity = read_description(dataset)["identity"]
    captions, finder = open_captions(dataset, identity["captions"], settings.captions), MediaFinder(settings.media)
    paths = {video_id: finder.find(video_id) for _, video_id in chosen}
    videos = [(video_id, path) for video_id, path in paths.items() if path is not None]
    if not videos:
        raise InputError(f"{settings.media}: holds none of the {len(chosen)} videos to compare; give --media")
    shard_of = {video_id: name for name, video_id in chosen}
    problems: list[str] = []
    equal, least = 0, 1.0
    with FeatureExtractor(settings, identity, prepare_weights(settings)) as extractor:
        for video_id, result in extractor.extract(videos, captions.of if captions else lambda _: ()):
            if not isinstance(result, Extracted):
                problems.append(f"video {video_id}: stored, but can't be computed anew: {result}")
                continue
            with FeatureFile(shard_path(dataset, shard_of[video_id])) as file:
                stored = file.video(file.video_ids.index(video_id))
            differing, cosine = _differences(stored, result.features)
            equal += not differing and cosine == 1.0
            least = min(least, cosine)
            if differing or cosine < LEAST_COSINE:
                what = ", ".join([*differing, *([f"rows (cosine {cosine:.4f})"] if cosine < LEAST_COSINE else [])])
                problems.append(f"video {video_id}: computed anew it differs in {what}")
    notes = [
        f"{len(videos)} videos were computed anew: {equal} are equal to the bit, least cosine of a row {least:.5f}"
    ]
    if len(videos) < len(chosen):
        notes.append(f"{len(chosen) - len(videos)} videos chosen for comparison have no media")
    return problems, notes


def _differences(stored: VideoFeatures, anew: VideoFeatures) -> tuple[list[str], float]:
    """Columns that differ where they may not, and the least cosine of a row with its twin; 1 if all bits are equal."""
    differing, least = [], 1.0
    rows = {*stored.video, "davenet", "logmel"}
    again = columns(anew)
    for name, values in columns(stored).items():
        other = again[name]
        if name == "decoder" or (values.shape == other.shape and values.tobytes() == other.tobytes()):
            continue
        if name not in rows or values.shape != other.shape:
            differing.append(name)
        else:
            # Equal to the bit alone counts as 1.
            least = min([least, np.nextafter(1.0, 0.0), *_cosines(values, other)])
    return differing, float(least)


def _cosines(a: Array, b: Array) -> Iterable[float]:
    a, b = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    cosines: Array = np.where(both_zero, 1.0, (a * b).sum(axis=1) / np.where(lengths == 0, 1.0, lengths))
    return cosines.tolist()
