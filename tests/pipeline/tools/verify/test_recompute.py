"""Stored videos beside the same computed anew: what counts as equal, as near enough, and as a fault."""

import copy
import json
import math
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from extractors.errors import MediaError
from pipeline.core.errors import InputError
from pipeline.core.records import VideoFeatures
from pipeline.dataset.shard_plans import closed_names, shard_path
from pipeline.dataset.shard_reader import FeatureFile
from pipeline.extraction.features import Extracted
from pipeline.extraction.settings import ExtractSettings
from pipeline.tools.verify import repair as recompute
from pipeline.tools.verify.findings import TOLERANCES, compare_video

Result = VideoFeatures | MediaError
Compare = Callable[..., tuple[list[str], list[str]]]
HERE = {"host": "here", "processor": "P", "device": "cpu", "libraries": {"torch": "2.11.0"}}


@pytest.fixture
def compare(tmp_path: Path, planted: Any, monkeypatch: pytest.MonkeyPatch) -> Compare:
    """`compare(change, made)`: problems and notes when the first video comes out changed, and another as it is stored.

    `made`: provenances of the two shards, in which the two videos are.
    """
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

        provenance = HERE

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

    def call(
        change: Callable[[VideoFeatures], Result], made: tuple[dict[str, Any], dict[str, Any]] = (HERE, HERE)
    ) -> tuple[list[str], list[str]]:
        changes[:] = [change]
        by_name = {name: provenance for (name, _), provenance in zip(chosen, made, strict=True)}
        monkeypatch.setattr(FeatureFile, "provenance", property(lambda file: by_name[file.name]))
        return recompute.compare(dataset, chosen, None)

    return call


EXACTLY = "same host, processor, device and libraries: compared exactly"
ELSEWHERE = HERE | {"host": "there", "processor": "Q"}


def test_the_same_bits_are_equal(compare: Compare) -> None:
    problems, (note,) = compare(lambda video: video)
    assert problems == [] and note == f"2 videos were computed anew: 2 are equal to the bit; {EXACTLY}"


def test_another_decoder_with_the_same_rows_is_no_difference(compare: Compare) -> None:
    problems, (note,) = compare(lambda video: replace(video, decoder="pyav"))
    assert problems == [] and "2 are equal to the bit" in note


def rows(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[VideoFeatures], VideoFeatures]:
    """The video with these rows of its stream."""
    return lambda video: replace(video, video={name: change(values) for name, values in video.video.items()})


def one_step(values: np.ndarray) -> np.ndarray:
    """One value of row 3 rounded to float16's next number."""
    values = values.copy()
    values[3, 0] = np.nextafter(values[3, 0], np.float16(np.inf))
    return values


