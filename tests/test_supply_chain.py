"""S-01, S-05: nothing of ours runs what it reads, and what is installed is what was pinned."""

import ast
import re
import tomllib
from collections.abc import Iterator
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import Specifier
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.conftest import REPOSITORY

PACKAGES = ("flows", "tasks", "models", "storage", "benchmarks")
# Each of them runs code that lies in the data it is given.
UNSAFE_CALLS = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load", "cloudpickle.loads", "dill.load",
    "dill.loads", "marshal.load", "marshal.loads", "shelve.open", "joblib.load", "pandas.read_pickle",
    "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "eval", "exec", "os.system", "os.popen",
}  # fmt: skip
MINIMA = {"prefect": "3.6.22", "torch": "2.6", "distributed": "2021.10"}


# ---- S-01: no file is trusted with code


def _findings(source: str) -> Iterator[str]:
    """Calls that could run what a file says: `line: name`."""
    tree = ast.parse(source)
    names = dict(_imports(tree))
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        written = ast.unparse(call.func)
        first, _, rest = written.partition(".")
        name = ".".join(filter(None, (names.get(first, first), rest)))
        if name in UNSAFE_CALLS or _is_unsafe(name, call):
            yield f"{call.lineno}: {name}"


def _imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.asname, alias.name) for alias in node.names if alias.asname)
        elif isinstance(node, ast.ImportFrom):
            yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)


def _is_unsafe(name: str, call: ast.Call) -> bool:
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    return (
        given.get("allow_pickle", "False") != "False"
        or given.get("weights_only", "True") != "True"
        or given.get("shell", "False") != "False"
        or (name in ("torch.load", "torch.hub.load_state_dict_from_url") and "weights_only" not in given)
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_of_ours_runs_what_it_reads(package: str) -> None:
    files = sorted((REPOSITORY / package).rglob("*.py"))
    assert files
    found = [f"{path.relative_to(REPOSITORY)}:{line}" for path in files for line in _findings(path.read_text())]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.load(f)", "from pickle import loads\nloads(b)", "import pickle as p\np.Unpickler(f)",
        "import torch\ntorch.load(p)", "import torch\ntorch.load(p, weights_only=False)", "import yaml\nyaml.load(t)",
        "import torch as t\nt.load(p, weights_only=trust)", "import numpy as np\nnp.load(p, allow_pickle=True)",
        "import subprocess\nsubprocess.run(c, shell=True)", "eval(text)", "from joblib import load\nload(p)",
    ],
)  # fmt: skip
def test_the_search_sees_what_it_is_for(source: str) -> None:
    assert len(list(_findings(source))) == 1


def test_the_search_lets_safe_calls_pass() -> None:
    source = "import torch, yaml\ntorch.load(p, weights_only=True)\nyaml.safe_load(t)\nnp.load(p, allow_pickle=False)"
    assert list(_findings(source)) == []


# ---- S-05: what is installed


def _pins() -> dict[str, str]:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    wanted = [line.partition("#")[0].strip() for line in lines]
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in wanted if line)}


def _brought_in() -> dict[str, bool]:
    """Every installed distribution that the project's requirements bring in -> whether one of them pins it exactly."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    todo = [Requirement(text) for text in [*project["dependencies"], *(text for extra in extras for text in extra)]]
    found: dict[str, bool] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        wanted = todo.pop()
        name = canonicalize_name(wanted.name)
        if not _is_installed(name):
            continue
        found[name] = found.get(name, False) or any(map(_is_exact, wanted.specifier))
        if (name, frozenset(wanted.extras)) not in seen:
            seen.add((name, frozenset(wanted.extras)))
            todo += [need for need in map(Requirement, metadata.requires(name) or ()) if _applies(need, wanted.extras)]
    return found


def _is_exact(part: Specifier) -> bool:
    return part.operator == "==" and "*" not in part.version


def _applies(need: Requirement, extras: set[str]) -> bool:
    return need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in (*extras, ""))


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def test_every_requirement_of_the_project_is_installed() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    missing = [text for text in project["dependencies"] if not _is_installed(Requirement(text).name)]
    assert missing == []


def test_constraints_pin_all_that_is_brought_in_at_the_version_that_is_there() -> None:
    pins, brought_in = _pins(), _brought_in()
    assert {"prefect", "torch", "distributed", "numpy", "certifi"} <= set(brought_in)
    loose = sorted(name for name, is_exact in brought_in.items() if name not in pins and not is_exact)
    assert loose == [], "add them to constraints.txt"
    other = {name: pins[name] for name in brought_in if name in pins and _public(name) != Version(pins[name])}
    assert other == {}, "constraints.txt names other versions than are installed"


def _public(name: str) -> Version:
    """Without the local part, such as +cpu."""
    return Version(Version(metadata.version(name)).public)


def test_each_line_of_the_constraints_is_one_exact_version() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    odd = [line for line in lines if line and line[0] != "#" and not re.fullmatch(r"[A-Za-z0-9._-]+==[\w.+!]+", line)]
    assert odd == []
    assert len(_pins()) == sum(bool(line) and line[0] != "#" for line in lines), "a distribution is named twice"


@pytest.mark.parametrize(("name", "least"), MINIMA.items())
def test_no_release_with_a_known_hole(name: str, least: str) -> None:
    """Auth bypasses in prefect, code execution by torch's safe loader, remote code in a Dask worker."""
    assert Version(_pins()[name]) >= Version(least)
    assert _public(name) >= Version(least)
