"""The page at the end of a run: scores, what was found for which text, learning curves; one file, no network."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jinja2

from extractors.thumbnails import thumbnail
from pipeline.core.figures import as_svg, shortened
from pipeline.core.files import write_text
from pipeline.core.terminal import escaped
from pipeline.download.media import find_media
from pipeline.evaluation.retrieval import asked
from pipeline.evaluation.timeline import spread, timeline
from pipeline.experiment.report.score_figures import learning_curve_figure, read_curves
from pipeline.metrics.localization import FIGURES

EXAMPLES = 8
_LONGEST = 600
"""Characters of a text or cell that a page shows."""


def learning_curves(metrics: Path) -> str:
    """Every figure of metrics.csv over epochs, as an SVG text: a panel for each kind, by the first part of its name."""
    curves = read_curves([metrics])
    kinds: dict[str, list[str]] = {}
    for name in curves:
        if name != "epoch":
            kinds.setdefault(name.split("/")[0], []).append(name)
    return as_svg(learning_curve_figure(curves, kinds).figure, "Learning curves")


def write_html(path: Path, template: str, content: Mapping[str, Any]) -> None:
    """Write a template of this package, filled in, so that `path` is whole or unchanged. All text in it is escaped.

    The filter `brief` cuts what somebody else wrote.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.experiment"),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
        # What is marked as HTML was made so by a template of this package, or by matplotlib.
        finalize=lambda value: escaped(value) if type(value) is str else value,
    )
    environment.filters["brief"] = partial(shortened, longest=_LONGEST)
    write_text(path, environment.get_template(template).render(content))


def _pictured(clip: dict[str, Any], media: Mapping[str, Path]) -> dict[str, Any]:
    middle = (clip["start"] + clip["end"]) / 2
    path = media.get(clip["video_id"])
    return clip | {"picture": thumbnail(path, middle) if path else ""}


def write_page(path: Path, results: dict[str, Any], media_folder: Path) -> None:
    """Write `path` from a run's results; frames come from `media_folder` where the media are still there."""
    media = find_media(media_folder).paths if media_folder.is_dir() else {}
    models = []
    for stage in (stage for stage in results["stages"] if stage["stage"] == "evaluate retrieval"):
        checkpoint = Path(stage["asked"]["checkpoint"])
        folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
        # Spread over the list, so that examples come from different videos.
        examples = stage["detail"]["examples"]
        chosen = examples[:: max(1, len(examples) // EXAMPLES)][:EXAMPLES]
        models.append(
            {
                "detail": stage["detail"],
                "asked": asked(stage["detail"]),
                "curves": learning_curves(folder / "metrics.csv"),
                "examples": [
                    _pictured(example, media) | {"found": [_pictured(clip, media) for clip in example["found"]]}
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
    notes = list(dict.fromkeys(note for stage in results["stages"] for note in stage["notes"]))
    content = {"results": results, "models": models, "localized": localized, "notes": notes}
    write_html(path, "run.html", content)
