"""Keys are contents: an object's key is the hash of everything that determines its bytes, and of nothing else."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

_READ_BYTES = 1 << 20


def canonical_json(obj: Any) -> bytes:
    """One value, one spelling: sorted keys, no spaces, UTF-8; tuples are written as lists.

    Raises:
        ValueError: NaN or infinity, or text that is not valid Unicode.
        TypeError: something JSON cannot hold (paths, arrays, sets), or a mapping key that is not a string.
    """
    _check_mapping_keys(obj)
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def sha256_hex(data: bytes) -> str:
    """SHA-256 as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> tuple[str, int]:
    """SHA-256 (64 hex digits) and size in bytes of a file, in one pass."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as stream:
        while block := stream.read(_READ_BYTES):
            digest.update(block)
            size += len(block)
    return digest.hexdigest(), size


def object_key(step: str, step_version: int, inputs: Mapping[str, Any]) -> str:
    """The key of what a step makes of its inputs: 64 hex digits.

    Args:
        step: name of the step, which is its place in the DAG.
        step_version: raised by hand when the step's meaning changes.
        inputs: source hashes or upstream digests, resolved parameters, weight hashes, library versions, code hash;
            never a path, a time or a host.
    """
    return sha256_hex(canonical_json({"step": step, "step_version": step_version, "inputs": dict(inputs)}))


def library_versions(names: Iterable[str]) -> dict[str, str]:
    """Installed version of each distribution, "absent" where it is not installed (which changes results, too)."""
    return {name: _version(name) for name in sorted(set(names))}


def code_hash(*modules: ModuleType) -> str:
    """SHA-256 over the names and source files of modules; a package counts with all Python files under it."""
    return sha256_hex(canonical_json({module.__name__: _sources(module) for module in modules}))


def _check_mapping_keys(obj: Any) -> None:
    # json.dumps would write the keys 1 and "1" alike
    if isinstance(obj, Mapping):
        if unfit := [key for key in obj if not isinstance(key, str)]:
            raise TypeError(f"mapping keys must be strings, got {unfit!r}")
        for value in obj.values():
            _check_mapping_keys(value)
    elif isinstance(obj, (list, tuple)):
        for value in obj:
            _check_mapping_keys(value)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


def _sources(module: ModuleType) -> dict[str, str]:
    if module.__file__ is None:
        raise ValueError(f"{module.__name__} has no source file")
    path = Path(module.__file__)
    paths = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    return {file.relative_to(path.parent).as_posix(): sha256_file(file)[0] for file in paths}
