"""Settings of the model, its losses and its clusters: plain values, no PyTorch.

Each field is a flag of `mcn train`, its docstring the flag's help, save those whose metadata say `flag: False`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from models.pairing import Scheme, Space, builtin_scheme

AUDIO_WIDTH = 1024
"""Of DaveNet's output."""
MEL_BANDS, STRIDE = 40, 16
"""Of DaveNet's input: values of a log-mel frame, and frames that every step of the output covers."""


def check_numbers(settings: object, at_least: Mapping[str, float], above_0: Iterable[str] = ()) -> None:
    """Raise ValueError for a field below its bound, or one of `above_0` that isn't above 0."""
    for name, bound in at_least.items():
        if not getattr(settings, name) >= bound:
            raise ValueError(f"`{name}` is {getattr(settings, name)}: it must be at least {bound}")
    for name in above_0:
        if not getattr(settings, name) > 0:
            raise ValueError(f"`{name}` is {getattr(settings, name)}: it must be above 0")


@dataclass(frozen=True)
class LossSettings:
    """Options of the losses; the defaults are the published terms, summed by the rule of `term_weights`."""

    margin: float = 0.001
    """Subtracted from the similarity of a clip's own pair, and from the logit of its own cluster: both must win by it.
    Published: 0.001, which matters little beside dot products without a scale; with cosines some 0.1 are usual."""
    temperature: float = 1.0
    """Similarities less margin are divided by it. Published: 1, since vectors of free length set their own scale; with
    `normalise` some 0.05 to 0.1, or the softmax can't become sharp."""
    normalise: bool = False
    """Contrast L2-normalised vectors (cosines), so that no clip wins by its length. Published: off, raw dot products,
    whose length can say how sure a vector is; clusters and reconstruction see the vectors as they are either way."""
    directions: Literal["both", "first", "second"] = "both"
    """`both` adds both directions of each pair, as published; `first` only finds the second modality from the first,
    `second` the first from the second, for a model that will search one way alone."""
    mask_same_video: bool = False
    """Leave other clips of the same video out of the negatives: they overlap, and may be the same clip drawn twice.
    Published: off, in spite of the loss's name; they are the hardest negatives, which tell moments of a video apart."""
    contrast_weight: float = 1.0
    """Weight of every contrastive term; 0 leaves L_MMS out."""
    cluster_weight: float = 1.0
    """Weight of every cluster term; 0 leaves L_Cluster out. Published: 1/3, for three modalities or fewer."""
    reconstruction_weight: float = 50.0
    """Weight of every reconstruction term, a mean squared error per feature; 0 leaves L_Reconstruct out."""
    term_weights: Literal["balanced", "sum"] = "balanced"
    """`balanced` scales each kind of term to the number that scheme `shared` has, so that schemes differ in pairing
    alone; `sum` adds them up as they are. They are the same for `shared`."""

    def __post_init__(self) -> None:
        weights = ("contrast_weight", "cluster_weight", "reconstruction_weight")
        check_numbers(self, dict.fromkeys(("margin", *weights), 0), above_0=("temperature",))
        if not any(getattr(self, name) for name in weights):
            raise ValueError(f"{', '.join(f'`{name}`' for name in weights)} are all 0: nothing is left to train on")
        for name, known in (("directions", ("both", "first", "second")), ("term_weights", ("balanced", "sum"))):
            if getattr(self, name) not in known:
                raise ValueError(f"`{name}` is {getattr(self, name)!r}: it must be one of {', '.join(known)}")


