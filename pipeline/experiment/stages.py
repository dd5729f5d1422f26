"""The stages of an experiment, in order, from one YAML file."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.commands import COMMANDS
from pipeline.core.config import convert, from_mapping, load_yaml
from pipeline.core.errors import InputError, suggest, suggest_path
from pipeline.training.settings import TrainSettings, find_scheme

EVALUATIONS = (("evaluate", "evaluate retrieval", "clips"), ("localize", "evaluate localization", "annotations"))
"""Section, its stage, and the setting that names what is asked for."""

STAGES = (
    {name: name for name in ("sample", "download", "extract", "freeze", "train")}
    | {section: stage for section, stage, _ in EVALUATIONS}
    | {"probe": "probe"}
)
"""Section -> its stage, in the order they run."""

PROBED = {"truth": "truth.csv", "ids": "HowTo100M_v1.csv", "steps": "steps.csv"}
"""Settings of section `probe` that a sample's files fill in."""

KEYS = ("out", "schemes", "seeds", "compare", *STAGES)

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
"""The experiments' YAML files that come with the package."""


def shipped_configs() -> dict[str, Path]:
    """Name, without its suffix -> file."""
    return {path.stem: path for path in sorted(CONFIGS.glob("*.yaml"))}


@dataclass(frozen=True)
class RunSettings:
    """An experiment: one folder, and each stage's settings. Paths from stage to stage are filled in."""

    out: Path
    stages: dict[str, dict[str, Any]]
    """Section -> its settings as given."""
    schemes: tuple[str, ...]
    seeds: tuple[int, ...]
    source: str
    compare: dict[str, Any] = field(default_factory=dict)
    """Section `compare`, which is `mcn compare`'s."""
    overridden: frozenset[str] = frozenset()
    """What `--set` gave: `seeds`, `train.epochs`."""

    @classmethod
    def load(cls, path: Path, overrides: Sequence[str] = ()) -> "RunSettings":
        """Read the YAML file, apply `section.key=value` overrides, check all of it; InputError says what is wrong."""
        content = _read(path)
        overridden = frozenset(_override(content, override) for override in overrides)

        def where(key: str) -> str:
            return _called(key, str(path), overridden)

        for key in content:
            if key not in KEYS:
                named = next((given for given in overridden if given.partition(".")[0] == key), None)
                raise InputError(
                    f"{f'--set {named}' if named else path}: unknown section {key!r}; {suggest(str(key), KEYS)}"
                )
        if "out" not in content:
            raise InputError(f"{path}: `out: FOLDER` is needed: where everything of this run goes")
        stages = {}
        for name in STAGES:
            if name in content:
                section_content = {} if content[name] is None else content[name]
                if not isinstance(section_content, dict):
                    raise InputError(f"{where(name)}: expected settings as `name: value` lines")
                stages[name] = dict(section_content)
        _refuse_folders_own(stages.get("train", {}), where)
        schemes = convert(content.get("schemes", ["shared"]), tuple[str, ...], where("schemes"))
        seeds = convert(content.get("seeds", [1]), tuple[int, ...], where("seeds"))
        out = convert(content["out"], Path, where("out"))
        compare = content.get("compare") or {}
        if not isinstance(compare, dict):
            raise InputError(f"{where('compare')}: expected settings as `name: value` lines")
        settings = cls(out, stages, schemes, seeds, str(path), compare, overridden)
        for name, values in settings.plan():
            checked = settings.stage_settings(name, values)
            if name == "train":
                find_scheme(checked.scheme)
                settings.refuse_missing_streams(checked)
        return settings

    def refuse_missing_streams(self, trained: TrainSettings) -> None:
        """InputError where training asks for a video stream that the extraction before it doesn't make."""
        if "extract" not in self.stages or "manifest" in self.stages["train"]:
            return
        extracted = dict(self.data_plan())["extract"]
        streams = self.stage_settings("extract", extracted).streams
        missing = [stream for stream in trained.clips.streams if stream not in streams]
        if missing:
            preset = "" if "streams" in self.stages["train"] else f", by preset {trained.preset}"
            raise InputError(
                f"{self.called('train.streams')}: {', '.join(map(repr, missing))}{preset}: extract makes "
                f"{', '.join(streams)} alone; add it to extract.streams, or leave it out of train.streams"
            )

    def stage_settings(self, stage: str, values: Mapping[str, Any]) -> Any:
        """A stage's settings, checked; InputError says whether the file or `--set` has what is wrong."""
        (section,) = (section for section, name in STAGES.items() if name == stage)
        return from_mapping(
            COMMANDS[stage].settings_class(), values, f"{self.source}: {stage}", given_as=self.given_as(section)
        )

    def called(self, key: str) -> str:
        """How messages call a key such as `seeds` or `compare.arms`: by the file, or by `--set`, which gave it."""
        return _called(key, self.source, self.overridden)

    def given_as(self, section: str) -> dict[str, str]:
        """How messages call what `--set` gave in a section."""
        names = (key.partition(".")[2] for key in self.overridden if key.startswith(f"{section}."))
        return {name.replace("-", "_"): f"--set {section}.{name}" for name in names}

    def plan(self) -> list[tuple[str, dict[str, Any]]]:
        """Stage name -> full settings, in the order they run."""
        plan = self.data_plan()
        for scheme, seed in ((scheme, seed) for scheme in self.schemes for seed in self.seeds):
            model = str(self.out / "models" / f"{Path(scheme).stem}-seed{seed}")
            if "train" in self.stages:
                chosen = {"manifest": str(self.manifest), "out": model, "scheme": scheme, "seed": seed}
                plan.append(("train", chosen | self.stages["train"]))
            plan += self.evaluations(model)
        return plan

    def data_plan(self) -> list[tuple[str, dict[str, Any]]]:
        """The stages before any training: from nothing to a manifest."""
        out, given = self.out, self.stages
        sample = out / "sample"
        plan: list[tuple[str, dict[str, Any]]] = []
        made = "sample" in given
        split = self._split()
        if made:
            plan.append(("sample", {"out": str(sample)} | given["sample"]))
        if "download" in given:
            source = {"ids": str(sample / "HowTo100M_v1.csv"), "site": "sample", "sample": str(sample)} if made else {}
            plan.append(("download", {"out": str(out / "media")} | source | given["download"]))
        if "extract" in given:
            source = {"captions": str(sample / "caption.json"), "ids": str(sample / "HowTo100M_v1.csv")} if made else {}
            folders = {"media": str(out / "media"), "out": str(out / "dataset")}
            plan.append(("extract", folders | source | split | given["extract"]))
        if "freeze" in given or ("train" in given and "manifest" not in given["train"]):
            plan.append(("freeze", self._freeze(split)))
        return plan

    def evaluations(self, model: str) -> list[tuple[str, dict[str, Any]]]:
        """The stages that evaluate and probe the model in folder `model`, with their full settings."""
        places = {"checkpoint": model, "out": model}
        if "freeze" in self.stages or "train" in self.stages:
            places["manifest"] = str(self.manifest)
        plan = []
        for section, stage, setting in EVALUATIONS:
            if section in self.stages:
                source = {setting: str(self.out / "sample" / "steps.csv")} if "sample" in self.stages else {}
                plan.append((stage, places | source | self.stages[section]))
        if "probe" in self.stages:
            made = {name: str(self.out / "sample" / file) for name, file in PROBED.items()}
            plan.append(("probe", places | (made if "sample" in self.stages else {}) | self.stages["probe"]))
        return plan

    @property
    def manifest(self) -> Path:
        """What models are trained on: the manifest that `train` names, or else that of stage freeze."""
        if "manifest" in self.stages.get("train", {}):
            return convert(self.stages["train"]["manifest"], Path, f"{self.source}: train: manifest")
        frozen = self._freeze(self._split())
        folder = convert(frozen["dataset"], Path, f"{self.source}: freeze: dataset")
        return Path(folder / "manifests" / f"{frozen['name']}.json")

    def _split(self) -> dict[str, str]:
        return {"split": str(self.out / "sample" / "split.csv")} if "sample" in self.stages else {}

    def _freeze(self, split: dict[str, str]) -> dict[str, Any]:
        """Settings of the stage between extraction and training: what these two stages say already is filled in."""
        download, extract = self.stages.get("download", {}), self.stages.get("extract", {})
        listed = extract.get("ids") or download.get("ids")
        if "sample" in self.stages and not listed:
            listed = str(self.out / "sample" / "HowTo100M_v1.csv")
        places = {
            "dataset": extract.get("out") or str(self.out / "dataset"),
            "media": extract.get("media") or download.get("out") or str(self.out / "media"),
            "name": "run",
        }
        ids = {"ids": listed} if listed else {}
        given = {"split": extract["split"]} if extract.get("split") else {}
        return places | ids | split | given | self.stages.get("freeze", {})


