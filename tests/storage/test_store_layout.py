"""The layout of a store is written down once: in storage/store_layout.py, and on the first lines of its docstring."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage import store_layout

ROOT = Path(__file__).parents[2]
FUNCTIONS = [function for _, function in inspect.getmembers(store_layout, inspect.isfunction)]
_ARGUMENTS = {"key": "ab" + "0" * 62, "number": 42, "run_id": "edtalk-x-1", "name": "edtalk-x-1"}


def _paths(store: Path) -> Iterator[Path]:
    for function in FUNCTIONS:
        wanted = list(inspect.signature(function).parameters)
        if wanted[0] == "store":
            yield function(store, *(_ARGUMENTS[name] for name in wanted[1:]))


def test_every_path_lies_in_the_store_and_in_the_docstring() -> None:
    described = store_layout.__doc__ or ""
    for path in _paths(Path("/stores/demo")):
        first = path.relative_to("/stores/demo").parts[0]
        assert re.search(rf"(<store>/|, |; ){re.escape(first)}\b", described), path


def test_paths_are_those_of_the_stores_that_exist() -> None:
    found = {path.relative_to("/s").as_posix() for path in _paths(Path("/s"))}
    assert found == {
        "store.json", "objects", f"objects/ab/{_ARGUMENTS['key']}", "staging", "snapshots", "snapshots/000042.json",
        "reports/000042", "runs", "runs/edtalk-x-1", "pins", "pins/edtalk-x-1", "takedowns.json", "takedowns.lock",
        "writer.lock", "writer.json", "state/files.json", "state/last.json", "state/prefect",
    }  # fmt: skip


@pytest.mark.parametrize("package", ["flows", "tasks", "models", "storage"])
def test_no_other_module_spells_a_path_of_the_store(package: str) -> None:
    parts = {part for path in _paths(Path()) for part in path.parts} - {*map(str, _ARGUMENTS.values()), "ab"}
    spelled = []
    for file in (ROOT / package).rglob("*.py"):
        if file.name == "store_layout.py":
            continue
        for node in ast.walk(ast.parse(file.read_bytes())):
            if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)):
                continue
            if isinstance(node.right, ast.Constant) and node.right.value in parts:
                spelled.append(f"{file.relative_to(ROOT)}:{node.lineno}: {node.right.value}")
    assert spelled == []
