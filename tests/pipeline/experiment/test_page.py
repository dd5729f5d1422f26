"""The page at the end of a run: one file that shows the scores, with nothing in it run or fetched."""

import base64
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from extractors.thumbnails import thumbnail
from pipeline.experiment.page import EXAMPLES, learning_curves, write_page

COLOURS = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds at 10 fps, a colour a second, 320x180."""
    path = tmp_path_factory.mktemp("media") / "aaaaaaaaaaa.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
        for index in range(30):
            picture = np.full((180, 320, 3), COLOURS[index // 10], np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def picture_of(url: str) -> Image.Image:
    head, _, content = url.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")


@pytest.mark.parametrize(("seconds", "second"), [(0.0, 0), (0.5, 0), (1.5, 1), (2.9, 2), (60.0, 2)])
def test_a_thumbnail_is_the_frame_on_screen(film: Path, seconds: float, second: int) -> None:
    picture = picture_of(thumbnail(film, seconds))
    assert picture.size == (200, 112)
    np.testing.assert_allclose(np.asarray(picture).mean(axis=(0, 1)), COLOURS[second], atol=12)


def test_what_is_no_video_has_no_thumbnail(tmp_path: Path, film: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "cut.mp4").write_bytes(film.read_bytes()[:500])
    for path in (tmp_path / "text.mp4", tmp_path / "cut.mp4", tmp_path / "none.mp4"):
        assert thumbnail(path, 1.0) == ""


@pytest.fixture
def results(tmp_path: Path) -> dict[str, Any]:
    metrics = "epoch,total,contrast/joint/video-text,cluster/joint/video\n1,9.5,3,2\n2,7.25,2,1\n"
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "metrics.csv").write_text(metrics)

    def clip(number: int, **more: Any) -> dict[str, Any]:
        return {"video_id": "aaaaaaaaaaa", "start": 1.0 * number, "end": number + 1.0, "text": f"clip {number}"} | more

    score = {"value": 0.25, "low": 0.125, "high": 0.5}
    examples = [clip(0, text="<script>alert(1)</script> & more")] + [clip(n) for n in range(1, 40)]
    examples = [e | {"found": [clip(n, right=n == 1) for n in range(3)]} for e in examples]
    detail = {
        "direction": "text -> video", "space": "joint", "scheme": "shared",
        "trained on": {"name": "run", "digest": "d" * 64, "videos": 9},
        "clips digest": "c" * 64, "examples": examples,
        "metrics": {
            "queries": 40, "videos": 7, "recall": {"R@1": score}, "chance": {"R@1": 0.025},
            "median_rank": {"value": 3.5, "low": 2, "high": 5}, "chance_median_rank": 20.5,
        },
    }  # fmt: skip
    stage = {"done": 40, "skipped": 0, "failed": {"lost <b>": 2}, "wall_seconds": 1.5, "notes": ["random <weights>"]}
    evaluated = stage | {
        "stage": "evaluate retrieval",
        "detail": detail,
        "asked": {"checkpoint": str(tmp_path / "model")},
    }
    trained = stage | {"stage": "train", "notes": ["random <weights>", "other"], "failed": {}}
    return {"source": "<my> run.yaml", "stages": [trained, evaluated]}


class Elements(HTMLParser):
    """Every element with its attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture
def page(tmp_path: Path, film: Path) -> Callable[[dict[str, Any]], Elements]:
    def write(results: dict[str, Any]) -> Elements:
        write_page(tmp_path / "index.html", results, film.parent)
        return Elements((tmp_path / "index.html").read_text())

    return write


def test_the_page_shows_scores_beside_chance(page: Callable[..., Elements], results: dict[str, Any]) -> None:
    text = page(results).text
    assert "Text to video, on 40 clips of 7 videos" in text
    assert "25.0 %" in text and "12.5 to 50.0 %" in text and "2.5 %" in text
    assert "3.5" in text and "20.5" in text and "d" * 64 in text and "c" * 64 in text


