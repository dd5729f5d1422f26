"""Tables of what a study stands on: data, arms, settings, time and memory, provenance."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pipeline.core.errors import InputError
from pipeline.core.provenance import recorded_path
from pipeline.core.tables import Table
from pipeline.dataset.manifest import Manifest, read_manifest
from pipeline.evaluation.retrieval import asked
from pipeline.experiment.report.results import Model, Study

_NONE = "–"
_OWN = frozenset(("out", "seed"))
"""Settings in which all models differ."""


def manifest_of(study: Study) -> Manifest | None:
    """The manifest that the models were trained on; None where it is gone or is another by now."""
    first = study.models[0]
    trained = first.training["detail"]["settings"]
    path = recorded_path(trained["manifest"], trained["out"], first.folder)
    try:
        manifest = read_manifest(path)
    except InputError:
        return None
    return manifest if manifest.digest == study.detail["manifest"]["digest"] else None


def data_table(study: Study, manifest: Manifest | None) -> Table:
    """Videos by split, what is missing and why, clips asked."""
    named, retrieval = study.detail["manifest"], study.models[0].retrieval["detail"]
    rows = [("manifest", named["name"]), ("digest", named["digest"][:16])]
    if manifest is not None:
        if manifest.listed is not None:
            rows.append(("listed ids", f"{manifest.listed['ids']:,}"))
        rows += [(f"videos, {name}", f"{len(ids):,}") for name, ids in manifest.splits.items()]
        rows += [(f"left out: {reason}", f"{len(ids):,}") for reason, ids in manifest.left_out.items() if ids]
        rows += [(f"missing: {reason}", f"{len(ids):,}") for reason, ids in manifest.missing.items() if ids]
    else:
        rows.append(("videos, train", f"{study.detail['data']['training videos']:,}"))
    rows.append(("features", ", ".join(study.detail["data"]["streams"])))
    rows.append(("retrieval", asked(retrieval)))
    rows.append(("clips digest", retrieval["clips digest"][:16]))
    localized = next((model.localization for model in study.models if model.localization is not None), None)
    if localized is not None:
        counts = localized["detail"]["metrics"]
        rows.append(
            ("localization", f"{counts['steps']:,} steps, {counts['videos']:,} videos, {counts['tasks']:,} tasks")
        )
    notes = () if manifest is not None else ("The manifest is gone, or another by now: what is missing can't be told.",)
    return Table("Data", ("", ""), tuple(rows), notes)


def arms_table(study: Study) -> Table:
    """What each arm contrasts, and in what else it differs from the reference."""
    common = _settings(study.examples()[0])
    rows = []
    for model in study.examples():
        pairs: dict[str, list[str]] = {}
        for name in model.training["detail"]["last"]:
            kind, _, term = name.partition("/")
            if kind == "contrast":
                space, _, pair = term.rpartition("/")
                pairs.setdefault(space, []).append(pair)
        shown = "; ".join(f"{space}: {', '.join(sorted(own))}" for space, own in pairs.items())
        own = _settings(model)
        differs = [f"{name} {own[name]}" for name in own if own[name] != common.get(name) and name != "scheme"]
        rows.append((model.arm, model.training["detail"]["scheme"], shown or _NONE, ", ".join(differs) or _NONE))
    columns = ("arm", "scheme", "spaces: pairs contrasted", "else differs in")
    return Table("Arms", columns, tuple(rows), (f"The reference is {study.detail['reference']}.",))


def settings_table(study: Study) -> Table:
    """The settings that all models have in common."""
    every = [_settings(model) for model in study.models]
    alike = [name for name in every[0] if all(own.get(name) == every[0][name] for own in every)]
    rows = tuple((name.replace("_", " "), _value(every[0][name])) for name in alike)
    return Table("Settings of all models", ("setting", "value"), rows)


def cost_table(study: Study) -> Table:
    """Steps, seconds and peak memory of each model."""
    rows = []
    for model in study.models:
        detail = model.training["detail"]
        memory = detail.get("peak memory bytes", {})
        rows.append(
            (
                model.name,
                f"{detail['parameters']:,}",
                f"{model.steps:,}",
                f"{model.training['seconds']:.1f}",
                _gib(memory.get("process")),
                _gib(memory.get("gpu")),
                f"{detail['circumstance']['device']}, {detail['precision']}",
            )
        )
    columns = ("model", "parameters", "steps", "seconds", "memory, GiB", "GPU memory, GiB", "device, precision")
    notes = (
        "Seconds are those of the call that ended training: one that was stopped and went on counts from there.",
        "Memory is the process's peak. Models trained side by side share the machine.",
    )
    return Table("Time and memory", columns, tuple(rows), notes)


def circumstance_table(study: Study, public: bool) -> Table:
    """Libraries and machines of all models; where they differ, each with its number of models. No host in public."""
    every = [model.training["detail"]["circumstance"] for model in study.models]
    shown = ("processor", "device") if public else ("processor", "device", "host")
    rows = [(name, _mixed([one[name] for one in every])) for name in shown]
    first, last = min(one["time"] for one in every), max(one["time"] for one in every)
    rows.append(("trained", first if first == last else f"{first} to {last}"))
    names = sorted({name for one in every for name in one["libraries"]})
    versions = [one["libraries"] for one in every]
    rows += [(name, _mixed([libraries.get(name, _NONE) for libraries in versions])) for name in names]
    mixed = [row[0] for row in rows if row[0] != "trained" and "; " in row[1]]
    notes = (f"Models differ in {', '.join(mixed)}.",) if mixed else ("The same for all models.",)
    return Table("Provenance", ("", ""), tuple(rows), notes)


def _settings(model: Model) -> dict[str, Any]:
    return {name: value for name, value in model.training["detail"]["settings"].items() if name not in _OWN}


def _mixed(values: Sequence[str]) -> str:
    counts = Counter(values)
    if len(counts) == 1:
        return next(iter(counts))
    return "; ".join(f"{value} ({count} models)" for value, count in sorted(counts.items()))


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return _NONE if value is None else str(value)


def _gib(count: int | None) -> str:
    return _NONE if count is None else f"{count / 2**30:.2f}"
