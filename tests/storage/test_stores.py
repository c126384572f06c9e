"""Finding a snapshot by its id among the stores that the environment names."""

import os
import shutil
from pathlib import Path

import pytest

from storage.errors import ConfigError
from storage.snapshot import Snapshot
from storage.stores import STORES, default_store, find_snapshot, is_known, known_stores
from tests.synthetic_store import build_store


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return build_store(tmp_path_factory.mktemp("stores") / "alpha")


def test_default_is_in_the_first_folder_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(STORES, raising=False)
    assert default_store("mead") == tmp_path / "stores" / "mead"
    monkeypatch.setenv(STORES, os.pathsep.join(["/a", "/b"]))
    assert default_store("mead") == Path("/a/mead")


def test_a_store_is_known_by_itself_or_by_the_folder_that_holds_it(
    built: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(STORES, raising=False)
    assert known_stores() == []
    assert not is_known(built)
    for named in (str(built.store), str(built.store.parent), os.pathsep.join(["/nowhere", str(built.store)])):
        monkeypatch.setenv(STORES, named)
        assert known_stores() == [built.store]
        assert is_known(built)


def test_found_by_id_digits_dataset_and_number(built: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STORES, str(built.store.parent))
    dataset = built.body.dataset
    for which in (built.id, built.id[:6], dataset, f"{dataset}@latest", f"{dataset}@{built.body.number}"):
        found = find_snapshot(which)
        assert (found.id, found.store) == (built.id, built.store)


@pytest.mark.parametrize("which", ["0" * 64, "abc", "no-such-dataset", ""])
def test_unknown_names_say_what_there_is(built: Snapshot, monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    monkeypatch.setenv(STORES, str(built.store.parent))
    with pytest.raises(ConfigError, match=str(built.store)):
        find_snapshot(which)


def test_one_id_in_two_stores_is_not_guessed(built: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(built.store, tmp_path / "copy")
    monkeypatch.setenv(STORES, os.pathsep.join([str(built.store), str(tmp_path)]))
    with pytest.raises(ConfigError, match="fits 2 snapshots"):
        find_snapshot(built.id)