def test_steps_are_drawn_in_time_for_three_videos(page: Callable[..., Elements], results: dict[str, Any]) -> None:
    step = {"text": "<b>cut</b> & stir", "true": [[1.0, 2.0]], "found": [1, 3], "second": 2}
    videos = [{"video_id": f"video{n}", "seconds": 9, "steps": [step, step]} for n in range(7)]
    score = {"value": 0.75, "low": 0.5, "high": 0.875}
    metrics = {"videos": 7, "tasks": 2, "steps": 14, "figures": {"IoD": score}, "chance": {"IoD": 0.1875}}
    detail = {"scheme": "shared", "space": "joint", "metrics": metrics, "steps digest": "e" * 64, "videos": videos}
    counts = {"done": 7, "skipped": 0, "failed": {}, "wall_seconds": 1}
    stage = counts | {"stage": "evaluate localization", "detail": detail, "notes": []}
    for stages in ([*results["stages"], stage], [stage]):
        shown = page(results | {"stages": stages})
        for text in ("Steps in time", "14 steps in 7 videos of 2 tasks", "75.0 %", "50.0 to 87.5 %", "18.8 %"):
            assert text in shown.text
        assert re.findall(r"Steps of video (\w+) over 9 s", shown.text) == ["video0", "video2", "video4"]
        assert sum("-found-" in (group.get("id") or "") for group in shown.of("g")) == 6
        assert "<b>cut</b> & stir" in shown.text and not shown.of("b") and not shown.of("script")


def test_what_comes_from_outside_is_text_and_nothing_else(
    page: Callable[..., Elements], results: dict[str, Any]
) -> None:
    shown = page(results)
    assert not shown.of("script") and not shown.of("b") and not shown.of("my")
    for text in ("<script>alert(1)</script> & more", "random <weights>", "lost <b>: 2", "<my> run.yaml"):
        assert text in shown.text
    assert shown.text.count("random <weights>") == 1, "a note of two stages is shown once"


def test_nothing_is_fetched_and_frames_are_in_the_page(page: Callable[..., Elements], results: dict[str, Any]) -> None:
    shown = page(results)
    images = shown.of("img")
    assert len(images) == 3 * EXAMPLES and all((image["src"] or "").startswith("data:image/jpeg") for image in images)
    assert not shown.of("link") and not shown.of("iframe")
    middle = picture_of(images[1]["src"] or "")
    np.testing.assert_allclose(np.asarray(middle).mean(axis=(0, 1)), COLOURS[1], atol=12)
    frames = [figure["class"] for figure in shown.of("figure")]
    assert frames == ["", "right", ""] * EXAMPLES


def test_without_media_there_are_no_pictures(tmp_path: Path, results: dict[str, Any]) -> None:
    write_page(tmp_path / "index.html", results, tmp_path / "none")
    shown = Elements((tmp_path / "index.html").read_text())
    assert not shown.of("img") and len(shown.of("figure")) == 3 * EXAMPLES


def test_examples_are_spread_over_the_list(page: Callable[..., Elements], results: dict[str, Any]) -> None:
    text = page(results).text
    shown = [int(number) for number in re.findall(r"“clip (\d+)”", text)]
    assert shown == [5, 10, 15, 20, 25, 30, 35]


def test_learning_curves_are_one_drawing_with_a_line_a_term(results: dict[str, Any], tmp_path: Path) -> None:
    drawing = learning_curves(tmp_path / "model" / "metrics.csv")
    assert drawing.startswith("<svg") and drawing == learning_curves(tmp_path / "model" / "metrics.csv")
    # One group of axes a kind of term: total, contrast, cluster.
    assert len(re.findall(r'<g id="axes_\d+">', drawing)) == 3
    (tmp_path / "model" / "metrics.csv").write_text("epoch,total\n1,2.5\n")
    assert len(re.findall(r'<g id="axes_\d+">', learning_curves(tmp_path / "model" / "metrics.csv"))) == 1
