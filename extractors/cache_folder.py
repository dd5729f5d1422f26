"""Where copies go that no setting gives a folder: what was fetched from stores and from the hubs of weights."""

import os
from pathlib import Path

FOLDER = "MCN_CACHE"
"""Variable of the environment that names the folder of all copies."""


def cache_folder() -> Path:
    """$MCN_CACHE, or `mcn` in the user's folder of caches."""
    if given := os.environ.get(FOLDER):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mcn"
