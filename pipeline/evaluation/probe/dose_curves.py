"""Dose curves: how far a clip's vector moves, and how much recall is lost, the more of another video is mixed in."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from extractors.errors import MediaError
from extractors.networks import NETWORKS
from pipeline.clips.cutting import ClipFeatures, clip_rows, cut_clip
from pipeline.core.records import VideoFeatures
from pipeline.evaluation.probe.clips import ClipVectors, Window, embed_clips, probed_rules
from pipeline.evaluation.probe.media_features import MediaFeatures, Sound
from pipeline.evaluation.settings import Draws
from pipeline.metrics.intervals import bootstrap
from pipeline.metrics.ranking import Side, ranked
from pipeline.training.checkpoint import TrainedModel

SOUND_DOSES = (20.0, 15.0, 10.0, 5.0, 0.0, -5.0)
"""Signal-to-noise ratios in dB, over whole recordings."""
SURROUND_DOSES = (0.1, 0.25, 0.5, 0.75)
"""Shares of the frame's area, from its edges inwards."""
CUTOFF = 5
SHIFT = "shift"

SOUND, SURROUND = "another video's sound, SNR in dB", "another video's surround, share of the frame"


@dataclass(frozen=True)
class DosedClips:
    """The same N clips without and with rising doses in one modality."""

    kind: str
    modality: str
    doses: tuple[float, ...]
    embedded: tuple[ClipVectors, ...]
    """Without a dose first, then one for each dose."""
    videos: tuple[str, ...]
    """[N]."""


def mixed(own: Sound, other: Sound, snr_db: float) -> Sound:
    """The recording with another one added at a signal-to-noise ratio over the whole of it.

    The other is repeated, or cut, to the same length. A mix beyond 16 bits is turned down as a whole, which the log-mel
    doesn't notice: it is relative to the loudest. ValueError where either is silent: no ratio can be set.
    """
    signal = own.samples.astype(np.float64)
    noise = np.resize(other.samples, len(signal)).astype(np.float64)
    power, noise_power = float(np.mean(signal**2)), float(np.mean(noise**2))
    if not power or not noise_power:
        raise ValueError("a silent recording has no signal-to-noise ratio")
    mix = signal + noise * np.sqrt(power / noise_power / 10 ** (snr_db / 10))
    mix *= min(1.0, 32767 / float(np.abs(mix).max()))
    return Sound(np.rint(mix).astype(np.int16), own.start)


