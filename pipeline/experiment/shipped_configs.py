"""The experiments' YAML files that come with the package: the repository's `configs/`, and package data of a wheel."""

from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def shipped_configs() -> dict[str, Path]:
    """Name, without its suffix -> file."""
    return {path.stem: path for path in sorted(CONFIGS.glob("*.yaml"))}
