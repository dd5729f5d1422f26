"""The methods paragraph of a study, and what its report calls videos, texts and steps: names, or in public numbers."""

import re
from collections.abc import Collection, Mapping
from importlib import metadata
from typing import Any

from pipeline.core.tables import signed_percent
from pipeline.dataset.manifest import Manifest
from pipeline.evaluation.retrieval import asked
from pipeline.experiment.comparison import TITLES, probability
from pipeline.experiment.report.results import Study
from pipeline.experiment.report.spaces import OTHER
from pipeline.experiment.settings import ENDPOINT

_EXAMPLE = re.compile(r",? e\.g\. .*")
_NAME = re.compile(r"[A-Za-z0-9_-]+")
"""What may be an id, whole."""


class ShownNames:
    """Names to be shown. A public report has no video id, no caption and nothing made of one."""

    def __init__(self, public: bool) -> None:
        self.public = public
        self._videos: dict[str, int] = {}
        self._classes: dict[str, int] = {}

    def step_class(self, name: str) -> str:
        """A class of steps; the same number for the same name throughout the report."""
        if not self.public or name == OTHER:
            return name
        return f"class {self._classes.setdefault(name, len(self._classes) + 1)}"

    def localized(self, video: Mapping[str, Any]) -> dict[str, Any]:
        """An entry of `videos` in localization.json as it may be drawn."""
        if not self.public:
            return dict(video)
        number = self._videos.setdefault(video["video_id"], len(self._videos) + 1)
        steps = [step | {"text": f"step {step_number}"} for step_number, step in enumerate(video["steps"], start=1)]
        return {"video_id": str(number), "seconds": video["seconds"], "steps": steps}

    def note(self, text: str, video_ids: Collection[str]) -> str:
        """A stage's announcement, which may name a video, known or not, as an example."""
        if not self.public:
            return text
        # An id of digits alone names nobody, and would take counts along.
        return _NAME.sub(
            lambda name: "one of them" if name[0] in video_ids and not name[0].isdigit() else name[0],
            _EXAMPLE.sub("", text),
        )


def question(study: Study) -> str:
    """What the study asks, in a sentence."""
    others = [arm for arm in study.arms if arm != study.detail["reference"]]
    return (
        f"Does it matter which of video, audio and text are contrasted with each other, and in which space? Compared "
        f"with {study.detail['reference']}: {', '.join(others) or 'nothing'}. Primary endpoint, fixed beforehand: "
        f"{ENDPOINT} of text -> video, video alone."
    )


def answers(study: Study) -> list[str]:
    """For each table and arm how it differs from the reference in the primary endpoint, in a sentence each.

    A difference is called one only where the corrected p is below 5 %.
    """
    sentences, reference = [], study.detail["reference"]
    for equal, arms in study.detail["tables"].items():
        for name in study.arms:
            difference = arms.get(name, {}).get("differences", {}).get(ENDPOINT)
            if difference is None:
                continue
            value, interval = signed_percent(difference)
            p = arms[name]["corrected p"]
            shown = f"95 % interval {interval}; p {probability(p, '= ')}, corrected"
            if p < 0.05:
                more = "more" if difference["value"] >= 0 else "less"
                sentence = f"{name} has {value[1:]} points {more} {ENDPOINT} than {reference} ({shown})."
            else:
                sentence = f"no difference in {ENDPOINT} between {name} and {reference} is shown ({value}, {shown})."
            sentences.append(f"{TITLES[equal]}: {sentence}")
    return sentences


def methods_paragraph(study: Study, manifest: Manifest | None) -> str:
    """Text for a paper; every number in it is of a file of the study."""
    return " ".join([_data(study, manifest), _training(study), _measures(study), _versions(study)])


def _data(study: Study, manifest: Manifest | None) -> str:
    detail = study.detail
    made = ", made by mcn sample" if detail["data"]["made"] else ""
    named = f"{detail['manifest']['name']} (digest {detail['manifest']['digest'][:12]})"
    text = f"Models were trained on {detail['data']['training videos']:,} videos of the manifest {named}{made}"
    if manifest is not None:
        if manifest.listed is not None:
            missing = sum(len(ids) for ids in manifest.missing.values())
            text += f", frozen from a list of {manifest.listed['ids']:,} ids of which {missing:,} are missing"
        held = len(manifest.video_ids) - len(manifest.ids("train"))
        text += f"; {held:,} videos were held out"
    return f"{text}. Video features are of {', '.join(detail['data']['streams'])}."


def _training(study: Study) -> str:
    models = study.models
    first = models[0].training["detail"]["settings"]
    steps = sorted({model.steps for model in models})
    shown = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
    seeds = study.detail["seeds"]
    return (
        f"Each of {len(study.arms)} arms ({', '.join(study.arms)}) was trained with {len(seeds)} "
        f"seed{'s' if len(seeds) > 1 else ''} ({', '.join(map(str, seeds))}), {len(models)} models in all, for {shown} "
        f"steps (reference arm: {first['epochs']} epochs of batches of {first['batch_videos']} videos x "
        f"{first['clips_per_video']} clips, Adam at {first['learning_rate']:g}, width {first['width']}). All arms saw "
        "the same clips in the same order and began with equal weights where shapes agree."
    )


def _measures(study: Study) -> str:
    retrieval = next(model for model in study.models if model.has_headline).retrieval["detail"]
    text = f"Text -> video retrieval was measured on {asked(retrieval)}"
    localized = next((model.localization for model in study.models if model.localization is not None), None)
    if localized is not None:
        counts = localized["detail"]["metrics"]
        text += (
            f", localization on {counts['steps']:,} steps of {counts['videos']:,} videos in {counts['tasks']:,} tasks"
        )
    seeds = len(study.detail["seeds"])
    over = "seeds and videos as crossed random effects" if seeds > 1 else "videos alone, since there is one seed"
    return (
        f"{text}. Intervals are 95 %, over {over}; differences are paired by video and seed; p-values of the primary "
        "endpoint are Holm's over the arms of a table."
    )


def _versions(study: Study) -> str:
    every = [model.training["detail"]["circumstance"] for model in study.models]
    days = sorted({one["time"][:10] for one in every})
    when = f"on {days[0]}" if len(days) == 1 else f"from {days[0]} to {days[-1]}"
    machines = ", ".join(sorted({f"{one['processor']} ({one['device']})" for one in every}))
    torch = ", ".join(sorted({one["libraries"]["torch"] for one in every}))
    python = ", ".join(sorted({one["libraries"]["python"] for one in every}))
    return f"Training ended {when} on {machines}, with PyTorch {torch}, Python {python} and mcn {_version()}."


def _version() -> str:
    try:
        return metadata.version("mcn")
    except metadata.PackageNotFoundError:  # run from a folder that was not installed
        return "of no known version"