def _override(content: dict[str, Any], override: str) -> str:
    """Put what `--set` gives into the file's content; returns its key."""
    key, equals, value = override.partition("=")
    section, dot, name = key.partition(".")
    if not equals or not section.strip() or not name.strip() and dot:
        raise InputError(f"--set {override}: expected SECTION.KEY=VALUE, e.g. train.epochs=5")
    if dot:
        content[section] = {} if content.get(section) is None else content[section]
        if isinstance(content[section], dict):
            content[section][name] = value
    else:
        content[section] = value
    return key


def _called(key: str, path: str, overridden: Container[str]) -> str:
    """How messages call a key such as `seeds` or `train.seed`."""
    return f"--set {key}" if key in overridden else f"{path}: {key.replace('.', ': ')}"


def _read(path: Path) -> dict[str, Any]:
    """The file's content; InputError says how to get a missing file that comes with the package."""
    if path.stem in shipped_configs() and not path.exists():
        raise InputError(f"{path}: no such file{suggest_path(path)}; `mcn config copy {path.stem}` writes it")
    return load_yaml(path)


def _refuse_folders_own(train: dict[str, Any], where: Callable[[str], str]) -> None:
    """A scheme and a seed name the folder of their model; given under `train` they would all be the same."""
    if "out" in train:
        raise InputError(f"{where('train.out')}: each model has a folder of its own; leave it out")
    for name, instead in (("seed", "seeds"), ("scheme", "schemes")):
        if name in train:
            raise InputError(f"{where(f'train.{name}')}: give `{instead}: [...]` instead; each has a folder of its own")
