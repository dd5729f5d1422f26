"""The vectors of clips that probes look at: of each space and modality, and the input features beneath them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from gensim.models import KeyedVectors
from numpy.typing import NDArray

from pipeline.clips.clip_rules import ClipRules
from pipeline.clips.cutting import ClipFeatures
from pipeline.core.errors import InputError
from pipeline.dataset.shard_reader import LOGMEL_BANDS
from pipeline.training.trained_model import TrainedModel

INPUT = ""
"""Stands for a space's name where the input features are meant."""

Place = tuple[str, str]
"""A space, or INPUT, and a modality."""


@dataclass(frozen=True)
class ClipVectors:
    """Vectors of N clips. Rows of a modality that a clip lacks are finite and meaningless."""

    vectors: dict[Place, NDArray[np.float32]]
    """(space, modality) -> [N, D]; the input features stand under (INPUT, modality)."""
    present: dict[str, NDArray[np.bool_]]
    """Modality -> [N]."""

    @property
    def modalities(self) -> list[str]:
        """Those that any clip has, video and audio before text."""
        order = ("video", "audio", "text")
        return [name for name in order if name in self.present and self.present[name].any()]

    def spaces_of(self, modality: str) -> list[str]:
        """The spaces in which this modality has a vector, in the scheme's order."""
        return [space for space, name in self.vectors if name == modality and space != INPUT]


def embed_clips(model: TrainedModel, clips: Iterable[ClipFeatures], rules: ClipRules) -> ClipVectors:
    """Vectors of the clips in their order, cut by `rules`. InputError where the model gives NaN or infinity.

    The input features are: of video the maximum over the clip's rows, each stream L2-normalised; of audio the mean
    DaveNet row, or of log-mel each band's mean and deviation; of text the mean and the maximum of the word vectors.
    ValueError without any clip.
    """
    features: dict[str, list[NDArray[np.float32]]] = {"video": [], "audio": [], "text": []}
    widths, audio_width = model.network.settings.video_streams, model.network.settings.audio_dim

    def noted() -> Iterator[ClipFeatures]:
        for clip in clips:
            features["video"].append(_video_feature(clip, widths))
            features["audio"].append(_audio_feature(clip, rules, audio_width))
            features["text"].append(_text_feature(clip, model.vectors))
            yield clip

    embedded = model.embed(noted(), rules)
    present = {modality: there.numpy() for modality, there in embedded.present.items()}
    vectors = {
        (space, modality): part.detach().float().numpy()
        for space, parts in embedded.vectors.items()
        for modality, part in parts.items()
    }
    for (space, modality), rows in vectors.items():
        if not np.isfinite(rows[present[modality]]).all():
            raise InputError(f"{model.checkpoint}: {modality} in space {space} holds NaN or infinity; train it again")
    held = {modality for _, modality in vectors}
    inputs = {(INPUT, modality): np.stack(rows) for modality, rows in features.items() if modality in held}
    return ClipVectors(inputs | vectors, {modality: present[modality] for modality in held})


def _video_feature(clip: ClipFeatures, widths: tuple[int, ...]) -> NDArray[np.float32]:
    row = clip.video.astype(np.float32)
    streams = np.split(row, np.cumsum(widths)[:-1]) if len(row) == sum(widths) else [row]
    return np.concatenate([stream / max(float(np.linalg.norm(stream)), 1e-12) for stream in streams])


def _audio_feature(clip: ClipFeatures, rules: ClipRules, width: int) -> NDArray[np.float32]:
    if clip.audio is None:
        return np.zeros(2 * LOGMEL_BANDS if rules.audio == "logmel" else width, np.float32)
    if rules.audio != "logmel":
        return clip.audio.astype(np.float32)
    frames = clip.audio.astype(np.float32)
    return np.concatenate([frames.mean(axis=0), frames.std(axis=0)])


def _text_feature(clip: ClipFeatures, vectors: KeyedVectors) -> NDArray[np.float32]:
    if not clip.words:
        return np.zeros(2 * vectors.vector_size, np.float32)
    spoken = vectors.vectors[clip.words]
    return np.concatenate([spoken.mean(axis=0), spoken.max(axis=0)])
