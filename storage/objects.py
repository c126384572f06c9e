"""Immutable objects under content keys, committed whole or not at all.

    <root>/objects/ab/<key>/<payload files>      key: 64 hex digits, "ab" its first two
    <root>/objects/ab/<key>/manifest.json        written last, before the directory gets its name
    <root>/staging/<key[:16]>-<pid>-<random>/    work in progress; beside it <same name>.lock, held (flock) by its owner

A commit syncs every file, writes the manifest, syncs the directory and renames it to its key. Renaming onto an existing
key fails: whoever was first wins, the other one drops its copy and returns the winner's.
"""

import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from storage import files
from storage.errors import StoreCorrupt
from storage.keys import canonical_json, sha256_file, sha256_hex
from storage.store_layout import object_folder, objects_folder, staging_folder

MANIFEST_NAME = "manifest.json"

_OWNER_SUFFIX = ".lock"
_KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """A committed object: what a snapshot stores of it.

    Attributes:
        step: name of the step that made it.
        key: hash of its inputs, 64 hex digits.
        digest: hash of its payload, 64 hex digits.
        num_bytes: size of its payload.
    """

    step: str
    key: str
    digest: str
    num_bytes: int


class PayloadFile(BaseModel):
    """Size in bytes and SHA-256 (64 hex digits) of one payload file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What an object contains and where it came from; only `files` enter the digest.

    Attributes:
        step: name of the step that made it.
        key: hash of its inputs.
        key_inputs: what was hashed to get the key, for people to compare.
        files: payload files by path relative to the object, with "/" between directories.
        digest: SHA-256 of the canonical JSON of `files`.
        tools: versions that were in use, beyond those in the key.
        timing: seconds spent, by any name the step likes.
        committed_at: UTC, ISO 8601.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: str
    key: str
    key_inputs: Any
    files: dict[str, PayloadFile]
    digest: str
    tools: dict[str, Any]
    timing: dict[str, float]
    committed_at: str

    def ref(self) -> ObjectRef:
        """The object this manifest describes."""
        return ObjectRef(self.step, self.key, self.digest, sum(file.bytes for file in self.files.values()))


class Staging:
    """A private directory that becomes an object by `commit`, or nothing.

    Attributes:
        path: empty directory on the store's file system; put the payload files here.
    """

    def __init__(self, store: "ObjectStore", entry: Path, step: str, key: str, key_inputs: Any) -> None:
        self.path = entry / "object"
        self._store, self._step, self._key, self._key_inputs = store, step, key, key_inputs
        files.make_dir(self.path)

    def commit(self, timing: Mapping[str, float] | None = None, tools: Mapping[str, Any] | None = None) -> ObjectRef:
        """Make the staged files the object of this key; if it exists meanwhile, return the existing one.

        Raises:
            ValueError: there is no payload file, or one is called manifest.json or is a link.
            OutOfSpace: the disk is full; nothing is visible.
            StoreCorrupt: the key exists, but with files of wrong size.
        """
        payload = {name: _seal(self.path / name) for name in _payload_names(self.path)}
        if not payload or MANIFEST_NAME in payload:
            raise ValueError(f"object {self._key}: staged {sorted(payload)}, expected payload files and no manifest")
        manifest = self._manifest(payload, dict(timing or {}), dict(tools or {}))
        files.write_bytes_durable(self.path / MANIFEST_NAME, manifest.model_dump_json(indent=1).encode())
        files.make_read_only(self.path / MANIFEST_NAME)
        _fsync_tree(self.path)
        target = self._store.path(self._key)
        files.make_dir(target.parent)
        if not files.move_new(self.path, target):
            return self._store.open(self._key)
        return manifest.ref()

    def _manifest(self, payload: dict[str, PayloadFile], timing: dict[str, float], tools: dict[str, Any]) -> Manifest:
        return Manifest(
            step=self._step,
            key=self._key,
            key_inputs=self._key_inputs,
            files=payload,
            digest=_digest(payload),
            tools=tools,
            timing=timing,
            committed_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )


class ObjectStore:
    """The objects under one root directory; safe to use from many processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, key: str) -> Path:
        """Directory of an object, whether it exists or not; its payload files lie directly in it.

        Raises:
            ValueError: the key is not 64 hex digits.
        """
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is not an object key: expected 64 hex digits")
        return object_folder(self.root, key)

    def exists(self, key: str) -> bool:
        """Whether the object is committed."""
        return (self.path(key) / MANIFEST_NAME).is_file()

    def manifest(self, key: str) -> Manifest:
        """The manifest of an object.

        Raises:
            StoreCorrupt: there is no such object, or its manifest contradicts itself.
        """
        path = self.path(key) / MANIFEST_NAME
        try:
            manifest = Manifest.model_validate_json(path.read_bytes())
        except (FileNotFoundError, ValidationError) as error:
            raise StoreCorrupt(f"{path}: no valid manifest ({error}). {files.HOW_TO_REBUILD}") from error
        if manifest.key != key or manifest.digest != _digest(manifest.files):
            raise StoreCorrupt(f"{path}: key or digest is not that of its files. {files.HOW_TO_REBUILD}")
        return manifest

    def open(self, key: str) -> ObjectRef:
        """Look an object up, checking that every payload file is there with its size (hashes: `verify`).

        Raises:
            StoreCorrupt: it is missing or damaged; the message names the file.
        """
        manifest = self.manifest(key)
        _check_names(self.path(key), manifest)
        for name, expected in manifest.files.items():
            _check_size(self.path(key) / name, expected)
        return manifest.ref()

    def verify(self, key: str) -> None:
        """Read every byte of an object and compare it with the manifest.

        Raises:
            StoreCorrupt: a file is missing, was added or differs; the message names it.
        """
        self.open(key)
        for name, expected in self.manifest(key).files.items():
            found, _ = sha256_file(self.path(key) / name)
            if found != expected.sha256:
                raise StoreCorrupt(
                    f"{self.path(key) / name}: sha256 is {found}, expected {expected.sha256}. {files.HOW_TO_REBUILD}"
                )

    @contextmanager
    def stage(self, step: str, key: str, key_inputs: Any) -> Iterator[Staging]:
        """A staging directory for one object; it is gone when the block ends, committed or not.

        Args:
            step: name of the step.
            key: from `storage.keys.object_key`.
            key_inputs: JSON value stored in the manifest.

        Raises:
            OutOfSpace: whatever ran out of disk inside the block.
        """
        self.path(key)
        canonical_json(key_inputs)
        with files.out_of_space(self.root), self._entry(key[:16]) as entry:
            yield Staging(self, entry, step, key, key_inputs)

    def keys(self) -> Iterator[str]:
        """Keys of all committed objects, sorted."""
        for path in sorted(objects_folder(self.root).glob("??/*")):
            if _KEY.fullmatch(path.name) and (path / MANIFEST_NAME).is_file():
                yield path.name

    def delete(self, key: str) -> None:
        """Remove an object: it disappears at once, then its bytes are freed. Missing is fine."""
        with self._entry(key[:16]) as entry:
            if self.path(key).is_dir():
                files.move_new(self.path(key), entry / "deleted")
                files.fsync_dir(self.path(key).parent)

    def sweep_staging(self) -> int:
        """Remove what killed processes left behind, never what a living one works on; returns how many."""
        staging = staging_folder(self.root)
        names = {path.name.removesuffix(_OWNER_SUFFIX) for path in staging.glob("*")}
        return sum(_sweep(staging / name) for name in sorted(names))

    @contextmanager
    def _entry(self, prefix: str) -> Iterator[Path]:
        files.make_dir(staging_folder(self.root))
        entry = staging_folder(self.root) / f"{prefix}-{os.getpid()}-{secrets.token_hex(6)}"
        owner = _own(entry)
        try:
            files.make_dir(entry)
            yield entry
        finally:
            _remove(entry, owner)


