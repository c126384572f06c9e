"""Keys of the steps' objects: the hash of everything that determines their bytes. Loads no codec and no detector."""

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from storage.catalog import Dataset
from storage.cut_tables import CLIP_COLUMNS, SOURCE_COLUMNS, TRACK_COLUMNS
from storage.keys import canonical_json, library_versions, object_key, sha256_hex
from storage.records import Member
from storage.weights import fingerprint
from tasks.faces.backend import TrackParams, backend_facts

CUT_VERSION = 1
_TASKS = Path(__file__).parent
CUT_CODE_FILES = (
    "cut.py", "windows.py", "geometry.py", "media/__init__.py", "media/container.py", "media/video.py",
    "media/audio.py", "media/frame_buffer.py", "media/resample.py", "faces/track.py", "faces/cuts.py",
)  # fmt: skip
_CUT_COLUMNS = (*SOURCE_COLUMNS, *CLIP_COLUMNS, *TRACK_COLUMNS)
_CUT_LIBRARIES = ("av", "numpy", "numba", "opencv-python", "soxr")


def cut_key(dataset: Dataset, members: Sequence[Member]) -> tuple[str, dict[str, Any]]:
    """Key of the cut of these sources together, and its inputs: contents, rules, backend, code, libraries, weights."""
    facts = backend_facts(dataset.face.backend)
    tracking = TrackParams.model_validate(dataset.face.tracking)
    inputs = {
        "sources": [[member.source_id, _layout_rule(dataset, member)] for member in members],
        "crop": dataset.crop.model_dump(),
        "face": dataset.face.model_dump() | {"tracking": tracking.model_dump()},
        # How long reading may take decides what fails, not what is made.
        "limits": dataset.limits.model_dump(exclude={"max_wall_s"}),
        "code": code_digest(CUT_CODE_FILES + facts.code_files),
        "columns": sha256_hex(canonical_json([astuple(column) for column in _CUT_COLUMNS])),
        "libraries": library_versions(_CUT_LIBRARIES + facts.libraries),
        "weights": {name: fingerprint(name) for name in facts.weight_files},
    }
    return object_key("cut", CUT_VERSION, inputs), inputs


def feature_key(
    name: str, params: BaseModel, cut: str, needs: Mapping[str, str], groups: Sequence[int]
) -> tuple[str, dict[str, Any]]:
    """Key of one extractor's object for one shard, and its inputs.

    Args:
        name: extractor.
        params: its resolved parameters.
        cut: key of the shard's cut.
        needs: required extractor -> key of its object.
        groups: which sources share a subject; only for extractors that prepare per subject.
    """
    from tasks import features

    extractor = features.discover()[name]
    inputs = {
        "cut": cut,
        "needs": dict(needs),
        "params": features.key_params(name, params),
        "groups": list(groups) if hasattr(extractor, "prepare") else [],
        "code": code_digest((f"features/{name}.py", *getattr(extractor, "CODE_FILES", ()))),
        "libraries": library_versions(features.libraries(name, params)),
        "weights": {weight: fingerprint(weight) for weight in features.weights(name, params)},
    }
    return object_key(name, extractor.VERSION, inputs), inputs


@cache
def code_digest(files: tuple[str, ...]) -> str:
    """SHA-256 over the code of files in tasks/, whatever they are called and wherever they lie.

    A changed statement counts. Comments, docstrings, layout, the name of a file and the place from which a name of this
    project is imported do not: a file that moves recomputes nothing. Where a name is imported from another of these
    files, that file's code stands for its place, so that two files cannot be exchanged unseen.

    Args:
        files: paths below tasks/; a folder stands for all Python files in it.
    """
    paths = {path: None for file in files for path in (sorted((_TASKS / file).rglob("*.py")) or [_TASKS / file])}
    modules = {path: ".".join(("tasks", *path.relative_to(_TASKS).with_suffix("").parts)) for path in paths}
    own = {
        module.removesuffix(".__init__"): sha256_hex(normal_form(path.read_bytes(), module, {}).encode())
        for path, module in modules.items()
    }
    forms = sorted(normal_form(path.read_bytes(), module, own) for path, module in modules.items())
    return sha256_hex("\n".join(forms).encode())


def normal_form(code: bytes, module: str, own: Mapping[str, str]) -> str:
    """The statements of one file as text that equal code always gives, in every version of Python.

    In every block, imports of this project's names come first, sorted, and without the module they come from.

    Args:
        code: content of the file.
        module: its dotted name, that of a package with `.__init__`; relative imports start from it.
        own: dotted name of a module -> what stands for it where a name is imported from it.
    """
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node) is not None:
            del node.body[0]
        for block in ("body", "orelse", "finalbody"):
            statements = getattr(node, block, None)
            if isinstance(statements, list):
                names = sorted(name for statement in statements for name in _imported_names(statement, module, own))
                rest = [one for one in statements if not (_is_own_import(one) or _lists_code_files(one))]
                setattr(node, block, [*(ast.Expr(ast.Constant(name)) for name in names), *rest])
    return _text_of(tree)


_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _imported_names(statement: ast.stmt, module: str, own: Mapping[str, str]) -> Iterator[str]:
    """`name as alias of file` for each name that a statement imports from this project."""
    if not (isinstance(statement, ast.ImportFrom) and _is_own_import(statement)):
        return
    base = ".".join(module.split(".")[: -statement.level]) if statement.level else ""
    where = ".".join(filter(None, (base, statement.module)))
    for alias in statement.names:
        # `from tasks.faces import track` imports a module, `from tasks.faces.track import FaceTracker` a name of one.
        is_module = f"{where}.{alias.name}" in own
        name = "" if is_module else alias.name
        bound = alias.asname or alias.name
        yield f"{name} as {bound} of {own.get(f'{where}.{alias.name}' if is_module else where, '')}"


def _is_own_import(statement: ast.stmt) -> bool:
    if not isinstance(statement, ast.ImportFrom):
        return False
    package = (statement.module or "").partition(".")[0]
    return statement.level > 0 or package in ("flows", "tasks", "models", "storage")


def _lists_code_files(statement: ast.stmt) -> bool:
    """Whether a statement only names files of code, which are hashed themselves."""
    return (
        isinstance(statement, ast.Assign)
        and all(isinstance(name, ast.Name) and name.id.endswith("CODE_FILES") for name in statement.targets)
        and isinstance(statement.value, ast.Tuple)
        and all(isinstance(file, ast.Constant) for file in statement.value.elts)
    )


def _text_of(node: object) -> str:
    """As ast.dump without empty fields, which versions of Python write differently."""
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if value is not None and value != [])
        return f"{type(node).__name__}({', '.join(f'{name}={_text_of(value)}' for name, value in fields)})"
    return f"[{', '.join(map(_text_of, node))}]" if isinstance(node, list) else repr(node)


def _layout_rule(dataset: Dataset, member: Member) -> dict[str, Any] | None:
    layout = dataset.layouts.get(member.layout)
    if layout is None:
        return None
    audio = layout.audio.model_dump(exclude={"path"})
    return {"audio": audio, "has_audio_file": layout.audio.path is not None, "clips": layout.clips.model_dump()}
