"""Fixtures of the flow tests: the clips, one Prefect server for all of them, one refreshed store to start from."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.flows.lab import Lab, write_clips


@pytest.fixture(scope="session")
def clips(media: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the six clips; copy it before changing anything."""
    root = tmp_path_factory.mktemp("clips")
    write_clips(root, media)
    return root


@pytest.fixture(scope="session")
def api_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One Prefect server for every refresh; the environment of the tests does not know it."""
    from flows.server import prefect_server

    before = dict(os.environ)
    with prefect_server(tmp_path_factory.mktemp("prefect")) as url:
        os.environ.clear()
        os.environ.update(before)
        yield url


@dataclass(frozen=True)
class Base:
    """The undisturbed run: its store, its answer, its wall seconds."""

    lab: Lab
    answer: dict[str, Any]
    seconds: float


@pytest.fixture(scope="session")
def base(clips: Path, api_url: str, tmp_path_factory: pytest.TempPathFactory) -> Base:
    """A store that one undisturbed refresh with two workers has made; copy it before changing anything."""
    lab = Lab(tmp_path_factory.mktemp("base"), clips, api_url)
    ended = lab.refresh("--workers", "2")
    assert ended.code == 0, ended.err
    return Base(lab, ended.answer, ended.seconds)


@pytest.fixture
def make_lab(clips: Path, api_url: str, tmp_path: Path) -> Callable[..., Lab]:
    """Makes a laboratory of one's own: a copy of the clips, an empty store, or a copy of the base's."""

    def make(name: str = "lab", base: Base | None = None, **given: Any) -> Lab:
        folder = tmp_path / name
        shutil.copytree(clips, folder / "raw")
        lab = Lab(folder, folder / "raw", api_url, **given)
        if base is not None:
            shutil.copytree(base.lab.store, lab.store)
        return lab

    return make