def _owner_lock(entry: Path) -> FileLock:
    # beside the entry, not in it: the lock must be held before there is anything to sweep
    return FileLock(entry.with_name(entry.name + _OWNER_SUFFIX))


def _own(entry: Path) -> FileLock:
    while True:
        owner = _owner_lock(entry)
        owner.acquire()
        if Path(owner.lock_file).exists():
            return owner
        owner.release()  # a sweep took the file between its creation and our lock


def _remove(entry: Path, owner: FileLock) -> None:
    """Remove an entry whose lock is held, the lock file last."""
    shutil.rmtree(entry, ignore_errors=True)
    if not entry.exists():
        Path(owner.lock_file).unlink(missing_ok=True)
    owner.release()


def _sweep(entry: Path) -> bool:
    owner = _owner_lock(entry)
    try:
        owner.acquire(timeout=0)
    except Timeout:
        return False
    was_there = entry.exists()
    _remove(entry, owner)
    return was_there and not entry.exists()


def _payload_names(root: Path) -> list[str]:
    paths = sorted(root.rglob("*"))
    if odd := [path for path in paths if path.is_symlink() or not (path.is_file() or path.is_dir())]:
        raise ValueError(f"{odd[0]}: an object holds regular files only")
    return [path.relative_to(root).as_posix() for path in paths if path.is_file()]


def _seal(path: Path) -> PayloadFile:
    sha256, size = sha256_file(path)
    files.fsync_file(path)
    files.make_read_only(path)
    return PayloadFile(bytes=size, sha256=sha256)


def _fsync_tree(root: Path) -> None:
    for path in sorted(root.rglob("*"), reverse=True):
        if path.is_dir():
            files.fsync_dir(path)
    files.fsync_dir(root)


def _digest(payload: Mapping[str, PayloadFile]) -> str:
    return sha256_hex(canonical_json({name: file.model_dump() for name, file in payload.items()}))


def _check_names(root: Path, manifest: Manifest) -> None:
    found = {path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir()} - {MANIFEST_NAME}
    if wrong := sorted(found ^ set(manifest.files)):
        state = "not in the manifest" if wrong[0] in found else "missing"
        raise StoreCorrupt(f"{root / wrong[0]}: {state}. {files.HOW_TO_REBUILD}")


def _check_size(path: Path, expected: PayloadFile) -> None:
    found = path.stat().st_size
    if found != expected.bytes:
        raise StoreCorrupt(f"{path}: has {found} bytes, expected {expected.bytes}. {files.HOW_TO_REBUILD}")
