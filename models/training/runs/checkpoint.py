"""Checkpoints: a file of tensors and beside it a JSON file that describes it; complete or absent.

    <run>/checkpoints/state-00001000.safetensors    modules, averages, optimisers: everything that resuming needs
    <run>/checkpoints/model-00001000.safetensors    tensors for inference and later stages: `<module>.<key>`
    <run>/checkpoints/state-00001000.json           the sidecar (`model-...json` likewise): hash, origin, plain numbers

The tensors are written to a temporary file of the same folder, synced and renamed; the sidecar comes last, so a file
without one does not exist. Nothing here is a pickle, and none is ever read.
"""

import json
import logging
import os
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from storage import files
from storage.catalog import FaceCrop
from storage.errors import ConfigError, StoreCorrupt, WeightsError
from storage.keys import canonical_json, sha256_file
from storage.runs import Checkpoint, RunRecord
from storage.snapshot import Snapshot

FOLDER = "checkpoints"
_TEMPORARY = ".unfinished"
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_log = logging.getLogger(__name__)


class Strict(BaseModel):
    """Immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Identity(Strict):
    """Which training a checkpoint belongs to.

    Attributes:
        run, snapshot: ids.
        config_sha256: of what determines the result, see storage.runs.RunKey.
        parents: stage -> SHA-256 of the 'model' file it started from.
        code_version: of this package; may differ between two sessions of a run.
        face_crop: how the faces of the snapshot were cropped, which model files carry for inference; None in sidecars
            written before there was such a field.
    """

    run: str
    snapshot: str
    config_sha256: str
    parents: dict[str, str] = {}
    code_version: str = ""
    face_crop: FaceCrop | None = None

    def require_same(self, other: "Identity") -> None:
        """Refuses to resume a state of another training.

        Raises:
            ConfigError: a field differs; it is named with both values.
        """
        for field in ("snapshot", "run", "config_sha256", "parents"):
            ours, theirs = getattr(self, field), getattr(other, field)
            if ours != theirs:
                raise ConfigError(f"the checkpoint belongs to {field} {theirs}, this run to {ours}; it is not resumed")


class Sidecar(Strict):
    """Description of a checkpoint.

    Attributes:
        kind, step, sha256, num_bytes: as storage.runs.Checkpoint.
        identity: which training it belongs to.
        plain: the part of a state that is no tensor.
    """

    schema_version: int = 1
    kind: Literal["state", "model"]
    step: int
    sha256: str
    num_bytes: int
    identity: Identity
    plain: dict[str, Any] = {}


def save_checkpoint(
    run: Path, kind: Literal["state", "model", "failed-state"], step: int, identity: Identity,
    tensors: Mapping[str, Tensor], plain: Mapping[str, Any] | None = None,
) -> Checkpoint:  # fmt: skip
    """Writes a checkpoint durably; an earlier one of the same step is replaced.

    Args:
        run: folder of the run.
        kind: 'failed-state' is a state for people to look at, which no function here finds or resumes.
        step, identity, plain: for the sidecar.
        tensors: on any device.

    Raises:
        OutOfSpace: the disk is full; all earlier checkpoints are intact.
    """
    path = run / FOLDER / f"{kind}-{step:08d}.safetensors"
    files.make_dir(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{_TEMPORARY}")
    try:
        about = {"run": identity.run, "snapshot": identity.snapshot, "step": step}
        if kind == "model" and identity.face_crop:
            about |= identity.face_crop.model_dump(mode="json")
        _write_tensors(temporary, tensors, about)
        sha256, num_bytes = sha256_file(temporary)
        _sidecar_path(path).unlink(missing_ok=True)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    files.fsync_dir(path.parent)
    sidecar = Sidecar(
        kind="model" if kind == "model" else "state",
        step=step,
        sha256=sha256,
        num_bytes=num_bytes,
        identity=identity,
        plain=dict(plain or {}),
    )
    files.replace_durable(_sidecar_path(path), sidecar.model_dump_json(indent=1).encode())
    return _entry(path, sidecar)


def list_checkpoints(run: Path) -> tuple[Checkpoint, ...]:
    """Every checkpoint of a run that has a readable sidecar, oldest first; hashes are not checked."""
    found = [
        _entry(path.with_suffix(".safetensors"), sidecar)
        for kind in ("state", "model")
        for path in (run / FOLDER).glob(f"{kind}-*.json")
        if (sidecar := _read_sidecar(path))
    ]
    return tuple(sorted(found, key=lambda checkpoint: (checkpoint.step, checkpoint.kind)))


def load_state(run: Path, step: int | None = None) -> tuple[Sidecar, dict[str, Tensor]] | None:
    """The newest good state (or that of `step`) with its tensors on the CPU; None when there is none.

    A damaged one is passed over for the one before, which the log says.
    """
    states = [entry for entry in list_checkpoints(run) if entry.kind == "state" and step in (None, entry.step)]
    for entry in reversed(states):
        sidecar = _read_sidecar(_sidecar_path(run / entry.file))
        try:
            if sidecar:
                return sidecar, load_tensors(run, entry)
        except StoreCorrupt as error:
            _log.warning("%s; falling back to the checkpoint before it", error)
    return None


def load_tensors(run: Path, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The tensors of a checkpoint on the CPU, its hash checked first.

    Raises:
        StoreCorrupt: the file is missing or damaged, or it is not in the safetensors format.
    """
    path = run / checkpoint.file
    try:
        found = sha256_file(path)[0]
        if found != checkpoint.sha256:
            raise StoreCorrupt(f"{path}: sha256 is {found}, expected {checkpoint.sha256}")
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise StoreCorrupt(f"{path}: not a readable checkpoint ({error})") from error


