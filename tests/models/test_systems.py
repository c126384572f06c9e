"""Systems are folders that are found; none imports another, and what they share imports none of them."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import models
from models.systems import part_folders, require_system, systems
from storage.errors import ConfigError

FOLDER = Path(models.__path__[0])


def imported(file: Path) -> Iterator[str]:
    """Modules that a file imports anywhere, by full name."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_of(folder: Path, system: str) -> list[str]:
    """Files below a folder that import a system."""
    name = f"models.{system}"
    files = folder.rglob("*.py")
    return [str(file) for file in files if any(f"{found}.".startswith(f"{name}.") for found in imported(file))]


@pytest.mark.usefixtures("toy_system")
def test_a_folder_with_stages_is_a_system() -> None:
    assert {"edtalk", "emogene", "realtalk", "toy"} <= set(systems())
    assert not {"training", "data", "nn"} & set(systems())
    assert part_folders("toy") != []
    assert part_folders("toy", "nothing") == []


def test_a_system_that_does_not_exist_is_one_line() -> None:
    require_system("edtalk")
    with pytest.raises(
        ConfigError, match=r"^mead\.training\.systems: no system 'edtakl'; there are .*edtalk"
    ) as caught:
        require_system("edtakl", "mead.training.systems")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("system", systems())
def test_no_system_is_imported_by_another_nor_by_what_they_share(system: str) -> None:
    """The import contracts of pyproject.toml hold the systems that they name; this holds those that are added, too."""
    others = [path for path in FOLDER.iterdir() if path.is_dir() and path.name != system]
    assert [found for path in others for found in imports_of(path, system)] == []


def test_the_search_for_imports_finds_them() -> None:
    assert imports_of(FOLDER / "edtalk", "edtalk") != []
