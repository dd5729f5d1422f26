"""Fixtures that all tests share."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_media() -> Path:
    """Folder of real media files beside the checkout."""
    folder = SHARED / "media"
    if not folder.is_dir():
        pytest.skip("the folder of real media files isn't beside this checkout")
    return folder


@pytest.fixture(scope="session")
def shared_reference() -> Path:
    """Folder of numbers computed with the published code."""
    folder = SHARED / "reference"
    if not folder.is_dir():
        pytest.skip("the folder of reference numbers isn't beside this checkout")
    return folder