def read_metadata(path: Path) -> dict[str, Any]:
    """Metadata of a safetensors file of this package: run, snapshot, step, and in model files the rules of
    storage.catalog.FaceCrop; empty for other files.

    Raises:
        OSError, SafetensorError: it cannot be read.
    """
    with safe_open(path, "pt") as file:
        return json.loads((file.metadata() or {}).get("talkset", "{}"))


def face_crop_of(path: Path, run: tuple[Path, RunRecord] | None = None) -> FaceCrop:
    """How faces were found and cropped in a model's training data.

    Args:
        path: of the model file; its metadata hold the crop; where they do not (older files, other packages), the result
            is the default, the published crop.
        run: store and record of the run that made it, where they are there: its snapshot's config comes first.

    Raises:
        OSError, SafetensorError: the file cannot be read.
        WeightsError: the rules are not known to this version.
    """
    settings: Mapping[str, Any] = {}
    if run:
        with suppress(ConfigError):  # the snapshot is not in the store
            settings = Snapshot.open(run[0], run[1].key.snapshot).body.config
    try:
        return FaceCrop.of(settings or read_metadata(path))
    except ValidationError as error:
        raise WeightsError(
            f"{path}: its crop rule is not known here ({error.errors()[0]['msg']}); update talkset"
        ) from None


def is_intact(run: Path, checkpoint: Checkpoint) -> bool:
    """Whether the file is there with the bytes it was written with."""
    try:
        return sha256_file(run / checkpoint.file)[0] == checkpoint.sha256
    except OSError:
        return False


def prune(run: Path, keep_last: int) -> None:
    """Removes all but the newest `keep_last` checkpoints of each kind."""
    for kind in ("state", "model"):
        entries = [entry for entry in list_checkpoints(run) if entry.kind == kind]
        for entry in entries[:-keep_last]:
            _sidecar_path(run / entry.file).unlink()
            (run / entry.file).unlink(missing_ok=True)


def sweep(run: Path) -> None:
    """Removes what a killed session left half-written. Only for the process that holds the run's lock."""
    folder = run / FOLDER
    for path in folder.glob(f"*{_TEMPORARY}"):
        path.unlink()
    for path in folder.glob("*.safetensors"):
        if not _sidecar_path(path).exists():
            path.unlink()


def _write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    # One entry only: the format does not order several, and equal contents are to have equal bytes.
    metadata = {"talkset": canonical_json(dict(about)).decode()}
    stored: dict[str, Tensor] = {}
    seen: set[int] = set()
    for (
        name,
        tensor,
    ) in tensors.items():  # on the CPU, contiguous, and none sharing memory with another, as tied ones do
        copy = tensor.detach().cpu().contiguous()
        memory = copy.untyped_storage()
        is_shared = memory.data_ptr() in seen or copy.numel() * copy.itemsize < memory.nbytes()
        stored[name] = copy.clone() if is_shared else copy
        seen.add(memory.data_ptr())
    with files.out_of_space(path):
        try:
            save_file(stored, path, metadata)
        except SafetensorError as error:
            # the error of the operating system that caused it, if one did
            number = _OS_ERROR.search(str(error))
            raise (OSError(int(number[1]), os.strerror(int(number[1]))) if number else error) from error
    files.fsync_file(path)


def _read_sidecar(path: Path) -> Sidecar | None:
    try:
        return Sidecar.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        _log.warning("%s: not a readable sidecar (%s); its checkpoint is passed over", path, type(error).__name__)
        return None


def _sidecar_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _entry(path: Path, sidecar: Sidecar) -> Checkpoint:
    return Checkpoint(
        file=f"{FOLDER}/{path.name}",
        kind=sidecar.kind,
        step=sidecar.step,
        sha256=sidecar.sha256,
        num_bytes=sidecar.num_bytes,
    )
