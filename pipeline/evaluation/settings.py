"""Settings of `mcn evaluate` and `mcn probe`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.clips.rules import AUDIO_SECONDS
from pipeline.core.config import command_line

Fusion = Literal["video", "video+audio"]


@dataclass(frozen=True)
class Windows:
    """What is taken of each second of a video, and of each step's text."""

    fusion: Fusion
    video_seconds: int
    audio_seconds: int
    max_words: int


@dataclass(frozen=True)
class Draws:
    """How often what is random is drawn, and from which seed."""

    bootstrap: int
    permutations: int
    """Probes on permuted labels, one at least."""
    seed: int


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What every evaluation of a model can be told."""

    checkpoint: Path
    """Trained model: a checkpoint file or the folder it lies in."""
    out: Path
    """Folder for the results, which bear the evaluation's name: a JSON file, its tables (.md, .tex), and of a probe its
    figures (.svg, .pdf) with their numbers (.csv)."""
    manifest: Path | None = None
    """Manifest of `mcn freeze`; default: the one the model was trained on."""
    split: str = "heldout"
    """Which videos: a split of the manifest, heldout (every split whose name begins so), or all."""
    bootstrap: int = 2000
    """Draws of the 95 % interval over videos."""
    seed: int = 0
    """Of all that is drawn by chance."""

    def __post_init__(self) -> None:
        if self.bootstrap < 1 or self.seed < 0:
            raise ValueError("`bootstrap` must be at least 1, `seed` at least 0")


@dataclass(frozen=True, kw_only=True)
class RetrievalSettings(EvaluationSettings):
    """What `mcn evaluate retrieval` can be told."""

    clips: Path
    """csv video_id,start,end,text: each line is a query (its text), each different clip a candidate; a clip may have
    several lines."""
    directions: Literal["all", "headline"] = "all"
    """What finds what: every pair of modalities that shares a space; or text -> video alone, for which no sound is
    read."""
    published_ties: bool = False
    """Count tied positions as the published scripts do, each as a further hit, so that a recall can exceed 100 %."""


@dataclass(frozen=True, kw_only=True)
class LocalizationSettings(EvaluationSettings):
    """What `mcn evaluate localization` can be told."""

    annotations: Path
    """csv video_id,task_id,step,start,end,text: a line for each segment in which a step is done; without text where
    --steps has it."""
    steps: Path | None = None
    """csv task_id,step,text: all steps of each task, each of which is then looked for in each video; default: those
    annotated in the video, by their own texts."""
    fusion: Fusion = "video"
    """What a second is scored by: its video alone, or the sum of the vectors of video and audio, as published, in a
    space that holds both."""
    video_seconds: int = 1
    """Window of the video about each second. Published: 1, the second itself."""
    audio_seconds: int = 8
    """Window of the audio about each second, at most 10, shifted inside the video's ends. Published: 8."""
    max_words: int = 30
    """First words of a step's text with a vector that are kept. Published: 30."""
    step_seconds: float = 5.0
    """Mean of the Poisson distribution of a step's length, for IoU and IoD. Published: 5, as 150 frames."""
    background: float = 1.0
    """The background's score for IoU and IoD, in standard deviations above a video's mean score. At 1, one second in
    six is more like a step than like the background where scores say nothing."""
    chance_draws: int = 100
    """Random score matrices for each video whose mean figures are chance."""
    against: Path | None = None
    """localization.json of another model on the same steps: the differences get a paired interval."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chance_draws < 1:
            raise ValueError("`chance_draws` must be at least 1")
        if min(self.video_seconds, self.audio_seconds, self.max_words) < 1 or not self.step_seconds > 0:
            raise ValueError("`video_seconds`, `audio_seconds`, `max_words` must be at least 1, `step_seconds` above 0")
        if self.audio_seconds > AUDIO_SECONDS:
            raise ValueError(f"`audio_seconds` is {self.audio_seconds}: the model hears {AUDIO_SECONDS:.0f} s")

    @property
    def windows(self) -> Windows:
        """What is taken of each second and each text."""
        return Windows(self.fusion, self.video_seconds, self.audio_seconds, self.max_words)


@dataclass(frozen=True, kw_only=True)
class ClassificationSettings(EvaluationSettings):
    """What `mcn evaluate classification` can be told."""

    clips: Path
    """csv video_id,start,end,class: the clips and their classes."""
    classes: Path | None = None
    """Text file of all class names, one a line; default: those of the split's clips."""
    class_column: str = "class"
    """Column of the csv that names the class."""
    window_seconds: float = 10.0
    """A clip is cut into equal windows no longer than this; its vector is the mean of theirs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.window_seconds > 0:
            raise ValueError("`window_seconds` must be above 0")


@dataclass(frozen=True, kw_only=True)
class ProbeSettings(EvaluationSettings):
    """What `mcn probe` can be told."""

    truth: Path | None = None
    """truth.csv of `mcn sample`: probes of all that is planted in each second."""
    ids: Path | None = None
    """csv video_id,category_1,category_2,task_id: the ladder's rungs, and tasks for context against content."""
    steps: Path | None = None
    """csv video_id,task_id,step,start,end,text: the ladder's last rung."""
    sounds: Path | None = None
    """Folder as ESC-50 is, meta/esc50.csv and audio/: a probe of environmental sounds."""
    media: Path | None = None
    """Folder of the videos' files: dose curves."""
    davenet_weights: str = ""
    """DaveNet's weights, where the data set's own settings don't find them any more."""
    beside: tuple[Path, ...] = ()
    """probe.json of other models, separated by commas: drawn in the same figures."""
    split: str = "all"
    """Which videos: a split of the manifest, heldout (every split whose name begins so), or all."""
    videos: int = 2000
    """So many of them at most, by chance."""
    window_seconds: float = 10.0
    """Length of the clips of the ladder, of context against content and of dose curves."""
    windows_per_video: int = 6
    """Clips of each video at most, spread evenly over it."""
    neighbour_seconds: float = 10.0
    """Clips of one video nearer to each other than this are not compared."""
    dose_clips: int = 64
    """Clips of dose curves at most, each of another video."""
    permutations: int = 3
    """Probes on permuted labels, for each probe."""
    bootstrap: int = 1000
    """Draws of the 95 % interval over videos."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.permutations, self.videos, self.windows_per_video) < 1:
            raise ValueError("`permutations`, `videos` and `windows_per_video` must be at least 1")
        if not self.window_seconds > 0 or self.neighbour_seconds < 0 or self.dose_clips < 2:
            raise ValueError("`window_seconds` must be above 0, `neighbour_seconds` not below, `dose_clips` at least 2")

    @property
    def draws(self) -> Draws:
        """How often what is random is drawn."""
        return Draws(self.bootstrap, self.permutations, self.seed)

    def command(self) -> str:
        """The command line that these settings stand for."""
        return command_line("probe", self)