def test_one_bit_is_a_fault_where_the_rows_were_made_and_rounding_elsewhere(compare: Compare) -> None:
    (problem,), (note,) = compare(rows(one_step))
    assert "computed anew it differs in row 3 of resnet152: centred cosine 0.99999" in problem
    assert problem.endswith("expected: equal bits") and note.endswith(EXACTLY)
    problems, notes = compare(rows(one_step), (ELSEWHERE, HERE))
    assert problems == [] and len(notes) == 2
    elsewhere, here = sorted(notes, key=lambda note: note.endswith(EXACTLY))
    assert here == f"1 videos were computed anew: 1 are equal to the bit; {EXACTLY}"
    assert elsewhere.startswith("1 videos were computed anew: 0 are equal to the bit, values are off by up to ")
    assert elsewhere.endswith(
        " of their row's largest; made elsewhere (host there, processor Q): "
        "fp32: centred cosine at least 0.99999, or every value within 0.002 of the largest"
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_rule_is_that_of_the_networks_precision(compare: Compare, tmp_path: Path, precision: str) -> None:
    file = tmp_path / "dataset" / "dataset.json"
    description = json.loads(file.read_text())
    description["identity"]["streams"]["resnet152"]["precision"] = precision
    file.write_text(json.dumps(description))
    problems, (note,) = compare(rows(lambda values: (values * 1.02).astype(np.float16)), ({}, {}))
    assert len(problems) == (precision == "fp32")
    rules = "; ".join(f"{name}: {TOLERANCES[name]}" for name in sorted({precision, "fp32"}))
    assert note.partition("; made elsewhere ")[2] == f"(where is not recorded): {rules}"


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
    for made in (HERE, ELSEWHERE):
        (problem,), notes = compare(change, (made, made))
        said = problem.partition(": computed anew it differs in ")[2].split(", ")
        assert set(named.split(", ")) <= set(said) and not any("cosine" in word for word in said)
        assert "1 are equal to the bit" in notes[0]


PRECISIONS = {"davenet": "fp32", "logmel": "fp32"}
CIRCLE = 40


@pytest.fixture
def on_a_circle(make_video: Callable[..., VideoFeatures]) -> VideoFeatures:
    """A video whose rows turn about their mean by 9 degrees a second, at 0.6 of their length from it."""
    video = make_video("turning", seconds=float(CIRCLE), streams={"stream": 64})
    angles = 2 * np.pi * np.arange(CIRCLE) / CIRCLE
    mean, first, second = np.linalg.qr(np.random.default_rng(2).normal(size=(64, 3)))[0].T
    values = 8 * mean + 6 * (np.outer(np.cos(angles), first) + np.outer(np.sin(angles), second))
    return replace(video, video={"stream": values.astype(np.float16)})


def problems_of(stored: VideoFeatures, values: np.ndarray, precision: str, exact: bool = False) -> list[str]:
    """What is wrong when the rows of `stream` come out as `values`."""
    anew = replace(stored, video={"stream": values.astype(np.float16)})
    return compare_video(stored, anew, PRECISIONS | {"stream": precision}, exact).differences


def turned(stored: VideoFeatures, row: int, angle: float) -> np.ndarray:
    """The rows, of which one is turned about their mean, in the plane of one value: that alone takes up the turn."""
    values = stored.video["stream"].astype(np.float64)
    centre = values.mean(axis=0)
    away = values[row] - centre
    aside = np.eye(len(away))[np.abs(away).argmin()]
    aside -= away * (aside @ away) / (away @ away)
    aside *= np.linalg.norm(away) / np.linalg.norm(aside)
    values[row] = centre + math.cos(angle) * away + math.sin(angle) * aside
    return values


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_row_turned_a_little_too_far_is_a_fault(on_a_circle: VideoFeatures, precision: str) -> None:
    tolerance = TOLERANCES[precision]
    most = math.acos(tolerance.cosine)
    assert problems_of(on_a_circle, turned(on_a_circle, 17, 0.85 * most), precision) == []
    (problem,) = problems_of(on_a_circle, turned(on_a_circle, 17, 1.15 * most), precision)
    match = re.fullmatch(
        r"row 17 of stream: centred cosine (0\.9+\d+), a value off by \S+ of the largest; expected: (.*)", problem
    )
    assert match is not None and match[2] == str(tolerance)
    assert 1 - float(match[1]) == pytest.approx(1 - math.cos(1.15 * most), rel=0.1)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_in_a_still_scene_rounding_is_none_and_more_than_rounding_is(
    on_a_circle: VideoFeatures, precision: str
) -> None:
    generator = np.random.default_rng(3)
    still = np.tile(on_a_circle.video["stream"][0], (CIRCLE, 1)).astype(np.float64)
    step = TOLERANCES[precision].difference * np.abs(still).max()
    values = (still + 0.1 * step * generator.uniform(-1, 1, still.shape)).astype(np.float16)
    stored = replace(on_a_circle, video={"stream": values})
    rounded = still + 0.7 * step * generator.uniform(-1, 1, still.shape)
    assert problems_of(stored, rounded, precision) == []
    rounded[5, 9] = values[5, 9] + 1.2 * step
    (problem,) = problems_of(stored, rounded, precision)
    off = re.match(r"row 5 of stream: .* a value off by (\S+) of the largest;", problem)
    assert off is not None and float(off[1]) == pytest.approx(1.2 * TOLERANCES[precision].difference, rel=0.15)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_row_of_the_next_second_is_a_fault(on_a_circle: VideoFeatures, precision: str) -> None:
    """Of a network in bf16 too, whose values are all rounded to 8 bits."""
    values = on_a_circle.video["stream"].astype(np.float32)
    if precision == "bf16":
        values = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
        assert (values != on_a_circle.video["stream"]).any(axis=1).all()
    assert problems_of(on_a_circle, values, precision) == []
    values[[20, 30]] = values[[21, 31]]
    (problem,) = problems_of(on_a_circle, values, precision)
    assert re.match(r"row [23]0 of stream and 1 more of its rows: centred cosine 0\.98\d+, ", problem)
    cosine = float(re.findall(r"cosine (\S+),", problem)[0])
    assert cosine == pytest.approx(math.cos(2 * math.pi / CIRCLE), abs=1e-3)


def test_sums_shared_among_threads_are_rounding(on_a_circle: VideoFeatures) -> None:
    """A layer of 4096 inputs, by one thread and as two halves that are then added."""
    generator = np.random.default_rng(4)
    inputs = np.maximum(generator.normal(size=(CIRCLE, 4096)), 0).astype(np.float32)
    weights = generator.normal(size=(4096, 64)).astype(np.float32)
    halves = inputs[:, :2048] @ weights[:2048] + inputs[:, 2048:] @ weights[2048:]
    stored = replace(on_a_circle, video={"stream": (inputs @ weights).astype(np.float16)})
    assert problems_of(stored, halves, "fp32") == []
    (problem,) = problems_of(stored, halves, "fp32", exact=True)
    assert " of stream and " in problem and problem.endswith("expected: equal bits")


def test_a_masked_row_that_comes_out_filled_is_a_fault_and_no_part_of_the_mean(on_a_circle: VideoFeatures) -> None:
    values = on_a_circle.video["stream"].copy()
    values[4] = 0
    stored = replace(on_a_circle, video={"stream": values})
    assert problems_of(stored, values * np.float16(1.0005), "fp32") == []
    for others in (on_a_circle.video["stream"], np.zeros_like(values)):
        assert problems_of(stored, others, "bf16")
    (problem,) = problems_of(stored, on_a_circle.video["stream"], "bf16")
    # Without it the mean is off the circle's by a 39th of the radius, in its direction.
    shift = 6 / (CIRCLE - 1)
    match = re.match(r"row 4 of stream: centred cosine (\S+),", problem)
    assert match is not None and float(match[1]) == pytest.approx(shift / math.hypot(8, shift), abs=1e-3)


def test_a_zero_that_has_lost_its_sign_is_a_bit(on_a_circle: VideoFeatures) -> None:
    values = on_a_circle.video["stream"].copy()
    values[7, 0] = 0.0
    stored = replace(on_a_circle, video={"stream": values.copy()})
    values[7, 0] = -0.0
    assert problems_of(stored, values, "fp32") == []
    (problem,) = problems_of(stored, values, "fp32", exact=True)
    assert problem.startswith("row 7 of stream: centred cosine 1.000")


def test_the_document_states_the_tolerances() -> None:
    text = (Path(__file__).parents[4] / "docs" / "data-format.md").read_text(encoding="utf-8")
    for precision, tolerance in TOLERANCES.items():
        assert f"| {precision} | {tolerance.cosine:g} | {tolerance.difference:.2g} |" in text


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
