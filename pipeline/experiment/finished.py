"""A finished study is replaced by no other one: the results of one `out` are those of one set of settings."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.core.config import as_plain
from pipeline.core.errors import InputError
from pipeline.core.files import read_json, sha256_of_file
from pipeline.dataset.manifest import read_manifest
from pipeline.experiment.report.results import COMPARISON
from pipeline.experiment.settings import StudySettings
from pipeline.training.settings import CHANGEABLE_ON_RESUME

_OF_A_RUN = {"seed", "out", "width", "manifest"}
"""Training settings that are a run's own, or compared by what they name."""
_OF_THE_DATA = {"checkpoint", "out", "manifest"}


def has_finished(out: Path) -> bool:
    """Whether the study's folder holds a comparison that is whole. InputError when its file can't be read."""
    return _finished(out / COMPARISON) is not None


def _finished(path: Path) -> Mapping[str, Any] | None:
    content = read_json(path) if path.exists() else None
    detail = content.get("detail") if isinstance(content, dict) else None
    return detail if isinstance(detail, dict) and "tables" in detail else None


def asked_of_models(settings: StudySettings) -> dict[str, dict[str, Any]]:
    """Evaluation -> its settings, as `compare.json` keeps them: those that are the same for all models."""
    asked = {}
    for stage, values in settings.experiment.evaluations(str(settings.out)):
        if stage.startswith("evaluate "):
            plain = as_plain(settings.experiment.stage_settings(stage, values))
            asked[stage] = {name: value for name, value in plain.items() if name not in _OF_THE_DATA}
    return asked


def refuse_another_study(settings: StudySettings) -> None:
    """InputError, before anything is written, when `out` holds the finished comparison of another study.

    What changes no result may differ: where it runs, how many models at a time, evaluations added or left out.
    """
    path = settings.out / COMPARISON
    detail = _finished(path)
    if detail is None:
        return
    try:
        differences = list(_differences(settings, detail))
    except (KeyError, TypeError, AttributeError, ValueError):
        raise InputError(f"{path}: not a comparison of this program; remove it or choose another out") from None
    if differences:
        name, before, now = differences[0]
        raise InputError(
            f"{path}: holds another study: {name} was {before!r}, now {now!r}; choose another `out`, or remove "
            f"{settings.out} to begin anew"
        )


def _differences(settings: StudySettings, detail: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """What differs: its name, its value in the finished study, its value now."""
    asked: dict[str, Any] = {
        "arms": [arm.name for arm in settings.arms],
        "reference": settings.reference,
        "seeds": list(settings.seeds),
        "equal": list(settings.equal),
    }
    for name, value in asked.items():
        if detail[name] != value:
            yield name, detail[name], value
    if settings.experiment.manifest.exists():
        manifest = read_manifest(settings.experiment.manifest)
        if detail["manifest"]["digest"] != manifest.digest:
            frozen = {"name": manifest.name, "digest": manifest.digest}
            yield "manifest", _shown(detail["manifest"]), _shown(frozen)
    for arm in settings.arms:
        now = as_plain(settings.train_settings(arm, settings.seeds[0], settings.out))
        runs = [run for run in detail["runs"] if run["arm"] == arm.name]
        for run in runs[:1]:
            left_out = (CHANGEABLE_ON_RESUME | _OF_A_RUN) - {"scheme"}
            yield from _settings_that_differ(f"arm {arm.name}: ", run["settings"], now, left_out)
        widths = [run["settings"]["width"] for run in runs if "width" in run["equal"]]
        if widths and widths[0] != now["width"]:
            yield f"arm {arm.name}: width", widths[0], now["width"]
    evaluations = asked_of_models(settings)
    for stage, before in detail.get("evaluations", {}).items():
        yield from _settings_that_differ(f"{stage}: ", before, evaluations.get(stage, before), ())


def _settings_that_differ(
    where: str, before: Mapping[str, Any], now: Mapping[str, Any], left_out: Sequence[str] | frozenset[str]
) -> Iterator[tuple[str, Any, Any]]:
    # A setting that is in one of them alone has come or gone with a version of this program.
    for name in sorted(before.keys() & now.keys() - set(left_out)):
        if before[name] != now[name] and not _equal_files(before[name], now[name]):
            yield f"{where}{name}", before[name], now[name]


def _equal_files(before: Any, now: Any) -> bool:
    """Whether both name files of the same name and, where both still are there, of the same content."""
    if not (isinstance(before, str) and isinstance(now, str)) or Path(before).name != Path(now).name:
        return False
    paths = [path for path in (Path(before), Path(now)) if path.is_file()]
    return "/" in before + now and (len(paths) < 2 or len({sha256_of_file(path) for path in paths}) == 1)


def _shown(manifest: Mapping[str, str]) -> str:
    return f"{manifest['name']}, digest {manifest['digest'][:12]}"
