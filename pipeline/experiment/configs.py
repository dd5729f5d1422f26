"""The experiments' YAML files that come with the package: the repository's `configs/`, and package data of a wheel."""

from pathlib import Path

from pipeline.core.errors import InputError, suggest
from pipeline.core.files import AlreadyThereError, write_text
from pipeline.core.reporting import RunSummary
from pipeline.experiment.settings import ConfigCopySettings, ConfigListSettings
from pipeline.experiment.stages import shipped_configs


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
