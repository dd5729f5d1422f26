"""What goes into the model and what comes out: a batch of clips, and its embeddings.

Shapes: B clips, R video rows (padded), V video feature width, A audio feature width, T log-mel frames (padded), W words
(padded), E word vector width, D width of a space.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from models.pairing import Space


@dataclass(frozen=True)
class ClipInputs:
    """A batch of clips. A modality whose tensor is None is not embedded at all (a text query has words alone)."""

    video: Tensor | None = None
    """`(B, R, V)` floating point: the rows of the video extractor that lie in each clip."""
    video_rows: Tensor | None = None
    """`(B, R)` bool: which rows are real. A clip without one has no video."""
    audio: Tensor | None = None
    """`(B, A)` floating point: the mean DaveNet row of each clip; or `(B, 40, T)` log-mel in dB."""
    has_audio: Tensor | None = None
    """`(B,)` bool: which clips have audio."""
    audio_frames: Tensor | None = None
    """`(B,)` int64, with log-mel alone: each clip's own frames; what follows is padding. 0 means no audio."""
    words: Tensor | None = None
    """`(B, W, E)` floating point: word vectors."""
    known_words: Tensor | None = None
    """`(B, W)` bool: which words are real. A clip without one has no text."""

    def __post_init__(self) -> None:
        for name, mask in (("video", "video_rows"), ("audio", "has_audio"), ("words", "known_words")):
            if (getattr(self, name) is None) != (getattr(self, mask) is None):
                raise ValueError(f"a batch of clips needs both `{name}` and `{mask}`, or neither")
        if self.audio is None and self.audio_frames is not None:
            raise ValueError("a batch of clips has `audio_frames` but no `audio`")
        lengths = {name: len(tensor) for name, tensor in self._tensors().items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"a batch of clips needs tensors of one number of clips, not {lengths or 'none at all'}")

    def _tensors(self) -> dict[str, Tensor]:
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def __len__(self) -> int:
        return len(next(iter(self._tensors().values())))

    def __getitem__(self, clips: slice | Tensor) -> "ClipInputs":
        """The clips of a slice, an index tensor or a bool mask."""
        return replace(self, **{name: tensor[clips] for name, tensor in self._tensors().items()})

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "ClipInputs":
        """The same batch on another device."""
        moved = {name: t.to(device, non_blocking=non_blocking) for name, t in self._tensors().items()}
        return replace(self, **moved)

    def presence(self) -> dict[str, Tensor]:
        """For each modality given, `(B,)` bool: which clips have it."""
        present: dict[str, Tensor] = {}
        if self.video_rows is not None:
            present["video"] = self.video_rows.any(dim=1)
        if self.has_audio is not None:
            present["audio"] = self.has_audio if self.audio_frames is None else self.has_audio & (self.audio_frames > 0)
        if self.known_words is not None:
            present["text"] = self.known_words.any(dim=1)
        return present


@dataclass(frozen=True)
class Embeddings:
    """The vectors of a batch of clips, by space and modality.

    A row of an absent modality is finite and meaningless: `present` says which rows count.
    """

    vectors: dict[str, dict[str, Tensor]]
    """space -> modality -> `(B, D)`."""
    present: dict[str, Tensor]
    """modality -> `(B,)` bool."""
    targets: dict[str, dict[str, Tensor]]
    """space -> modality -> `(B, F)`: the unstandardised feature that this vector's decoder has to give back."""

    def map_vectors(self, change: Callable[[Tensor], Tensor]) -> "Embeddings":
        """The same embeddings with every vector tensor changed; presence and targets stay."""
        changed = {space: {m: change(v) for m, v in vectors.items()} for space, vectors in self.vectors.items()}
        return replace(self, vectors=changed)

    def joint(self, space: Space) -> tuple[Tensor, Tensor]:
        """The mean of each clip's present vectors in `space`, detached: `(B, D)`, and `(B,)` bool, where there is one.

        Only the modalities that the space trains take part; a clip with none of them has a zero row. This is the
        feature that is clustered (Chen et al., 2021).
        """
        names = space.trained_modalities
        vectors = self.vectors[space.name]
        masks = torch.stack([self.present[m] for m in names])
        total = torch.stack([vectors[m].detach().masked_fill(~self.present[m].unsqueeze(1), 0.0) for m in names]).sum(0)
        count = masks.sum(dim=0)
        return total / count.clamp(min=1).unsqueeze(1).to(total.dtype), count > 0


def concatenate(parts: Sequence[Embeddings]) -> Embeddings:
    """The embeddings of several batches as one, in order."""

    def joined(trees: list[dict[str, dict[str, Tensor]]]) -> dict[str, dict[str, Tensor]]:
        return {s: {m: torch.cat([tree[s][m] for tree in trees]) for m in by_m} for s, by_m in trees[0].items()}

    present = {m: torch.cat([part.present[m] for part in parts]) for m in parts[0].present}
    return Embeddings(joined([p.vectors for p in parts]), present, joined([p.targets for p in parts]))
