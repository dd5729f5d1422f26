"""What `mcn compare` has left: the comparison, and each model's training and scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.errors import InputError, suggest_below
from pipeline.core.files import read_json

COMPARISON = "compare.json"
RETRIEVAL, LOCALIZATION, TRAINING, PROBE = "retrieval.json", "localization.json", "train.json", "probe.json"

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Model:
    """One model of a study. Reports are those of the stages, whole."""

    name: str
    arm: str
    seed: int
    equal: tuple[str, ...]
    """The tables in which it stands."""
    folder: Path
    training: Json
    retrieval: Json
    localization: Json | None
    """None where the arm can't be asked for steps."""
    probe: Json | None
    """None where `mcn probe` has not been run on it."""

    @property
    def seconds(self) -> float | None:
        """Of its training; None where it was stopped in between, and nobody has counted them all."""
        return None if self.training["skipped"] else float(self.training["seconds"])

    @property
    def steps(self) -> int:
        """Optimiser steps from the beginning to the end of its training, over however many calls."""
        detail = self.training["detail"]
        settings = detail["settings"]
        return int(detail["videos"] // settings["batch_videos"] * settings["epochs"])

    @property
    def has_headline(self) -> bool:
        """Whether its first direction is text -> video, contrasted in training."""
        return bool(self.retrieval["detail"]["headline"])


@dataclass(frozen=True)
class Study:
    """A finished comparison."""

    folder: Path
    detail: Json
    """Of compare.json; its tables, and the arms in each, in the study's order, the reference first."""
    models: tuple[Model, ...]
    """The reference arm's first."""

    @property
    def arms(self) -> list[str]:
        """Names, the reference first."""
        return list(dict.fromkeys(model.arm for model in self.models))

    def of_arm(self, arm: str) -> list[Model]:
        """An arm's models in the study's first table, a seed each."""
        table = next(iter(self.detail["tables"]))
        own = [model for model in self.models if model.arm == arm]
        return [model for model in own if table in model.equal] or own

    def probed(self) -> list[Model]:
        """Every arm's models that `mcn probe` has been run on, of the study's first table."""
        return [model for arm in self.arms for model in self.of_arm(arm) if model.probe is not None]

    def examples(self) -> list[Model]:
        """A model for each arm, of its first seed: those that figures show."""
        return [self.of_arm(arm)[0] for arm in self.arms]


def read_study(folder: Path) -> Study:
    """Read the study in `folder`, which holds compare.json and runs/.

    InputError when it isn't one, isn't finished, or a model's results are gone or of another kind.
    """
    path = folder / COMPARISON
    if not path.exists():
        near = suggest_below(folder, (f"*/{COMPARISON}",), named_by_folder=True) or ", such as runs/demo/study"
        raise InputError(f"{path}: no such file; STUDY is the folder that `mcn compare` fills{near}")
    content = read_json(path)
    detail = content.get("detail") if isinstance(content, dict) else None
    if not isinstance(detail, dict) or content.get("stage") != "compare":
        raise InputError(f"{path}: not the results of `mcn compare`; give the folder of a study")
    if "tables" not in detail:
        raise InputError(f"{path}: the comparison isn't finished; run `mcn compare` on it again")
    try:
        models = [
            read_model(folder / "runs" / run["run"], run["arm"], run["seed"], run["equal"]) for run in detail["runs"]
        ]
        for model, run in zip(models, detail["runs"], strict=True):
            _refuse_added_epochs(path, model, run["settings"]["epochs"])
        arms = [detail["reference"], *(arm for arm in detail["arms"] if arm != detail["reference"])]
        tables = {equal: {arm: detail["tables"][equal][arm] for arm in arms} for equal in detail["equal"]}
        order = {arm: index for index, arm in enumerate(arms)}
        models.sort(key=lambda model: order[model.arm])
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: lacks {error}; run `mcn compare` on it again") from None
    return Study(folder, detail | {"tables": tables}, tuple(models))


def _refuse_added_epochs(path: Path, model: Model, compared: int) -> None:
    """The tables are of models as they were: what lies in a model's folder must be the same."""
    trained = model.training["detail"]["settings"]["epochs"]
    if trained != compared:
        raise InputError(
            f"{model.folder}: trained to {trained} epochs, the comparison {path} is of {compared}; remove that folder "
            "and run `mcn compare` again"
        )


def read_model(folder: Path, arm: str, seed: int, equal: Sequence[str], localized: bool | None = None) -> Model:
    """The model in `folder`, whose name is the model's. `localized`: whether localization.json must be there, or is no
    result of it; None where it may be."""
    steps, probe = folder / LOCALIZATION, folder / PROBE
    return Model(
        name=folder.name,
        arm=arm,
        seed=seed,
        equal=tuple(equal),
        folder=folder,
        training=read_json(folder / TRAINING),
        retrieval=read_json(folder / RETRIEVAL),
        localization=read_json(steps) if (steps.exists() if localized is None else localized) else None,
        probe=read_json(probe) if probe.exists() else None,
    )
