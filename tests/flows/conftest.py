"""Fixtures of the flow tests: the clips and one refreshed store to start from, made once for all processes that test
side by side, and a Prefect server for each of them.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.flows.lab import Lab, write_clips


@pytest.fixture(scope="session")
def clips(media: Path, common: Path) -> Path:
    """Folder of the six clips; copy it before changing anything."""
    root, whole = common / "clips", common / "clips.whole"
    with FileLock(common / "clips.lock"):
        if not whole.exists():
            write_clips(root, media)
            whole.touch()
    return root


@pytest.fixture(scope="session")
def api_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One Prefect server for every refresh; the environment of the tests does not know it."""
    from flows.server.prefect_server import prefect_server

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
def base(clips: Path, api_url: str, common: Path) -> Base:
    """A store that one undisturbed refresh with two workers has made; copy it before changing anything."""
    told = common / "base.json"
    with FileLock(common / "base.lock"):
        lab = Lab(common / "base", clips, api_url)
        if not told.exists():
            ended = lab.refresh("--workers", "2")
            assert ended.code == 0, ended.err
            told.write_text(json.dumps({"answer": ended.answer, "seconds": ended.seconds}))
    return Base(lab, **json.loads(told.read_text()))


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