def surrounded(frames: NDArray[np.uint8], other: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    """Frames (n, H, W, 3) whose outer `share` of the area is that of another frame (h, w, 3), stretched to their size.

    What is kept is a rectangle of the frame's own shape in its middle.
    """
    height, width = frames.shape[1:3]
    picture = torch.from_numpy(np.array(other)).permute(2, 0, 1)[None].float()
    resized = interpolate(picture, size=(height, width), mode="bilinear", antialias=True)[0].permute(1, 2, 0)
    side = np.sqrt(1.0 - share)
    rows, columns = (round(length * (1 - side) / 2) for length in (height, width))
    changed = np.repeat(resized.round().clamp(0, 255).byte().numpy()[None], len(frames), axis=0)
    middle = (slice(None), slice(rows, height - rows), slice(columns, width - columns))
    changed[middle] = frames[middle]
    return changed


def dose_windows(
    windows: Sequence[Window], clips: ClipVectors, paths: Mapping[str, Path], most: int, seed: int
) -> list[Window]:
    """At most `most` windows, each of another video that has media, in which all of the model's modalities are there.

    In random order: each gets its dose from the one before it.
    """
    whole = np.logical_and.reduce([clips.present[modality] for modality in clips.modalities])
    random = np.random.default_rng([seed, 5])
    by_video: dict[str, list[int]] = {}
    for row in np.flatnonzero(whole).tolist():
        if windows[row].clip.video_id in paths:
            by_video.setdefault(windows[row].clip.video_id, []).append(row)
    order = random.permutation(sorted(by_video))[:most].tolist()
    return [windows[int(random.choice(by_video[video_id]))] for video_id in order]


def dose_sound(
    model: TrainedModel, media: MediaFeatures, windows: Sequence[Window], paths: Mapping[str, Path]
) -> tuple[DosedClips | None, list[Window], list[str]]:
    """The windows with the sound of another video mixed in; those used, and a line for each that could not be."""

    def read(window: Window) -> Sound:
        sound = media.sound(paths[window.clip.video_id])
        if sound is None or not sound.samples.any():
            raise ValueError(f"{paths[window.clip.video_id]}: silent")
        return sound

    def versions(window: Window, own: Sound, other: Sound) -> Iterable[VideoFeatures]:
        video = model.dataset.video(window.clip.video_id, probed_rules(model))
        for sound in (own, *(mixed(own, other, snr_db) for snr_db in SOUND_DOSES)):
            yield media.heard(video, sound, window.clip.start, window.clip.end)

    return _dosed(model, SOUND, "audio", SOUND_DOSES, windows, read, versions)


def dose_surround(
    model: TrainedModel, media: MediaFeatures, windows: Sequence[Window], paths: Mapping[str, Path]
) -> tuple[DosedClips | None, list[Window], list[str]]:
    """The windows with their frames' surround replaced by another video's; those used, and a line for each not.

    None where the model reads a stream of clips: a frame is part of the clips of several rows.
    """
    of_clips = [name for name in model.rules.streams if name in NETWORKS and NETWORKS[name].clip is not None]
    if of_clips:
        return None, [], [f"doses of the surround are left out: {', '.join(of_clips)} sees clips and not single frames"]

    def read(window: Window) -> _Shown:
        clip = window.clip
        video = model.dataset.video(clip.video_id, probed_rules(model))
        rows = clip_rows(clip.start, clip.end, video.feature_fps, len(video.video_mask))
        return video, *media.frames(paths[clip.video_id], rows)

    def versions(window: Window, own: _Shown, other: _Shown) -> Iterable[VideoFeatures]:
        video, rows, frames = own
        middle = other[2][len(other[2]) // 2]
        return media.seen(video, rows, [frames, *(surrounded(frames, middle, share) for share in SURROUND_DOSES)])

    return _dosed(model, SURROUND, "video", SURROUND_DOSES, windows, read, versions)


_Shown = tuple[VideoFeatures, NDArray[np.int64], NDArray[np.uint8]]
"""A video, the rows of a window that have a frame, and these frames."""
_Content = TypeVar("_Content")


def _dosed(
    model: TrainedModel,
    kind: str,
    modality: str,
    doses: tuple[float, ...],
    windows: Sequence[Window],
    read: Callable[[Window], _Content],
    versions: Callable[[Window, _Content, _Content], Iterable[VideoFeatures]],
) -> tuple[DosedClips | None, list[Window], list[str]]:
    """Clips of each window without a dose and with each, mixed from the content of the window before it."""
    rules, previous = probed_rules(model), None
    clips: list[list[ClipFeatures]] = []
    used, notes = [], []
    for window in [*windows[-1:], *windows]:
        start, end = window.clip.start, window.clip.end
        try:
            content = read(window)
            if previous is not None:
                dosed = versions(window, content, previous)
                clips.append([cut_clip(video, start, end, window.words, model.vectors, rules) for video in dosed])
                used.append(window)
            previous = content
        except (MediaError, ValueError) as error:
            notes.append(f"no dose for a clip: {error}")
    if len(used) < 2:
        return None, used, notes
    embedded = tuple(embed_clips(model, version, rules) for version in zip(*clips, strict=True))
    return DosedClips(kind, modality, doses, embedded, tuple(window.clip.video_id for window in used)), used, notes


def curves(dosed: DosedClips, draws: Draws) -> Iterator[dict[str, Any]]:
    """For each space that holds the dosed modality its curve, as JSON values.

    `shift`: 1 - cosine to the vector without a dose, on average. `recall`: R@5 of the clip itself, asked with the dosed
    vector among the undosed ones of another modality; `lost`: how much less that is than without a dose. A curve is
    monotone within its intervals where no step towards a larger dose lowers it significantly, paired over videos.
    """
    clean = dosed.embedded[0]
    for space in clean.spaces_of(dosed.modality):
        own = [one.vectors[space, dosed.modality] for one in dosed.embedded]
        targets = [m for m in clean.modalities if m != dosed.modality and (space, m) in clean.vectors]
        measured = {SHIFT: np.stack([_shift(own[0], vectors) for vectors in own])}
        hits = {m: np.stack([_hits(vectors, clean.vectors[space, m]) for vectors in own]) for m in targets}
        measured |= {f"lost to {m}": recall[0] - recall for m, recall in hits.items()}
        measured |= {f"recall of {m}": recall for m, recall in hits.items()}
        intervals, steps = _intervals(measured, dosed.videos, draws)
        yield {
            "kind": dosed.kind,
            "space": space,
            "modality": dosed.modality,
            "clips": len(dosed.videos),
            "chance": min(1.0, CUTOFF / len(dosed.videos)),
            "points": [
                {"dose": dose, **{name: intervals[name][index] for name in measured}}
                for index, dose in enumerate((None, *dosed.doses))
            ],
            "monotone": {
                name: all(step["high"] >= 0 for step in steps[name]) for name in measured if "recall" not in name
            },
        }


def agreement(dosed: DosedClips, stored: ClipVectors, rows: NDArray[np.int64]) -> float:
    """The least cosine of a clip's vector as stored, in `rows`, and as made anew without a dose; 1 if all is well."""
    keys = [(space, dosed.modality) for space in stored.spaces_of(dosed.modality)]
    pairs = [(dosed.embedded[0].vectors[key], stored.vectors[key][rows]) for key in keys]
    return min(1.0 - float(_shift(anew, before).max()) for anew, before in pairs)


def _shift(before: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.float64]:
    a, b = before.astype(np.float64), after.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    # A cosine above 1 is rounding.
    shift: NDArray[np.float64] = np.maximum(1.0 - (a * b).sum(axis=1) / np.maximum(lengths, 1e-300), 0.0)
    return shift


def _hits(queries: NDArray[np.float32], candidates: NDArray[np.float32]) -> NDArray[np.float64]:
    present = torch.ones(len(queries), dtype=torch.bool)
    sides = (Side(torch.from_numpy(np.ascontiguousarray(vectors)), present) for vectors in (queries, candidates))
    return ranked(*sides).hits(CUTOFF)


def _intervals(
    measured: Mapping[str, NDArray[np.float64]], videos: Sequence[str], draws: Draws
) -> tuple[dict[str, list[dict[str, float]]], dict[str, list[dict[str, float]]]]:
    """For each measure [P, N] of P doses an interval of each mean, and of each step from one dose to the next."""
    stacked = np.stack(list(measured.values()))
    both = np.concatenate([stacked, np.diff(stacked, axis=1)], axis=1)
    intervals = bootstrap(
        lambda drawn: both[:, :, drawn].mean(axis=2).ravel().tolist(), videos, draws.bootstrap, draws.seed
    )
    values = np.array([asdict(interval) for interval in intervals]).reshape(both.shape[:2])
    doses = stacked.shape[1]
    return (
        {name: list(row[:doses]) for name, row in zip(measured, values, strict=True)},
        {name: list(row[doses:]) for name, row in zip(measured, values, strict=True)},
    )
