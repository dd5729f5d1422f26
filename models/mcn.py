"""The Multimodal Clustering Network (Chen et al., ICCV 2021), with its pairing of modalities given as data.

Shapes: B clips, R video rows, V video feature width, A audio feature width, T log-mel frames, W words, E word vector
width, D width of a space.
"""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.clips import ClipInputs, Embeddings
from models.davenet import ResDavenet
from models.gated import GatedUnit, GateThenProject, WordPooling
from models.pairing import FEATURE, Source, Space
from models.settings import AUDIO_WIDTH, STRIDE, ModelSettings
from models.standardisation import MomentSums, Standardisation


class MCN(nn.Module):
    """Heads and decoders for every vector of a scheme, named `SPACE/MODALITY`; see `ModelSettings`."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.settings = settings
        self.modalities = frozenset(m for space in settings.scheme.spaces for m in space.modalities)
        self.davenet: ResDavenet | None = None
        if settings.audio_from == "logmel" and "audio" in self.modalities:
            self.davenet = ResDavenet(settings.unused_batchnorm)
        feature_dims = {"video": settings.video_dim, "audio": settings.audio_dim, "text": settings.word_dim}
        # DaveNet's output changes scale while it is trained, so statistics fixed beforehand would not fit it.
        standardised = self.modalities - ({"audio"} if self.davenet is not None else set())
        self.standardisation = nn.ModuleDict(
            {m: Standardisation(feature_dims[m]) for m in sorted(standardised) if settings.standardise}
        )
        self.word_pooling = nn.ModuleDict()
        self.heads = nn.ModuleDict()
        self.decoders = nn.ModuleDict()
        for space, source in settings.scheme.in_order():
            key, width = f"{space.name}/{source.modality}", settings.width_of(space)
            if source.origin == FEATURE and source.modality == "text":
                self.word_pooling[key] = WordPooling(settings.word_dim, width)
            if source.through == source.modality:
                self.heads[key] = self._head(space, source)
            if source.modality in space.trained_modalities:
                hidden = settings.reconstruction_hidden
                self.decoders[key] = nn.Sequential(
                    nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, self._target_dim(space, source)), nn.ReLU()
                )

    def _head(self, space: Space, source: Source) -> nn.Module:
        width = self.settings.width_of(space)
        if source.origin != FEATURE:
            return GatedUnit(self.settings.width_of(self.settings.scheme.space(source.origin)), width)
        if source.modality == "audio":
            return GateThenProject(self.settings.audio_dim, width)
        return GatedUnit(self.settings.video_dim if source.modality == "video" else width, width)

    def _target_dim(self, space: Space, source: Source) -> int:
        if source.modality == "text":
            return self.settings.width_of(self._first_space(space, source))
        return {"video": self.settings.video_dim, "audio": self.settings.audio_dim}[source.modality]

    def _first_space(self, space: Space, source: Source) -> Space:
        """The space in which this vector's way from the feature began."""
        while source.origin != FEATURE:
            space = self.settings.scheme.space(source.origin)
            source = space.source(source.modality)
        return space

    def forward(self, clips: ClipInputs) -> Embeddings:
        """Embed a batch in every space of the scheme, for the modalities that the batch gives.

        Raises ValueError for tensors of another width than the settings'.
        """
        present = clips.presence()
        if self.settings.zeros_for_missing:
            clips = _silenced(clips, present)
            present = {m: torch.ones_like(mask) for m, mask in present.items()}
        features = self._features(clips, present)
        inputs = {m: self.standardisation[m](f) if m in self.standardisation else f for m, f in features.items()}
        vectors: dict[str, dict[str, Tensor]] = {space.name: {} for space in self.settings.scheme.spaces}
        targets: dict[str, dict[str, Tensor]] = {space.name: {} for space in self.settings.scheme.spaces}
        for space, source in self.settings.scheme.in_order():
            modality = source.modality
            if modality not in inputs:
                continue
            if source.origin != FEATURE:
                x, target = vectors[source.origin][modality], targets[source.origin][modality]
            elif modality == "text":
                x = target = self.word_pooling[f"{space.name}/text"](inputs["text"], self._counted_words(clips))
            else:
                x, target = inputs[modality], features[modality]
            vectors[space.name][modality] = self.heads[f"{space.name}/{source.through}"](x)
            targets[space.name][modality] = target.detach() if self.settings.detach_targets else target
        return Embeddings(vectors, present, targets)

    def reconstruction_errors(self, embeddings: Embeddings) -> dict[str, dict[str, Tensor]]:
        """space -> modality -> `(B,)`: each clip's mean squared error per feature, before any weight, at least fp32.

        Rows of absent modalities are meaningless; `reconstruction_terms` leaves them out.
        """
        errors: dict[str, dict[str, Tensor]] = {}
        for space in self.settings.scheme.spaces:
            errors[space.name] = {}
            for modality in space.trained_modalities:
                output = self.decoders[f"{space.name}/{modality}"](embeddings.vectors[space.name][modality])
                target = embeddings.targets[space.name][modality]
                precise = torch.promote_types(output.dtype, torch.float32)
                errors[space.name][modality] = (output.to(precise) - target.to(precise)).square().mean(dim=1)
        return errors

    @torch.no_grad()
    def fit_standardisation(self, batches: Iterable[ClipInputs]) -> None:
        """Set the standardisation's statistics from training clips, absent modalities left out.

        Words count one by one. Does nothing where `standardise` is off; raises ValueError when no clip has a modality.
        """
        sums = {m: MomentSums() for m in self.standardisation}
        for clips in batches:
            present = clips.presence()
            features = self._features(clips, present, with_davenet=False)
            for modality in sums.keys() & features.keys():
                counted = present[modality] if clips.known_words is None or modality != "text" else clips.known_words
                sums[modality].add(features[modality][counted])
        for modality, moments in sums.items():
            try:
                self.set_standardisation(modality, *moments.statistics())
            except ValueError as error:
                raise ValueError(f"{modality}: {error}") from None

    def set_standardisation(self, modality: str, mean: Tensor, scale: Tensor) -> None:
        """Set one modality's statistics, `(F,)` each; KeyError where there are none, ValueError when they misfit."""
        module = self.standardisation[modality]
        assert isinstance(module, Standardisation)
        module.set_statistics(mean.to(module.mean), scale.to(module.scale))

    def _features(self, clips: ClipInputs, present: dict[str, Tensor], with_davenet: bool = True) -> dict[str, Tensor]:
        """The unstandardised features: video `(B, V)`, audio `(B, A)`, text `(B, W, E)`; zeros where absent."""
        dtype = next(self.heads.parameters()).dtype
        features: dict[str, Tensor] = {}
        if clips.video is not None and clips.video_rows is not None and "video" in self.modalities:
            _check_width("video", clips.video, 3, 2, self.settings.video_dim)
            features["video"] = self._pooled_video(clips.video, clips.video_rows).to(dtype)
            if self.settings.normalise_video:
                streams = features["video"].split(self.settings.video_streams, dim=1)
                features["video"] = torch.cat([functional.normalize(stream, dim=1) for stream in streams], dim=1)
        if clips.words is not None and clips.known_words is not None and "text" in self.modalities:
            _check_width("words", clips.words, 3, 2, self.settings.word_dim)
            features["text"] = clips.words.to(dtype).masked_fill(~clips.known_words.unsqueeze(2), 0.0)
        if clips.audio is not None and "audio" in self.modalities:
            if self.davenet is None:
                _check_width("audio", clips.audio, 2, 1, self.settings.audio_dim)
                features["audio"] = clips.audio.to(dtype).masked_fill(~present["audio"].unsqueeze(1), 0.0)
            elif with_davenet:
                features["audio"] = self._pooled_logmel(clips, present["audio"], dtype)
        return features

    @staticmethod
    def _pooled_video(video: Tensor, rows: Tensor) -> Tensor:
        if video.shape[1] == 0:
            return video.sum(dim=1)
        pooled = video.masked_fill(~rows.unsqueeze(2), -torch.inf).amax(dim=1)
        return pooled.masked_fill(~rows.any(dim=1).unsqueeze(1), 0.0)

    def _pooled_logmel(self, clips: ClipInputs, present: Tensor, dtype: torch.dtype) -> Tensor:
        """DaveNet's mean output `(B, 1024)`. Absent clips stay out of its batch statistics and get zeros."""
        assert clips.audio is not None and self.davenet is not None
        if clips.audio_frames is None:
            raise ValueError("with audio_from logmel a batch of clips needs `audio_frames`, each clip's own frames")
        pooled = torch.zeros(len(clips), AUDIO_WIDTH, dtype=dtype, device=clips.audio.device)
        if not present.any():
            return pooled
        steps = self.davenet(clips.audio[present].to(dtype))
        if self.training and not self.settings.own_frames_in_training:
            means = steps.mean(dim=2)
        else:
            own = (clips.audio_frames[present] // STRIDE).clamp(1, steps.shape[2]).unsqueeze(1)
            counted = torch.arange(steps.shape[2], device=steps.device) < own
            means = (steps * counted.unsqueeze(1)).sum(dim=2) / own
        return pooled.masked_scatter(present.unsqueeze(1), means.to(dtype))

    def _counted_words(self, clips: ClipInputs) -> Tensor:
        assert clips.known_words is not None
        return clips.known_words if self.settings.mask_padding_words else torch.ones_like(clips.known_words)


def _silenced(clips: ClipInputs, present: dict[str, Tensor]) -> ClipInputs:
    """The clips with zeros for the sound of those without; pictures and words become zeros by their own masks."""
    if clips.audio is None:
        return clips
    silent = ~present["audio"]
    audio = clips.audio.masked_fill(silent.view(-1, *[1] * (clips.audio.ndim - 1)), 0.0)
    frames = None if clips.audio_frames is None else clips.audio_frames.masked_fill(silent, 0)
    return replace(clips, audio=audio, audio_frames=frames)


def _check_width(name: str, tensor: Tensor, dims: int, axis: int, width: int) -> None:
    if tensor.ndim != dims or tensor.shape[axis] != width:
        raise ValueError(f"the model takes {name} of {dims} axes with width {width} last, not {tuple(tensor.shape)}")
