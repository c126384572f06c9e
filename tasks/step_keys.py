"""What determines the bytes of each step's object. Light: planning loads no codec and no detector."""

import ast
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from storage.catalog import Dataset
from storage.keys import library_versions, object_key
from storage.records import Member
from storage.weights import fingerprint
from tasks.faces.backend import backend_facts

CUT_VERSION = 1
_TASKS = Path(__file__).parent
_CUT_SOURCES = (
    "cut.py", "shots.py", "frame_buffer.py", "media.py", "resample.py", "geometry.py", "faces/track.py",
    "faces/cuts.py",
)  # fmt: skip
_CUT_LIBRARIES = ("av", "numpy", "numba", "opencv-python", "soxr")


def cut_key(dataset: Dataset, members: Sequence[Member]) -> tuple[str, dict[str, Any]]:
    """Key of the cut of these sources together, and its inputs: contents, rules, backend, code, libraries, weights."""
    facts = backend_facts(dataset.face.backend)
    inputs = {
        "sources": [[member.source_id, _layout_rule(dataset, member)] for member in members],
        "crop": dataset.crop.model_dump(),
        "face": dataset.face.model_dump(),
        # How long reading may take decides what fails, not what is made.
        "limits": dataset.limits.model_dump(exclude={"max_wall_s"}),
        "code": code_digest(_CUT_SOURCES + facts.sources),
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
        "code": code_digest((f"features/{name}.py", *getattr(extractor, "SOURCES", ()))),
        "libraries": library_versions(features.libraries(name, params)),
        "weights": {weight: fingerprint(weight) for weight in features.weights(name, params)},
    }
    return object_key(name, extractor.VERSION, inputs), inputs


@cache
def code_digest(files: tuple[str, ...]) -> str:
    """SHA-256 over the syntax trees of files in tasks/: comments and layout do not count, everything else does.

    A folder stands for all Python files in it.
    """
    digest = hashlib.sha256()
    for file in files:
        path = _TASKS / file
        for source in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            tree = ast.parse(source.read_bytes())
            digest.update(f"{source.relative_to(_TASKS).as_posix()}\n{ast.dump(tree)}\n".encode())
    return digest.hexdigest()


def _layout_rule(dataset: Dataset, member: Member) -> dict[str, Any] | None:
    layout = dataset.layouts.get(member.layout)
    if layout is None:
        return None
    audio = layout.audio.model_dump(exclude={"path"})
    return {"audio": audio, "has_audio_file": layout.audio.path is not None, "clips": layout.clips.model_dump()}
