"""A study: the experiment of an `mcn run` file, and in its section `compare` what is set side by side."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipeline.core.config import command_line, convert, from_mapping
from pipeline.core.errors import InputError, suggest
from pipeline.core.secrets import masked_words
from pipeline.experiment.stages import RunSettings
from pipeline.training.settings import TrainSettings, find_scheme

BUILTIN_ARMS: dict[str, dict[str, Any]] = {
    "shared": {"scheme": "shared"},
    "disjoint": {"scheme": "disjoint"},
    "fine-and-coarse": {"scheme": "fine-and-coarse"},
    "fine-and-coarse-mmv": {"scheme": "fine-and-coarse-mmv"},
    "video-text": {"scheme": "video-text"},
    "video-audio": {"scheme": "video-audio"},
    "audio-text": {"scheme": "audio-text"},
    "without-cluster": {"scheme": "shared", "cluster_weight": 0.0},
    "without-reconstruct": {"scheme": "shared", "reconstruction_weight": 0.0},
    "sum-of-terms": {"scheme": "disjoint", "term_weights": "sum"},
    "permuted-captions": {"scheme": "shared", "permute_captions": True},
}
"""Name -> training settings that differ. The last two are controls: L is a plain sum; text says nothing."""


@dataclass(frozen=True)
class Arm:
    """One kind of model that is trained with every seed."""

    name: str
    train: dict[str, Any] = field(default_factory=dict)
    """Its own training settings, the scheme among them."""


def arms_from(given: Any, where: str) -> tuple[Arm, ...]:
    """The arms of a list: names of built-in ones, or mappings with `name` and training settings.

    InputError, beginning with `where`, for an unknown name, one given twice, or what is no arm.
    """
    if not isinstance(given, list) or not given:
        raise InputError(f"{where}: expected a list of arms, such as [shared, disjoint]")
    arms = []
    for entry in given:
        if isinstance(entry, Mapping):
            values = {str(key).replace("-", "_"): value for key, value in entry.items()}
            name = values.pop("name", None)
            if not isinstance(name, str) or not name.replace("-", "").replace("_", "").isalnum():
                raise InputError(f"{where}: an arm of its own needs a `name` of letters, digits, - and _")
            arms.append(Arm(name, {"scheme": "shared"} | values))
        elif entry in BUILTIN_ARMS:
            arms.append(Arm(str(entry), dict(BUILTIN_ARMS[entry])))
        else:
            raise InputError(f"{where}: unknown arm {entry!r}; {suggest(str(entry), BUILTIN_ARMS)}")
    names = [arm.name for arm in arms]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{where}: arm {twice[0]} is given twice")
    return tuple(arms)


SHARED = ("manifest", "out", "seed", "epochs", "batch_videos", "clips_per_video", "share_initial_weights")
"""Training settings that no arm may have of its own: all arms see the same clips for as many steps."""
KEYS = ("arms", "reference", "seeds", "equal", "at_once", "probed_seeds")
EQUAL = ("width", "parameters")
"""What arms may have in common: the width of every space, or the number of parameters."""
ENDPOINT = "R@5"
"""The primary endpoint, fixed beforehand: of text -> video, video alone, in the space that contrasts the two."""


def _value(value: Any) -> Any:
    """A setting as YAML gives it; by `--set` it comes as text."""
    if not isinstance(value, str):
        return value
    read = yaml.safe_load(value)
    return value.split(",") if isinstance(read, str) and "," in read else read


@dataclass(frozen=True)
class StudySettings:
    """Arms x seeds on one manifest."""

    experiment: RunSettings
    """The data, and what training and evaluations of all arms have in common."""
    arms: tuple[Arm, ...]
    reference: str
    """The arm that the others are compared with."""
    seeds: tuple[int, ...]
    equal: tuple[str, ...]
    """A table for each."""
    at_once: int
    """Models trained side by side; 0: one for each GPU, or for each core of a machine without."""
    probed_seeds: int = 1
    """Where the experiment has a section `probe`: the first so many seeds of each arm are probed, at the width of the
    first table."""
    overrides: tuple[str, ...] = ()
    """What was given by `--set`."""
    plan: bool = False
    """Say what would be done, and write the commands, but train nothing."""
    only: str = ""
    """Train and evaluate this one model, on data that are there: a task of a job array."""

    @classmethod
    def load(
        cls, path: Path, overrides: Sequence[str] = (), plan: bool = False, only: str | None = None
    ) -> "StudySettings":
        """Read and check the whole study; InputError says what is wrong. Without a section `compare` it has an arm for
        each of the experiment's schemes."""
        experiment = RunSettings.load(path, overrides)

        def where(name: str) -> str:
            return experiment.called(f"compare.{name}")

        given = {key: _value(value) for key, value in experiment.compare.items()}
        for key in given:
            if key not in KEYS:
                raise InputError(f"{where(str(key))}: unknown setting {key!r}; {suggest(str(key), KEYS)}")
        schemes = [{"name": Path(scheme).stem, "scheme": scheme} for scheme in experiment.schemes]
        arms = arms_from(given.get("arms", schemes), where("arms"))
        for arm, name in ((arm, name) for arm in arms for name in SHARED if name in arm.train):
            raise InputError(f"{where('arms')}: arm {arm.name}: {name} is the same for all arms; give it under `train`")
        names = [arm.name for arm in arms]
        reference = given.get("reference", names[0])
        if reference not in names:
            raise InputError(
                f"{where('reference')}: {reference!r} is none of the arms; {suggest(str(reference), names)}"
            )
        seeds = convert(given.get("seeds", experiment.seeds), tuple[int, ...], where("seeds"))
        equal = convert(given.get("equal", ["width"]), tuple[str, ...], where("equal"))
        if not seeds or len(set(seeds)) < len(seeds) or not equal or set(equal) - set(EQUAL):
            raise InputError(
                f"{path}: compare: expected seeds without repeats, and equal: [width, parameters] or one of these"
            )
        at_once = convert(given.get("at_once", 0), int, where("at_once"))
        probed_seeds = convert(given.get("probed_seeds", 1), int, where("probed_seeds"))
        for name, number in (("at_once", at_once), ("probed_seeds", probed_seeds)):
            if number < 0:
                raise InputError(f"{where(name)}: expected an integer of at least 0, got {number}")
        if "evaluate" not in experiment.stages:
            raise InputError(f"{path}: section `evaluate` is needed: the endpoint is {ENDPOINT} of its clips")
        asked = (probed_seeds, tuple(overrides), plan, only or "")
        study = cls(experiment, arms, reference, seeds, equal, at_once, *asked)
        for arm in arms:
            scheme = find_scheme(study.train_settings(arm, seeds[0], experiment.out / "study").scheme)
            if arm.name == reference and not scheme.contrasting("text", "video"):
                raise InputError(
                    f"{where('reference')}: {reference} never contrasts text with video: no {ENDPOINT} to compare"
                )
        return study

    @property
    def out(self) -> Path:
        """Folder of the study: its runs, tables and report."""
        return self.experiment.out / "study"

    def command(self, model: str) -> str:
        """The command line that trains and evaluates one model."""
        # Where a model is trained nothing is downloaded any more: no secret is needed.
        given = [word for override in masked_words(self.overrides) for word in ("--set", override)]
        return shlex.join(["mcn", "compare", self.experiment.source, *given, "--only", model])

    def train_settings(self, arm: Arm, seed: int, out: Path, width: int | None = None) -> TrainSettings:
        """What a model of the arm is trained with: the experiment's settings, then the arm's own."""
        common: dict[str, Any] = {
            "manifest": str(self.experiment.manifest),
            "out": str(out),
            "seed": seed,
            "share_initial_weights": True,
        }
        own = {} if width is None else {"width": width}
        values = common | self.experiment.stages.get("train", {}) | arm.train | own
        given_as = {name: said for name, said in self.experiment.given_as("train").items() if name not in arm.train}
        return from_mapping(TrainSettings, values, f"{self.experiment.source}: arm {arm.name}", given_as=given_as)


