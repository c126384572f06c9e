"""What determines the bytes of each step's object. Light: planning loads no codec and no detector."""

import ast
import hashlib
from collections.abc import Mapping, Sequence
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

    A changed statement counts. Comments, docstrings, layout, the name of the file, and the module that a name of this
    project is imported from do not: a file that moves recomputes nothing.

    Args:
        files: paths below tasks/; a folder stands for all Python files in it.
    """
    paths = [path for file in files for path in (sorted((_TASKS / file).rglob("*.py")) or [_TASKS / file])]
    return hashlib.sha256("\n".join(sorted(_code_of(path.read_bytes()) for path in paths)).encode()).hexdigest()


def _code_of(text: bytes) -> str:
    """A normal form of the statements of one file."""
    tree, imported = ast.parse(text), list[str]()
    for node in ast.walk(tree):
        body: list[ast.stmt] | None = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            del body[0]
        for statement in [statement for statement in body if _names_own_code(statement)]:
            if isinstance(statement, ast.ImportFrom):
                imported += [f"{alias.name} as {alias.asname or alias.name}" for alias in statement.names]
            body.remove(statement)
    return "\n".join([*sorted(imported), ast.dump(tree)])


def _names_own_code(statement: ast.stmt) -> bool:
    """Whether all that a statement does is name modules or files of this project."""
    if isinstance(statement, ast.ImportFrom):
        return (statement.module or "").partition(".")[0] in ("flows", "tasks", "models", "storage")
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return any(isinstance(target, ast.Name) and target.id.endswith("CODE_FILES") for target in targets)


def _layout_rule(dataset: Dataset, member: Member) -> dict[str, Any] | None:
    layout = dataset.layouts.get(member.layout)
    if layout is None:
        return None
    audio = layout.audio.model_dump(exclude={"path"})
    return {"audio": audio, "has_audio_file": layout.audio.path is not None, "clips": layout.clips.model_dump()}
