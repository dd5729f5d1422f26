"""The evaluated clips as one model's vectors: what maps, gaps and clusters are made of."""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from extractors.text import words
from models.kmeans import assign
from pipeline.clips.cutting import ClipFeatures
from pipeline.core.errors import InputError
from pipeline.core.report import StageReport
from pipeline.evaluation.clip_list import LabelledClip, clips_digest, cut_out, of_split, read_clips
from pipeline.experiment.report.results import Model
from pipeline.training.checkpoint import load_checkpoint
from pipeline.training.trained_model import TrainedModel, open_trained

MOST_CLIPS = 1500
"""Embedded at most, drawn from all by the seed."""
MOST_CLASSES = 12
"""Steps that have a colour of their own; the others share one."""
OTHER = "(all others)"
CLASS_COLUMN = "action"
MODALITIES = ("video", "audio", "text")


@dataclass(frozen=True)
class SpaceVectors:
    """One space. N clips."""

    name: str
    vectors: dict[str, Tensor]
    """Modality -> (N, D) fp32 of length 1; rows of clips without it are zero."""
    joint: Tensor
    """(N, D): the mean of a clip's present vectors as they are, which training clusters."""
    centroids: Tensor | None
    """(K, D), or None where training made no clusters."""

    def clusters(self) -> Tensor:
        """(N,) int64: each clip's cluster, by cosine as in training. ValueError without centroids."""
        if self.centroids is None:
            raise ValueError(f"space {self.name} has no clusters")
        return assign(self.joint, self.centroids)


@dataclass(frozen=True)
class EmbeddedClips:
    """The clips in their order, and their vectors in each space."""

    clips: tuple[LabelledClip, ...]
    classes: tuple[str, ...]
    """Of each clip, its step's class: its action where the list names one, or else its text."""
    of: int
    """Clips that were evaluated, of which these are a sample."""
    present: dict[str, Tensor]
    """Modality -> (N,) bool."""
    spaces: tuple[SpaceVectors, ...]

    def videos(self) -> list[str]:
        """Ids, sorted. The page names them all, since what is drawn of a video must be found when it is forgotten."""
        return sorted({clip.clip.video_id for clip in self.clips})

    def drawn_classes(self) -> tuple[str, ...]:
        """The classes, all but the `MOST_CLASSES` commonest as `OTHER`."""
        counts = sorted(Counter(self.classes).items(), key=lambda item: (-item[1], item[0]))
        kept = {name for name, _ in counts[:MOST_CLASSES]}
        return tuple(name if name in kept else OTHER for name in self.classes)


def embed_evaluated(model: Model, seed: int) -> EmbeddedClips:
    """The clips that `mcn evaluate retrieval` asked the model about, `MOST_CLIPS` of them at most.

    InputError where the checkpoint, the data set or the list of clips is gone, or isn't what was evaluated.
    """
    measured = model.retrieval["detail"]
    asked = measured["settings"]
    manifest = None if asked["manifest"] is None else Path(asked["manifest"])
    trained = open_trained(model.folder, manifest)
    source = Path(asked["clips"])
    everything = read_clips(source, "text")
    classes = _classes(source, everything)
    evaluated = of_split(everything, trained, asked["split"], source, StageReport("report"))
    if trained.digest != measured["inputs"]["checkpoint"] or clips_digest(evaluated) != measured["clips digest"]:
        raise InputError(f"{model.folder}: the model or the clips are others than were evaluated; evaluate it again")
    class_of = dict(zip(map(id, everything), classes, strict=True))
    chosen = _sampled(evaluated, seed)
    present, spaces = _vectors(trained, chosen)
    return EmbeddedClips(
        clips=tuple(chosen),
        classes=tuple(class_of[id(clip)] for clip in chosen),
        of=len(evaluated),
        present=present,
        spaces=spaces,
    )


def _classes(source: Path, clips: Sequence[LabelledClip]) -> list[str]:
    """Each clip's class by the list's own column of them, or else its text."""
    with open(source, encoding="utf-8", newline="") as file:
        columns = next(csv.reader(file), [])
    named = read_clips(source, CLASS_COLUMN) if CLASS_COLUMN in columns else clips
    return [clip.label for clip in named]


def _sampled(clips: list[LabelledClip], seed: int) -> list[LabelledClip]:
    if len(clips) <= MOST_CLIPS:
        return clips
    drawn = np.random.default_rng(seed).choice(len(clips), MOST_CLIPS, replace=False)
    return [clips[place] for place in sorted(drawn.tolist())]


def _vectors(
    trained: TrainedModel, clips: Sequence[LabelledClip]
) -> tuple[dict[str, Tensor], tuple[SpaceVectors, ...]]:
    def cut(clip: LabelledClip) -> ClipFeatures:
        place = clip.clip
        return cut_out(trained, place.video_id, place.start, place.end, words(clip.label), trained.rules)

    # Training clusters the vectors as they come, whatever their length.
    embedded = replace(trained, normalised=False).embed(map(cut, clips))
    queues = load_checkpoint(trained.checkpoint)["queues"]
    present = {m: mask for m in MODALITIES if (mask := embedded.present.get(m)) is not None}
    spaces = []
    for space in trained.network.settings.scheme.spaces:
        fitted = bool(queues.get(f"{space.name}.fitted", False))
        vectors = {
            modality: functional.normalize(part.float(), dim=1).masked_fill(~present[modality].unsqueeze(1), 0.0)
            for modality, part in embedded.vectors[space.name].items()
        }
        joint, _ = embedded.joint(space)
        ordered = {modality: vectors[modality] for modality in MODALITIES if modality in vectors}
        centroids = queues[f"{space.name}.centroids"].float() if fitted else None
        spaces.append(SpaceVectors(space.name, ordered, torch.as_tensor(joint).float(), centroids))
    return present, tuple(spaces)