@dataclass(frozen=True)
class ConfigListSettings:
    """Settings of `mcn config list`: none."""


@dataclass(frozen=True)
class ConfigCopySettings:
    """Settings of `mcn config copy`."""

    name: str
    """Name of a config, as mcn config list prints it."""
    out: Path = Path(".")
    """Folder, or name of a file that isn't there yet, to write it to."""


@dataclass(frozen=True)
class ReportSettings:
    """Settings of `mcn report`."""

    study: Path
    """Folder that `mcn compare` has filled: it holds compare.json and runs/."""
    media: Path | None = None
    """Folder of the videos' files, for frames; default: media beside the study, where stages put it, if it is there."""
    public: bool = False
    """Leave out frames, captions, what is made of their words, ids of videos and names of machines."""
    out: Path | None = None
    """The HTML file; default: report.html, or report-public.html, in the study's folder. Figures and tables go into a
    folder beside it, STEM-figures."""
    seed: int = 0
    """Of the maps, and of the choice of clips where there are many."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"`seed`: expected an integer from 0 to 2^32 - 1, got {self.seed}")
        if self.file.suffix != ".html":
            raise ValueError(f"`out`: expected a file name that ends in .html, got {self.out}")

    @property
    def file(self) -> Path:
        """The HTML file."""
        return self.out or self.study / ("report-public.html" if self.public else "report.html")

    @property
    def figures(self) -> Path:
        """The folder beside it. A name of its own: a public report's must hold nothing of another's."""
        return self.file.with_name(f"{self.file.stem}-figures")

    def command(self) -> str:
        """The command line that these settings stand for."""
        return command_line("report", self, ("study",))
