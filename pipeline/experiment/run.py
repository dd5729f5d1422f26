"""`mcn run CONFIG.yaml`: the stages in order, each skipped when it is complete, each resumed where it was stopped.

And the experiments' YAML files that come with the package: the repository's `configs/`, and package data of a wheel.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.commands import COMMANDS
from pipeline.core.config import as_plain
from pipeline.core.errors import InputError, suggest
from pipeline.core.files import AlreadyThereError, write_json, write_text
from pipeline.core.reporting import RunSummary
from pipeline.core.secrets import masked_setting
from pipeline.core.signals import asked_to_stop
from pipeline.experiment.settings import ConfigCopySettings, ConfigListSettings
from pipeline.experiment.stages import EVALUATIONS, RunSettings, shipped_configs

SCORE_KEYS = (
    "scheme", "space", "direction", "metrics", "trained on", "manifest", "clips digest", "steps digest",
)  # fmt: skip
"""What stands beside a score in results.json: what was asked of whom."""


def run_stages(
    experiment: RunSettings,
    plan: Sequence[tuple[str, dict[str, Any]]],
    report: RunSummary,
    beam_arguments: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Run the stages of `plan` in turn and tell `report` of them; returns what each says. Stops at the first whose work
    isn't there, and when asked to."""
    stages: list[dict[str, Any]] = []
    for name, values in plan:
        command = COMMANDS[name]
        settings = experiment.stage_settings(name, values)
        print(f"== {name}", flush=True)
        started = time.monotonic()
        stage = command.run(settings, beam_arguments)
        seconds = time.monotonic() - started
        print(f"   {name} took {seconds:.1f} s", flush=True)
        stages.append(stage.as_json() | {"wall_seconds": round(seconds, 1), "asked": as_plain(settings)})
        if stage.stopped or asked_to_stop():
            report.stopped = True
            report.complete = False
            break
        if not stage.complete:
            report.failed[name] += 1
            report.complete = False
            report.notes.append(f"stopped at {name}: see above; rerun the same command to resume")
            break
        report.done += 1
    return stages


def run(settings: RunSettings, beam_arguments: Sequence[str] = ()) -> RunSummary:
    """Run all stages; stops at the first whose work isn't there. Writes results.json and index.html beside them."""
    report = RunSummary("run", unit="stage")
    asked = {"source": settings.source, "out": str(settings.out)}
    stages_asked = masked_setting("stages", dict(settings.plan()))
    write_text(settings.out / "run.yaml", yaml.safe_dump(asked | {"stages": stages_asked}))
    stages = run_stages(settings, settings.plan(), report, beam_arguments)
    evaluated = [stage for stage in stages if stage["stage"] in {stage for _, stage, _ in EVALUATIONS}]
    results = {
        "source": settings.source,
        "stages": stages,
        "scores": [
            {key: stage["detail"][key] for key in SCORE_KEYS if key in stage["detail"]}
            | {"checkpoint": stage["asked"]["checkpoint"]}
            for stage in evaluated
        ],
        "processors": os.cpu_count(),
    }
    write_json(settings.out / "results.json", results)
    page = settings.out / "index.html"
    if report.complete and evaluated:
        # Loads PyTorch and gensim, which the stages before training don't need.
        from pipeline.experiment.page import write_page

        write_page(page, results, settings.out / "media")
        report.detail["page"] = str(page)
    report.finish().publish(settings.out / "run.json")
    if report.complete and evaluated:
        print(f"scores: {settings.out / 'results.json'}\npage:   {page.resolve()}")
    return report


def list_configs(settings: ConfigListSettings) -> RunSummary:
    """Print each one's name and what its first line says it is."""
    configs = shipped_configs()
    width = max(map(len, configs))
    for name, path in configs.items():
        first, _, _ = path.read_text(encoding="utf-8").partition("\n")
        print(f"{name:<{width}}  {first.removeprefix('# ')}")
    return RunSummary("config list", unit="config", done=len(configs)).finish()


def copy_config(settings: ConfigCopySettings) -> RunSummary:
    """Write a copy to edit and run. InputError for an unknown name, a file that is there already, a missing folder."""
    configs = shipped_configs()
    name = settings.name.removesuffix(".yaml")
    if name not in configs:
        raise InputError(f"mcn config copy: no config is named {settings.name!r}; {suggest(name, configs)}")
    copy = _destination(settings.out, configs[name].name)
    try:
        write_text(copy, configs[name].read_text(encoding="utf-8"), exclusive=True)
    except AlreadyThereError:
        raise InputError(f"{copy}: is there already and is kept; give another path, or remove it") from None
    print(f"written: {copy}")
    return RunSummary("config copy", unit="config", done=1).finish()


def _destination(out: Path, file_name: str) -> Path:
    """The file to write: in the folder `out`, or `out` itself."""
    if out.is_dir():
        return out / file_name
    if out.suffix not in (".yaml", ".yml") or not out.parent.is_dir():
        raise InputError(f"{out}: expected a folder that is there, or a file in one, with a name that ends in .yaml")
    return out
