"""`mcn config list`: the experiments' YAML files that come with the package."""

from pipeline.core.reporting import RunSummary
from pipeline.experiment.settings import ConfigListSettings
from pipeline.experiment.shipped_configs import shipped_configs


def run(settings: ConfigListSettings) -> RunSummary:
    """Print each one's name and what its first line says it is."""
    configs = shipped_configs()
    width = max(map(len, configs))
    for name, path in configs.items():
        first, _, _ = path.read_text(encoding="utf-8").partition("\n")
        print(f"{name:<{width}}  {first.removeprefix('# ')}")
    return RunSummary("config list", unit="config", done=len(configs)).finish()
