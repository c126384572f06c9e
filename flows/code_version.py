"""Version of the code: the package's number and a hash of its files, so that it is right without a repository."""

import hashlib
from functools import cache
from importlib import metadata
from pathlib import Path

_PACKAGES = ("flows", "tasks", "models", "storage")


@cache
def code_version() -> str:
    """`0.1.0+<12 hex digits>`; the digits change with any byte of the four packages' Python files."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for package in _PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    try:
        number = metadata.version("talkset")
    except metadata.PackageNotFoundError:
        number = "0"
    return f"{number}+{digest.hexdigest()[:12]}"
