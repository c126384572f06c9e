"""Fixtures that every test may ask for."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def media() -> Path:
    """Folder of the real clips; tests that need it are skipped with the reason when it is absent."""
    folder = Path(os.environ.get("TALKSET_MEDIA", REPOSITORY.parent / "shared" / "media")) / "sources"
    if not folder.is_dir():
        pytest.skip(f"no real clips: {folder} is absent (set TALKSET_MEDIA to the folder that holds sources/)")
    return folder
