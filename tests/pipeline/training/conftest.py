"""Settings of a small training."""

from typing import Any

import pytest


@pytest.fixture(scope="session")
def small_training() -> dict[str, Any]:
    """All but epochs and folders: three steps an epoch of the planted data set, on one core."""
    return {
        "batch_videos": 4,
        "clips_per_video": 6,
        "width": 16,
        "reconstruction_hidden": 8,
        "learning_rate": 0.01,
        "min_clip_seconds": 0.0,
        "clusters": 8,
        "queue_rows": 64,
        "refit_every": 5,
        "device": "cpu",
        "workers": 0,
    }
