"""A small store with media, copied for each test that asks, and the toy system on it."""

import shutil
from pathlib import Path

import pytest

from tests.models import toy
from tests.synthetic_store import build_store

SIZES = {"clips_per_subject": 6, "num_frames": (6, 7, 8)}


@pytest.fixture(scope="package")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "store"
    build_store(path, **SIZES)
    return path


@pytest.fixture
def store(small_store: Path, tmp_path: Path) -> Path:
    """A store with snapshot 1: 6 clips to train on, 6 of another subject to validate with."""
    return shutil.copytree(small_store, tmp_path / "store")


@pytest.fixture
def toy_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a system 'toy' with the stages 'gan' and 'after'."""
    import models

    monkeypatch.setattr(models, "__path__", [*models.__path__, toy.SYSTEMS])