@dataclass(frozen=True)
class ClusterSettings:
    """Options of k-means and of its queue; the defaults are the mended ones, each docstring says what was published."""

    clusters: int = 256
    """k-means clusters of each space."""
    iterations: int = field(default=100, metadata={"flag": False})
    """Most rounds of one fit."""
    tolerance: float = field(default=1e-4, metadata={"flag": False})
    """A fit ends when the centroids' squared changes sum up to no more than this."""
    spherical: bool = False
    """Centroids are unit means of unit rows, so that every clip weighs the same and every centroid's logits have one
    scale. Published: off, plain means, so that long vectors weigh more; the cluster loss then sees their lengths."""
    spread_start: bool = True
    """A first fit starts from rows far apart (k-means++), which finds small groups more often. Published: off, from
    rows drawn at random, some of them twice with fast_pytorch_kmeans of 2023 and later; here never."""
    reseed_dead: bool = True
    """A cluster without rows restarts at the row that is least like its own centroid. Published: off, it becomes a zero
    vector, whose logit is 0 for every clip, and it rarely comes back."""
    labels_before_update: bool = False
    """A fit's labels are those before its last centroid update, as published; else they belong to the centroids that
    the loss uses. Where a fit has settled they are the same."""
    queue_rows: int = 40_960
    """Joint features kept from earlier batches; 0 for none. Published: 20 batches of 2048."""
    queue_only_when_full: bool = False
    """Fit on the batch alone until the queue is full, as published; else on the batch and what the queue holds."""
    refit_every: int = 20
    """Fit every this many batches; between fits, clips are assigned to the centroids at hand."""

    def __post_init__(self) -> None:
        check_numbers(self, {"clusters": 2, "iterations": 1, "queue_rows": 0, "refit_every": 1})


@dataclass(frozen=True)
class ModelSettings:
    """Sizes and options of an MCN; the defaults are the mended ones, each docstring says what was published."""

    scheme: Scheme = field(default_factory=lambda: builtin_scheme("shared"), metadata={"flag": False})
    """The pairing scheme."""
    width: int = 4096
    """Embedding width of every space that does not state its own. Published: 6144."""
    video_streams: tuple[int, ...] = field(default=(2048,), metadata={"flag": False})
    """Widths of the video features side by side in a row, each L2-normalised apart. Published: 2048 (2-D), 2048."""
    audio_dim: int = field(default=AUDIO_WIDTH, metadata={"flag": False})
    """Width of the audio feature; 1024 with DaveNet inside."""
    word_dim: int = field(default=300, metadata={"flag": False})
    """Width of a word vector."""
    reconstruction_hidden: int = 1024
    """Hidden width of each decoder of L_Reconstruct."""
    audio_from: Literal["davenet", "logmel"] = "davenet"
    """`davenet`: frozen rows of the data set. `logmel`: DaveNet is part of the model and trained with it, as
    published."""
    standardise: bool = False
    """Standardise video, words and frozen audio rows by statistics of the training clips, which are saved with the
    model. Published: off."""
    normalise_video: bool = field(default=True, metadata={"flag": False})
    """L2-normalise the max-pooled video rows. The published loader does so before the model sees them."""
    mask_padding_words: bool = True
    """Leave padding out of the maximum over words. Published: off; padding is a zero vector that takes part as
    relu(bias), so that no feature of a caption with room left is below it and short captions look alike."""
    own_frames_in_training: bool = True
    """Average DaveNet's output over a clip's own frames in training too. Published: off; in training padding counts, in
    evaluation it does not, so that short clips are embedded otherwise than they were trained."""
    zeros_for_missing: bool = False
    """Train on zeros in place of a missing modality, as published: zero features, or a log-mel of zeros; all clips
    without sound then share one vector. Else a clip leaves every term that needs what it lacks."""
    detach_targets: bool = True
    """Keep reconstruction from moving its own targets, DaveNet's mean output and the pooled words. Published: off; it
    then trains DaveNet and the word layer too, and can shrink what it has to predict."""
    unused_batchnorm: bool = field(default=False, metadata={"flag": False})
    """Build DaveNet's `batchnorm1`, which the published class has and never calls. It changes no output and takes no
    gradient; on, the published tensors go in and out unchanged, off, there is no parameter without a gradient."""

    def __post_init__(self) -> None:
        check_numbers(self, dict.fromkeys(("width", "audio_dim", "word_dim", "reconstruction_hidden"), 1))
        if not self.video_streams or min(self.video_streams) < 1:
            raise ValueError(f"`video_streams` is {self.video_streams}: give the width of at least one video feature")
        if self.audio_from not in ("davenet", "logmel"):
            raise ValueError(f"`audio_from` is {self.audio_from!r}: it must be davenet or logmel")
        if self.audio_from == "logmel" and self.audio_dim != AUDIO_WIDTH:
            raise ValueError(f"`audio_dim` is {self.audio_dim}: with `audio_from` logmel it must be {AUDIO_WIDTH}")

    @property
    def video_dim(self) -> int:
        """Width of a video row: the sum of its streams."""
        return sum(self.video_streams)

    def width_of(self, space: Space) -> int:
        """The width of a space: its own, or this model's."""
        return self.width if space.width is None else space.width
