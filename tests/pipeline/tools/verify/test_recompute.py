"""Stored videos beside the same computed anew: what counts as equal, as near enough, and as a fault."""

import copy
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extractors.errors import MediaError
from pipeline.core.errors import InputError
from pipeline.core.records import VideoFeatures
from pipeline.dataset.shard_plans import closed_names, shard_path
from pipeline.dataset.shard_reader import FeatureFile
from pipeline.extraction.features import Extracted
from pipeline.extraction.settings import ExtractSettings
from pipeline.tools.verify import repair as recompute

Result = VideoFeatures | MediaError
Compare = Callable[[Callable[[VideoFeatures], Result]], tuple[list[str], list[str]]]


@pytest.fixture
def compare(tmp_path: Path, planted: Any, monkeypatch: pytest.MonkeyPatch) -> Compare:
    """`compare(change)`: problems and notes when the first video comes out changed, and another as it is stored."""
    dataset, media = Path(shutil.copytree(planted.folder, tmp_path / "dataset")), tmp_path / "media"
    media.mkdir()
    chosen, stored = [], {}
    for name in closed_names(dataset):
        with FeatureFile(shard_path(dataset, name)) as file:
            chosen.append((name, file.video_ids[1]))
            stored[file.video_ids[1]] = file.video(1)
    for video_id in stored:
        (media / f"{video_id}.mp4").touch()
    changes: list[Callable[[VideoFeatures], Result]] = []

    class Extractor:
        """In place of decoder and networks."""

        def __init__(self, *given: object) -> None: ...

        def __enter__(self) -> "Extractor":
            return self

        def __exit__(self, *exception: object) -> None: ...

        def extract(self, videos: Iterable[tuple[str, Path]], captions_of: object) -> Iterator[tuple[str, object]]:
            for video_id, _ in videos:
                anew = copy.deepcopy(stored[video_id])
                result = changes[0](anew) if video_id == chosen[0][1] else anew
                yield video_id, result if isinstance(result, MediaError) else Extracted(result, ())

    monkeypatch.setattr(recompute, "FeatureExtractor", Extractor)
    monkeypatch.setattr(recompute, "settings_of", lambda *given: ExtractSettings(media, dataset))
    monkeypatch.setattr(recompute, "prepare_weights", lambda settings: {})
    monkeypatch.setattr(recompute, "open_captions", lambda *given: None)

    def call(change: Callable[[VideoFeatures], Result]) -> tuple[list[str], list[str]]:
        changes[:] = [change]
        return recompute.compare(dataset, chosen, None)

    return call


def test_the_same_bits_are_equal(compare: Compare) -> None:
    problems, (note,) = compare(lambda video: video)
    assert problems == [] and note == (
        "2 videos were computed anew: 2 are equal to the bit, least cosine of a row 1.00000"
    )


def test_another_decoder_with_the_same_rows_is_no_difference(compare: Compare) -> None:
    problems, (note,) = compare(lambda video: replace(video, decoder="pyav"))
    assert problems == [] and "2 are equal to the bit" in note


def rows(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[VideoFeatures], VideoFeatures]:
    """The video with these rows of its stream."""
    return lambda video: replace(video, video={name: change(values) for name, values in video.video.items()})


def test_rows_of_another_processor_are_near_enough_and_not_called_equal(compare: Compare) -> None:
    problems, (note,) = compare(rows(lambda values: (values * 1.001).astype(np.float16)))
    assert problems == [] and "1 are equal to the bit, least cosine of a row 1.00000" in note


def turned(values: np.ndarray) -> np.ndarray:
    """The last row at a right angle to what it was."""
    values = values.copy()
    first, second = values[-1, :2].astype(float)
    values[-1] = 0
    values[-1, :2] = -second, first
    return values


def blank(values: np.ndarray) -> np.ndarray:
    """The last row masked."""
    values = values.copy()
    values[-1] = 0
    return values


def slightly(values: np.ndarray) -> np.ndarray:
    """The first row at a cosine of 0.9988 to what it was."""
    values = values.copy()
    row = values[0].astype(float)
    other = np.roll(row, 1)
    other -= row * (other @ row) / (row @ row)
    values[0] = row + 0.049 * other * np.linalg.norm(row) / np.linalg.norm(other)
    return values


@pytest.mark.parametrize(("change", "least"), [(blank, "0.0000"), (slightly, "0.9988")])
def test_one_row_that_is_another_is_a_fault(
    compare: Compare, change: Callable[[np.ndarray], np.ndarray], least: str
) -> None:
    (problem,), _ = compare(rows(change))
    assert problem.endswith(f": computed anew it differs in rows (cosine {least})")


def test_a_turned_row_is_a_fault(compare: Compare) -> None:
    (problem,), (note,) = compare(rows(turned))
    assert "computed anew it differs in rows (cosine " in problem and "1 are equal to the bit" in note


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda video: replace(video, duration=video.duration + 0.001), "duration"),
        (lambda video: replace(video, video_mask=~video.video_mask), "video_mask"),
        (lambda video: replace(video, audio_mask=~video.audio_mask), "audio_mask"),
        (lambda video: replace(video, logmel=video.logmel[:-1]), "logmel"),
        (lambda video: replace(video, logmel_start=1.0), "logmel_start"),
        (lambda video: replace(video, captions=video.captions[1:] + video.captions[:1]), "times, text"),
    ],
    ids=["duration", "video mask", "audio mask", "length", "start", "captions"],
)
def test_what_no_processor_changes_must_be_the_same(
    compare: Compare, change: Callable[[VideoFeatures], Result], named: str
) -> None:
    (problem,), (note,) = compare(change)
    said = problem.partition(": computed anew it differs in ")[2].split(", ")
    assert set(named.split(", ")) <= set(said) and not any("cosine" in word for word in said)
    assert "1 are equal to the bit" in note


def test_a_video_that_gives_nothing_any_more_is_a_fault(compare: Compare) -> None:
    (problem,), _ = compare(lambda video: MediaError("undecodable", "it is spoilt"))
    assert "stored, but can't be computed anew: it is spoilt" in problem


def test_without_media_there_is_nothing_to_compare(
    tmp_path: Path, planted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recompute, "settings_of", lambda *given: ExtractSettings(tmp_path, planted.folder))
    monkeypatch.setattr(recompute, "open_captions", lambda *given: None)
    with pytest.raises(InputError, match="holds none of the 1 videos to compare; give --media"):
        recompute.compare(planted.folder, [("000000", "train000000")], None)
