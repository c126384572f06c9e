"""Weight files of others, listed in models/weights.toml: where they lie on this machine, and whether they are right.

Order: $TALKSET_WEIGHTS, the installed package that carries the file, the cache, and a download only when
    TALKSET_ALLOW_DOWNLOAD=1.
"""

import importlib.util
import os
import tomllib
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from storage.errors import WeightsError
from storage.keys import sha256_file

_DIGEST_LENGTH = 64
LIST = Path(__file__).resolve().parents[1] / "models" / "weights.toml"


class WeightFile(BaseModel):
    """One entry of models/weights.toml; its head explains the fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    url: str
    page: str
    package: str = ""
    sha256: str
    bytes: int
    licence: str
    is_noncommercial: bool
    used_by: str


def listed() -> dict[str, WeightFile]:
    """Every entry of models/weights.toml by name."""
    return {name: WeightFile(**fields) for name, fields in tomllib.loads(LIST.read_text(encoding="utf-8")).items()}


def resolve(name: str) -> Path:
    """Path of the weight file, its hash checked where one is pinned.

    Raises:
        KeyError: no such entry.
        WeightsError: the file is nowhere, or it is not the pinned one; one line says what to do.
    """
    entry = listed()[name]
    path = next((place for place in _places(entry) if place.is_file()), None)
    if path is None:
        path = _download(name, entry)
    if entry.sha256 and not sha256_of(path).startswith(entry.sha256):
        wrong = f"sha256 is {sha256_of(path)}, that of weights {name!r} must be or begin with {entry.sha256}"
        raise WeightsError(f"{path}: {wrong}; remove it and get it from {entry.page}")
    return path


def missing(name: str) -> str | None:
    """Why `resolve` would find no file, in one line, or None when it would find or fetch one."""
    entry = listed()[name]
    if any(place.is_file() for place in _places(entry)) or _may_download(entry):
        return None
    return _how_to_get(name, entry)


def fingerprint(name: str) -> str:
    """What identifies the file in an object key: its sha256, after "unpinned:" when weights.toml does not pin it.

    Raises:
        WeightsError: as `resolve`.
    """
    digest = sha256_of(resolve(name))
    return digest if listed()[name].sha256 else f"unpinned:{digest}"


def imported_folders(system: str) -> list[Path]:
    """Where files of a system lie that were taken into use or made here, in the order in which they are looked for."""
    named = [Path(os.environ["TALKSET_WEIGHTS"])] if os.environ.get("TALKSET_WEIGHTS") else []
    return [folder / system for folder in (*named, cache_folder() / "weights")]


def imported_file(system: str, name: str) -> Path:
    """The file that `talkset weights import` made of published weights; `name` in lower case is their entry.

    Raises:
        WeightsError: there is none; one line says what to do.
    """
    for folder in imported_folders(system):
        if (folder / f"{name}.safetensors").is_file():
            return folder / f"{name}.safetensors"
    raise WeightsError(f"weights {name!r} not found: {how_to_import(system, name)}")


def how_to_import(system: str, name: str) -> str:
    """What to do to have the imported file."""
    entry = listed()[name.lower()]
    command = f"talkset weights import {system} {entry.file}"
    return f"get {entry.file} from {entry.page} (licence: {entry.licence}) and take it into use with `{command}`"


def cache_folder() -> Path:
    """Where talkset keeps what it can fetch or compute again: $XDG_CACHE_HOME/talkset or ~/.cache/talkset."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "talkset"


def _places(entry: WeightFile) -> list[Path]:
    """Where the file may lie, in the order in which it is looked for."""
    folders = [Path(os.environ["TALKSET_WEIGHTS"])] if os.environ.get("TALKSET_WEIGHTS") else []
    if entry.package:
        # Located, not imported: this package's own import needs pkg_resources, which setuptools no longer has.
        spec = importlib.util.find_spec(entry.package)
        folders += [Path(folder) / "models" for folder in (spec.submodule_search_locations or [])] if spec else []
    return [folder / entry.file for folder in (*folders, cache_folder() / "weights")]


def _download(name: str, entry: WeightFile) -> Path:
    """Fetch the file into the cache, if that is allowed and a link is known."""
    if not _may_download(entry):
        raise WeightsError(_how_to_get(name, entry))
    import pooch

    target = cache_folder() / "weights" / entry.file
    known = f"sha256:{entry.sha256}" if len(entry.sha256) == _DIGEST_LENGTH else None
    try:
        return Path(pooch.retrieve(entry.url, known, fname=target.name, path=target.parent))
    except (OSError, ValueError) as error:
        raise WeightsError(f"weights {name!r}: download of {entry.url} failed ({error})") from error


def _may_download(entry: WeightFile) -> bool:
    return bool(entry.url) and os.environ.get("TALKSET_ALLOW_DOWNLOAD") == "1"


def _how_to_get(name: str, entry: WeightFile) -> str:
    size = f"{entry.bytes / 1e6:.1f} MB, " * bool(entry.bytes) + f"licence: {entry.licence}"
    if entry.package:
        where = f"install the Python package {entry.package}, or put {entry.file} into $TALKSET_WEIGHTS"
        return f"weights {name!r} not found: {where} ({size})"
    allow = ", or set TALKSET_ALLOW_DOWNLOAD=1" if entry.url else ""
    # The folder itself is not named: the sentence is stored with the snapshot, whose id must not depend on it.
    folder = "the folder $TALKSET_WEIGHTS names"
    source = f"get {entry.file} from {entry.url or entry.page} ({size})"
    return f"weights {name!r} not found: {source} and put it into {folder}{allow}"


def sha256_of(path: Path) -> str:
    """Hex digest of a weight file.

    Raises:
        WeightsError: it cannot be read.
    """
    status = path.stat()
    return _sha256_of(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256_of(path: Path, _size: int, _mtime_ns: int) -> str:
    """Hash once per process and state of the file: some are over a gigabyte."""
    try:
        return sha256_file(path)[0]
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error


def at_hand() -> dict[str, list[int]]:
    """Size and mtime_ns of every listed file that is present: whether extractors can run, at no cost of hashing."""
    found = {}
    for name, entry in listed().items():
        path = next((place for place in _places(entry) if place.is_file()), None)
        if path is not None:
            found[name] = [path.stat().st_size, path.stat().st_mtime_ns]
    return found
