"""The page at the end of a run: scores, what was found for which text, learning curves; one file, no network."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from pipeline.core.figures import as_svg
from pipeline.core.files import write_text
from pipeline.core.thumbnails import thumbnail
from pipeline.download.media import find_media
from pipeline.evaluation.timeline import spread, timeline
from pipeline.metrics.localization import FIGURES

EXAMPLES = 8


def learning_curves(metrics: Path) -> str:
    """Every loss term over epochs, as an SVG text."""
    with open(metrics, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    terms = [name for name in rows[0] if name != "epoch"]
    kinds = list(dict.fromkeys(name.split("/")[0] for name in terms))
    figure = Figure(figsize=(3.2 * len(kinds), 2.6), layout="constrained")
    for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        for name in terms:
            if name.split("/")[0] == kind:
                values = [float(row[name]) for row in rows]
                axes.plot([int(row["epoch"]) for row in rows], values, label=name.split("/")[-1], linewidth=1)
        axes.set_title(kind, fontsize=9)
        axes.set_xlabel("epoch", fontsize=8)
        axes.tick_params(labelsize=7)
        if kind != "total":
            axes.legend(fontsize=7)
    return as_svg(figure, "Learning curves")


def _pictured(clip: dict[str, Any], media: Mapping[str, Path]) -> dict[str, Any]:
    middle = (clip["start"] + clip["end"]) / 2
    path = media.get(clip["video_id"])
    return clip | {"picture": thumbnail(path, middle) if path else ""}


def _folder(checkpoint: Path) -> Path:
    return checkpoint if checkpoint.is_dir() else checkpoint.parent


def write_page(path: Path, results: dict[str, Any], media_folder: Path) -> None:
    """Write `path` from a run's results; frames come from `media_folder` where the media are still there."""
    media = find_media(media_folder).paths if media_folder.is_dir() else {}
    models = []
    for stage in (stage for stage in results["stages"] if stage["stage"] == "evaluate retrieval"):
        # Spread over the list, so that examples come from different videos.
        examples = stage["detail"]["examples"]
        chosen = examples[:: max(1, len(examples) // EXAMPLES)][:EXAMPLES]
        models.append(
            {
                "detail": stage["detail"],
                "curves": learning_curves(_folder(Path(stage["asked"]["checkpoint"])) / "metrics.csv"),
                "examples": [
                    _pictured(example, media) | {"found": [_pictured(found, media) for found in example["found"]]}
                    for example in chosen
                ],
            }
        )
    localized = [
        {
            "detail": stage["detail"],
            # JSON has sorted them.
            "figures": [name for name in FIGURES if name in stage["detail"]["metrics"]["figures"]],
            "timelines": [timeline(video) for video in spread(stage["detail"]["videos"])],
        }
        for stage in results["stages"]
        if stage["stage"] == "evaluate localization"
    ]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.experiment"), autoescape=True, trim_blocks=True
    )
    notes = list(dict.fromkeys(note for stage in results["stages"] for note in stage["notes"]))
    shown = {"results": results, "models": models, "localized": localized, "notes": notes}
    write_text(path, environment.get_template("run.html").render(shown))
