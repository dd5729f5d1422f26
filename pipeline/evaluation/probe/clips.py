"""Clips that probes look at, windows and annotated steps, and their vectors in each space and as input features."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from gensim.models import KeyedVectors
from numpy.typing import NDArray

from models.settings import MEL_BANDS
from pipeline.clips.cutting import ClipFeatures, Cutter, known_words
from pipeline.clips.rules import ClipRules, window_clips
from pipeline.core.errors import InputError
from pipeline.core.records import Clip, VideoFeatures
from pipeline.evaluation.lists import StepList
from pipeline.training.checkpoint import TrainedModel

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
    present = {modality: mask.numpy() for modality, mask in embedded.present.items()}
    vectors = {
        (space, modality): part.detach().float().numpy()
        for space, parts in embedded.vectors.items()
        for modality, part in parts.items()
    }
    for (space, modality), rows in vectors.items():
        if not np.isfinite(rows[present[modality]]).all():
            raise InputError(f"{model.checkpoint}: {modality} in space {space} holds NaN or infinity; train it again")
    modalities = {modality for _, modality in vectors}
    inputs = {(INPUT, modality): np.stack(rows) for modality, rows in features.items() if modality in modalities}
    return ClipVectors(inputs | vectors, {modality: present[modality] for modality in modalities})


def _video_feature(clip: ClipFeatures, widths: tuple[int, ...]) -> NDArray[np.float32]:
    row = clip.video.astype(np.float32)
    streams = np.split(row, np.cumsum(widths)[:-1]) if len(row) == sum(widths) else [row]
    return np.concatenate([stream / max(float(np.linalg.norm(stream)), 1e-12) for stream in streams])


def _audio_feature(clip: ClipFeatures, rules: ClipRules, width: int) -> NDArray[np.float32]:
    if clip.audio is None:
        return np.zeros(2 * MEL_BANDS if rules.audio == "logmel" else width, np.float32)
    if rules.audio != "logmel":
        return clip.audio.astype(np.float32)
    frames = clip.audio.astype(np.float32)
    return np.concatenate([frames.mean(axis=0), frames.std(axis=0)])


def _text_feature(clip: ClipFeatures, vectors: KeyedVectors) -> NDArray[np.float32]:
    if not clip.words:
        return np.zeros(2 * vectors.vector_size, np.float32)
    spoken = vectors.vectors[clip.words]
    return np.concatenate([spoken.mean(axis=0), spoken.max(axis=0)])


@dataclass(frozen=True)
class Window:
    """A clip and the words said in it, in the order of time."""

    clip: Clip
    words: tuple[str, ...]


def probed_rules(model: TrainedModel) -> ClipRules:
    """The model's rules with half-open bounds, whatever training's were: neighbouring clips share no row."""
    return replace(model.rules, bounds="half-open")


def chosen_videos(video_ids: Sequence[str], most: int, seed: int) -> list[str]:
    """`most` of the ids by chance, or all of them if there are fewer, in their order."""
    if len(video_ids) <= most:
        return list(video_ids)
    indices = np.random.default_rng([seed, 3]).choice(len(video_ids), most, replace=False)
    return [video_ids[index] for index in sorted(indices.tolist())]


def read_windows(model: TrainedModel, video_ids: Sequence[str], seconds: float, most: int) -> list[Window]:
    """At most `most` windows of each video, spread evenly over it: whole ones, or a video shorter than one.

    A caption belongs to the window in which it starts.
    """
    windows = []
    for video_id in video_ids:
        spans = window_clips(_captioned(model, video_id), seconds)
        whole = [span for span in spans if span.end - span.start > 0.999 * seconds] or spans[:1]
        indices = sorted({int((index + 0.5) * len(whole) / most) for index in range(most)})
        spread = [whole[index] for index in indices]
        windows += [Window(Clip(video_id, span.start, span.end), span.words) for span in spread]
    return windows


def step_windows(model: TrainedModel, steps: Sequence[StepList]) -> tuple[list[Window], list[str]]:
    """Every annotated segment and its step, named TASK:STEP. A segment has the words of captions that overlap it."""
    windows, names = [], []
    for one in steps:
        video = _captioned(model, one.video_id)
        for step in one.steps:
            for start, end in step.segments:
                if start < video.duration:
                    windows.append(Window(Clip(one.video_id, start, end), _words_between(video, start, end)))
                    names.append(f"{one.task_id}:{step.number}")
    return windows, names


def embed_windows(model: TrainedModel, windows: Sequence[Window]) -> ClipVectors:
    """Vectors of the windows, in their order."""
    rules = probed_rules(model)

    def cut() -> Iterator[ClipFeatures]:
        for video_id, group in groupby(windows, lambda window: window.clip.video_id):
            cutter = Cutter(model.dataset.video(video_id, rules), rules)
            for window in group:
                yield cutter.cut(window.clip.start, window.clip.end, known_words(window.words, model.vectors))

    return embed_clips(model, cut(), rules)


def _captioned(model: TrainedModel, video_id: str) -> VideoFeatures:
    return model.dataset.video(video_id, ClipRules(streams=(), audio="none"), texts=True)


def _words_between(video: VideoFeatures, start: float, end: float) -> tuple[str, ...]:
    overlapping = [index for index, caption in enumerate(video.captions) if caption.start < end and caption.end > start]
    return tuple(word for index in overlapping for word in video.words.of_caption(index))
