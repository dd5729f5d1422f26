"""`mcn config copy NAME`: an experiment's YAML file that comes with the package, as a file to edit and run."""

from pathlib import Path

from pipeline.core.errors import InputError, suggest
from pipeline.core.files import AlreadyThereError, write_text
from pipeline.core.reporting import RunSummary
from pipeline.experiment.settings import ConfigCopySettings
from pipeline.experiment.shipped_configs import shipped_configs


def run(settings: ConfigCopySettings) -> RunSummary:
    """Write the copy. InputError for an unknown name, for a file that is there already, and for a missing folder."""
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
